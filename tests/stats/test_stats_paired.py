"""Paired statistics: worked numbers, invariants, and a small seeded version of the simulation proof."""

from __future__ import annotations

import math

import numpy as np
import pytest

from armor_eval.stats.composite import ClusterSums, composites_for
from armor_eval.stats.paired import compare_sums, holm, mcnemar_exact, tango, typical_flip
from armor_eval.stats.power import clusters_needed, detectable_drop, mcnemar_power, passing_clusters, rejecting_tail
from armor_eval.stats.resample import bootstrap_sums, distinct_rows, jackknife_se


def primary(bench):
    return next(c for c in composites_for(bench) if c.primary)


def sums(*columns) -> ClusterSums:
    matrix = np.column_stack(columns).astype(float)
    return ClusterSums(tuple(f"c{i:05d}" for i in range(len(matrix))), matrix, len(matrix))


@pytest.mark.parametrize(
    ("losses", "wins", "p"), [(1, 0, 1.0), (3, 0, 0.25), (6, 1, 0.125), (6, 0, 0.03125), (0, 0, 1.0), (0, 6, 0.03125)]
)
def test_mcnemar_worked_numbers(losses, wins, p):
    assert mcnemar_exact(losses, wins) == pytest.approx(p, abs=1e-12)


def test_mcnemar_equals_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar

    for losses, wins in [(12, 5), (3, 9), (40, 21), (7, 7)]:
        assert mcnemar_exact(losses, wins) == pytest.approx(mcnemar([[0, losses], [wins, 0]], exact=True).pvalue)


def test_tango_solves_its_score_equation_and_has_width_without_discordant_pairs():
    low, high = tango(0, 0, 400)
    assert (low, high) == pytest.approx(
        (-(1.959964**2) / (400 + 1.959964**2), 1.959964**2 / (400 + 1.959964**2)), abs=1e-6
    )
    n, losses, wins = 50, 8, 2
    for delta in tango(losses, wins, n):
        # The restricted likelihood's maximum by brute force, independent of the closed form.
        grid = np.linspace(max(0, -delta) + 1e-9, (1 - delta) / 2, 200_001)  # rate of losses
        loglik = losses * np.log(grid) + wins * np.log(np.maximum(grid + delta, 1e-300))
        loglik += (n - losses - wins) * np.log(np.maximum(1 - 2 * grid - delta, 1e-300))
        loss = grid[np.argmax(loglik)]
        score = (wins - losses - n * delta) / math.sqrt(n * (2 * loss + delta - delta**2))
        assert abs(score) == pytest.approx(1.959964, abs=2e-3)


def test_holm_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_unclustered_binary_items_are_judged_by_mcnemar():
    base = np.repeat([1, 1, 0, 0], [60, 8, 2, 30])
    candidate = np.repeat([1, 0, 1, 0], [60, 8, 2, 30])
    got = compare_sums(sums(base, np.ones(100)), sums(candidate, np.ones(100)), primary("MMMU"), resamples=500)
    assert (got.losses, got.wins, got.delta) == (8, 2, -6.0)
    assert got.p == mcnemar_exact(8, 2) and got.ci95 == pytest.approx([100 * x for x in tango(8, 2, 100)], abs=1e-6)


def test_same_items_in_clusters_of_equal_answers_widen_by_the_root_of_their_size():
    rng = np.random.default_rng(0)
    a, b = (rng.random(400) < 0.6 for _ in range(2))
    alone = compare_sums(sums(a, np.ones(400)), sums(b, np.ones(400)), primary("SEED"), resamples=0)
    fives = compare_sums(
        sums(a[:80] * 5, np.full(80, 5)), sums(b[:80] * 5, np.full(80, 5)), primary("SEED"), resamples=0
    )
    assert fives.se / alone.se == pytest.approx(math.sqrt(5), rel=0.15)


def test_swapping_the_arms_mirrors_everything():
    rng = np.random.default_rng(1)
    a, b = (sums(rng.integers(0, 6, 120), np.full(120, 5)) for _ in range(2))
    forth, back = (compare_sums(*pair, primary("SEED"), resamples=0) for pair in ((a, b), (b, a)))
    assert forth.delta == pytest.approx(-back.delta)
    assert forth.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]), abs=1e-6) and forth.p == pytest.approx(back.p)


def test_all_ties_have_an_interval_and_one_cluster_has_none():
    same = sums(np.ones(50), np.full(50, 2))
    tied = compare_sums(same, same, primary("SEED"))
    assert tied.p == 1.0 and tied.ci95[0] < 0 < tied.ci95[1] and tied.bootstrap_ci95 is None
    one = compare_sums(sums([3], [5]), sums([4], [5]), primary("SEED"))
    assert one.ci95 is None and one.p is None and "fewer than two clusters" in one.test


