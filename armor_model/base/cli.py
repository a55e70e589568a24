"""The main function of a command line: runs a Typer app, turns what ends it into one line and an exit code.

Exit codes: 0 done, 1 the run failed, 2 wrong input, 130 Ctrl-C, 143 SIGTERM. A bug keeps its traceback.
"""

from __future__ import annotations

import errno
import gc
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from armor_model.base.errors import ArmorError, disk_is_full
from armor_model.base.interrupts import Interrupts

_BAD_PATH = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError, FileNotFoundError)
"""What a path can have wrong with it that the user can mend; so are these numbers. Any other OSError is a bug."""
_BAD_PATH_ERRNO = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


def run_app(
    app: Callable[..., Any],
    prog: str,
    argv: Sequence[str] | None = None,
    *,
    failed: int = 1,
    go_on: str | None = None,
    kept: str = "",
) -> int:
    """Run one command and return its exit code; an integer that the command returns is its own.

    Args:
        app: a Typer app, or anything else called like one: `app(args=..., prog_name=..., standalone_mode=False)`.
        prog: the program's name, before every line printed to stderr.
        argv: the arguments, sys.argv's by default.
        failed: the code of a run that failed. 2 for a command whose own code 1 has a meaning (a gate's regression):
            then a bug, its traceback printed, ends with 2 as well.
        go_on: how to continue after Ctrl-C, SIGTERM or a full disk; by default the same command again.
        kept: what is said behind `interrupted`, e.g. `, nothing is lost`.
    """
    import typer  # its click, whose Abort it raises

    argv = list(sys.argv[1:] if argv is None else argv)
    go_on = go_on or f"continue with: {shlex.join([prog, *argv])}"
    with Interrupts(f"{prog}: interrupted{kept} - {go_on}") as interrupts:
        try:
            code: int = app(args=argv, prog_name=prog, standalone_mode=False) or 0
            if code != 130:  # Typer 0.29 turns Ctrl-C into this code, without a word
                return code
        except BaseException as error:
            if not (interrupts.came or isinstance(error, KeyboardInterrupt | typer.Abort)):
                return _ended(error, prog, failed, go_on)
        gc.freeze()  # else Python collects torch's and VLMEvalKit's objects before it ends: 10 s on a busy machine
        return interrupts.end()


def _ended(error: BaseException, prog: str, failed: int, go_on: str) -> int:
    """One line and the exit code of a command that an error ended; raises what is a bug, or no error at all."""

    def end(line: str, code: int) -> int:
        sys.stderr.write(f"{prog}: {' '.join(line.split())}\n")
        return code

    if isinstance(error, ArmorError):
        return end(error.line(), max(failed, error.exit_code))
    if not isinstance(error, Exception):
        raise error
    if disk_is_full(error):
        where = f" for {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return end(f"no space left on the disk{where}: free some, then {go_on}", failed)
    if isinstance(error, OSError) and (isinstance(error, _BAD_PATH) or error.errno in _BAD_PATH_ERRNO):
        where = f" {error.filename}" if error.filename else ""
        return end(f"cannot use{where}: {error.strerror}", 2)
    if hasattr(error, "format_message"):  # a usage error's class differs between Typer versions, not this method
        return _usage(error, prog, end)
    if failed == 1:
        raise error
    traceback.print_exception(error)
    return end("a bug, see above", failed)


def _usage(error: Any, prog: str, end: Callable[[str, int], int]) -> int:
    """Wrong or missing options: one line, or the whole help where nothing was given."""
    import typer

    text = error.format_message().strip()
    if "\n" in text:
        typer.echo(text, err=True)  # without colours where this is no terminal
        return 2
    command = getattr(getattr(error, "ctx", None), "command_path", None) or prog
    return end(f"{text} - see {command} --help", 2)


def only_given(**options: float | None) -> dict[str, Any]:
    """The options that were typed, of those whose default is None."""
    return {name: value for name, value in options.items() if value is not None}
