"""Exceptions that end a command with one line and an exit code: a mistake that the user can mend, a run that failed."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class ArmorError(Exception):
    """Base of the errors that print as one line, without a traceback. Catch this one, raise one of those below."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = one_line(message)
        self.hint = one_line(hint) if hint else None
        super().__init__(self.line())

    def line(self) -> str:
        """What is printed: the message and, behind a dash, what to type instead."""
        return f"{self.message} - {self.hint}" if self.hint else self.message


class UserError(ArmorError):
    """Wrong input: says what was expected, what came, what to type. Exit code 2."""

    exit_code = 2


class RunFailed(ArmorError):  # noqa: N818 - the verdict is the name
    """The command was right, but the run stopped or gave no headline: a full disk, a NaN, a model that is not to be
    had. Exit code 1."""


class Preempted(ArmorError):  # noqa: N818 - nothing went wrong
    """The run was asked to end and can go on where it stopped. Exit code 75, sysexits.h's "try again later"."""

    exit_code = 75


def one_line(text: str) -> str:
    """The text as one line that a terminal shows as it is: what a server or a file says must not steer it."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def reason_of(error: BaseException) -> str:
    """The first line of what an exception says, with the next where it only announces that; or its kind where it says
    nothing."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean MMB?)`, or an empty string where no known name is near enough."""
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a closed list."""
    known = list(known)
    return UserError(f"unknown {kind} {name!r}{did_you_mean(name, known)}", f"known: {', '.join(known)}")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_IN_RUST = tuple(f"(os error {number})" for number in _FULL)


def disk_is_full(error: BaseException) -> bool:
    """Whether a failed write means that the disk, or the user's quota of it, is full.

    Measured on a full tmpfs and under a file-size limit: safetensors and tokenizers, written in Rust, raise errors of
    their own that end in `(os error 28)`, torch.save a RuntimeError behind which the OSError stands.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        if not isinstance(cause, ArmorError) and str(cause).endswith(_FULL_IN_RUST):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
