"""Paired statistics: worked numbers, invariants, and a small seeded version of the simulation proof."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from paths import ROOT

from armor_eval.stats.composite import ClusterSums
from armor_eval.stats.intervals import bootstrap_sums, cluster_error, distinct_rows, stream
from armor_eval.stats.paired import Flips, compare_sums, difference_test, holm, mcnemar_exact, tango, typical_flip
from armor_eval.stats.power import (
    clusters_needed,
    detectable_drop,
    flip_power,
    passing_clusters,
    rejecting_tail,
    score_tail,
)
from armor_eval.stats.retention import Part, retention
from armor_eval.tasks.formulas import composites_for, formula_names


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
        se, _ = cluster_error(matrix, lambda s: s[..., 0] / s[..., 1])
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
    assert flip_power(300, 0.1, 0.04) == pytest.approx(seen, abs=0.025)


def test_detectable_drop_and_needed_size_are_inverse():
    drop = detectable_drop(1164, 0.1, 100.0, True)
    assert clusters_needed(drop, 0.1, 100.0, True) == pytest.approx(1164, rel=0.03)
    assert detectable_drop(4, 0.1, 100.0, True) is None
    assert passing_clusters(1.0, 0.0, 100.0) == pytest.approx(381, rel=0.02)  # z^2 / (n + z^2) < 1 %


def test_few_clusters_a_term_neither_inflate_nor_shrink_the_standard_error():
    """A mean of 14 category means, 5 clusters each: the plain jackknife is 5/4 too large in variance (issue 7)."""
    rng, tasks, n = np.random.default_rng(8), 14, 5
    squares, values = [], []
    for _ in range(400):
        matrix = np.zeros((tasks * n, 2 * tasks))
        at = np.repeat(np.arange(tasks), n)
        matrix[np.arange(tasks * n), 2 * at], matrix[np.arange(tasks * n), 2 * at + 1] = rng.normal(size=tasks * n), 1

        def mean_of_means(sums):
            return (sums[..., 0::2] / sums[..., 1::2]).mean(axis=-1)

        squares.append(cluster_error(matrix, mean_of_means)[0] ** 2)
        values.append(float(mean_of_means(matrix.sum(axis=0))))
    truth = 1 / (tasks * n)
    assert np.mean(squares) == pytest.approx(truth, rel=0.03)
    assert np.var(values) == pytest.approx(truth, rel=0.25)


def test_a_term_of_one_cluster_keeps_the_cautious_jackknife():
    def two_terms(sums):
        return sums[..., 0] / np.maximum(sums[..., 1], 1) + sums[..., 2] / np.maximum(sums[..., 3], 1)

    spread = np.column_stack([np.tile([1.0, 0.0], 20), np.ones(40), np.zeros((40, 2))])
    lone = np.vstack([spread, [0, 0, 1.0, 1.0]])
    assert cluster_error(lone, two_terms)[0] > 5 * cluster_error(spread, two_terms)[0]


def test_score_tail_is_the_last_count_that_the_comparison_rejects():
    for clusters in (30, 400):
        for discordant in (2, 9, 16, 25):
            rejected = []
            for wins in range(discordant // 2 + 1):
                base, candidate = np.full(clusters, 1.0), np.full(clusters, 1.0)
                candidate[: discordant - wins], candidate[discordant - wins : discordant] = 0, 2
                two = np.full(clusters, 2.0)
                got = compare_sums(sums(base, two), sums(candidate, two), primary("SEED"), resamples=0)
                flips = Flips(discordant - wins, wins, 50.0, discordant, 50.0)
                if difference_test(clusters, got.delta, got.se or 0.0, flips, binary=False)[1] <= 0.05:
                    rejected.append(wins)
            expected = max(rejected, default=-1)
            assert max(-1, score_tail(np.array([discordant]), clusters)[0]) == expected, (clusters, discordant)


@st.composite
def two_arms(draw):
    """A score, and per-cluster sums of two runs of it: any size, any share of changed clusters, any rates."""
    composite = draw(st.sampled_from([c for bench in formula_names() for c in composites_for(bench)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    C, S, most = draw(st.integers(2, 60)), len(composite.columns), draw(st.sampled_from([1, 1, 3]))

    def arm(n_C):
        if composite.columns[0].endswith("tp"):  # POPE's tp, fp, fn, right, n
            made = rng.integers(0, 2, (C, S)) * (rng.random(S) < 0.7)
            made[:, 4::5] = made[:, 0::5] + made[:, 1::5] + made[:, 2::5] + 1
        elif S % 2 == 0:
            made = np.repeat(n_C[:, None], S, axis=1)
            made[:, 0::2] = rng.binomial(made[:, 0::2], rng.random(S // 2))
        else:
            made = rng.integers(1, 10, (C, S))
            if composite.bounds == (0.0, 1.0):  # a share: no more matches than there are
                made[:, 0] = np.minimum(made[:, 0], made[:, 1])
        return made.astype(float)

    n_C = rng.integers(1, most + 1, C)
    base, other = arm(n_C), arm(n_C)
    changed = rng.random(C) < draw(st.sampled_from([0.02, 0.1, 0.5, 1.0]))
    return (
        composite,
        ClusterSums(tuple(map(str, range(C))), base, C),
        ClusterSums(tuple(map(str, range(C))), np.where(changed[:, None], other, base), C),
    )


@settings(max_examples=300)
@given(two_arms())
def test_interval_and_p_never_contradict_each_other(arms):
    """Precision from -100 to +100 with p < 0.0001, recall from -100 to -62 with p = 1 (issue 17)."""
    composite, base, candidate = arms
    try:
        got = compare_sums(base, candidate, composite, resamples=0)
    except ValueError:  # undefined in one of them
        return
    if got.ci95 is None:
        assert got.p is None
        return
    low, high = got.ci95
    assert low <= got.delta <= high and 0 <= got.p <= 1
    assume(abs(got.p - 0.05) > 1e-9)  # an end is found to 45 bits
    assert (low > 0 or high < 0) == (got.p < 0.05), got


@pytest.mark.parametrize("clusters", [2, 18, 100])
def test_where_all_flip_one_way_an_end_is_the_estimate(clusters):
    """Rounding once left 99.99999999999999 below an estimate of 100."""
    [composite] = [c for c in composites_for("MMMU") if c.primary]
    names, ones = tuple(map(str, range(clusters))), np.ones((clusters, 1))
    wrong = ClusterSums(names, np.hstack([0 * ones, ones]), clusters)
    right = ClusterSums(names, np.hstack([ones, ones]), clusters)
    assert compare_sums(wrong, right, composite, resamples=0).ci95[1] == 100
    assert compare_sums(right, wrong, composite, resamples=0).ci95[0] == -100


def test_bootstrap_streams_differ_by_benchmark_and_repeat_by_seed():
    matrix = np.column_stack([np.random.default_rng(0).random(50), np.ones(50)])
    draws = {name: bootstrap_sums(matrix, 200, stream(0, name))[:, 0] for name in ("SEED", "POPE")}
    assert abs(np.corrcoef(draws["SEED"], draws["POPE"])[0, 1]) < 0.3
    assert np.array_equal(draws["SEED"], bootstrap_sums(matrix, 200, stream(0, "SEED"))[:, 0])


# --- retention ---------------------------------------------------------------------------------------------------


def kept_part(name, own, reference, space=None):
    return Part(name, space or name, primary("SEED"), sums(own, np.ones(len(own))), sums(reference, np.ones(len(own))))


def test_retention_is_the_mean_of_ratios_and_its_parts_do_not_share_clusters():
    parts = [
        kept_part("A", [1, 1, 0, 0], [1, 1, 1, 1]),  # 50 of 100 %
        kept_part("B", [1, 0, 1, 1], [1, 0, 0, 1]),  # 75 of 50 %
    ]
    composite, made = retention(parts)
    assert composite.formula(made.sums_CS.sum(axis=0)) == pytest.approx((50 + 150) / 2)
    assert len(made.clusters) == 8
    shared, joined = retention([kept_part("MME", [1, 0], [1, 1], "data"), kept_part("MME-P", [1, 0], [1, 1], "data")])
    assert len(joined.clusters) == 2 and shared.formula(joined.sums_CS.sum(axis=0)) == pytest.approx(50)


def test_retention_of_independent_benchmarks_has_the_error_of_their_mean():
    """Var(mean of k) = sum of variances / k^2: no benchmark's noise is taken for another's."""
    rng = np.random.default_rng(9)
    parts = [kept_part(n, (rng.random(300) < 0.7).astype(float), (rng.random(300) < 0.8).astype(float)) for n in "ABC"]

    def error(chosen):
        composite, made = retention(chosen)
        return cluster_error(made.sums_CS, composite.formula)[0]

    alone = [error([part]) for part in parts]
    assert error(parts) == pytest.approx(math.sqrt(sum(e**2 for e in alone)) / 3, rel=1e-2)


def test_retention_is_compared_with_its_reference_resampled_along():
    rng = np.random.default_rng(10)
    hard = rng.random(400)
    reference, base = (rng.random(400) < 0.9 - 0.5 * hard for _ in range(2))
    candidate = base & (rng.random(400) < 0.9)
    (composite, ours), (_, theirs) = (retention([kept_part("A", x, reference)]) for x in (base, candidate))
    got = compare_sums(ours, theirs, composite, resamples=4000)
    assert got.delta == pytest.approx(100 * (candidate.sum() - base.sum()) / reference.sum())
    assert got.ci95[0] < got.delta < got.ci95[1] < 0 and not got.binary
    assert got.bootstrap_ci95 == pytest.approx(got.ci95, abs=0.4 * (got.ci95[1] - got.ci95[0]))


def test_retention_of_a_reference_that_scores_nothing_is_refused():
    with pytest.raises(ValueError, match=r"A: the reference scores 0\.0, nothing can be kept"):
        retention([kept_part("A", [1, 0], [0, 0])])


# --- the proof, small: same code as reports/statistics, few trials ---------------------------------------------------


def world(name):
    import stats_worlds

    return next(w for w in stats_worlds.WORLDS if w.name == name)


def test_the_worlds_know_their_truth():
    """The exact score of both arms is what 30,000 drawn clusters show, within four standard errors."""
    import stats_worlds

    rng, change = np.random.default_rng(11), stats_worlds.Change(0.2, 0.15, 0.4)
    for one in stats_worlds.WORLDS:
        if isinstance(one, stats_worlds.World):
            big = one.resized(30_240)
            composite, arms = big.arms(change, rng)
            for arm, truth in zip(arms, (big.truth(), big.truth(change)), strict=True):
                value = float(composite.formula(arm.sums_CS.sum(axis=0)))
                assert abs(value - truth) < 4 * cluster_error(arm.sums_CS, composite.formula)[0], one.name


def test_exact_rates_agree_with_simulated_ones():
    import stats_simulation as simulation

    small = world("MMBench circular").resized(300)
    exact = simulation.exact_rates(small, simulation.DROPS[0])
    drawn = simulation.paired_rates(small, simulation.DROPS[0], 400, np.random.default_rng(12))
    assert exact["true_difference"] == pytest.approx(drawn["true_difference"], abs=1e-6)
    for name in ("upper_below_truth", "lower_above_truth", "regression"):
        rate = exact[name]
        assert abs(drawn[name] - rate) <= 4 * math.sqrt(rate * (1 - rate) / 400) + 0.005, name


@pytest.mark.parametrize("name", ["accuracy, 5 an image", "GenEval", "retention, 3 benchmarks"])
def test_error_rates_small(name):
    import stats_simulation as simulation

    rng = np.random.default_rng(5)
    null = simulation.paired_rates(world(name), simulation.NULLS[0], 120, rng)
    assert null["upper_below_truth"] <= 0.085 and null["lower_above_truth"] <= 0.085  # 2.5 % + 4 standard errors
    assert simulation.coverage(world(name).at_score(0.5, 100), 120, rng)["covered"] >= 0.87


@pytest.mark.slow
def test_error_rates_of_every_score():
    """The issue's bounds for every score, each plus three simulation errors; exact rates with none."""
    import stats_simulation as simulation

    found = simulation.simulate(1000, seed=1)

    def inside(row, name, low, high):
        slack = 3 * math.sqrt(high * (1 - high) / row["trials"]) if row["trials"] else 1e-4
        assert low - slack <= row[name] <= high + slack, (name, row)

    assert {row["score"] for row in found["null"]} == {w.name for w in simulation.WORLDS}
    for row in found["null"]:
        inside(row, "regression", 0, 0.025)
        inside(row, "rejects", 0, 0.05)
    for row in found["drop"]:
        inside(row, "lower_above_truth", 0, 0.025)
    for row in found["power"]:
        inside(row, "power", 0.77, 0.83)
    for row in found["coverage"]:
        inside(row, "covered", 0.935, 0.965)


def test_the_committed_simulation_keeps_the_bounds_it_reports():
    """reports/statistics/simulation.json: every world, every bound within three of the simulation's own errors."""

    import stats_report
    import stats_simulation as simulation

    folder = ROOT / "reports" / "statistics"
    found = json.loads((folder / "simulation.json").read_text())
    assert (folder / "simulation.md").read_text() == stats_report.markdown(found)
    assert {row["score"] for row in found["null"]} == {w.name for w in simulation.WORLDS}
    for kind, names in (*simulation.JUDGED.items(), ("power", ("power",)), ("coverage", ("covered",))):
        for row in found[kind]:
            for name in names:
                if row["trials"] is None and name in ("upper_below_truth", "lower_above_truth") and kind == "null":
                    continue  # Tango's interval alone, asymptotic: up to 2.6 % exactly; McNemar guards the verdict
                low, high = simulation.BOUNDS[name]
                slack = 3 * math.sqrt(row[name] * (1 - row[name]) / row["trials"]) if row["trials"] else 1e-4
                assert low - slack <= row[name] <= high + slack, (kind, name, row)
