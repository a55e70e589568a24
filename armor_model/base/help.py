"""Help of the three programs in one style: -h, --version, shell completion, panels of options, examples, exit codes.

    app = program("Build, inspect and talk to a model.")
    run_app(dressed(app, "armor-model"), "armor-model")

All of it is made of what a command has anyway. In a docstring, a paragraph that begins with the program's name is an
example (a test parses each), one that begins with `Exit codes` replaces the usual codes. Typer's own rich help has six
columns, which leave 16 characters for the words on a terminal of 80; this one has two.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from inspect import cleandoc
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from armor_model import __version__

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

Command = TyperCommand | TyperGroup
Parameter = TyperArgument | TyperOption

EXITS = "Exit codes: 0 done, 1 failed or partial, 2 wrong input"
ENDED = "130 Ctrl-C, 143 SIGTERM."

PANELS = {
    "Model": ("model", "model_args", "dtype", "device", "device_map", "request_json", "batch_size"),
    "Seed and sampling": (
        *("seed", "repeats", "max_new_tokens", "temperature", "top_k", "top_p", "guidance"),
        *("image_temperature", "image_top_k", "image_top_p", "parallel_draw"),
    ),
    "Judge": (
        *("judge", "judge_model", "judge_dtype", "judge_url", "judge_args", "judge_json", "judge_request_json"),
        *("judge_max_tokens", "detector", "detector_weights", "detector_batch", "clip_weights"),
    ),
    "Output": ("out", "out_file", "json_output", "as_json"),
}
"""Panel -> the parameters that stand in it, in every command; an option may name another itself."""

OldOut = Annotated[Path | None, typer.Option("--out", hidden=True)]
"""What `--out-file` was called while `--out` was a file here and a folder there."""

MOST_OF_NAMES = 36
"""Characters of the column of names and types at most; longer ones are folded."""


def program(about: str) -> typer.Typer:
    """An app with the settings and the options that all three programs share; `about` is its help."""
    app = typer.Typer(
        help=about,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_shared)
    return app


def dressed(app: typer.Typer, prog: str) -> TyperGroup:
    """The app's command tree, to be called like the app, with help in this module's style."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    for _, command in commands(root):
        command.context_class = _Context
        if isinstance(command, TyperCommand):  # a group says so itself: some measure when nothing is given
            command.no_args_is_help |= any(parameter.required for parameter in command.params)
    root.name = prog
    return root


