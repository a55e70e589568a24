"""Simulated proof of the gate's error rates: writes reports/statistics/ (about 8 minutes of one core).

    python tests/stats/stats_simulation.py [--trials 4000] [--jobs N] [--only NAME] [--out reports/statistics]

The worlds are in stats_worlds.py; the product's own functions judge every trial. Where a cluster is one 0/1 outcome the
rates are not simulated but summed over every possible table of losses and wins. Every world has a random stream of
its own, derived from the seed and its name, so that one can be run again alone.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy import stats
from stats_report import markdown
from stats_worlds import WORLDS, Change, RetentionWorld, World, answers, difficulties

from armor_eval.stats.intervals import interval
from armor_eval.stats.paired import compare_sums, mcnemar_exact, tango
from armor_eval.stats.power import flip_power, minimal_detectable_effect
from armor_model.base.statistics import wilson

NULLS = (Change(0.3), Change(0.08))
DROPS = (Change(0.2, 0.15, 0.4), Change(0.05, 0.08, 0.6))
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
OUTSIDE = ((100, 0.02), (100, 0.98), (25, 0.1), (25, 0.5), (25, 0.9))
"""(clusters, score) outside the regime for which coverage is promised."""

AnyWorld = World | RetentionWorld


def paired_rates(world: AnyWorld, change: Change, trials: int, rng: np.random.Generator) -> dict[str, float]:
    """Shares of trials: interval beyond the truth on either side, test rejects, REGRESSION at tolerance 0."""
    truth = world.truth(change) - world.truth() if change.hit else 0.0
    found = np.zeros(6)
    for _ in range(trials):
        composite, arms = world.arms(change, rng)
        got = compare_sums(*arms, composite, resamples=0)
        low, high = got.ci95
        down = got.p <= 0.05 and got.delta < 0
        found += (high < truth, low > truth, got.p <= 0.05, down, down and high < 0, got.flips.changed)
    names = ("upper_below_truth", "lower_above_truth", "rejects", "rejects_downwards", "regression", "changed_clusters")
    return {"true_difference": truth, **dict(zip(names, (found / trials).tolist(), strict=True)), "trials": trials}


def exact_rates(world: World, change: Change) -> dict[str, float]:
    """The same without simulation: losses and wins of a world of 0/1 clusters are trinomial."""
    loss, win = world.flip_rates(change)
    n = world.clusters
    ranges = [np.arange(int(stats.binom.ppf(1e-8, n, r)), int(stats.binom.isf(1e-8, n, r)) + 1) for r in (loss, win)]
    losses, wins = (axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij"))
    chance = stats.multinomial.pmf(np.stack([losses, wins, n - losses - wins], 1), n, [loss, win, 1 - loss - win])
    truth, found = win - loss, np.zeros(5)
    for k, j, p in zip(losses.tolist(), wins.tolist(), chance.tolist(), strict=True):
        if p < 1e-9:
            continue
        low, high = tango(k, j, n)
        rejects = mcnemar_exact(k, j) <= 0.05
        found += p * np.array([high < truth, low > truth, rejects, rejects and j < k, rejects and high < 0])
    names = ("upper_below_truth", "lower_above_truth", "rejects", "rejects_downwards", "regression")
    return {
        "true_difference": 100 * truth,
        **dict(zip(names, found.tolist(), strict=True)),
        "changed_clusters": n * (loss + win),
        "trials": None,
    }


def coverage(world: AnyWorld, trials: int, rng: np.random.Generator) -> dict[str, float | None]:
    """Share of trials (exact for 0/1 clusters) in which a single run's interval holds the truth."""
    truth = world.truth()
    if world.binary:
        p, n = truth / 100, world.clusters
        right = np.arange(n + 1)
        ends = np.array([wilson(k / n, n) for k in right])
        inside = (ends[:, 0] <= p) & (p <= ends[:, 1])
        return {
            "value": truth,
            "covered": float(stats.binom.pmf(right, n, p)[inside].sum()),
            "undefined": 0.0,
            "trials": None,
        }
    inside = np.zeros(2)
    for _ in range(trials):
        try:
            composite, arms = world.arms(Change(0.0), rng)
        except ValueError:  # a retention of a reference that scores 0
            ci = None
        else:
            ci, _ = interval(arms[0].sums_CS, composite, "jackknife", 0, 0)
        inside += (1, 0) if ci is None else (0, ci[0] <= truth <= ci[1])
    undefined, covered = (inside / trials).tolist()
    return {"value": truth, "covered": covered, "undefined": undefined, "trials": trials}


def power_at_mde(world: AnyWorld, trials: int, rng: np.random.Generator) -> dict[str, float]:
    """Power where the true drop is what a comparison without a difference prints as detectable (median of 400).

    The printed drop is defined as one that comes in changes like those observed. That is `Change.worse`, whose rate
    for this drop is solved from a large sample (the sums are linear in it).
    """
    printed = []
    for _ in range(400):
        composite, arms = world.arms(Change(0.2), rng)
        printed.append(minimal_detectable_effect(compare_sums(*arms, composite, resamples=0)))
    drop = float(np.median(printed))
    if world.binary:
        loss, win = world.flip_rates(Change(0.2))
        return {"printed": drop, "power": flip_power(world.clusters, loss + drop / 100, win), "trials": None}
    change = Change(0.2, worse=_worse_for(world, drop, rng))
    got = paired_rates(world, change, trials, rng)
    return {"printed": drop, "power": got["rejects_downwards"], "trials": trials}


