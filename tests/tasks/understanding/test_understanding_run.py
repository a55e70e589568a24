"""`understanding` on small MMBench files: batches, resume, kill -9, subsets, bad files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness_data import measure, mmbench, png, the_run, write

from armor_eval.cli import main
from armor_eval.models.base import Answer
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.understanding.declare import benchmarks


def run(folder, out, model=None, **changes):
    return measure("MMB", model or MockModel(), out, folder, **changes)


def primary(finished):
    return next(m for m in finished.scores.metrics if m.primary)


def answers(path: Path) -> dict:
    return {it.id: (it.output, it.score, it.status) for it in read_bundle(the_run(path))[1]}


class Oracle(MockModel):
    """Answers the option whose letter stands at the right place: always right for `answer` given."""

    def __init__(self, gold):
        super().__init__("oracle")
        self._gold, self.batches = gold, []

    def answer(self, questions, decoding):
        self.batches.append([q.id for q in questions])
        return [Answer(text=self._gold[q.id]) for q in questions]


@pytest.fixture(scope="module")
def frame():
    return mmbench(8)


@pytest.fixture(scope="module")
def folder(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("mmb")
    write(frame, path / "MMBench_DEV_EN.tsv")
    return path


def gold_of(frame):
    return {str(i): a for i, a in zip(frame["index"], frame["answer"], strict=True)}


def test_all_right_is_100_and_always_a_is_0(frame, folder, tmp_path):
    best = run(folder, tmp_path / "best", Oracle(gold_of(frame)))
    assert (primary(best).value, best.run.status) == (100.0, "complete")
    assert primary(best).n == 32 and primary(best).clusters == 8
    # A model that always says A is right on a quarter of the rows and on no whole group.
    worst = run(folder, tmp_path / "worst", MockModel("A"))
    assert primary(worst).value == 0.0
    assert next(m for m in worst.scores.metrics if m.name == "accuracy of single rows").value == 25.0


def test_batches_do_not_change_answers_or_scores(folder, tmp_path):
    ones = run(folder, tmp_path / "one", batch_size=1)
    many = run(folder, tmp_path / "many", batch_size=8)
    assert answers(ones.path) == answers(many.path)
    assert primary(ones).value == primary(many).value


def test_batches_hold_questions_of_like_length(frame, folder, tmp_path):
    model = Oracle(gold_of(frame))
    run(folder, tmp_path / "b", model, batch_size=8)
    assert [len(b) for b in model.batches] == [8, 8, 8, 8]


def test_a_image_that_several_ask_about_is_decoded_once_a_batch(folder, tmp_path, monkeypatch):
    from armor_eval.tasks.understanding import images

    seen, real, count = [], images.decode, []
    monkeypatch.setattr(images, "decode", lambda cell, *more: count.append(cell) or real(cell, *more))

    class Looks(MockModel):
        def answer(self, questions, decoding):
            seen.append([next(p for p in q.parts if not isinstance(p, str)) for q in questions])
            return super().answer(questions, decoding)

    shared = run(folder, tmp_path / "r", Looks(), batch_size=8)
    assert [len({id(p) for p in batch}) for batch in seen] == [2, 2, 2, 2], "each picture has four rotations"
    assert len(count) == 8
    assert answers(shared.path) == answers(run(folder, tmp_path / "one", batch_size=1).path)


def test_resumed_is_uninterrupted(folder, tmp_path):
    whole = run(folder, tmp_path / "whole", batch_size=4)

    class Stops(MockModel):
        calls = 0

        def answer(self, questions, decoding):
            Stops.calls += 1
            if Stops.calls > 3:
                raise KeyboardInterrupt
            return super().answer(questions, decoding)

    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "cut", Stops(), batch_size=4)
    assert len(read_bundle(the_run(tmp_path / "cut"))[1]) == 12
    resumed = run(folder, tmp_path / "cut", batch_size=4)
    assert answers(resumed.path) == answers(whole.path)
    assert resumed.scores == whole.scores


def test_complete_run_is_shown_without_asking_again(folder, tmp_path):
    run(folder, tmp_path / "r")

    class Never(MockModel):
        def answer(self, questions, decoding):
            raise AssertionError("asked again")

    assert run(folder, tmp_path / "r", Never()).run.status == "complete"


DIES = """
import os, signal, sys
from armor_eval.cli import main
from armor_eval.runs.bundle import Bundle