def commands(command: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """(path, command) of a command and all below it; hidden ones too."""
    yield path, command
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            if isinstance(child, Command):
                yield from commands(child, (*path, name))


def examples(command: Command, prog: str) -> list[str]:
    """The lines that a command's docstring shows to type."""
    return [text for text in _paragraphs(command) if text.startswith(f"{prog} ")]


def completing(prog: str) -> list[str]:
    """The words behind the program's name while a shell asks for completions; else none."""
    if f"_{prog.replace('-', '_').upper()}_COMPLETE" not in os.environ:
        return []
    return (os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")).split()[1:]


class _Context(typer.Context):
    """The context of a command whose help is this module's: Typer asks its context for it."""

    def get_help(self) -> str:
        from rich.console import Console

        written = StringIO()
        console = Console(file=written, force_terminal=sys.stdout.isatty(), highlight=False)
        for block in _blocks(self):
            console.print(block, markup=False, soft_wrap=isinstance(block, str))
        return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def _print_version(context: typer.Context, asked: bool) -> None:
    if asked:
        typer.echo(f"{context.find_root().info_name} {__version__}")
        raise typer.Exit()


def _shared(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None: ...


def _paragraphs(command: Command) -> list[str]:
    """A docstring's paragraphs, a line each."""
    return [" ".join(text.split()) for text in cleandoc(command.help or "").split("\n\n")]


def _blocks(context: typer.Context) -> Iterator[RenderableType]:
    """What is printed: usage, what it does, panels of options and commands, examples, exit codes."""
    from rich.text import Text

    command, prog = context.command, context.find_root().info_name or ""
    assert isinstance(command, Command)
    shown, paragraphs = examples(command, prog), _paragraphs(command)
    codes = [text for text in paragraphs if text.startswith("Exit codes")] or [EXITS]
    yield Text.assemble(("Usage: ", "bold"), _usage(context, command))
    for text in paragraphs:
        if text not in [*shown, *codes]:
            yield Text(f"\n{text}")
    yield Text()
    yield from _panels(context, command)
    if shown:
        yield Text("Examples:", "bold")
        yield "".join(f"  {line}\n" for line in shown)  # a line each, to be copied
    yield Text(f"{' '.join(codes).rstrip('.')}, {ENDED}")


def _usage(context: typer.Context, command: Command) -> str:
    shown = [one for one in command.params if isinstance(one, Parameter) and not one.hidden]
    options = [one for one in shown if isinstance(one, TyperOption) and one.required]
    arguments = [one for one in shown if isinstance(one, TyperArgument)]
    words = [context.command_path, *(_names(one, context).plain for one in options), "[OPTIONS]"]
    words += [name if one.required else f"[{name}]" for one in arguments for name in [_argument_name(one)]]
    if isinstance(command, TyperGroup):
        words.append("[COMMAND [ARGS]...]" if command.invoke_without_command else "COMMAND [ARGS]...")
    words += ["ARGS..."] if context.ignore_unknown_options else []
    return " ".join(words)


def _panels(context: typer.Context, command: Command) -> Iterator[RenderableType]:
    """Arguments, options and commands, each panel two columns of one width."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    homes = {name: panel for panel, names in PANELS.items() for name in names}
    rows: dict[str, list[tuple[Text, Text]]] = {panel: [] for panel in ("Arguments", "Options", *PANELS)}
    for parameter in command.get_params(context):
        if isinstance(parameter, Parameter) and not parameter.hidden:
            home = "Arguments" if isinstance(parameter, TyperArgument) else homes.get(parameter.name or "", "Options")
            panel = parameter.rich_help_panel or home
            rows.setdefault(panel, []).append((_names(parameter, context), _words(parameter)))
    rows["Output"] = rows.pop("Output")  # behind the panels that options have named
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            if isinstance(child, Command) and not child.hidden:
                line = Text(re.split(r"(?<=[.?]) ", _paragraphs(child)[0])[0])
                rows.setdefault(child.rich_help_panel or "Commands", []).append((Text(name, "bold cyan"), line))
    width = min(MOST_OF_NAMES, max((len(names) for group in rows.values() for names, _ in group), default=0))
    for title, group in rows.items():
        if group:
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(width=width)
            table.add_column()
            for names, words in group:
                table.add_row(names, words)
            yield Panel(table, title=title, title_align="left", border_style="dim")


def _names(parameter: Parameter, context: typer.Context) -> Text:
    """`--limit, -l <int 1..>`; `--[no-]images` for a switch with both."""
    from rich.text import Text

    if isinstance(parameter, TyperArgument):
        return Text(_argument_name(parameter), "bold cyan")
    names = ", ".join(sorted(parameter.opts, key=lambda name: not name.startswith("--")))
    if parameter.is_flag:
        return Text(names.replace("--", "--[no-]", 1) if parameter.secondary_opts else names, "bold cyan")
    return Text.assemble((names, "bold cyan"), " ", (_type(parameter, context), "yellow"))


def _argument_name(argument: TyperArgument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.nargs == 1 or name.endswith("...") else f"{name}..."


def _type(option: TyperOption, context: typer.Context) -> str:
    """`<int 1..>` of a bounded number, `<str>...` of an option that may be repeated."""
    if option.metavar:
        return option.metavar
    text = option.display_type(context).replace(" range>", ">").replace("Path", "path")
    text = f"<{text[6:-2]}>..." if text.startswith("<list[") else text
    low, high = ("" if end is None or end > 1e6 else f"{end:g}" for end in (option.min, option.max))
    return text.replace(">", f" {low}..{high}>") if low or high else text


def _words(parameter: Parameter) -> Text:
    """What a parameter does, and its default or that it is required."""
    from rich.text import Text

    words = Text(parameter.help or "")
    if parameter.required:
        words.append(" [required]", "red")
    elif parameter.show_default and (default := _default(parameter)):
        words.append(f" [default: {default}]", "dim")
    return words


def _default(parameter: Parameter) -> str:
    """A default as it is typed, empty where there is none."""
    value = parameter.default
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if value is None or value == "" or callable(value):
        return ""
    if isinstance(parameter, TyperOption) and parameter.is_flag:
        return ("on" if value else "off") if parameter.secondary_opts else ""
    several: Iterable[object] = value if isinstance(value, list | tuple) else [value]
    return ", ".join(str(one.value if isinstance(one, Enum) else one) for one in several)
