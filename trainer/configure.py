"""Reads and writes configuration trees: a TOML file, `--set a.b=c`, a command's options made from the fields.

    config = configure(StageConfig(), Path("run.toml"), ["optimization.lr=3e-4"])

A file sets fields by their path, an option wins over the file, `--set` over both. Everything is validated before
anything heavy is loaded, and `to_toml` writes what was used in a form that `--config` reads. Dataclasses and pydantic
models alike.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import toml_of

T = TypeVar("T")
Where = tuple[str, ...]
"""A field's path in the tree: `("optimization", "lr")`."""


def configure(
    default: T,
    file: Path | None = None,
    changes: Sequence[str] = (),
    options: Mapping[Where, object] | None = None,
    moved: Mapping[str, Where] | None = None,
) -> T:
    """The default with a TOML file's fields, a command's options (by path) and changes on top. Raises UserError in one
    line that names the field.

    Args:
        changes: `a.b=c`; the value is TOML or plain text, `none` for no value; an item of a list goes by its number.
        moved: names of an earlier version -> the path that they have now, in files and options.
    """
    tree, moved = document(default), moved or {}
    adapter: Any = TypeAdapter(type(default))
    labels: dict[Where, str] = {}
    if file is not None:
        try:
            _merge(tree, toml_of(file.read_text(encoding="utf-8")), default, (), moved)
            adapter.validate_python(tree)
        except UserError as error:
            raise UserError(f"{file}: {error.message}", error.hint) from error
        except ValidationError as error:
            if error.errors()[0]["type"] != "value_error":  # what fields make together is seen with the options
                raise UserError(f"{file}: {_error_line(error, labels)}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {file}: {error}") from error
    for path, value in (options or {}).items():
        path = moved.get(path[0], path)
        _put(tree, path, value)
        labels[path] = f"--{path[-1].replace('_', '-')}"
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UserError(f"--set {change!r} is not NAME=VALUE", "for example --set optimization.lr=3e-4")
        path = tuple(name.strip().split("."))
        _put(tree, path, _value(text.strip()))
        labels[path] = f"--set {name.strip()}"
    try:
        return adapter.validate_python(tree)
    except ValidationError as error:
        raise UserError(_error_line(error, labels)) from error


def document(config: object) -> JsonObject:
    """The tree as plain values, without what only code sets."""

    def pruned(node: object, tree: Any) -> Any:
        if is_dataclass(node):
            kept = [f.name for f in fields(node) if not f.metadata.get("set by code")]
            return {name: pruned(getattr(node, name), tree[name]) for name in kept}
        if isinstance(node, list | tuple):
            return [pruned(a, b) for a, b in zip(node, tree, strict=True)]
        return tree

    adapter: Any = TypeAdapter(type(config))
    return pruned(config, adapter.dump_python(config, mode="json"))


def _merge(tree: JsonObject, file: JsonView, default: object, path: Where, moved: Mapping[str, Where]) -> None:
    """A file's tables into the tree: nodes of the configuration field by field, a mapping of the user's as a whole."""
    for name, value in file.items():
        if name in moved and not path:
            _put(tree, moved[name], value)
            continue
        if name not in tree:
            raise _unknown((*path, name), tree)
        node = getattr(default, name)
        if isinstance(value, dict) and (is_dataclass(node) or isinstance(node, BaseModel)):
            _merge(tree[name], value, node, (*path, name), moved)
        else:
            tree[name] = value


def _put(tree: Any, path: tuple[str, ...], value: object) -> None:
    node = tree
    for depth, name in enumerate(path):
        key: object = int(name) if isinstance(node, list) and name.isdigit() and int(name) < len(node) else name
        last = depth == len(path) - 1
        missing = not isinstance(node, dict | list) or (key not in node if isinstance(node, dict) else key == name)
        if missing and not (last and depth and isinstance(node, dict) and _open(node)):
            raise _unknown(path[: depth + 1], node if isinstance(node, dict) else ())
        if last:
            node[key] = value
        else:
            node = node[key]