def _worse_for(world: AnyWorld, drop: float, rng: np.random.Generator) -> float:
    """The rate of `worse` clusters that makes this true drop."""
    parts = world.parts if isinstance(world, RetentionWorld) else (world,)
    shifts = []
    for part in parts:
        total, rounds, C = 0.0, 20, 16_800
        for _ in range(rounds):
            p_C, u_C = difficulties(np.resize(part.rates(), C), part.alike, C, rng), rng.random(C)
            base, fresh = answers(p_C, part.items, Change(1.0), rng)
            worse = np.where((fresh.sum(1) < base.sum(1))[:, None], fresh, base)
            total = total + (part.sums(worse, u_C) - part.sums(base, u_C)).mean(axis=0) / rounds
        shifts.append(total)

    def lost(rate: float) -> float:
        made = []
        for part, shift in zip(parts, shifts, strict=True):
            before = part.mean_sums()
            scale = 100 / world.reference_value(part) if isinstance(world, RetentionWorld) else 1.0
            made.append(scale * (part.composite.formula(before) - part.composite.formula(before + rate * shift)))
        return float(np.mean(made))

    low, high = 0.0, 0.8
    if lost(high) < drop:
        raise ValueError(f"{world.name}: changes like those observed cannot lose {drop:g}")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if lost(middle) < drop else (low, middle)
    return high


BOUNDS = {
    "regression": (0.0, 0.025),
    "upper_below_truth": (0.0, 0.025),
    "lower_above_truth": (0.0, 0.025),
    "rejects": (0.0, 0.05),
    "covered": (0.935, 0.965),
    "power": (0.77, 0.83),
}
"""What each share should lie within. A true drop's `upper_below_truth` and `rejects` decide nothing."""


BANDS = ("covered", "power")
"""Bounds with room around the nominal value; the others are the nominal rate itself."""


def doubtful(row: dict, names: tuple[str, ...]) -> bool:
    """Whether a simulated share is out of its band, or above its nominal rate by more than 1.5 simulation errors."""
    if row["trials"] is None:
        return False
    slack = {n: 0.0 if n in BANDS else 1.5 * math.sqrt(row[n] * (1 - row[n]) / row["trials"]) for n in names}
    return any(not BOUNDS[n][0] - slack[n] <= row[n] <= BOUNDS[n][1] + slack[n] for n in names)


def settled(measure: Callable, names: tuple[str, ...], *world: object, trials: int, rng: np.random.Generator) -> dict:
    """A row; a doubtful one is thrown away and simulated afresh with four times the trials, whatever that gives."""
    row = measure(*world, trials, rng)
    return measure(*world, 4 * trials, rng) | {"again": True} if doubtful(row, names) else row


TABLES = ("null", "drop", "power", "coverage", "outside")
JUDGED = {"null": ("regression", "upper_below_truth", "lower_above_truth", "rejects"), "drop": ("lower_above_truth",)}


def simulate_world(name: str, trials: int, seed: int) -> dict[str, list[dict]]:
    """The rows of one world, by table."""
    world = next(w for w in WORLDS if w.name == name)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    found: dict[str, list[dict]] = {table: [] for table in TABLES}
    shape = {"score": world.name, "clusters": world.clusters, "items": world.items, "alike": world.alike}
    for kind, changes in (("null", NULLS), ("drop", DROPS)):
        for change in changes:
            if world.binary:
                rates = exact_rates(world, change)
            else:
                rates = settled(paired_rates, JUDGED[kind], world, change, trials=trials, rng=rng)
            found[kind].append({**shape, **vars(change), **rates})
    found["power"].append({**shape, **settled(power_at_mde, ("power",), world, trials=trials // 2, rng=rng)})
    for clusters, share in [(c, s) for c in (100, 400) for s in SHARES] + list(OUTSIDE):
        sized = world.at_score(share, clusters)
        if sized is None:
            continue
        if (clusters, share) in OUTSIDE:
            kind, row = "outside", coverage(sized, trials // 2, rng)
        else:
            kind, row = "coverage", settled(coverage, ("covered",), sized, trials=trials, rng=rng)
        found[kind].append({"score": world.name, "share": share, "clusters": clusters, **row})
    return found


def simulate(trials: int, seed: int, only: str = "", jobs: int = 1) -> dict:
    """Every table. `only`: worlds whose name holds it."""
    names = [w.name for w in WORLDS if only in w.name]
    arguments = (names, [trials] * len(names), [seed] * len(names))
    if jobs == 1:
        made = list(map(simulate_world, *arguments))
    else:
        with ProcessPoolExecutor(jobs) as pool:
            made = list(pool.map(simulate_world, *arguments))
    return {"seed": seed, "trials": trials, **{table: [row for m in made for row in m[table]] for table in TABLES}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=20250306)
    parser.add_argument("--only", default="", help="worlds whose name holds this, printed instead of written")
    parser.add_argument("--jobs", type=int, default=1, help="worlds at once; changes no number")
    parser.add_argument("--out", type=Path, default=Path("reports/statistics"))
    options = parser.parse_args()
    found = simulate(options.trials, options.seed, options.only, options.jobs)
    if options.only:
        print(markdown(found))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "simulation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.out / "simulation.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
