"""The one exception for a user's mistake: a line that says what was expected, what came, what to do."""

from __future__ import annotations


class ArmorError(Exception):
    """A user's mistake. Command lines print `message` (and `hint`) in one line and exit with code 2."""

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None):
        self.message = message
        self.hint = hint
        super().__init__(f"{message} ({hint})" if hint else message)
