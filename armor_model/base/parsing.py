"""JSON, TOML and Python literals of files and servers: whatever is wrong with a text is a ValueError, at any depth.

The parsers themselves raise RecursionError, MemoryError, TypeError and SyntaxError beside it, and what they take at a
depth of some hundreds breaks whoever walks it.
"""

from __future__ import annotations

import ast
import json
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_DEPTH = 100
"""Lists and objects within each other; no format that is read here needs twenty."""


def json_of(text: str | bytes) -> Any:
    """The value of a JSON text. ValueError where it is none, or is nested deeper than MAX_DEPTH."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    marks = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, marks)) > MAX_DEPTH:  # type: ignore[arg-type]
        _check_depth(value)
    return value


def literal_of(text: str) -> Any:
    """The value of a Python literal, parsed and never run. ValueError where it is none, or is nested too deep."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that Python does not know, e.g. in LaTeX
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"it is no literal: {type(error).__name__}: {error}") from None
    _check_depth(value)
    return value


def toml_of(text: str) -> JsonObject:
    """The table of a TOML text. ValueError (TOMLDecodeError is one) where it is none, or is nested too deep."""
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check_depth(value)
    return value


def read_table(path: Path, parse: Callable[[str], Any] = json_of, what: str = "") -> JsonObject:
    """The object (by default JSON's) that a UTF-8 file holds. UserError where there is none, naming the file; `what`
    names what it was to be."""
    try:
        value = parse(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there" + (f": expected {what}" if what else "")) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read{f' as {what}' if what else ''}: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def fault_of(error: ValidationError, whole: str = "the record") -> str:
    """The first fault that pydantic found, as `PLACE: WHY`; `whole` names the place of one that no field has."""
    first = error.errors()[0]
    place, why = ".".join(map(str, first["loc"])) or whole, first["msg"].removeprefix("Value error, ")
    return f"{place}: {why}" if place else why


def _check_depth(value: object) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH + 1):
        nodes = [node for node in layer if isinstance(node, dict | list | tuple)]
        if not nodes:
            return
        layer = [one for node in nodes for one in (node.values() if isinstance(node, dict) else node)]
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
