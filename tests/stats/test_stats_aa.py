"""A/A: the same model with another seed is a REGRESSION no more often than nominal, and never by a rerun."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import stats_aa
from paths import ROOT

from armor_eval.cli import main
from armor_eval.compare.gate import compare
from armor_eval.compare.policy import Policy

BASELINE = ROOT / "reports" / "baselines" / "armor-nano"


def check(rows: list[dict]) -> None:
    """No false alarms beyond nominal (plus three simulation errors), and PASS shares that grow with the size."""
    for row in rows:
        slack = 3 * math.sqrt(0.025 * 0.975 / row["trials"])
        assert row["regression_at_0"] <= 0.025 + slack and row["REGRESSION"] <= 0.025 + slack, row
        assert row["PASS"] + row["INCONCLUSIVE"] + row["REGRESSION"] == pytest.approx(1.0)
    for bench in {(row["model"], row["benchmark"]) for row in rows}:
        shares = [row["PASS"] for row in rows if (row["model"], row["benchmark"]) == bench]
        assert shares == sorted(shares), bench


@pytest.mark.slow
def test_two_seeds_of_real_models(tmp_path):
    """armor-nano and the mock, sampled twice each: PASS where n suffices, else INCONCLUSIVE."""
    for model, bench in (("armor-nano", "POPE"), ("mock", "POPE")):
        runs = [stats_aa.measure(model, bench, tmp_path / f"{model}-{seed}", seed) for seed in stats_aa.SEEDS]
        assert {row["verdict"] for row in stats_aa.real_verdicts(runs)} <= {"PASS", "INCONCLUSIVE"}
        rows = stats_aa.drawn_verdicts(runs, 400, factors=(1, 16))
        check(rows)
        if model == "armor-nano":
            assert rows[0]["INCONCLUSIVE"] > 0.5 and rows[-1]["PASS"] > 0.9, rows


@pytest.mark.slow
def test_the_same_model_run_again_passes_and_another_subset_is_not_comparable(tmp_path):
    def run(name: str, seed: int) -> Path:
        argv = ["understanding", "--bench", "POPE", "--limit", "40", "--seed", str(seed), "--out"]
        assert main([*argv, str(tmp_path / name)]) == 0
        return tmp_path / name

    first, again, other = run("first", 1), run("again", 1), run("other", 2)
    assert compare(first, again, Policy()).verdict == "PASS"
    assert compare(first, other, Policy()).exit_code == 4


def test_the_bundled_baseline_passes_against_itself():
    """Every benchmark of the committed baseline: the same model, every answer identical."""
    found = compare(BASELINE, BASELINE, Policy())
    assert found.verdict == "PASS" and len(found.benchmarks) == 10


def test_the_committed_numbers_keep_the_nominal_rate():
    folder = ROOT / "reports" / "statistics"
    found = json.loads((folder / "aa.json").read_text())
    assert (folder / "aa.md").read_text() == stats_aa.markdown(found)
    check(found["drawn"])
    assert {row["verdict"] for row in found["real"]} <= {"PASS", "INCONCLUSIVE"}
