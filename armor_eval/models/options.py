"""Options of a model on the command line: `--model-args k=v,...`, and which options an adapter honours."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable

from armor_model.base.errors import UserError, did_you_mean, unknown_name
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import json_of

EXAMPLE = "expected k=v,..., e.g. attn_implementation=sdpa,max_pixels=1003520"
TEXT_KEYS = frozenset({"revision", "variant", "subfolder"})
"""Keys whose value is text whatever it looks like: `12345678` and `1e12345` are commits."""
GENERIC = ("dtype", "device", "device_map", "model_args", "trust_remote_code")
"""Options that a command line can give for any model; an adapter honours those that its loader names."""
DTYPES = {
    "auto": "auto",
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}
"""What `--dtype` may say -> torch's name; `auto` is the checkpoint's own."""

_KEY = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "none": None, "null": None}


def parse_model_args(text: str | None) -> JsonObject:
    """`k=v,...` as a dictionary; empty for None and for empty text.

    A value is an int, a float, a bool (`true`, `False`), None (`none`, `null`), JSON (`{...}`, `[...]`, `"..."`, which
    may hold commas) or else text. UserError where a pair cannot be read or a key comes twice.
    """
    arguments: JsonObject = {}
    for pair in _pairs(text or ""):
        key, mark, value = (piece.strip() for piece in pair.partition("="))
        if not mark or not _KEY.fullmatch(key):
            raise UserError(f"--model-args: {pair.strip()!r} is no pair", EXAMPLE)
        if key in arguments:
            raise UserError(f"--model-args gives {key!r} twice", EXAMPLE)
        arguments[key] = _value(key, value)
    return arguments


def parse_dtype(text: str | None) -> str | None:
    """torch's name of a dtype, `auto`, or None where none was given."""
    if text is None:
        return None
    if text.lower() not in DTYPES:
        raise unknown_name("--dtype", text, DTYPES)
    return DTYPES[text.lower()]


def refuse_unknown(kind: str, arguments: JsonView, known: Iterable[str]) -> None:
    """UserError for the first argument that the kind of model does not know."""
    known = sorted(known)
    for key in arguments:
        if key not in known:
            raise UserError(
                f"{kind} knows no model argument {key!r}{did_you_mean(key, known)}", f"known: {', '.join(known)}"
            )


def honoured(loader: Callable[..., object], what: str, options: JsonView) -> JsonObject:
    """The options that were given (neither None, False nor empty), all of which the loader must name as parameters.

    UserError for one of GENERIC that it does not name: nothing that a user asked for is swallowed.
    """
    used = {name: value for name, value in options.items() if value not in (None, False, {})}
    for name in used:
        if name in GENERIC and not names(loader, name):
            takes = [_flag(n) for n in GENERIC if names(loader, n)]
            raise UserError(f"{what} takes no {_flag(name)}", f"it takes {', '.join(takes) or 'none of these options'}")
    return used


def names(loader: Callable[..., object], option: str) -> bool:
    """Whether the loader has a parameter of this name; `**options` names nothing."""
    return option in inspect.signature(loader).parameters


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _pairs(text: str) -> list[str]:
    """The text cut at commas outside of brackets and quotes."""
    pairs, start, depth, quoted, escaped = [], 0, 0, False, False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = char == "\\", char != '"'
        elif char == '"':
            quoted = True
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth == 0:
            pairs.append(text[start:at])
            start = at + 1
    pairs.append(text[start:])
    if not any(pair.strip() for pair in pairs):
        return []
    return pairs


def _value(key: str, text: str) -> object:
    if key in TEXT_KEYS:
        return text
    if text[:1] in ("{", "[", '"'):
        try:
            return json_of(text)
        except ValueError as error:
            raise UserError(f"--model-args: {key} is no JSON ({error}): {text[:80]!r}", EXAMPLE) from None
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if number := _NUMBER.fullmatch(text):
        return float(text) if number[1] or number[2] else int(text)
    return text