def test_different_clusters_are_refused():
    with pytest.raises(ValueError, match="1 clusters are in one run only"):
        compare_sums(sums([1, 1], [1, 1]), sums([1], [1]), primary("SEED"))


def test_typical_flip_keeps_sum_and_squares_of_equal_flips():
    flips = typical_flip(np.array([-100.0] * 5 + [100.0] * 2 + [0.0] * 93), 100.0)
    assert (flips.losses, flips.wins, flips.size) == pytest.approx((5, 2, 100))


def test_bootstrap_of_distinct_rows_has_the_law_of_drawing_clusters():
    rng = np.random.default_rng(2)
    few = np.column_stack([rng.integers(0, 2, 300), np.ones(300)]).astype(float)
    many = np.column_stack([rng.random(300), np.ones(300)])
    for matrix in (few, many):
        means = bootstrap_sums(matrix, 20_000, 3)[:, 0] / 300
        assert means.mean() == pytest.approx(matrix[:, 0].mean(), abs=2e-3)
        assert means.std() == pytest.approx(matrix[:, 0].std() / math.sqrt(300), rel=0.03)
        se = jackknife_se(matrix, lambda s: s[..., 0] / s[..., 1])
        assert se == pytest.approx(matrix[:, 0].std(ddof=1) / math.sqrt(300), rel=1e-6)


def test_distinct_rows_survive_a_collision_of_their_keys():
    weights = np.random.default_rng(0).random(2)
    rows = np.array([[weights[1], 0.0], [0.0, weights[0]], [weights[1], 0.0]])  # equal dot products
    found, which, counts = distinct_rows(rows)
    assert np.array_equal(found[which], rows) and sorted(counts) == [1, 2]


def test_rejecting_tail_is_the_last_count_that_rejects():
    sizes = np.arange(0, 400)
    for n, k in zip(sizes, rejecting_tail(sizes), strict=True):
        expected = max((j for j in range(n // 2 + 1) if mcnemar_exact(j, n - j) <= 0.05), default=-1)
        assert k == expected, n


def test_power_of_mcnemar_agrees_with_simulation():
    rng = np.random.default_rng(4)
    losses, wins = rng.multinomial(300, [0.1, 0.04, 0.86], size=4000)[:, :2].T
    seen = np.mean([mcnemar_exact(a, b) <= 0.05 and a > b for a, b in zip(losses, wins, strict=True)])
    assert mcnemar_power(300, 0.1, 0.04) == pytest.approx(seen, abs=0.025)


def test_detectable_drop_and_needed_size_are_inverse():
    drop = detectable_drop(1164, 0.1, 100.0, True)
    assert clusters_needed(drop, 0.1, 100.0, True) == pytest.approx(1164, rel=0.03)
    assert detectable_drop(4, 0.1, 100.0, True) is None
    assert passing_clusters(1.0, 0.0, 100.0) == pytest.approx(381, rel=0.02)  # z^2 / (n + z^2) < 1 %


# --- the proof, small: same code as reports/statistics, few trials ---------------------------------------------------


@pytest.mark.parametrize("name", ["accuracy, 5 an image", "MMBench circular", "GenEval"])
def test_error_rates_small(name):
    import stats_simulation as simulation

    world = next(w for w in simulation.WORLDS if w.name == name)
    rng = np.random.default_rng(5)
    null = simulation.paired_rates(world, simulation.NULLS[0], 120, rng)
    assert null["upper_below_truth"] <= 0.085 and null["lower_above_truth"] <= 0.085  # 2.5 % + 4 standard errors
    assert simulation.coverage(world, 0.5, 100, 120, rng)["covered"] >= 0.87


@pytest.mark.slow
def test_error_rates_of_every_score():
    """The issue's bounds, each plus three simulation errors."""
    import stats_simulation as simulation

    trials = 2000
    found = simulation.simulate(trials, seed=1)

    def allowed(rate: float, n: int = trials) -> float:
        return rate + 3 * math.sqrt(rate * (1 - rate) / n)

    for row in found["null"]:
        assert row["upper_below_truth"] <= allowed(0.025), row
        assert row["rejects"] <= allowed(0.05), row
    for row in found["drop"]:
        assert row["lower_above_truth"] <= allowed(0.025), row
    for row in found["power"]:
        assert abs(row["power"] - 0.8) <= 0.03 + 3 * math.sqrt(0.16 / (trials // 2)), row
    for row in found["coverage"]:
        inside = row["clusters"] >= 100 and 0.1 <= row["value"] / 100 <= 0.9
        if inside and row["score"] not in ("MME", "GenEval", "LLaVABench ratio"):
            assert 0.935 - 0.02 <= row["covered"] <= 0.965 + 0.015, row
