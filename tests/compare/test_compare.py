"""The gate: comparability first, verdicts by rule."""

from __future__ import annotations

import numpy as np
import pytest
from stats_runs import answers, write_bundle

from armor_eval.cli import main
from armor_eval.compare.gate import compare
from armor_eval.compare.policy import Policy


@pytest.mark.parametrize(
    ("lost", "gained", "verdict", "code"),
    [
        (0.05, 0.0, "REGRESSION", 1),
        (0.001, 0.001, "PASS", 0),
        (0.0, 0.05, "PASS", 0),
        (0.05, 0.045, "INCONCLUSIVE", 0),
        (0.012, 0.003, "INCONCLUSIVE", 0),  # the drop is below the tolerance, its lower bound is not
    ],
)
def test_verdicts(pair, lost, gained, verdict, code):
    found = compare(*pair(*answers(lost=lost, gained=gained)), Policy())
    row = found.benchmarks[0].primary
    assert (found.verdict, found.exit_code) == (verdict, code), row
    assert row.mde is not None and row.reason
    if verdict == "INCONCLUSIVE":
        assert row.decided_at > 2000 and "would decide" in row.reason


def test_strict_makes_inconclusive_exit_5(pair):
    assert compare(*pair(*answers(lost=0.05, gained=0.045)), Policy(), strict=True).exit_code == 5


def test_an_identical_rerun_passes_at_any_size_but_only_for_the_same_model(tmp_path):
    a = write_bundle(tmp_path / "a", [1.0, 0.0] * 10)
    b = write_bundle(tmp_path / "b", [1.0, 0.0] * 10)
    other = write_bundle(tmp_path / "c", [1.0, 0.0] * 10, fingerprint="other")
    spoken = write_bundle(tmp_path / "d", [1.0, 0.0] * 10, outputs={0: "said otherwise"})
    assert compare(a, b, Policy()).verdict == "PASS"
    assert compare(a, other, Policy()).verdict == "INCONCLUSIVE"
    assert compare(a, spoken, Policy()).verdict == "INCONCLUSIVE"


def test_tolerance_is_per_metric_and_in_its_unit(pair):
    runs = pair(*answers(lost=0.03))
    assert compare(*runs, Policy()).verdict == "REGRESSION"
    assert compare(*runs, Policy(tolerance={"%": 5.0})).verdict == "PASS"
    assert compare(*runs, Policy(tolerance={"%": 5.0, "SEED": 1.0})).verdict == "REGRESSION"
    assert compare(*runs, Policy(tolerance={"SEED": 1.0, "SEED/accuracy": 5.0})).verdict == "PASS"


def test_holm_over_the_primaries_of_a_folder(tmp_path):
    """A drop that is significant alone is not among ten benchmarks, nine of which show nothing."""
    base, candidate = answers(n=600, lost=0.015)
    for bench in ("SEED", "MMMU", "MMVet", "MMB", "modality"):
        write_bundle(tmp_path / "base" / bench, base, bench)
        write_bundle(tmp_path / "cand" / bench, candidate if bench == "SEED" else base, bench, fingerprint="g")
    alone = compare(tmp_path / "base" / "SEED", tmp_path / "cand" / "SEED", Policy())
    both = compare(tmp_path / "base", tmp_path / "cand", Policy())
    row = next(b for b in both.benchmarks if b.benchmark == "SEED").primary
    assert alone.verdict == "REGRESSION" and row.p_holm == pytest.approx(5 * row.p)
    assert all(m.verdict is None for b in both.benchmarks for m in b.metrics if not m.primary)


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ({"data_sha256": "other"}, "data.sha256 differs"),
        ({"prompt_sha256": "other"}, "prompt_sha256 differs"),
        ({"decoding": {"temperature": 1.0, "seed": 0}}, "decoding differs: temperature: 0.0 in base, 1.0 in candidate"),
    ],
)
def test_what_differs_is_named_and_no_number_is_computed(pair, right, words):
    found = compare(*pair(*answers(n=50), right=right), Policy())
    assert (found.verdict, found.exit_code) == ("NOT COMPARABLE", 4)
    assert words in found.benchmarks[0].reasons[0] and not found.benchmarks[0].metrics


def test_another_seed_is_comparable_and_a_field_can_be_ignored_aloud(pair):
    runs = pair(*answers(n=50), right={"decoding": {"temperature": 0.0, "seed": 7}, "data_sha256": "other"})
    found = compare(*runs, Policy(comparability={"ignore": ["data.sha256"]}))
    assert found.benchmarks[0].metrics and "ignored by the policy: data.sha256" in found.benchmarks[0].reasons[0]


