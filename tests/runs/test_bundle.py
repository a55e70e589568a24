"""The run bundle loses nothing at a kill, holds no item twice, and never mixes two runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from armor_eval.runs import provenance
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.runs.journal import read_journal
from armor_eval.runs.schema import DataInfo, DeviceInfo, Item, JudgeInfo, Metric, ModelInfo, Run, ScorerInfo, Scores
from armor_model.base.errors import UserError


def make_run(**changes) -> Run:
    fields = {
        "run_id": "r",
        "kind": "understanding",
        "benchmark": "MMB",
        "command": ["armor-eval"],
        "profile": "shapes",
        "status": "running",
        "model": ModelInfo(spec="mock", name="mock", fingerprint="f"),
        "data": DataInfo(name="d", sha256="s", items=3),
        "prompt_sha256": "p",
        "scorer": ScorerInfo(name="x", version="1"),
        "judge": JudgeInfo(name="none", endpoint="none"),
        "device": DeviceInfo(kind="cpu"),
        "started": provenance.now(),
    }
    return Run(**{**fields, **changes})


def make_item(name: str, **changes) -> Item:
    return Item(**{"id": name, "cluster": name, "prompt": "p", "prompt_sha256": "h", "status": "ok", **changes})


def make_scores(n: int) -> Scores:
    metric = Metric(name="accuracy", value=50.0, unit="%", n=n, clusters=n, primary=True)
    return Scores(metrics=[metric], counts={"ok": n}, expected_items=n)


def test_round_trip_and_status_last(tmp_path):
    with Bundle.open(tmp_path / "b", make_run()) as bundle:
        bundle.append(make_item("1", output='caf\u00e9 \u2603\n\t"x"'))
        assert read_bundle(tmp_path / "b")[0].status == "running"
        assert bundle.finish([make_item("1", score=1.0)], make_scores(1)) == "complete"
    run, items, scores = read_bundle(tmp_path / "b")
    assert (run.status, items[0].score, scores.metrics[0].value) == ("complete", 1.0, 50.0)
    assert run.finished and run.wall_seconds > 0 and run.peak_memory_bytes > 1_000_000
    assert not list((tmp_path / "b").glob("*.tmp"))


def test_a_clock_that_is_set_back_costs_nothing(tmp_path, monkeypatch):
    """Only `started` and `finished` are of the wall clock; durations and heartbeats are of one that never goes back."""
    monkeypatch.setattr(provenance, "now", iter(["2026-05-01T12:00:00+00:00", "2019-01-01T00:00:00+00:00"]).__next__)
    monkeypatch.setattr("time.time", iter(range(10**9, 0, -3600)).__next__)
    monkeypatch.setattr("armor_eval.runs.bundle.HEARTBEAT_SECONDS", 0.0)
    with Bundle.open(tmp_path / "b", make_run()) as bundle:
        for name in "12":
            bundle.append(make_item(name, score=1.0))
        assert bundle.finish(list(bundle.items.values()), make_scores(2)) == "complete"
    run, items, scores = read_bundle(tmp_path / "b")
    assert (run.status, len(items), scores.metrics[0].value) == ("complete", 2, 50.0)
    assert run.finished < run.started and 0 < run.wall_seconds < 3600


def test_missing_items_or_a_withheld_headline_are_partial(tmp_path):
    with Bundle.open(tmp_path / "a", make_run()) as bundle:
        assert bundle.finish([make_item("1")], make_scores(2)) == "partial"
        assert "1 of 2 items missing" in bundle.run.status_reason
    with Bundle.open(tmp_path / "b", make_run()) as bundle:
        scores = make_scores(1).model_copy(update={"withheld": "the judge failed"})
        assert bundle.finish([make_item("1")], scores) == "partial"


def test_a_complete_run_that_lost_items_is_taken_up_again(tmp_path):
    def finish(bundle):
        return bundle.finish([make_item(i, score=1.0) for i in "12"], make_scores(2))

    with Bundle.open(tmp_path, make_run()) as bundle:
        finish(bundle)
    whole = (tmp_path / "items.jsonl").read_text()
    (tmp_path / "items.jsonl").write_text(whole.splitlines(keepends=True)[0])
    run, items, _ = read_bundle(tmp_path)
    assert (run.status, len(items)) == ("partial", 1) and "holds 1 items, its scores are of 2" in run.status_reason
    with Bundle.open(tmp_path, make_run()) as bundle:
        assert not bundle.complete and list(bundle.items) == ["1"]
        assert finish(bundle) == "complete"
    assert read_bundle(tmp_path)[0].status == "complete"
    for name in ("items.jsonl", ".lock"):  # an archive leaves the items out on purpose
        (tmp_path / name).unlink()
    assert read_bundle(tmp_path)[0].status == "complete"
    with Bundle.open(tmp_path, make_run()) as bundle:
        assert bundle.complete


@pytest.mark.parametrize("tear", [b'{"id": "2", "clus', b'{"id": "2"}\n', b"\xff\xfe\x00", b"null\n", b"[]\n"])
def test_torn_line_is_forgotten_and_the_journal_stays_whole(tmp_path, tear):
    with Bundle.open(tmp_path, make_run()) as bundle:
        bundle.append(make_item("1"))
    with (tmp_path / "items.jsonl").open("ab") as file:
        file.write(tear)
    with Bundle.open(tmp_path, make_run()) as bundle:
        assert list(bundle.items) == ["1"]
        bundle.append(make_item("2"))
        bundle.append(make_item("3"))
    items, dropped = read_journal(tmp_path / "items.jsonl")
    assert list(items) == ["1", "2", "3"] and dropped == 0


def test_a_writer_killed_mid_line_does_not_swallow_the_next_one(tmp_path):
    with Bundle.open(tmp_path, make_run()) as bundle:
        other = Bundle.join(tmp_path)
        with (tmp_path / "items.jsonl").open("ab") as file:
            file.write(b'{"id": "torn')
        other.append(make_item("9"))
        other.close()
        bundle.adopt()
        assert list(bundle.items) == ["9"]


def test_no_item_twice(tmp_path):
    with Bundle.open(tmp_path, make_run()) as bundle:
        bundle.append(make_item("1"))
        with pytest.raises(ValueError, match="already"):
            bundle.append(make_item("1"))
    line = (tmp_path / "items.jsonl").read_bytes()
    (tmp_path / "items.jsonl").write_bytes(line + line)
    with Bundle.open(tmp_path, make_run()):
        assert len((tmp_path / "items.jsonl").read_bytes().splitlines()) == 1


def test_errors_are_tried_again_on_resume(tmp_path):
    with Bundle.open(tmp_path, make_run()) as bundle:
        bundle.append(make_item("1"))
        bundle.append(make_item("2", status="error", reason="endpoint down"))
    with Bundle.open(tmp_path, make_run()) as bundle:
        assert list(bundle.items) == ["1"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data": DataInfo(name="d", sha256="other", items=3)}, "data"),
        ({"prompt_sha256": "q"}, "prompts"),
        ({"model": ModelInfo(spec="mock", name="mock", fingerprint="g")}, "model"),
        ({"decoding": {"temperature": 1.0}}, "decoding"),
        ({"seeds": {"subset": 3}}, "seeds"),
        ({"profile": "official"}, "profile"),
        ({"benchmark": "POPE"}, "benchmark"),
    ],
)
def test_another_run_in_the_folder_is_refused_by_name(tmp_path, changes, named):
    Bundle.open(tmp_path, make_run()).close()
    with pytest.raises(UserError, match=named):
        Bundle.open(tmp_path, make_run(**changes))
    Bundle.open(tmp_path, make_run()).close()


def test_costs_add_up_over_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance.Clock, "wall", lambda self: 7.5)
    monkeypatch.setattr(provenance.Clock, "cpu", lambda self: 2.25)
    Bundle.open(tmp_path, make_run(wall_seconds=100.0, cpu_seconds=50.0)).close()
    with Bundle.open(tmp_path, make_run()) as bundle:
        bundle.finish([], make_scores(0))
    run, _, _ = read_bundle(tmp_path)
    assert (run.wall_seconds, run.cpu_seconds) == (107.5, 52.25)


def test_two_commands_in_one_folder_are_refused(tmp_path):
    with Bundle.open(tmp_path, make_run()), pytest.raises(UserError, match="another command"):
        Bundle.open(tmp_path, make_run())
    Bundle.open(tmp_path, make_run()).close()


def test_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from test_bundle import make_run; from armor_eval.runs.bundle import Bundle\n"
        "bundle = Bundle.open(Path(sys.argv[1]), make_run()); os.kill(os.getpid(), 9)"
    )
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), folder], capture_output=True, timeout=600)
    assert done.returncode == -9, done.stderr
    Bundle.open(tmp_path, make_run()).close()


def test_a_bug_leaves_the_run_failed_and_resumable(tmp_path):
    with pytest.raises(RuntimeError), Bundle.open(tmp_path, make_run()) as bundle:
        bundle.append(make_item("1"))
        raise RuntimeError("boom")
    assert (read_bundle(tmp_path)[0].status, read_bundle(tmp_path)[0].status_reason) == ("failed", "RuntimeError: boom")
    with pytest.raises(KeyboardInterrupt), Bundle.open(tmp_path, make_run()) as bundle:
        assert list(bundle.items) == ["1"]
        raise KeyboardInterrupt
    assert read_bundle(tmp_path)[0].status == "running"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_a_damaged_or_newer_bundle_is_one_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    for opens in (read_bundle, lambda path: Bundle.open(path, make_run())):
        with pytest.raises(UserError) as caught:
            opens(tmp_path)
        assert "run.json" in caught.value.message


def test_unusable_folders(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot write into"):
            Bundle.open(path, make_run())
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "items.jsonl").write_text("")
    with pytest.raises(UserError, match=r"without run\.json"):
        Bundle.open(tmp_path / "lone", make_run())


def test_images_are_content_addressed(tmp_path):
    from PIL import Image

    with Bundle.open(tmp_path, make_run()) as bundle:
        names = {bundle.add_image(Image.new("RGB", (4, 4), c)) for c in ("red", "red", "blue")}
    assert len(names) == 2 and all((tmp_path / name).is_file() for name in names)


def test_run_json_names_no_machine(tmp_path):
    import platform

    device = provenance.device()
    Bundle.open(tmp_path, make_run(device=device, packages=provenance.packages())).close()
    text = (tmp_path / "run.json").read_text()
    assert len(platform.node()) < 4 or platform.node() not in json.dumps(json.loads(text)["device"])
    assert json.loads(text)["packages"]["pydantic"]
