"""What stops a training run or refuses its input, said in one line."""

from __future__ import annotations


class TrainingError(Exception):
    """The run stopped: NaN, a full disk, a checkpoint of another run. The command line prints it and exits 1."""


class DataError(Exception):
    """A user's data or option is wrong. The command line prints it and exits 2."""
