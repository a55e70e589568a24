"""A judge's messages as a template: what an official script sends, read out of the user's own copy without running it.

WISE publishes its judging script without a licence, so that its words cannot be shipped. They stand in one function as
literals, which the syntax tree gives.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_json

LARGEST_SCRIPT = 1_000_000
"""Bytes; the published ones have 12 thousand."""


@dataclass(frozen=True)
class Field:
    """A place that an item fills."""

    name: str


@dataclass(frozen=True)
class Template:
    """Messages whose texts hold fields, and the places of images."""

    messages: tuple[tuple[Literal["system", "user"], tuple[tuple[str | Field, ...] | None, ...]], ...]
    """(role, parts): a part is a text in pieces, or None where an image stands."""

    @property
    def sha256(self) -> str:
        """Of words, fields and order: equal for every copy of the script that asks in the same words."""
        plain = [
            [role, [None if part is None else [p if isinstance(p, str) else {"field": p.name} for p in part]
                    for part in parts]]
            for role, parts in self.messages
        ]  # fmt: skip
        return sha256_json(plain)

    @property
    def fields(self) -> set[str]:
        texts = [part for _, parts in self.messages for part in parts if part is not None]
        return {piece.name for text in texts for piece in text if isinstance(piece, Field)}

    @property
    def images(self) -> int:
        """How many it shows."""
        return [part for _, parts in self.messages for part in parts].count(None)

    def fill(self, values: Mapping[str, str], images: Sequence[Any]) -> list[dict[str, Any]]:
        """Messages as chat templates take them, the images in their places, in order."""
        left = iter(images)

        def part(pieces: tuple[str | Field, ...] | None) -> dict[str, Any]:
            if pieces is None:
                return {"type": "image", "image": next(left)}
            return {"type": "text", "text": "".join(p if isinstance(p, str) else values[p.name] for p in pieces)}

        return [{"role": role, "content": [part(p) for p in parts]} for role, parts in self.messages]


def from_script(path: Path, function: str, record: str, fields: set[str]) -> Template:
    """The messages that `function` of a Python file returns, `record[NAME]` being the field NAME.

    Nothing of the file is executed: literals, f-strings over the record, and the image's address are understood, and
    anything else is a UserError, as is a template whose fields are not exactly `fields`.
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
        template = Template(tuple(_message(node, record) for node in returned[0].elts))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {function} holds what is no judge's template: {error}") from None
    if template.images != 1 or template.fields != fields:
        found = f"{template.images} images and the fields {', '.join(sorted(template.fields)) or 'none'}"
        raise UserError(f"{path}: the template has {found}, expected one image and {', '.join(sorted(fields))}")
    return template


def from_text(text: str) -> Template:
    """One user message: `{image}` in the text is an image, `{NAME}` a field, and nothing else is a brace."""
    parts: list[tuple[str | Field, ...] | None] = []
    pieces: list[str | Field] = []
    for at, piece in enumerate(re.split(r"{(\w+)}", text)):
        if at % 2 and piece == "image":
            parts += [tuple(pieces), None] if pieces else [None]
            pieces = []
        elif piece:
            pieces.append(Field(piece) if at % 2 else piece)
    return Template((("user", (*parts, *([tuple(pieces)] if pieces else []))),))


def _message(node: ast.expr, record: str) -> tuple[Literal["system", "user"], tuple[Any, ...]]:
    entry = _entries(node)
    role = ast.literal_eval(entry["role"])
    if role not in ("system", "user"):
        raise ValueError(f"a message of {role!r}")
    content = entry["content"]
    if not isinstance(content, ast.List):
        return role, (_text(content, record),)
    return role, tuple(_part(part, record) for part in content.elts)


def _part(node: ast.expr, record: str) -> tuple[str | Field, ...] | None:
    entry = _entries(node)
    kind = ast.literal_eval(entry["type"])
    if kind == "image_url":
        return None
    if kind != "text":
        raise ValueError(f"a part of type {kind!r}")
    return _text(entry["text"], record)


def _entries(node: ast.expr) -> dict[str, ast.expr]:
    if not isinstance(node, ast.Dict) or not all(isinstance(key, ast.Constant) for key in node.keys):
        raise ValueError(f"line {node.lineno} is no dictionary of literals")
    return {key.value: value for key, value in zip(node.keys, node.values, strict=True)}  # type: ignore[union-attr]


def _text(node: ast.expr, record: str) -> tuple[str | Field, ...]:
    """A string's pieces, each literal or `record[NAME]`."""
    pieces: list[str | Field] = []
    for piece in node.values if isinstance(node, ast.JoinedStr) else [node]:
        if isinstance(piece, ast.Constant) and isinstance(piece.value, str):
            pieces.append(piece.value)
            continue
        match piece:
            case ast.FormattedValue(
                value=ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(field))),
                conversion=-1,
                format_spec=None,
            ) if name == record:
                pieces.append(Field(field))
            case _:
                raise ValueError(f"line {node.lineno} is neither text nor a field of {record}")
    return tuple(pieces)
