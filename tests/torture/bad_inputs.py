"""Bad inputs: a well-formed file of a known format with something wrong in its bytes, its cells or its structure."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import struct
import tarfile
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

DEEP = "@deep@"
"""In the bytes it becomes an absurd nesting, which no encoder writes."""
NASTY: list[Any] = [
    DEEP,
    "[1" + "+1" * 6_000 + "]",
    "[{[]}]",
    "-" * 20_000 + "1",
    "[" * 5_000,
    "(" * 300,
    "{" * 90 + "}" * 90,
    "\ud800",
    "a\udfffb",
    "\u202eabc\u202c",
    "\x00",
    "\x1b[31m",
    "\u2028",
    "\ufeff",
    "",
    " ",
    "\t",
    "\n",
    "\r",
    '"',
    "'",
    "nan",
    "None",
    "=1+1",
    "../../x",
    "/",
    "pipe:true",
    "data:image/png;base64,AAAA",
    "data:,",
    "http://localhost/x.png",
    "[]",
    "[1]",
    "['a', 2]",
    "[[]]",
    "{}",
    "0",
    "-1",
    "1e999",
    "9" * 5_000,
    "x" * 70_000,
    "\u00b2",
    "\u0663",
    "\U0001f600",
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    -(2**63),
    10**400,
    1.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    [],
    {},
    [[]],
    [None],
    [{}],
    [[1]],
    {"": None},
    {"a": {"b": []}},
    [0, -1],
    [2**70],
    ["\ud800"],
    [float("nan")],
]
"""What stands in a cell or in place of a node."""

Tree = Any


def _dump(tree: Tree) -> str:
    return json.dumps(tree, default=str)


def _deep(text: str, rng: random.Random) -> bytes:
    opening, closing = rng.choice(["[]", "{}"])
    opening = opening if opening == "[" else '{"a":'
    levels = rng.choice([60, 300, 3_000, 60_000])
    inner = "1" if opening != "[" else ""
    nested = opening * levels + inner + closing * levels
    return text.replace(f'"{DEEP}"', nested).replace(DEEP, nested).encode("utf-8", "surrogatepass")


def _json(tree: Tree, rng: random.Random) -> bytes:
    return _deep(_dump(tree), rng)


def _jsonl(tree: Tree, rng: random.Random) -> bytes:
    rows = tree if isinstance(tree, list) else [tree]
    return _deep("".join(_dump(row) + "\n" for row in rows), rng)


def _table(tree: Tree, rng: random.Random, separator: str) -> bytes:
    rows = [row for row in tree if isinstance(row, dict)] if isinstance(tree, list) else []
    head = [str(name) for name in (rows[0] if rows else {})]
    out = io.StringIO()
    quoting = rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
    writer = csv.writer(out, delimiter=separator, quoting=quoting)
    writer.writerow(head)
    for row in rows:
        writer.writerow([value if isinstance(value, str) else _dump(value) for value in row.values()])
    return _deep(out.getvalue(), rng)


def _toml(tree: Tree, rng: random.Random) -> bytes:
    """A flat table and its tables, which are the values that are objects."""

    def value(node: Any) -> str:
        if isinstance(node, dict):
            return "{" + ", ".join(f"{_dump(str(k))} = {value(v)}" for k, v in node.items()) + "}"
        if isinstance(node, list):
            return f"[{', '.join(map(value, node))}]"
        return _dump(node)

    pairs = tree.items() if isinstance(tree, dict) else [("x", tree)]
    return _deep("".join(f"{_dump(str(k))} = {value(v)}\n" for k, v in pairs), rng)


def _safetensors(tree: Tree, rng: random.Random) -> bytes:
    header = _json(tree, rng)
    length = rng.choice([len(header)] * 8 + [0, 1, 2**40, 2**64 - 1, len(header) + 1])
    return struct.pack("<Q", length) + header + bytes(64)


def _tar(tree: Tree, rng: random.Random) -> bytes:
    """Members by name; a value that is no bytes is written as JSON."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, value in (tree if isinstance(tree, dict) else {}).items():
            raw = bytes.fromhex(value[4:]) if isinstance(value, str) and value.startswith("hex:") else _json(value, rng)
            member = tarfile.TarInfo(str(name).encode("utf-8", "replace").decode().replace("\0", "_")[:90] or "x")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return out.getvalue()


def _parquet(tree: Tree, rng: random.Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for row in tree if isinstance(row, dict)] if isinstance(tree, list) else []
    out = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(rows), out)
    except (pa.ArrowException, ValueError, OverflowError, TypeError, AttributeError):  # what no column can hold
        pq.write_table(pa.Table.from_pylist([{k: _dump(v) for k, v in row.items()} for row in rows]), out)
    return out.getvalue()


ENCODERS: dict[str, Callable[[Tree, random.Random], bytes]] = {
    "json": _json,
    "jsonl": _jsonl,
    "csv": lambda tree, rng: _table(tree, rng, ","),
    "tsv": lambda tree, rng: _table(tree, rng, "\t"),
    "toml": _toml,
    "safetensors": _safetensors,
    "tar": _tar,
    "parquet": _parquet,
    "raw": lambda tree, rng: bytes.fromhex(tree) if isinstance(tree, str) else b"",
    "text": lambda tree, rng: _deep(str(tree), rng),
}


def encoded(kind: str, tree: Tree) -> bytes:
    """The well-formed example."""
    return ENCODERS[kind](tree, random.Random(0))


@st.composite
def bad_inputs(draw: st.DrawFn, kind: str, tree: Tree) -> bytes:
    """A file of the format with up to three wrong nodes, up to three wrong stretches of bytes, or any bytes."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    way = draw(st.sampled_from(["nodes"] * 5 + ["bytes"] * 3 + ["both", "noise"]))
    if way == "noise":
        return draw(st.binary(max_size=300))
    wrong = tree
    if way in ("nodes", "both") and kind not in ("raw", "text"):
        wrong = json.loads(json.dumps(tree))
        for _ in range(draw(st.integers(1, 3))):
            wrong = _with_a_wrong_node(wrong, copy.deepcopy(draw(NODES)), rng)
    raw = ENCODERS[kind](wrong, rng)
    if way in ("bytes", "both") or wrong is tree:
        for _ in range(draw(st.integers(1, 3))):
            raw = _with_a_wrong_stretch(raw, draw(st.binary(max_size=8)), rng)
    return raw


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
NODES = st.sampled_from(NASTY) | JUNK


def _with_a_wrong_node(tree: Tree, node: Any, rng: random.Random) -> Tree:
    """Somewhere in the tree another node, one less, one twice, or another name."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.05:
        return node
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = rng.choice(keys)
    if isinstance(tree[key], dict | list) and tree[key] and rng.random() < 0.7:
        tree[key] = _with_a_wrong_node(tree[key], node, rng)
        return tree
    way = rng.random()
    if way < 0.7:
        tree[key] = node
    elif way < 0.8:
        del tree[key]
    elif isinstance(tree, list):
        tree.insert(key, tree[key] if way < 0.9 else node)
    else:
        tree[str(node)[:80]] = tree.pop(key) if way < 0.9 else node
    return tree


def _with_a_wrong_stretch(raw: bytes, bits: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(raw))
    stop = min(len(raw), at + rng.choice([0, 1, 2, 8, 64, 1_000, len(raw)]))
    if rng.random() < 0.3:
        bits = str(rng.choice(NASTY))[:3_000].encode("utf-8", "surrogatepass")
    elif rng.random() < 0.2:
        bits = raw[at:stop] * 2
    return raw[:at] + bits + raw[stop:]