whole = Bundle.append

def append(self, item):
    whole(self, item)
    if len(self.items) == 6:
        os.kill(os.getpid(), signal.SIGKILL)

Bundle.append = append
main(sys.argv[1:])
"""


def test_kill_9_then_the_same_command_gives_the_same_scores(folder, tmp_path, capsys):
    argv = ["understanding", "--bench", "MMB", "--model", "mock:A", "--data", str(folder), "--any-data"]
    argv += ["--batch-size", "2", "--out"]
    journal = tmp_path / "cut" / "MMB" / "items.jsonl"
    child = subprocess.run([sys.executable, "-c", DIES, *argv, str(tmp_path / "cut")], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert journal.read_bytes().count(b"\n") == 6
    assert main([*argv, str(tmp_path / "cut")]) == 0
    assert main([*argv, str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    lines = [json.loads(line)["id"] for line in journal.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 32
    assert answers(tmp_path / "cut") == answers(tmp_path / "whole")
    cut, whole = (json.loads((the_run(tmp_path / n) / "scores.json").read_text()) for n in ("cut", "whole"))
    assert cut == whole


def test_one_bad_row_does_not_cost_its_batch(folder, tmp_path):
    class Chokes(MockModel):
        def answer(self, questions, decoding):
            if any(q.id == "3" for q in questions):
                raise RuntimeError("out of memory")
            return super().answer(questions, decoding)

    done = run(folder, tmp_path / "r", Chokes(), batch_size=16)
    assert done.scores.counts["error"] == 1 and done.run.status == "partial"
    bad = next(it for it in read_bundle(the_run(tmp_path / "r"))[1] if it.status == "error")
    assert (bad.id, bad.score, bad.reason) == ("3", None, "RuntimeError: out of memory")
    # 1 of 32 is above 1 %: no headline.
    assert primary(done).value is None and "withheld" in primary(done).note
    # The same command, with the model well again, asks that row alone and completes.
    again = run(folder, tmp_path / "r", MockModel())
    assert again.run.status == "complete" and primary(again).value is not None


def test_bad_images_are_counted_items(frame, tmp_path):
    bad = frame.copy()
    bad.loc[0, "image"] = "not base64 !" * 10
    bad.loc[4, "image"] = png(1)[:120]
    write(bad, tmp_path / "d" / "MMBench_DEV_EN.tsv")
    done = run(tmp_path / "d", tmp_path / "r")
    # Both pictures serve four rotations each.
    assert done.scores.counts["error"] == 8 and done.run.status == "partial"


def test_unreadable_answers_are_wrong_counted_and_read_by_us(frame, folder, tmp_path):
    gold = {i: f"({a}) because the others, like A or B, are not." for i, a in gold_of(frame).items()}
    done = run(folder, tmp_path / "r", Oracle(gold))
    counts = done.scores.counts
    ours = next(m for m in done.scores.metrics if m.name.endswith("our reading"))
    assert ours.value == 100.0
    assert primary(done).value < 100.0 and counts["unparsed"] > 0
    assert not ours.note.startswith("0 of")


@pytest.mark.parametrize("limit", [1, 3, 8, 99])
def test_limit_keeps_rotations_together(frame, folder, tmp_path, limit):
    done = run(folder, tmp_path / "r", Oracle(gold_of(frame)), limit=limit)
    n = min(limit, 8)
    assert (primary(done).n, primary(done).clusters, primary(done).value) == (4 * n, n, 100.0)
    assert done.run.status == "complete"
    assert (done.run.subset is None) == (limit >= 8)
    if done.run.subset is not None:
        assert (done.run.subset.items, done.run.subset.of_items) == (4 * n, 32)


def test_a_changed_file_is_refused_on_resume(frame, tmp_path):
    from armor_model.base.errors import UserError

    path = write(frame, tmp_path / "d" / "MMBench_DEV_EN.tsv")
    run(path.parent, tmp_path / "r", limit=2)
    write(mmbench(8, seed=5), path)
    with pytest.raises(UserError, match="data"):
        run(path.parent, tmp_path / "r", limit=2)


def test_a_file_edited_while_running_is_refused(frame, tmp_path):
    from armor_model.base.errors import UserError

    path = write(frame, tmp_path / "d" / "MMBench_DEV_EN.tsv")

    class Edits(MockModel):
        def answer(self, questions, decoding):
            path.write_bytes(path.read_bytes() + b" ")
            return super().answer(questions, decoding)

    with pytest.raises(UserError, match="changed while"):
        run(path.parent, tmp_path / "r", Edits())
    assert read_bundle(the_run(tmp_path / "r"))[0].status == "failed"


def cases(frame):
    def without(column):
        return frame.drop(columns=[column])

    yield from ((f"no {c}", without(c), c) for c in ("index", "image", "question", "A", "B", "category"))
    twice = frame.copy()
    twice.loc[1, "index"] = 1
    yield "twice", twice, "occurs twice"
    nameless = frame.copy().astype({"index": object})
    nameless.loc[1, "index"] = None
    yield "nameless", nameless, "row 2 has no index"
    yield "no answer at all fits", frame.assign(answer="E"), "no row that can be used"
    yield "empty", frame.iloc[:0], "no row"


@pytest.mark.parametrize("name", [name for name, _, _ in cases(mmbench(3))])
def test_broken_files_are_one_line_before_anything_is_asked(name, tmp_path, capsys):
    data, needle = next((d, n) for k, d, n in cases(mmbench(3)) if k == name)
    write(data, tmp_path / "d" / "MMBench_DEV_EN.tsv")
    argv = ["understanding", "--bench", "MMB", "--model", "mock", "--data", str(tmp_path / "d"), "--any-data"]
    assert main([*argv, "--out", str(tmp_path / "r")]) == 2
    said = capsys.readouterr().err
    assert needle in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_noticed(frame, tmp_path, share, capsys):
    path = write(frame, tmp_path / "d" / "MMBench_DEV_EN.tsv")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    argv = ["understanding", "--bench", "MMB", "--model", "mock", "--data", str(path.parent)]
    assert main([*argv, "--out", str(tmp_path / "r")]) == 2
    assert "truncated or changed" in capsys.readouterr().err
    assert main([*argv, "--any-data", "--out", str(tmp_path / "r")]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1


def test_a_folder_that_cannot_be_written(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    argv = ["understanding", "--bench", "MMB", "--model", "mock", "--data", str(folder), "--any-data"]
    assert main([*argv, "--out", str(tmp_path / "file" / "r")]) == 2
    assert "cannot write into" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_one(tmp_path, capsys):
    (tmp_path / "c").mkdir()
    for text in (None, "{", '{"model_type": "llama"}', '{"model_type": "armor"}'):
        if text is not None:
            (tmp_path / "c" / "config.json").write_text(text)
        assert main(["understanding", "--bench", "MMB", "--model", str(tmp_path / "c")]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_armor_answers_alike_in_any_batch(tiny_checkpoint, folder, tmp_path):
    from armor_eval.models import registry
    from armor_eval.models.base import Decoding

    model = registry.load(str(tiny_checkpoint), "official")
    short = Decoding(max_new_tokens=6)
    one = run(folder, tmp_path / "one", model, batch_size=1, decoding=short, limit=3)
    many = run(folder, tmp_path / "many", model, batch_size=12, decoding=short, limit=3)
    assert answers(one.path) == answers(many.path)
    assert all("imgbos" in it.extras for it in read_bundle(one.path)[1])
    assert one.run.model.parameters and len(one.run.model.fingerprint) == 64
    model.close()


def test_every_declared_benchmark_has_one_primary_score():
    from armor_eval.tasks.formulas import composites_for

    for benchmark in benchmarks().values():
        assert sum(c.primary for c in composites_for(benchmark.name)) == 1


@pytest.mark.slow
def test_vlmevalkits_own_runner_runs_armor(tiny_checkpoint, folder, tmp_path):
    words = ["vlmeval", "--any-data", "--checkpoint", str(tiny_checkpoint), "--max-new-tokens", "4", "--"]
    words += ["--model", "ARMOR", "--data", "MMBench_DEV_EN", "--work-dir", str(tmp_path)]
    env = {**os.environ, "LMUData": str(folder), "PRED_FORMAT": "tsv"}
    done = subprocess.run([sys.executable, "-m", "armor_eval", *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.rglob("ARMOR_MMBench_DEV_EN_acc.csv"))
    # A data set that fails ends with 0 in VLMEvalKit itself, not here.
    env["LMUData"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-m", "armor_eval", *words], env=env, capture_output=True, text=True)
    assert done.returncode == 1
