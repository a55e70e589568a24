"""Each way in which VLMEvalKit reports a number that it did not measure (shared facts, 1-10) is closed here."""

import logging
import os
import random
import ssl
import subprocess
import sys

import numpy as np
import pytest
from harness_data import llavabench, measure, mmbench, mme, mmvet, task_of, the_run, write

from armor_eval.cli import main
from armor_eval.engine import Settings
from armor_eval.engine.run import run_record
from armor_eval.models.base import Answer
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.runs.schema import Item
from armor_eval.tasks.families import Choice
from armor_eval.tasks.understanding.declare import benchmarks, choose
from armor_eval.vlmevalkit import official
from armor_eval.vlmevalkit.importing import quiet_vlmeval
from armor_model.base.errors import RunFailed, UserError


def opened(bench, folder, **changes):
    return task_of(bench, folder, **changes)._opened


def run(bench, folder, out, model=None, **changes):
    return measure(bench, model or MockModel(), out, folder, **changes)


def primary(finished):
    return next(m for m in finished.scores.metrics if m.primary)


def test_importing_vlmeval_leaves_the_process_as_it_was():
    import torch

    torch.set_grad_enabled(True)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), torch.get_rng_state(), ssl._create_default_https_context, dict(os.environ)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    with quiet_vlmeval():
        os.environ["LMUData"] = "elsewhere"  # noqa: SIM112 - VLMEvalKit's spelling
        torch.set_grad_enabled(False)
        random.random(), torch.rand(1)
        ssl._create_default_https_context = ssl._create_unverified_context
    assert torch.is_grad_enabled() and "LMUData" not in set(os.environ) - set(before[3])
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert ssl._create_default_https_context is before[2] is not ssl._create_unverified_context
    assert dict(os.environ) == before[3]
    assert logging.getLogger().handlers == handlers and logging.getLogger().level == level
    assert logging.getLogger().manager.disable == 0


@pytest.mark.slow
def test_scoring_modules_alone_choose_the_classes_that_all_of_vlmevalkit_chooses():
    """In a process of its own, where nothing has imported vlmeval yet."""
    script = """
import sys
from armor_eval.tasks.understanding.declare import benchmarks
from armor_eval.vlmevalkit.importing import quiet_vlmeval
names = sorted({b.dataset for b in benchmarks().values()})
def chosen():
    from vlmeval.dataset import DATASET_CLASSES
    return [next(c.__qualname__ for c in DATASET_CLASSES if n in c.supported_datasets()) for n in names]
with quiet_vlmeval(names[0], whole=False):
    narrow, modules = chosen(), sum(m.startswith("vlmeval") for m in sys.modules)
    with quiet_vlmeval(names[0], whole=False):
        pass
    assert chosen() == narrow  # an inner use takes nothing from the outer one
assert not any(m.startswith("vlmeval") for m in sys.modules)
with quiet_vlmeval(names[0], whole=False):
    assert chosen() == narrow
from vlmeval.config import supported_VLM  # a user's own import, after scoring: all of it
assert len(supported_VLM) > 100
with quiet_vlmeval():
    assert chosen() == narrow, (chosen(), narrow)
with quiet_vlmeval(names[0], whole=False):
    assert chosen() == narrow
assert modules < 40 < 200 < sum(m.startswith("vlmeval") for m in sys.modules), modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_scoring_leaves_no_hollow_package_behind():
    """What a notebook imports after `evaluate` is VLMEvalKit, not what scoring needed of it."""
    script = """
import sys
from armor_eval.vlmevalkit.importing import SCORING, quiet_vlmeval
for _ in range(2):
    with quiet_vlmeval("POPE", whole=False):
        from vlmeval.dataset import DATASET_CLASSES
        assert {c.__module__.rpartition(".")[2] for c in DATASET_CLASSES} == set(SCORING), DATASET_CLASSES
    assert not any(name.partition(".")[0] == "vlmeval" for name in sys.modules)
