"""Simulated proof of the gate's error rates: writes reports/statistics/ (minutes).

    python tests/stats/stats_simulation.py [--trials 3000] [--out reports/statistics]

Worlds are made of clusters with a difficulty each (beta-distributed: items of a cluster are alike). The candidate
answers a touched cluster afresh, which is exchangeable, hence no true difference; in a hit cluster it then loses right
answers, which is the true drop, computed from 100,000 clusters. The product's own functions judge every trial.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from armor_eval.stats.composite import ClusterSums, Composite, composites_for
from armor_eval.stats.intervals import interval
from armor_eval.stats.paired import compare_sums
from armor_eval.stats.power import minimal_detectable_effect


def difficulties(rate: float, alike: float, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Chance of a right answer by cluster [C]; `alike` is the correlation of two items of a cluster."""
    if alike == 0:
        return np.full(clusters, rate)
    spread = (1 - alike) / alike
    return rng.beta(rate * spread, (1 - rate) * spread, clusters)


def two_answers(p_C: np.ndarray, m: int, change: Change, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong of both arms [C, m]."""
    base = rng.random((len(p_C), m)) < p_C[:, None]
    fresh = rng.random((len(p_C), m)) < p_C[:, None]
    candidate = np.where(rng.random((len(p_C), 1)) < change.touched, fresh, base)
    hit = rng.random((len(p_C), 1)) < change.hit
    return base, candidate & ~(hit & (rng.random((len(p_C), m)) < change.lost))


@dataclass(frozen=True)
class Change:
    touched: float
    hit: float = 0.0
    lost: float = 0.0


@dataclass(frozen=True)
class World:
    name: str
    composite: Composite
    clusters: int
    items: int
    """A cluster."""
    rate: float
    alike: float
    sums: Callable[[np.ndarray], np.ndarray]
    """Right or wrong [C, m] -> sums [C, S]."""
    by_cluster: Callable[[float, int], np.ndarray] | None = None
    """Rates by cluster [C], where tasks differ."""

    def arms(self, change: Change, rng: np.random.Generator, clusters: int | None = None) -> list[np.ndarray]:
        C = clusters or self.clusters
        rates = self.by_cluster(self.rate, C) if self.by_cluster else self.rate
        p_C = difficulties(rates, self.alike, C, rng)
        return [self.sums(x) for x in two_answers(p_C, self.items, change, rng)]

    def truth(self, change: Change, rng: np.random.Generator, rounds: int = 6) -> tuple[float, float]:
        """The score of both arms over very many clusters."""
        totals = [0.0, 0.0]
        for _ in range(rounds):
            for i, sums in enumerate(self.arms(change, rng, 16_800)):
                totals[i] = totals[i] + sums.sum(axis=0)
        return tuple(float(self.composite.formula(t)) for t in totals)


def mean_sums(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x.sum(1), np.full(len(x), x.shape[1])]).astype(float)


def circular_sums(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x.all(1), np.ones(len(x))]).astype(float)


def pope_sums(x: np.ndarray) -> np.ndarray:
    half = x.shape[1] // 2
    tp, fp = x[:, :half].sum(1), (~x[:, half:]).sum(1)
    return np.column_stack([tp, fp, half - tp, x.sum(1), np.full(len(x), x.shape[1])]).astype(float)


def mme_sums(x: np.ndarray) -> np.ndarray:
    sums, r = np.zeros((len(x), 56)), np.arange(len(x))
    at = 4 * (r % 14)
    sums[r, at], sums[r, at + 1], sums[r, at + 2], sums[r, at + 3] = x.sum(1), 2, x.all(1), 1
    return sums


def hallusion_sums(x: np.ndarray) -> np.ndarray:
    x, n = x.reshape(len(x), 3, 3), len(x)
    parts = [x.sum((1, 2)), np.full(n, 9), x.all(2).sum(1), np.full(n, 3), x.all(1).sum(1), np.full(n, 3)]
    return np.column_stack(parts).astype(float)


def geneval_sums(x: np.ndarray) -> np.ndarray:
    sums, r = np.zeros((len(x), 12)), np.arange(len(x))
    sums[r, 2 * (r % 6)], sums[r, 2 * (r % 6) + 1] = x.sum(1), x.shape[1]
    return sums


def llava_sums(x: np.ndarray) -> np.ndarray:
    """Marks: 8 for a good answer, 4 for a poor one; the reference has 8 or 9."""
    n, m = x.shape
    return np.column_stack(
        [np.where(x, 8, 4).sum(1), np.full(n, 8 * m) + (np.arange(n) % 2) * m, np.full(n, m)]
    ).astype(float)


def geneval_rates(rate: float, clusters: int) -> np.ndarray:
    tasks = np.array([0.95, 0.6, 0.3, 0.7, 0.1, 0.15])
    return np.clip(tasks * rate / tasks.mean(), 0.02, 0.98)[np.arange(clusters) % 6]


def primary(benchmark: str) -> Composite:
    return next(c for c in composites_for(benchmark) if c.primary)


WORLDS = (
    World("accuracy, unclustered", primary("MMMU"), 900, 1, 0.55, 0.0, mean_sums),
    World("accuracy, 5 an image", primary("SEED"), 400, 5, 0.7, 0.3, mean_sums),
    World("MMBench circular", primary("MMB"), 1164, 4, 0.9, 0.5, circular_sums),
    World("MME", primary("MME"), 1190, 2, 0.75, 0.3, mme_sums),
    World("HallusionBench", primary("HallusionBench"), 400, 9, 0.6, 0.2, hallusion_sums),
    World("POPE F1", primary("POPE"), 500, 18, 0.85, 0.2, pope_sums),
    World("MMVet mean", primary("MMVet"), 218, 1, 0.6, 0.0, mean_sums),
    World("LLaVABench ratio", primary("LLaVABench"), 200, 2, 0.6, 0.3, llava_sums),
    World("GenEval", primary("geneval"), 553, 4, 0.47, 0.2, geneval_sums, geneval_rates),
)  # fmt: skip

NULLS = (Change(0.3), Change(0.08))
DROPS = (Change(0.2, 0.15, 0.4), Change(0.05, 0.08, 0.6))


def paired_rates(world: World, change: Change, trials: int, rng: np.random.Generator) -> dict[str, float]:
    """Share of trials with upper < truth, lower > truth, and the test's rejections."""
    before, after = world.truth(change, rng, rounds=20) if change.hit else (0.0, 0.0)
    truth, found = after - before, np.zeros(5)
    names = tuple(map(str, range(world.clusters)))
    for _ in range(trials):
        base, candidate = (ClusterSums(names, s, 0) for s in world.arms(change, rng))
        got = compare_sums(base, candidate, world.composite, resamples=0)
        low, high = got.ci95
        found += (high < truth, low > truth, got.p <= 0.05, got.p <= 0.05 and got.delta < 0, got.flips.changed)
    high, low, rejects, down, changed = found / trials
    return {"true_difference": truth, "upper_below_truth": high, "lower_above_truth": low, "rejects": rejects,
            "rejects_downwards": down, "changed_clusters": changed}  # fmt: skip


def coverage(world: World, rate: float, clusters: int, trials: int, rng: np.random.Generator) -> dict[str, float]:
    changed = World(world.name, world.composite, clusters, world.items, rate, world.alike, world.sums, world.by_cluster)
    truth, _ = changed.truth(Change(0.0), rng)
    inside = np.zeros(3)
    for _ in range(trials):
        sums = changed.arms(Change(0.0), rng)[0]
        ci, _ = interval(sums, world.composite, "jackknife", 0, 0)
        inside += (1, 0, 0) if ci is None else (0, ci[0] <= truth, truth <= ci[1])
    undefined, low, high = inside / trials
    return {"value": truth, "covered": low + high - (1 - undefined), "undefined": undefined}


def power_at_mde(world: World, trials: int, rng: np.random.Generator) -> dict[str, float]:
    """Power where the true drop is what the comparison prints as detectable.

    The printed value is the median over 40 comparisons without a difference; the hit rate that makes this drop is
    solved from two large samples (the drop is linear in it).
    """
    change, names, printed = Change(0.2), tuple(map(str, range(world.clusters))), []
    for _ in range(40):
        base, candidate = (ClusterSums(names, s, 0) for s in world.arms(change, rng))
        got = compare_sums(base, candidate, world.composite, resamples=0)
        printed.append(minimal_detectable_effect(got))
    drop = float(np.median(printed))
    # The printed value supposes that a drop comes in changes like those seen: as many answers a cluster.
    rates = world.by_cluster(world.rate, 16_800) if world.by_cluster else world.rate
    base, candidate = two_answers(difficulties(rates, world.alike, 16_800, rng), world.items, change, rng)
    moved, right = np.abs(candidate.sum(1) - base.sum(1)), base.sum(1)
    size, most = (moved**2).sum() / moved.sum(), (right**2).sum() / right.sum()  # weighted by what they do
    lost = float(np.clip((size - 1) / (most - 1), 0.02, 0.9)) if most > 1 else 0.9
    before, after = world.truth(Change(0.2, 0.2, lost), rng, rounds=20)
    hit = 0.2 * drop / (before - after)
    got = paired_rates(world, Change(0.2, hit, lost), trials, rng)
    return {"printed": drop, "true_drop": -got["true_difference"], "power": got["rejects_downwards"]}


def simulate(trials: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    found = {"seed": seed, "trials": trials, "null": [], "drop": [], "coverage": [], "power": []}
    for world in WORLDS:
        shape = {"score": world.name, "clusters": world.clusters, "items": world.items, "alike": world.alike}
        for change in NULLS:
            found["null"].append({**shape, **vars(change), **paired_rates(world, change, trials, rng)})
        for change in DROPS:
            found["drop"].append({**shape, **vars(change), **paired_rates(world, change, trials, rng)})
        found["power"].append({**shape, **power_at_mde(world, trials // 2, rng)})
        for clusters in (100, 400) + ((24,) if world.name == "LLaVABench ratio" else ()):
            for rate in (0.1, 0.3, 0.5, 0.7, 0.9):
                row = coverage(world, rate, clusters, trials // 2, rng)
                found["coverage"].append({"score": world.name, "rate": rate, "clusters": clusters, **row})
    return found


def markdown(found: dict) -> str:
    share = "{:.1%}".format
    lines = [
        "# Error rates of the comparison, simulated", "",
        f"Seed {found['seed']}, {found['trials']:,} trials a row (half for coverage and power). Made by "
        "`python tests/stats/stats_simulation.py`; the functions are the product's own.", "",
        "## No true difference", "",
        "`upper < 0`: a false REGRESSION at tolerance 0 (nominal 2.5 %); `test`: two-sided rejections (5 %).", "",
        "| score | clusters x items | touched | clusters changed | upper < 0 | lower > 0 | test |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    lines += [
        f"| {r['score']} | {r['clusters']} x {r['items']} | {r['touched']:.0%} | {r['changed_clusters']:.0f} "
        f"| {share(r['upper_below_truth'])} | {share(r['lower_above_truth'])} | {share(r['rejects'])} |"
        for r in found["null"]
    ]
    lines += [
        "", "## True drop equal to the tolerance", "", "`false PASS`: lower bound above the truth (nominal 2.5 %).",
        "", "| score | clusters changed | true drop | false PASS | upper < truth |", "|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    lines += [
        f"| {r['score']} | {r['changed_clusters']:.0f} | {-r['true_difference']:.3g} | {share(r['lower_above_truth'])} "
        f"| {share(r['upper_below_truth'])} |"
        for r in found["drop"]
    ]
    lines += [
        "", "## Power at the printed minimal detectable effect (nominal 80 %)", "",
        "| score | printed | true drop | power |", "|---|--:|--:|--:|",
    ]  # fmt: skip
    lines += [
        f"| {r['score']} | {r['printed']:.3g} | {r['true_drop']:.3g} | {share(r['power'])} |" for r in found["power"]
    ]
    lines += ["", "## Coverage of a single run's 95 % interval", "", "By the rate of right answers.", ""]
    rates = sorted({r["rate"] for r in found["coverage"]})
    lines += ["| score | clusters | " + " | ".join(f"{r:g}" for r in rates) + " |", "|---|--:|" + "--:|" * len(rates)]
    rows: dict[tuple[str, int], list[str]] = {}
    for r in found["coverage"]:
        mark = "" if r["undefined"] == 0 else f" ({share(r['undefined'])} n/a)"
        rows.setdefault((r["score"], r["clusters"]), []).append(share(r["covered"]) + mark)
    lines += [f"| {name} | {n} | {' | '.join(cells)} |" for (name, n), cells in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=20250306)
    parser.add_argument("--out", type=Path, default=Path("reports/statistics"))
    options = parser.parse_args()
    found = simulate(options.trials, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "simulation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.out / "simulation.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
