"""The two ways a command ends badly on purpose: a mistake the user can mend (exit 2), a run that failed (exit 1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArmorEvalError(Exception):
    """Base of errors that print as one line, without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = one_line(message)
        self.hint = one_line(hint) if hint else None

    def line(self) -> str:
        """What is printed: the message and, behind a dash, what to type instead."""
        return f"{self.message} - {self.hint}" if self.hint else self.message


class UserError(ArmorEvalError):
    """Wrong input: says what was expected, what came, what to type. Exit code 2."""

    exit_code = 2


class RunFailed(ArmorEvalError):  # noqa: N818 - the verdict is the name
    """The command was right but the run did not produce its headline. Exit code 1."""

    exit_code = 1


def one_line(text: str) -> str:
    """The text as one line that a terminal shows as it is: what a server or a file says must not steer it."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean MMB?)`, or an empty string where nothing is near enough."""
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a closed list."""
    known = list(known)
    return UserError(f"unknown {kind} {name!r}{did_you_mean(name, known)}", f"known: {', '.join(known)}")
