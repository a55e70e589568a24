"""The acceptance test: our headline is VLMEvalKit's own `evaluate` in a fresh process, to the last digit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_server import FaultServer
from harness_data import measure, mmmu, ocrbench, seed_bench, task_of, write
from paths import ROOT

from armor_eval.models.base import Answer
from armor_eval.models.endpoint import Endpoint, Patience
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.understanding.declare import choose
from armor_eval.tasks.understanding.judge import EndpointJudge
from armor_eval.vlmevalkit import official

CLOSED = (
    "MMMU",
    "MME",
    "MMB",
    "SEED",
    "HallusionBench",
    "POPE",
    "AI2D",
    "MMStar",
    "RealWorldQA",
    "ScienceQA",
    "BLINK",
    "ChartQA",
    "OCRBench",
)
FREE = ("MMVet", "LLaVABench", "MathVista")
ODD = (
    "",
    "A" * 5000,
    "None",
    "=A",
    "=1+1",
    "\u00e9t\u00e9 \u2603 \u65e5\u672c",
    "A and B",
    "B.",
    "(C)",
    "nan",
    "NULL",
    "Yes",
    "No, it is not",
    "Yes, no doubt",
    'a "quoted"\ttab',
    "line\nbreak B",
    "\r\nB",
    "A dog runs",
    "Z",
    "-1",
    "TRUE",
    "Sorry, I can't help with images of people yet.",
    "circle",
    "the red one",
    " yes.",
    "D D D",
    "'",
    "\\",
    "\u202eB",
    "Failed to obtain answer via API",
    "A,B,C,D",
    "(A) because B is wrong",
    "y",
    "[]",
    "{'A': 1}",
    "#",
    "C\x00D",
    "1.0",
)
"""Answers that trip a reader: spreadsheets, missing-value words, several letters, quotes, breaks, other scripts."""


class Says(MockModel):
    """Says the odd answers in turn, by the place of a question's hash."""

    def __init__(self, turn: int) -> None:
        super().__init__(f"odd{turn}")
        self._turn = turn

    def answer(self, questions, decoding):
        return [Answer(text=ODD[(hash_of(q.id) + self._turn) % len(ODD)]) for q in questions]


def hash_of(text: str) -> int:
    import hashlib

    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def measured(bench, out, model, judge=None, data=None, profile="official", reading="keep-none"):
    done = measure(bench, model, out, data, profile=profile, judge=judge, reading=reading)
    table = task_of(bench, data, profile, reading=reading).table
    frame = table.frame.copy()
    said = {it.id: it.output for it in read_bundle(out)[1]}
    frame["prediction"] = [said[str(i)] for i in frame["index"]]
    official.write_predictions(frame, out / "predictions.tsv")
    value = next(m.value for m in done.scores.metrics if m.primary)
    job = {"dataset": table.benchmark.dataset, "tsv": str(table.path), "predictions": str(out / "predictions.tsv")}
    return value, {**job, "judge": "good" if judge else "exact_matching"}


def officially(jobs: list[dict], tmp_path: Path, url: str = "") -> list:
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = str(ROOT / "tests" / "helpers" / "official_process.py")
    env = {**os.environ, "PRED_FORMAT": "tsv", "OPENAI_API_BASE": f"{url}/chat/completions", "OPENAI_API_KEY": "sk-x"}
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, script, str(tmp_path / "jobs.json"), str(tmp_path / "results.json")],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "results.json").read_text())


def compare(bench: str, ours: float, theirs: float) -> None:
    if bench == "OCRBench":  # its `evaluate` gives points, of 1,000 in the published file
        ours *= len(ocrbench()) / 100
    # LLaVABench's evaluate rounds its table to one decimal.
    assert (round(ours, 1) if bench == "LLaVABench" else ours) == pytest.approx(theirs, rel=1e-12, abs=1e-12), bench


LOST, SAFE = "None", "Nihil"
"""A word that pandas reads as missing, and one that it keeps: VLMEvalKit's own verdicts on the second are what ours on
the first must be when the option is kept."""


class Wordy(MockModel):
    """Says letters and the words of options in turn, and the lost word (or what stands for it) most."""

    def __init__(self, word: str) -> None:
        super().__init__("wordy")
        self._texts = ("A", "D", f"It is {word}.", "B", word, "C", f"{word}, not a cross", "circle")

    def answer(self, questions, decoding):
        return [Answer(text=self._texts[hash_of(q.id) % len(self._texts)]) for q in questions]


