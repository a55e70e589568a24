"""A finished run is shown without reading its data again, and never for other data, options or code."""

from dataclasses import replace

import pytest
from harness_data import mmbench, write

from armor_eval.models.mock import MockModel
from armor_eval.tasks.understanding import data
from armor_eval.tasks.understanding import task as module
from armor_eval.tasks.understanding.declare import choose
from armor_eval.tasks.understanding.task import Options, UnderstandingTask

INFO = MockModel().info


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "SETTLED_SECONDS", 0.0)
    write(mmbench(), tmp_path / "d" / "MMBench_DEV_EN.tsv")
    return tmp_path / "d"


def test_the_record_is_the_same_and_the_file_is_read_once(folder, monkeypatch) -> None:
    options, reads, read = Options(data=folder, limit=3), [], module.read_table
    monkeypatch.setattr(module, "read_table", lambda *args, **how: (reads.append(1), read(*args, **how))[1])

    def described(options: Options):
        return UnderstandingTask(choose(["MMB"])[0], "shapes", options).describe(INFO)

    first = described(options)
    assert described(options) == first and len(reads) == 1
    asked = UnderstandingTask(choose(["MMB"])[0], "shapes", options).units()
    assert first.subset.limit == 3 and first.data.items == len(asked)
    reads.clear()
    assert described(replace(options, limit=2)) != first and len(reads) == 1
    write(mmbench(seed=1), folder / "MMBench_DEV_EN.tsv")
    assert described(options).data.sha256 != first.data.sha256 and len(reads) == 2
    monkeypatch.setattr(data, "_code", lambda: [[1, 2]])
    described(options)
    assert len(reads) == 3
    for kept in (folder.parent / "cache" / "told").iterdir():
        kept.write_text('{"sha256": 1}')
    described(options)
    assert len(reads) == 4, "what is damaged is not believed"
