"""The interval of a mean over repeats counts the questions and the draws."""

from __future__ import annotations

import numpy as np
import pytest

from armor_eval.stats.composite import ClusterSums, accuracy
from armor_eval.stats.intervals import cluster_error, effective_wilson
from armor_eval.stats.repeats import between, over_both


def sums(right_C: np.ndarray) -> ClusterSums:
    names = tuple(f"q{at:03}" for at in range(len(right_C)))
    return ClusterSums(names, np.stack([right_C, np.ones(len(right_C))], axis=1), len(right_C))


def width(ends: tuple[float, float] | None) -> float:
    assert ends is not None
    return ends[1] - ends[0]


def test_repeats_that_are_all_alike_say_no_more_than_one() -> None:
    right_C = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    error, _ = cluster_error(sums(right_C).sums_CS, accuracy().formula)
    alone = effective_wilson(100 * float(right_C.mean()), error, 50, (0.0, 100.0))
    assert over_both([sums(right_C)] * 3, accuracy()) == pytest.approx(alone)


@pytest.mark.parametrize(("questions", "repeats"), [(1.5, 3), (0.0, 2)])
def test_it_covers_the_mean_over_questions_and_draws(questions: float, repeats: int) -> None:
    """200 measurements of 40 questions with a chance each; between seeds alone falls short where questions differ."""
    rng = np.random.default_rng(1)
    truth = 100 * float((1 / (1 + np.exp(-1 - questions * rng.normal(size=200_000)))).mean())
    hits = narrow = 0
    for _ in range(200):
        chance_C = 1 / (1 + np.exp(-1 - questions * rng.normal(size=40)))
        drawn_KC = (rng.random((repeats, 40)) < chance_C).astype(float)
        low, high = over_both([sums(right_C) for right_C in drawn_KC], accuracy()) or (0.0, 0.0)
        hits += low <= truth <= high
        seeds = between([100 * float(right_C.mean()) for right_C in drawn_KC]).ci95
        narrow += seeds[0] <= truth <= seeds[1]
    assert hits >= 182, "95 % of 200, less four standard errors"
    assert narrow < hits


def test_what_seeds_have_in_common_is_counted() -> None:
    """Answers of a whole repeat that are right or wrong together are few draws, however many questions there are."""
    rng = np.random.default_rng(2)
    together = [sums((rng.random(300) < chance).astype(float)) for chance in (0.3, 0.5, 0.7)]
    apart = [sums((rng.random(300) < rng.permutation(np.repeat((0.3, 0.5, 0.7), 100))).astype(float)) for _ in range(3)]
    assert width(over_both(together, accuracy())) > 5 * width(over_both(apart, accuracy()))


def test_a_question_that_one_repeat_lost_counts_in_the_others() -> None:
    right_C = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    lost = ClusterSums(sums(right_C).clusters[:-1], sums(right_C).sums_CS[:-1], 5)
    low, high = over_both([sums(right_C), lost], accuracy()) or (0.0, 0.0)
    assert low < 100 * (4 / 6 + 3 / 5) / 2 < high


def test_where_a_run_has_no_interval_repeats_have_none() -> None:
    one = sums(np.ones(1))
    assert over_both([one, one], accuracy()) is None
    assert over_both([sums(np.ones(4))], accuracy()) is None, "one repeat"
