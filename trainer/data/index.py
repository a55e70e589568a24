"""A LAION parquet index as a small table in memory: what the screens ask about each url, and nothing else.

The set has 27 million rows; as dictionaries they take some 30 GB, as sorted arrays 24 bytes a row (0.6 GB).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import DataError

NUMBERS = ("aesthetic", "aesthetic_score", "punsafe")
FLAGS = ("", "UNLIKELY", "UNSURE", "NSFW")


class Index:
    """url -> the numbers and the flag that screens read."""

    def __init__(self, keys_N: np.ndarray, numbers_N3: np.ndarray, flags_N: np.ndarray) -> None:
        order = np.argsort(keys_N, kind="stable")
        self.keys_N, self.numbers_N3, self.flags_N = keys_N[order], numbers_N3[order], flags_N[order]

    def __len__(self) -> int:
        return len(self.keys_N)

    def get(self, url: str) -> dict[str, Any]:
        """The fields known of a url; empty for one that is not in the index."""
        key = _key(url)
        at = int(np.searchsorted(self.keys_N, key))
        if at == len(self) or self.keys_N[at] != key:
            return {}
        found: dict[str, Any] = {
            name: float(x) for name, x in zip(NUMBERS, self.numbers_N3[at], strict=True) if not np.isnan(x)
        }
        if self.flags_N[at]:
            found["nsfw"] = FLAGS[self.flags_N[at]]
        return found


def _key(url: str) -> np.uint64:
    return np.frombuffer(hashlib.blake2b(url.encode(), digest_size=8).digest(), dtype=np.uint64)[0]


def read_index(path: Path) -> Index:
    """Stream a parquet file, or a directory of them, through `datasets`. Raises DataError."""
    import datasets

    files = sorted(map(str, path.rglob("*.parquet"))) if path.is_dir() else [str(path)]
    if not files or not Path(files[0]).is_file():
        raise DataError(f"no parquet file at {path}")
    keys, numbers, flags = [], [], []
    try:
        stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        for batch in stream.with_format("arrow").iter(batch_size=65_536):
            columns = {name.lower(): name for name in batch.column_names}
            if "url" not in columns:
                raise DataError(f"{path} has no URL column; its columns are {', '.join(batch.column_names)}")

            def column(name: str, batch: Any = batch, columns: dict[str, str] = columns) -> list[Any] | None:
                return batch[columns[name]].to_pylist() if name in columns else None

            keys.append(np.array([_key(u or "") for u in column("url") or []], dtype=np.uint64))
            empty = [None] * len(keys[-1])
            rows = [column(name) or empty for name in NUMBERS]
            numbers.append(np.array([[np.nan if x is None else x for x in r] for r in rows], dtype=np.float32).T)
            said = (str(x or "").strip().upper() for x in column("nsfw") or empty)
            # A word that LAION does not use counts as unsafe: a flag that cannot be read must not wave it through.
            flags.append(np.array([FLAGS.index(x) if x in FLAGS else 3 for x in said], dtype=np.int8))
    except DataError:
        raise
    except Exception as error:  # pyarrow, datasets and fsspec each raise their own; the advice is the same
        raise DataError(f"{path} is not readable parquet: {str(error).splitlines()[0]}") from error
    if not keys:
        raise DataError(f"{path} holds no rows")
    return Index(np.concatenate(keys), np.concatenate(numbers), np.concatenate(flags))
