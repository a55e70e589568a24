"""WISE and WISE_Verified: prompts that hide what is meant, and a rubric judge that is told.

An item's prompt goes to the model; its explanation goes to the judge alone. Categories follow from the id, not from the
files' words: a legacy rewrite names one that does not exist. The judge's words come from the suite's own script.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import Probe, SuiteData, SuiteItem
from armor_eval.tasks.suites.rows import Row, json_rows
from armor_model.base.errors import UserError

FUNCTION, RECORD, FIELDS = "build_evaluation_messages", "prompt_data", {"Prompt", "Explanation"}
"""Where the official scripts hold the judge's words, and what is put into them."""


class WiseRow(Row):
    prompt_id: int = Field(ge=1)
    prompt: str = Field(alias="Prompt", min_length=1)
    explanation: str = Field(alias="Explanation", min_length=1)


def read(files: Sequence[Path], suite: Suite) -> SuiteData:
    """`files`: the prompts, in one JSON or several, and last the judging script."""
    *prompts, script = files
    rows = [row for path in prompts for row in json_rows(WiseRow, str(path), path.read_bytes())]
    items = [_item(row, suite) for row in sorted(rows, key=lambda row: row.prompt_id)]
    words = from_script(script, FUNCTION, RECORD, FIELDS)
    return SuiteData(suite.name, "", items, template=words.text, system=words.system)


def _item(row: WiseRow, suite: Suite) -> SuiteItem:
    fields = {"Prompt": row.prompt, "Explanation": row.explanation}
    group = category(suite.options["ends"], row.prompt_id) if suite.groups else None
    return SuiteItem(str(row.prompt_id), row.prompt, (Probe("1", "rubric"),), group=group, fields=fields)


def category(ends: dict[str, int], prompt_id: int) -> str:
    """The category that an id lies in. `ends`: category -> its last id; each begins behind the one before."""
    found = next((name for name, last in ends.items() if prompt_id <= last), None)
    if found is None:
        raise UserError(f"there is no prompt {prompt_id}: ids are 1 to {max(ends.values())}")
    return found


# --- the judge's words out of the user's own copy of an official script, read without running it ---------------------
# WISE publishes its judging script without a licence, so that its words cannot be shipped. They stand in one function
# as literals, which the syntax tree gives.


LARGEST_SCRIPT = 1_000_000
"""Bytes; the published ones have 12 thousand."""


@dataclass(frozen=True)
class Words:
    """What a judge is told beside one image."""

    system: str | None
    text: str
    """With `{NAME}` for each field of the record."""


def from_script(path: Path, function: str, record: str, fields: set[str]) -> Words:
    """The messages that `function` of a Python file returns - a system text, and a user's text and image -, the field
    `record[NAME]` written as `{NAME}`.

    Nothing of the file is executed: literals and f-strings over the record are understood, and anything else is a
    UserError, as is a template whose fields are not exactly `fields`.
    """
    try:
        source = path.read_bytes()
        if len(source) > LARGEST_SCRIPT:
            raise UserError(f"{path} has {len(source):,} bytes: that is no judging script")
        tree = ast.parse(source)
    except OSError as error:
        raise UserError(f"cannot read the judge's template from {path}: {error.strerror}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is not a Python script: {error}") from None
    defined = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    returned = [n.value for n in defined[0].body if isinstance(n, ast.Return)] if len(defined) == 1 else []
    if len(returned) != 1 or not isinstance(returned[0], ast.List):
        raise UserError(f"{path} has no function {function} that returns a list of messages")
    try:
        parts = [part for node in returned[0].elts for part in _parts(node, record)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: {function} holds what is no judge's template: {error}") from None
    roles = [role for role, _ in parts]
    found = {name for _, text in parts for name in re.findall(r"\{(\w+)\}", text or "")}
    if roles not in (["system", "user", "image"], ["user", "image"]) or found != fields:
        seen = f"{', '.join(roles)} with the fields {', '.join(sorted(found)) or 'none'}"
        raise UserError(f"{path}: the template is {seen}, expected user, image and {', '.join(sorted(fields))}")
    texts = dict(parts)
    return Words(texts.get("system"), str(texts["user"]))


def _parts(node: ast.expr, record: str) -> list[tuple[str, str | None]]:
    """A message's parts: (role, text), an image being ("image", None)."""
    entry = _entries(node)
    role, content = ast.literal_eval(entry["role"]), entry["content"]
    if role not in ("system", "user"):
        raise ValueError(f"a message of {role!r}")
    if not isinstance(content, ast.List):
        return [(role, _text(content, record))]
    parts: list[tuple[str, str | None]] = []
    for part in map(_entries, content.elts):
        kind = ast.literal_eval(part["type"])
        if kind not in ("text", "image_url"):
            raise ValueError(f"a part of type {kind!r}")
        parts.append((role, _text(part["text"], record)) if kind == "text" else ("image", None))
    return parts


def _entries(node: ast.expr) -> dict[str, ast.expr]:
    if not isinstance(node, ast.Dict) or not all(isinstance(key, ast.Constant) for key in node.keys):
        raise ValueError(f"line {node.lineno} is no dictionary of literals")
    return {key.value: value for key, value in zip(node.keys, node.values, strict=True)}  # type: ignore[union-attr]


def _text(node: ast.expr, record: str) -> str:
    """A string of literals and `record[NAME]`."""
    text = ""
    for piece in node.values if isinstance(node, ast.JoinedStr) else [node]:
        match piece:
            case ast.Constant(value=str(words)) if not re.search(r"\{\w+\}", words):
                text += words
            case ast.FormattedValue(
                value=ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(field))),
                conversion=-1,
                format_spec=None,
            ) if name == record:
                text += f"{{{field}}}"
            case _:
                raise ValueError(f"line {node.lineno} is neither text nor a field of {record}")
    return text
