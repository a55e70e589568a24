"""A TSV read in one pass holds what pandas reads of it; images stay in the file; a second process does not read it."""

import hashlib
import os
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armor_eval.tasks.understanding import tsv
from armor_eval.tasks.understanding.tsv import Tsv

TEXTS = st.sampled_from(
    ["a", "7", "", '"q ""q"" q"', '"a\nb\tc"', "x" * 90, "y" * 70, "é" * 40, 'a"b', '"' + "z" * 80 + '"']
)
ROWS = st.lists(st.lists(TEXTS, min_size=1, max_size=4).map("\t".join), max_size=8).map("\n".join)
PIECES = st.lists(
    st.sampled_from(["a", "NA", '"', '""', "\t", "\n", "\r\n", "\r", "x" * 90, "y" * 70, "é" * 40, " ", "[", "7"]),
    max_size=30,
).map("".join)
HEADS = st.sampled_from(
    ["index\timage\tquestion", "image\tindex", "index\tquestion\timage", "index\tquestion", "index\timage\timage"]
)


def by_pandas(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, na_values=[""])
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError("pandas shifts the columns: we refuse")
    return frame


def read(path: Path) -> pd.DataFrame:
    content = Tsv.open(path).content()
    if "image" not in content.columns:
        return content.text
    return content.text.assign(image=[None if cell is None else cell.cell() for cell in content.images])


@settings(max_examples=60, deadline=None)
@given(HEADS, PIECES | ROWS)
def test_any_file_is_read_as_pandas_reads_it(tmp_path_factory, head: str, body: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    path.write_bytes(f"{head}\n{body}".encode())
    try:
        expected = by_pandas(path)
    except ValueError:
        with pytest.raises(ValueError):
            read(path)
        return
    found = read(path)
    assert sorted(found.columns) == sorted(expected.columns)
    ours, theirs = (frame[list(expected.columns)].fillna("").to_numpy().tolist() for frame in (found, expected))
    assert ours == theirs
    assert Tsv.open(path).found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def large(path: Path, rows: int = 40) -> Path:
    """More than the megabyte that the tests keep files from on, written long enough ago."""
    lines = [f'{i}\t{i:03d}{"i" * 30_000}\t"what, ""{i}""?"' for i in range(rows)]
    path.write_text("\n".join(["index\timage\tquestion", *lines, ""]))
    old = time.time() - 60
    os.utime(path, (old, old))
    return path


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tsv, "KEPT", 1 << 20)
    monkeypatch.setattr(tsv, "SETTLED_SECONDS", 0.0)
    return tmp_path / "cache" / "tables"


def test_a_second_process_does_not_read_a_large_file_again(tmp_path, kept, monkeypatch) -> None:
    path = large(tmp_path / "d.tsv")
    first = read(path)
    scans = []
    scan = tsv._scan
    monkeypatch.setattr(tsv, "_scan", lambda *args: (scans.append(1), scan(*args))[1])
    assert read(path).equals(first) and not scans
    assert sum(file.stat().st_size for file in kept.iterdir()) < 10_000, "images are not copied"
    for damage in (b"", b"{}\n", b'{"sha256": 1', b"\xff"):
        for file in kept.iterdir():
            file.write_bytes(damage)
        assert read(path).equals(first) and scans.pop() == 1


def test_a_changed_file_is_read_anew(tmp_path, kept) -> None:
    path = large(tmp_path / "d.tsv")
    before = Tsv.open(path).found
    with path.open("r+b") as file:
        file.seek(40)
        file.write(b"j")
    after = Tsv.open(path).found
    assert after.sha256 != before.sha256 and after.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_image_is_read_from_the_file_even_where_that_was_replaced(tmp_path) -> None:
    path = large(tmp_path / "d.tsv")
    content = Tsv.open(path).content()
    other = tmp_path / "other"
    other.write_text("index\timage\tquestion\n")
    other.replace(path)
    assert content.images[7].cell() == "007" + "i" * 30_000
    assert content.images[7].digest == hashlib.sha256(content.images[7].cell().encode()).hexdigest()[:16]