def test_different_items_are_not_comparable(pair):
    found = compare(*pair([1.0] * 10, [1.0] * 9), Policy())
    assert found.exit_code == 4 and "1 are in the base only, the first is 'q9'" in found.benchmarks[0].reasons[0]


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ({"status": "running"}, "still being written"),
        ({"status": "partial"}, "is partial"),
        ({"withheld": "judge down"}, "withheld: judge down"),
    ],
)
def test_unfinished_runs_are_incomplete(pair, right, words):
    found = compare(*pair(*answers(n=50), right=right), Policy())
    assert found.exit_code == 3 and words in found.benchmarks[0].reasons[0]


def test_repeated_lines_and_an_empty_side_are_incomplete(pair):
    a, b = pair(*answers(n=50))
    lines = (b / "items.jsonl").read_text()
    (b / "items.jsonl").write_text(lines + lines.split("\n")[0] + "\n")
    assert "1 lines that are torn, repeated" in compare(a, b, Policy()).benchmarks[0].reasons[0]
    (b / "items.jsonl").write_text("")
    found = compare(a, b, Policy())
    assert found.exit_code == 3 and "holds no items" in found.benchmarks[0].reasons[0]


def test_all_ties_and_a_single_cluster(tmp_path):
    for name, fingerprint in (("a", "f"), ("b", "g")):
        write_bundle(tmp_path / name, [1.0] * 1000, fingerprint=fingerprint)
        write_bundle(tmp_path / f"one-{name}", [1.0, 0.0] * 5, clusters=["same"] * 10, fingerprint=fingerprint)
    tied = compare(tmp_path / "a", tmp_path / "b", Policy())
    assert tied.verdict == "PASS" and tied.benchmarks[0].primary.ci95[0] < 0
    one = compare(tmp_path / "one-a", tmp_path / "one-b", Policy()).benchmarks[0].primary
    assert one.verdict == "INCONCLUSIVE" and one.ci95 is None and "fewer than two clusters" in one.reason


def test_errors_judge_failures_and_unreadable_answers_fail_by_rule(pair):
    base, candidate = answers(n=1000)
    errors = [None if i < 5 else s for i, s in enumerate(candidate)]
    a, b = pair(base, errors)
    found = compare(a, b, Policy()).benchmarks[0]
    assert found.verdict == "INCOMPLETE" and found.unmeasured == 5 and found.items == 995
    assert compare(a, b, Policy(limits={"errors": 0.01})).benchmarks[0].checks[0].verdict == "PASS"


def test_a_rise_of_unreadable_answers_is_a_regression(pair):
    scores = [0.0] * 100 + [1.0] * 900
    found = compare(*pair(scores, scores, right={"statuses": ["unparsed"] * 30 + ["ok"] * 970}), Policy())
    assert found.exit_code == 1 and "0.00% -> 3.00%" in found.benchmarks[0].checks[2].reason


def test_cost_is_gated_by_ratio_when_asked(pair):
    runs = pair(*answers(lost=0.0), right={"wall_seconds": 3.0})
    assert compare(*runs, Policy()).verdict == "PASS"
    slow = compare(*runs, Policy(cost={"seconds_ratio": 2.0, "memory_ratio": 1.5}))
    assert slow.verdict == "REGRESSION" and "3.00 x the base" in slow.benchmarks[0].checks[3].reason


def test_a_benchmark_missing_in_the_candidate_is_incomplete_and_a_new_one_is_noted(tmp_path):
    base, candidate = answers(n=400)
    for bench in ("SEED", "MMMU"):
        write_bundle(tmp_path / "base" / bench, base, bench)
    for bench in ("SEED", "MMVet"):
        write_bundle(tmp_path / "cand" / bench, candidate, bench)
    found = compare(tmp_path / "base", tmp_path / "cand", Policy())
    assert found.exit_code == 3 and "MMVet (shapes) is new" in found.notes[0]


def test_control_runs_beside_the_real_one_are_left_out(tmp_path):
    base, _ = answers(n=100)
    for side in ("base", "cand"):
        write_bundle(tmp_path / side / "SEED", base)
        write_bundle(tmp_path / side / "SEED-constant", base[::-1])
    assert len(compare(tmp_path / "base", tmp_path / "cand", Policy()).benchmarks) == 1