# A judge's reply is read outside of any scoring: in a training loop, gradients must stay on.
import ssl, torch
from armor_eval.vlmevalkit import rules
tls = ssl._create_default_https_context
assert rules.matched_option("The answer is B.", {"A": "cat", "B": "dog"}) == "B"
assert rules.read_yes_no("yes, there is") == "Yes"
row = {"question": "which?", "prediction": "dog", "answer": "dog"}
for ask in (rules.choice_prompt, rules.blink_prompt):
    assert "dog" in ask(row, {"A": "cat", "B": "dog"})
assert "which?" in rules.yes_no_prompt(row) and rules.relaxed(row)
assert torch.is_grad_enabled() and ssl._create_default_https_context is tls
assert not any(name.partition(".")[0] == "vlmeval" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_nothing_is_left_to_chance_and_patches_are_taken_back(tmp_path):
    with quiet_vlmeval():
        from vlmeval.dataset.utils import multiple_choice

        before = {name: getattr(multiple_choice, name) for name in ("rd", "timestr", "track_progress_rich")}
        with official._guards(tmp_path, None):
            with pytest.raises(RunFailed, match="chance"):
                multiple_choice.rd.choice(["A", "B"])
            assert str(tmp_path) in multiple_choice.timestr().replace("../", "/")
        assert before == {name: getattr(multiple_choice, name) for name in before}


def test_switches_of_the_environment_change_nothing(tsv_folder, tmp_path, monkeypatch):
    plain = run("MMB", tsv_folder, tmp_path / "a")
    for name in ("USE_COT", "SPLIT_THINK", "SKIP_ERR", "PRINT_VANILLA"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PRED_FORMAT", "xlsx")
    monkeypatch.setenv("LOCAL_LLM", "x")
    assert run("MMB", tsv_folder, tmp_path / "b").scores == plain.scores
    assert os.environ["PRED_FORMAT"] == "xlsx"


def test_no_result_of_another_model_is_reused(tsv_folder, tmp_path):
    first = run("SEED", tsv_folder, tmp_path / "a", MockModel("A"))
    second = run("SEED", tsv_folder, tmp_path / "b", MockModel("B"))
    assert {it.parsed for it in read_bundle(first.path)[1]} == {"A"}
    assert {it.parsed for it in read_bundle(second.path)[1]} == {"B"}


def test_images_are_those_of_the_file_not_of_a_cache(tmp_path):
    """VLMEvalKit caches pictures by the data set's name; a mock's answer is a function of the pixels it sees."""
    frame = mmbench(3)
    write(frame, tmp_path / "one" / "MMBench_DEV_EN.tsv")
    other = frame.copy()
    other["image"] = [frame["image"].iloc[4] if len(str(c)) > 64 else c for c in frame["image"]]
    write(other, tmp_path / "two" / "MMBench_DEV_EN.tsv")
    one, two = (run("MMB", tmp_path / n, tmp_path / f"r{n}") for n in ("one", "two"))
    said = [{it.id: it.output for it in read_bundle(r.path)[1]} for r in (one, two)]
    assert said[0] != said[1] and one.run.data.sha256 != two.run.data.sha256


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
@pytest.mark.parametrize("bench", ["MME", "MME-P", "HallusionBench", "POPE", "SEED", "MMMU", "MMB"])
def test_limit_breaks_no_unit(bench, limit, tsv_folder):
    whole, _ = opened(bench, tsv_folder)
    cut, subset = opened(bench, tsv_folder, limit=limit)
    kept = {row.cluster for row in cut.rows}
    assert len(kept) == min(limit, len({row.cluster for row in whole.rows}))
    assert [row.id for row in cut.rows] == [row.id for row in whole.rows if row.cluster in kept]
    again, _ = opened(bench, tsv_folder, limit=limit)
    assert [r.id for r in again.rows] == [r.id for r in cut.rows]
    if subset is not None:
        assert subset.items == len(cut.rows) < subset.of_items == len(whole.rows)
        other = [opened(bench, tsv_folder, limit=limit, seed=s)[0] for s in range(1, 9)]
        assert any([r.id for r in t.rows] != [r.id for r in cut.rows] for t in other)


def test_limited_mme_scores_and_limited_mmvet_holds_every_capability(tsv_folder, tmp_path):
    done = run("MME", tsv_folder, tmp_path / "mme", limit=3)
    assert done.run.status == "complete" and done.run.subset.rule == "MME picture with its pair of questions"
    table, _ = opened("MMVet", tsv_folder, limit=4)
    text = ",".join(row.fields["category"] for row in table.rows)
    assert all(capability in text for capability in ("rec", "ocr", "know", "gen", "spat", "math"))
    with pytest.raises(UserError, match="six capabilities"):
        opened("MMVet", tsv_folder, limit=1)


def test_unparsed_is_wrong_and_counted(tsv_folder, tmp_path):
    for bench in ("SEED", "POPE", "MMMU", "HallusionBench", "MME"):
        done = run(bench, tsv_folder, tmp_path / bench, MockModel("hmm"))
        n = done.scores.expected_items
        # VLMEvalKit under a failing judge would draw options at random here.
        assert done.scores.counts["unparsed"] == n and primary(done).value == 0.0
        assert done.run.status == "complete"


def test_one_lost_row_in_a_hundred_is_the_limit(tmp_path):
    write(mmbench(30), tmp_path / "d" / "MMBench_DEV_EN.tsv")

    class Fails(MockModel):
        def __init__(self, names):
            super().__init__("f")
            self.names = names

        def answer(self, questions, decoding):
            return [Answer(error="no") if q.id in self.names else Answer(text="A") for q in questions]

    done = run("MMB", tmp_path / "d", tmp_path / "one", Fails({"3"}))
    assert primary(done).value is not None and done.run.status == "partial"
    assert "1 of 120 items could not be answered" in done.run.status_reason
    assert (primary(done).clusters, done.scores.counts["error"]) == (29, 1)
    done = run("MMB", tmp_path / "d", tmp_path / "two", Fails({"3", "4"}))
    assert primary(done).value is None and "withheld" in primary(done).note


def test_a_lost_row_of_a_pair_ends_nothing(tsv_folder, tmp_path):
    class Fails(MockModel):
        def answer(self, questions, decoding):
            said = super().answer(questions, decoding)
            return [Answer(error="no") if q.id == "2" else a for q, a in zip(questions, said, strict=True)]

    done = run("MME", tsv_folder, tmp_path / "r", Fails())
    assert done.scores.counts["error"] == 1 and done.run.status == "partial"
    assert sum(it.score is not None for it in read_bundle(done.path)[1]) == 19


def test_scores_that_contradict_vlmevalkits_are_not_reported(tsv_folder, tmp_path, monkeypatch):
    real = Choice.rows

    def flipped(*arguments):
        verdicts = real(*arguments)
        for verdict in verdicts.values():
            verdict.score = 1.0 - verdict.score
        return verdicts

    monkeypatch.setattr(Choice, "rows", flipped)
    done = run("SEED", tsv_folder, tmp_path / "r")
    assert done.run.status == "partial" and primary(done).value is None
    assert "VLMEvalKit" in done.run.status_reason and "rows 0, 1, 2" in done.run.status_reason
    assert all(it.output for it in read_bundle(the_run(tmp_path / "r"))[1])


def test_a_file_without_answers_gets_a_submission(tmp_path, capsys):
    import pandas as pd

    write(mmbench(3).drop(columns=["answer"]), tmp_path / "d" / "MMBench_TEST_EN.tsv")
    argv = ["understanding", "--bench", "MMB_TEST", "--model", "mock", "--data", str(tmp_path / "d"), "--any-data"]
    assert main([*argv, "--out", str(tmp_path / "r")]) == 0
    assert "submission.xlsx" in capsys.readouterr().out
    frame = pd.read_excel(the_run(tmp_path / "r" / "MMB_TEST") / "submission.xlsx")
    assert len(frame) == 12 and set(frame["prediction"]) <= set("ABCD")
    assert all(it.score is None for it in read_bundle(the_run(tmp_path / "r"))[1])


def test_a_submission_holds_every_answer_as_it_is(tmp_path):
    """Formulas, addresses and what a cell cannot hold are texts like any other."""
    import pandas as pd

    from armor_eval.tasks.understanding.score import write_submission

    path = write(mmbench(1).drop(columns=["answer"]), tmp_path / "MMBench_TEST_EN.tsv")
    table = task_of("MMB_TEST", path).table
    texts = ["=1+1", "http://example.com/" + "x" * 3000, "+A1", "007"]
    common = {"cluster": "c", "prompt": "p", "prompt_sha256": "h", "status": "ok"}
    items = [Item(id=row.id, output=text, **common) for row, text in zip(table.rows, texts, strict=True)]
    write_submission(table, items, tmp_path / "submission.xlsx")
    assert list(pd.read_excel(tmp_path / "submission.xlsx", dtype=str)["prediction"]) == texts
    items[0] = items[0].model_copy(update={"output": "y" * 40_000})
    write_submission(table, items, tmp_path / "long.xlsx")
    assert not (tmp_path / "long.xlsx").exists()
    kept = pd.read_csv(tmp_path / "long.tsv", sep="\t", dtype=str)["prediction"]
    assert list(kept) == ["y" * 40_000, *texts[1:]]


@pytest.mark.parametrize(
    ("bench", "frame", "needle"),
    [
        ("MME", mme(1).assign(category="colour"), "not one of MME's 14"),
        ("MME", mme(1).drop(index=[1, 3, 5, 7, 9]), "MME asks two"),
        ("MME", mme(1).assign(answer="si"), "expected Yes or No"),
        ("MMVet", mmvet().drop(columns=["answer"]), "answer"),
        ("LLaVABench", llavabench().drop(columns=["gpt4_ans"]), "gpt4_ans"),
    ],
)
def test_files_that_would_be_misread_are_refused(bench, frame, needle, tmp_path):
    write(frame, tmp_path / f"{choose([bench])[0].dataset}.tsv")
    with pytest.raises(UserError, match=needle):
        opened(bench, tmp_path)


def test_a_folder_in_use_is_refused_by_the_command(tsv_folder, tmp_path, capsys):
    argv = ["understanding", "--bench", "SEED", "--model", "mock", "--data", str(tsv_folder), "--any-data"]
    with Bundle.open(tmp_path / "r", run_record(task_of("SEED", tsv_folder), MockModel(), Settings("official", ["x"]))):
        assert main([*argv, "--out", str(tmp_path / "r")]) == 2
    assert "another command is writing" in capsys.readouterr().err


def test_switches_to_drawing_are_counted_and_shown(tsv_folder, tmp_path, capsys):
    class Draws(MockModel):
        def answer(self, questions, decoding):
            return [Answer(text="A", extras={"imgbos": int(q.id) % 2}) for q in questions]

    done = run("SEED", tsv_folder, tmp_path / "r", Draws())
    assert done.run.extras["items_with_imgbos"] == 6
    from armor_eval.cli.common import remarks

    assert any("switched to drawing" in line for line in remarks(done))


def test_every_declaration_reads_a_file_of_its_layout(tsv_folder):
    for benchmark in benchmarks().values():
        if benchmark.in_paper:
            table, _ = opened(benchmark.name, tsv_folder)
            assert table.rows and not table.published


@pytest.mark.parametrize("bench", [name for name, b in benchmarks().items() if b.in_paper])
def test_every_missing_column_is_named(bench, tsv_folder, tmp_path):
    import pandas as pd

    benchmark = choose([bench])[0]
    whole = pd.read_csv(tsv_folder / benchmark.official.file, sep="\t")
    path = tmp_path / benchmark.official.file
    for column in benchmark.columns:
        write(whole.drop(columns=[column]), path)
        with pytest.raises(UserError, match=f"lacks the column {column}\\b") as caught:
            opened(bench, tmp_path)
        assert "\n" not in caught.value.line()
    for value, needle in ((whole["index"].iloc[0], "occurs twice"), (None, "has no index")):
        odd = whole.astype({"index": object})
        odd.loc[1, "index"] = value
        write(odd, path)
        with pytest.raises(UserError, match=needle):
            opened(bench, tmp_path)