def _open(node: JsonObject) -> bool:
    """Whether a table's names are the user's own: counts by type or lesson."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in node.values())


def _unknown(path: tuple[str, ...], known: Iterable[str]) -> UserError:
    names = list(known)
    hint = f"known: {', '.join(names)}" if names else None
    return UserError(f"unknown setting {'.'.join(path)}{did_you_mean(path[-1], names)}", hint)


def _value(text: str) -> object:
    if text.lower() == "none":
        return None
    try:
        return toml_of(f"value = {text}")["value"]
    except ValueError:
        return text


def _error_line(error: ValidationError, labels: Mapping[Where, str]) -> str:
    """The first fault as a line: the field, as it was typed, what was expected, what came."""
    first: Any = error.errors()[0]
    path = tuple(str(part) for part in first["loc"])
    where = next((label for typed, label in labels.items() if path[: len(typed)] == typed), ".".join(path))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "literal_error":
        known = first["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return f"{where} is one of {known}, not {first['input']!r}"
    return f"{where}: {message}" if where and not message.startswith("--") else message


def to_toml(config: object) -> str:
    """The tree as TOML that `--config` reads; fields without a value are left out."""
    lines: list[str] = []

    def key(name: str) -> str:
        return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)

    def table(node: JsonView, path: str) -> None:
        inner = {k: v for k, v in node.items() if isinstance((v or [None])[0] if isinstance(v, list) else v, dict)}
        plain = {k: v for k, v in node.items() if k not in inner and v is not None}
        lines.extend(f"{key(name)} = {json.dumps(value, ensure_ascii=False)}" for name, value in plain.items())
        for name, value in inner.items():
            where = f"{path}.{key(name)}".lstrip(".")
            for one in value if isinstance(value, list) else [value]:
                lines.append(f"\n[[{where}]]" if isinstance(value, list) else f"\n[{where}]")
                table(one, where)

    table(document(config), "")
    return "\n".join(lines).lstrip() + "\n"


def field_texts(kind: type) -> dict[str, str]:
    """The text under each field of a configuration class, as Python does not keep it: read from the source."""
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):  # installed without sources
        return {}
    statements = getattr(body, "body", [])
    return {
        a.target.id: " ".join(str(b.value.value).split())
        for a, b in itertools.pairwise(statements)
        if isinstance(a, ast.AnnAssign)
        and isinstance(a.target, ast.Name)
        and isinstance(b, ast.Expr)
        and isinstance(b.value, ast.Constant)
    }


def settings(default: Any, path: Where = ()) -> Iterator[tuple[Where, object, object, str]]:
    """(path, type, default, text) of every field that a file or an option may set."""
    kind = type(default)
    hints, texts = get_type_hints(kind, include_extras=True), field_texts(kind)
    for one in fields(kind):
        if one.metadata.get("set by code"):
            continue
        value = getattr(default, one.name)
        if is_dataclass(value):
            yield from settings(value, (*path, one.name))
        else:
            yield (*path, one.name), hints[one.name], value, texts.get(one.name, "")


Json = Annotated[bool, typer.Option("--json", help="Print the report as one JSON document.")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings; options win over it.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any setting by its path, a.b=c; repeatable, wins.")]


def as_options(default: object, without: Sequence[str] = ()) -> list[inspect.Parameter]:
    """A Typer command's parameters: one for every setting but those in `without`; --config, --set, --json."""
    made = [_parameter("context", typer.Context, inspect.Parameter.empty)]
    for path, hint, value, text in settings(default):
        if path[-1] not in without:
            names = [] if isinstance(value, bool) else [f"--{path[-1].replace('_', '-')}"]
            panel = path[0].capitalize() if len(path) > 1 else None
            option = typer.Option(*names, help=text, rich_help_panel=panel)
            initial = list(value) or None if isinstance(value, tuple) else value
            annotation: object = Annotated[_option_type(hint), option]
            made.append(
                inspect.Parameter(path[-1], inspect.Parameter.KEYWORD_ONLY, default=initial, annotation=annotation)
            )
    every = (("config", Config, None), ("set_", Set, None), ("as_json", Json, False))
    return [*made, *(_parameter(*one) for one in every)]


def _parameter(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def from_options(default: T, options: JsonObject) -> T:
    """What a command made by `as_options` was told: only options that were typed count over a file's settings."""
    context, file, changes = options.pop("context"), options.pop("config"), options.pop("set_") or ()
    typed = {name for name in options if context.get_parameter_source(name).name != "DEFAULT"}
    paths = {path[-1]: path for path, *_ in settings(default)}
    return configure(default, file, changes, {paths[name]: options[name] for name in typed})


def _option_type(hint: object) -> Any:
    """The type that an option of a field has: what Typer cannot parse is given as text."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _option_type(inner[0])
    if origin in (Union, UnionType):
        return _option_type(next(kind for kind in inner if kind is not type(None))) | None
    if origin is tuple:
        return list[inner[0]] | None if inner[-1] is Ellipsis else hint  # type: ignore[valid-type]  # as above
    return str if origin in (Literal, dict) else hint
