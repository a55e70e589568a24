"""Holds the shapes files under VLMEvalKit's own scoring: gold answers get everything, not looking gets chance."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest

from armor_eval.shapes.judge import RuleJudge
from armor_eval.shapes.understanding import declared, tsv_path
from armor_eval.tasks.understanding.declare import choose
from armor_eval.tasks.understanding.table import Table, read_table
from armor_eval.vlmevalkit import official

EXPECTED: dict[str, tuple[float, float, float]] = {
    "MMB": (100.0, 0.0, 25.7),
    "SEED": (100.0, 25.7, 25.7),
    "MMMU": (100.0, 25.7, 25.7),
    "MME": (1200.0, 300.0, 500.0),
    "POPE": (100.0, 66.7, 66.7),
    "HallusionBench": (100.0, 25.0, 26.5),
    "MMVet": (100.0, 20.0, 25.0),
    "LLaVABench": (100.0, 25.0, 35.0),
}
"""Benchmark -> headline of the gold answers, and the most that a constant and an answerer by words alone may reach."""
CONSTANTS = {
    **dict.fromkeys(("choice", "circular", "mmmu"), ("A", "B")),
    **dict.fromkeys(("pope", "mme", "mme-perception", "hallusion"), ("yes", "no")),
    **dict.fromkeys(("graded", "ratio"), ("2", "red")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shapes")


def _table(name: str, folder: Path) -> Table:
    benchmark = choose([name])[0]
    return read_table(
        benchmark,
        tsv_path(benchmark.dataset, folder),
        need_published=False,
        content=declared()[benchmark.dataset]["sha256"],
    )


def _headline(table: Table, predictions: dict[str, str]) -> float:
    judged = None
    if table.benchmark.judge == "required":
        judged = RuleJudge().judge(official.judge_requests(table, predictions))
        assert not judged.failed
    headline = official.score(table, predictions, judged).headline
    assert headline is not None
    return headline


def _records(table: Table) -> list[dict]:
    kept = {row.id for row in table.rows}
    return [r for r in table.frame.to_dict("records") if str(r["index"]) in kept]


def _by_words(records: list[dict]) -> dict[str, str]:
    """One answer for each wording (and set of options), drawn once from those that are ever right."""
    rng = np.random.default_rng(3)

    def key(record: dict) -> tuple:
        return (record["question"], tuple(sorted(str(record.get(x)) for x in "ABCD")))

    def content(record: dict) -> str:
        return str(record[record["answer"]] if record["answer"] in list("ABCD") else record["answer"])

    ever = collections.defaultdict(set)
    for record in records:
        ever[key(record)].add(content(record))
    chosen = {k: sorted(v)[int(rng.integers(len(v)))] for k, v in sorted(ever.items(), key=str)}
    return {
        str(r["index"]): next((x for x in "ABCD" if str(r.get(x)) == chosen[key(r)]), chosen[key(r)]) for r in records
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_gold_constant_and_blind_answers(name, folder):
    table = _table(name, folder)
    records = _records(table)
    gold, constant_most, blind_most = EXPECTED[name]
    right = {str(r["index"]): str(r["answer"]).replace("<AND>", " and ") for r in records}
    assert _headline(table, right) == pytest.approx(gold, abs=0.05)
    for word in CONSTANTS[table.benchmark.family]:
        assert _headline(table, dict.fromkeys(right, word)) <= constant_most + 0.05
    assert _headline(table, _by_words(records)) <= blind_most + 0.05