def lossy_files(folder: Path, word: str) -> Path:
    """SEED-Bench and MMMU with options, right and wrong ones, that are the word; MMMU also with such an open answer."""
    for name, frame in (("SEEDBench_IMG", seed_bench(24)), ("MMMU_DEV_VAL", mmmu(24))):
        for n, letter in enumerate("ABCDABCDABCD"):
            if isinstance(frame.loc[n, letter], str):
                frame.loc[n, letter] = word
        frame["answer"] = frame["answer"].replace("forty two", word)
        write(frame, folder / f"{name}.tsv")
    return folder


@pytest.fixture(scope="module")
def both(tsv_folder, tmp_path_factory):
    """(benchmark, our headline, theirs) and (table, their prompts): one fresh process computes all of theirs."""
    folder = tmp_path_factory.mktemp("parity")
    tables = [task_of(bench, tsv_folder).table for bench in (*CLOSED, *FREE)]
    jobs = [{"dataset": t.benchmark.dataset, "tsv": str(t.path), "prompts": True} for t in tables]
    ours, lossy = [], []
    with FaultServer() as server:
        for turn in (0, 19):
            for bench in CLOSED:
                value, job = measured(bench, folder / f"{bench}{turn}", Says(turn), data=tsv_folder)
                ours, jobs = [*ours, (bench, value)], [*jobs, job]
        for bench in (*CLOSED, *FREE):
            judge = EndpointJudge(Endpoint(server.url, "good", Patience(concurrency=4)), folder / "cache")
            value, job = measured(bench, folder / f"{bench}-judged", Says(3), judge, data=tsv_folder)
            ours, jobs = [*ours, (bench, value)], [*jobs, job]
            judge.close()
        lost, safe = lossy_files(folder / "lost", LOST), lossy_files(folder / "safe", SAFE)
        for bench in ("SEED", "MMMU"):
            value, job = measured(bench, folder / f"{bench}-lost", Wordy(LOST), data=lost, reading="vlmeval")
            ours, jobs = [*ours, (bench, value)], [*jobs, job]
            kept, _ = measured(bench, folder / f"{bench}-kept", Wordy(LOST), data=lost)
            _, job = measured(bench, folder / f"{bench}-safe", Wordy(SAFE), data=safe)
            ours, jobs = [*ours, (bench, kept)], [*jobs, job]
            lossy.append(task_of(bench, lost, reading="vlmeval").table)
            jobs.append({"dataset": lossy[-1].benchmark.dataset, "tsv": str(lossy[-1].path), "prompts": True})
        theirs = officially(jobs, folder, server.url)
    asked = [found for job, found in zip(jobs, theirs, strict=True) if "prompts" in job]
    scores = [found for job, found in zip(jobs, theirs, strict=True) if "prompts" not in job]
    headlines = [(bench, value, found) for (bench, value), found in zip(ours, scores, strict=True)]
    return headlines, list(zip([*tables, *lossy], asked, strict=True))


def test_headlines_are_vlmevalkits_own(both):
    headlines, _ = both
    for bench, ours, theirs in headlines:
        compare(bench, ours, theirs)
    assert len({ours for _, ours, _ in headlines}) > 5, "the answers must make different scores"


def test_prompts_are_vlmevalkits_internvl_prompts(both):
    from armor_eval.tasks.understanding.images import image_cells
    from armor_eval.tasks.understanding.prompts import marked_prompt

    for table, theirs in both[1]:
        for row in table.rows:
            assert marked_prompt(table.benchmark, row, len(image_cells(row.image))) == theirs[row.id]


@pytest.mark.slow
def test_headlines_on_the_shapes_data(tmp_path):
    from armor_eval.shapes.understanding import declared

    jobs, ours, names = [], [], []
    for bench in [name for name in CLOSED if choose([name])[0].dataset in declared()]:
        for turn, model in enumerate((MockModel(), Says(5))):
            value, job = measured(bench, tmp_path / f"{bench}{turn}", model, profile="shapes")
            ours, jobs, names = [*ours, value], [*jobs, job], [*names, bench]
    for name, mine, theirs in zip(names, ours, officially(jobs, tmp_path), strict=True):
        compare(name, mine, theirs)
