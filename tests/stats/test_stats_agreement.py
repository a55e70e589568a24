"""Agreement, kappa and the Rogan-Gladen correction: worked numbers, a simulation, and where they are undefined."""

from __future__ import annotations

import numpy as np
import pytest

from armor_eval.stats.agreement import Pair, agreement_of


def pairs(both: int, only_judge: int, only_truth: int, neither: int) -> list[Pair]:
    kinds = [(True, True)] * both + [(True, False)] * only_judge + [(False, True)] * only_truth
    kinds += [(False, False)] * neither
    return [Pair(str(k), str(k), "t", judged, truth) for k, (judged, truth) in enumerate(kinds)]


def test_a_table_worked_by_hand() -> None:
    # 20 / 5 / 10 / 15: observed .7, expected .5 x .6 + .5 x .4 = .5, kappa .4
    found = agreement_of(pairs(20, 5, 10, 15), "t")
    assert found.agreement.value == pytest.approx(70) and found.agreement.method == "Wilson"
    assert found.kappa.value == pytest.approx(0.4)
    assert found.sensitivity == pytest.approx(20 / 30) and found.specificity == pytest.approx(15 / 20)
    # on the answers the rates come from, the correction is their own share: 30 of 50
    assert found.seen == pytest.approx(50) and found.corrected.value == pytest.approx(60)


def test_another_run_is_corrected_by_the_known_rates() -> None:
    # sensitivity .9, specificity .8; a run of which 60 % are called right: (.6 + .8 - 1) / .7
    run = {str(k): (float(k < 600), 1.0) for k in range(1000)}
    found = agreement_of(pairs(90, 20, 10, 80), "t", run)
    assert found.corrected.value == pytest.approx(100 * 0.4 / 0.7)
    assert found.corrected.ci95 is not None
    low, high = found.corrected.ci95
    assert low < 100 * 0.4 / 0.7 < high and high - low > 6.1  # wider than of 1,000 answers without a judge's errors


def test_a_judge_no_better_than_chance_corrects_nothing() -> None:
    found = agreement_of(pairs(25, 25, 25, 25), "t")
    assert found.corrected.value is None and "undefined" in (found.corrected.note or "")
    one_sided = agreement_of(pairs(10, 0, 2, 0), "t")
    assert one_sided.specificity is None and one_sided.corrected.value is None
    assert agreement_of(pairs(10, 0, 0, 0), "t").kappa.value is None


def test_intervals_cover_the_share_that_is_true() -> None:
    rng, covered, worlds = np.random.default_rng(4), 0, 80
    for world in range(worlds):

        def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
            truth = rng.random(n) < 0.7
            return truth, np.where(truth, rng.random(n) < 0.9, rng.random(n) < 0.25)

        truth, judged = draw(300)
        known = [
            Pair(str(k), str(k), "t", bool(j), bool(t)) for k, (t, j) in enumerate(zip(truth, judged, strict=True))
        ]
        run = {str(k): (float(seen), 1.0) for k, seen in enumerate(draw(400)[1])}
        low, high = agreement_of(known, "t", run, seed=world).corrected.ci95 or (0.0, 0.0)
        covered += low <= 70 <= high
    assert 0.88 <= covered / worlds <= 0.995


def test_answers_of_one_image_are_resampled_together() -> None:
    alone = pairs(40, 10, 5, 45)
    tied = [Pair(p.id, str(k // 10), p.task, p.judged, p.truth) for k, p in enumerate(alone)]
    free, bound = (agreement_of(p, "t").agreement.ci95 for p in (alone, tied))
    assert free is not None and bound is not None and bound[1] - bound[0] > free[1] - free[0]