def test_a_split_that_shares_a_formula_is_compared_by_it(tmp_path):
    base, candidate = answers(n=400, lost=0.05)
    runs = [write_bundle(tmp_path / str(k), x, "MMB_TEST", fingerprint=str(k)) for k, x in enumerate((base, candidate))]
    found = compare(*runs, Policy(tolerance={"MMB_TEST": 1.0})).benchmarks[0]
    assert found.primary.name == "circular accuracy" and found.verdict == "REGRESSION"


def test_a_significant_drop_that_holm_takes_back_says_so(tmp_path):
    base, candidate = answers(n=400, lost=0.015)
    for bench in ("SEED", "MMMU", "MMVet", "MMB"):
        write_bundle(tmp_path / "base" / bench, base, bench)
        write_bundle(tmp_path / "cand" / bench, candidate if bench == "SEED" else base, bench, fingerprint="g")
    found = compare(tmp_path / "base", tmp_path / "cand", Policy())
    row = next(b for b in found.benchmarks if b.benchmark == "SEED").primary
    assert row.ci95[1] < 0 and row.verdict == "INCONCLUSIVE"
    assert row.decided_at is None and "after Holm" in row.reason


# --- retention ---------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """Folders of SEED and MMMU runs: a reference, a base that keeps most of it, a candidate that keeps less."""

    def make(**fields):
        wanted = {"reference": (0.0, 1), "base": (0.02, 2), "candidate": (0.06, 3)}
        for side, (lost, seed) in wanted.items():
            for bench in ("SEED", "MMMU"):
                kept = np.array(answers(n=2000)[0])
                right = np.flatnonzero(kept)
                rng = np.random.default_rng([seed, len(bench)])
                kept[rng.choice(right, round(lost * len(right)), replace=False)] = 0
                write_bundle(tmp_path / side / bench, kept.tolist(), bench, fingerprint=side, **fields.get(side, {}))
        return [tmp_path / side for side in ("base", "candidate", "reference")]

    return make


def test_retention_gates_with_the_others(three):
    base, candidate, reference = three()
    found = compare(base, candidate, Policy(), reference=reference)
    result = found.benchmarks[-1]
    row = result.primary
    assert result.benchmark == "retention" and (round(row.base, 6), round(row.candidate, 6)) == (98.0, 94.0)
    assert row.delta == pytest.approx(-4.0) and row.ci95[0] < -4 < row.ci95[1] < 0
    assert result.verdict == "REGRESSION" and row.p_holm >= row.p and row.clusters == 4000
    assert [m.name for m in result.metrics] == ["mean kept", "MMMU kept", "SEED kept"]
    assert all(m.verdict is None for m in result.metrics[1:])
    assert (
        compare(base, candidate, Policy(tolerance={"retention": 9.0}), reference=reference).benchmarks[-1].verdict
        == "PASS"
    )


def test_retention_of_the_base_itself_is_what_the_candidate_keeps(three):
    base, candidate, _ = three()
    row = compare(base, candidate, Policy(), reference=base).benchmarks[-1].primary
    assert row.base == pytest.approx(100.0) and row.candidate < 100


def test_retention_needs_every_benchmark_asked_alike(three, tmp_path, capsys):
    base, candidate, reference = three(reference={"prompt_sha256": "other"})
    odd = compare(base, candidate, Policy(), reference=reference).benchmarks[-1]
    assert odd.verdict == "NOT COMPARABLE" and "in reference" in odd.reasons[0]
    part = compare(base, candidate, Policy(), reference=base / "SEED").benchmarks[-1]
    assert part.verdict == "INCOMPLETE" and part.reasons == ["the reference has no run of MMMU (shapes)"]
    nothing = write_bundle(tmp_path / "zero" / "SEED", [0.0] * 2000, fingerprint="z")
    zero = compare(base / "SEED", candidate / "SEED", Policy(), reference=nothing).benchmarks[-1]
    assert zero.verdict == "NOT COMPARABLE" and "nothing can be kept of it" in zero.reasons[0]
    out = tmp_path / "out"
    assert main(["compare", str(base), str(candidate), "--reference", str(base), "--out", str(out)]) == 1
    assert "retention: mean kept" in capsys.readouterr().out
    assert 'classname="retention (shapes)"' in (out / "junit.xml").read_text()
    assert main(["compare", str(base), str(candidate), "--reference", "nowhere"]) == 2


# --- outputs ---------------------------------------------------------------------------------------------------------
