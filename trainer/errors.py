"""What stops a training run or refuses its input, said in one line."""

from __future__ import annotations

import errno


class TrainingError(Exception):
    """The run stopped: NaN, a full disk, a checkpoint of another run. The command line prints it and exits 1."""


class DataError(Exception):
    """A user's data or option is wrong. The command line prints it and exits 2."""


def disk_is_full(error: BaseException) -> bool:
    """Whether a failed write means that the disk is full.

    Measured on a full tmpfs: safetensors raises an error of its own that says so in words, torch.save a RuntimeError
    behind which the OSError stands.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if type(seen).__name__ == "SafetensorError" and "os error 28" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
