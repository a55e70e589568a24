"""A/A comparisons of real models: the same weights sampled twice, with another seed. Writes reports/statistics/aa.*.

    python tests/stats/stats_aa.py [--trials 1000] [--runs FOLDER] [--out reports/statistics]

armor-nano (temperature 1) and the mock answer every question of the embedded profile with two seeds. Two things are
read off: the verdict of `compare` on the two runs, and that of many pairs of runs drawn from them. Such a pair draws
groups with replacement and tosses a coin for each which run is the base, so that there is no true difference whatever
the two runs scored; drawing 4 or 16 times as many groups shows what a larger benchmark would give.

Legend: C groups, S sums of a score.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
from stats_report import share, table

from armor_eval.cli.understanding import Suite
from armor_eval.compare.gate import compare, judge
from armor_eval.compare.policy import Policy
from armor_eval.compare.record import MetricResult
from armor_eval.compare.sources import find
from armor_eval.engine import Processes, Settings
from armor_eval.models import registry
from armor_eval.models.base import Decoding
from armor_eval.profiles import profile_of
from armor_eval.stats.composite import ClusterSums, Composite
from armor_eval.stats.paired import compare_sums
from armor_eval.tasks.formulas import composites_for
from armor_eval.tasks.understanding.declare import choose
from armor_eval.tasks.understanding.judge import make_judges
from armor_eval.tasks.understanding.task import Options

SEEDS = (1, 2)
FACTORS = (1, 4, 16)
"""Sizes of the drawn benchmark, in times the real one."""
VERDICTS = ("PASS", "INCONCLUSIVE", "REGRESSION")


def measure(model: str, benches: str, folder: Path, seed: int) -> Path:
    """Bundles of one model under a folder; finished ones are kept."""
    chosen = choose([benches])
    decoding = Decoding(max_new_tokens=profile_of("shapes").understanding_tokens, temperature=1.0, seed=seed)
    settings = Settings("shapes", ["stats_aa"], decoding, batch_size=64)
    judges, adapter = make_judges("shapes", None, chosen), registry.load(model, "shapes")
    out = folder if len(chosen) > 1 else folder / chosen[0].name
    Suite(chosen, Options(), settings, judges, Processes(), out, False).measure(adapter)
    adapter.close()
    return folder


def drawn_pair(arms: list[np.ndarray], clusters: int, rng: np.random.Generator) -> list[ClusterSums]:
    """Two exchangeable runs of so many groups, from the sums [C, S] of two real ones."""
    rows, swapped = rng.integers(0, len(arms[0]), clusters), (rng.random(clusters) < 0.5)[:, None]
    names = tuple(map(str, range(clusters)))
    first, second = (arm[rows] for arm in arms)
    return [ClusterSums(names, np.where(swapped, x, y), clusters) for x, y in ((second, first), (first, second))]


def verdicts_of(pair: list[ClusterSums], composite: Composite, tolerances: tuple[float, ...]) -> list[str]:
    """The gate's verdict on one number that stands alone (Holm over one p-value is that value), by tolerance."""
    got = compare_sums(*pair, composite, resamples=0)
    row = MetricResult(
        name=composite.name,
        unit=composite.unit,
        direction=composite.direction,
        primary=True,
        base=got.base,
        candidate=got.candidate,
        delta=got.delta,
        ci95=got.ci95,
        p=got.p,
        p_holm=got.p,
        test=got.test,
    )
    return [judge(row.model_copy(update={"tolerance": tolerance}))[0] for tolerance in tolerances]


def drawn_verdicts(runs: list[Path], trials: int, seed: int = 0, factors: tuple[int, ...] = FACTORS) -> list[dict]:
    """Shares of each verdict over many pairs drawn from two runs, a row a benchmark and size; tolerance 0 and default.

    At tolerance 0 a REGRESSION is as likely as it can be; the default tolerance is what a user gets.
    """
    rows = []
    for first, second in zip(*(sorted(find(run), key=lambda s: s.run.benchmark) for run in runs), strict=True):
        bench = first.run.benchmark
        composite = next(c for c in composites_for(bench) if c.primary)
        arms = [composite.cluster_sums(side.items.values()).sums_CS for side in (first, second)]
        tolerance = Policy().tolerance_of(bench, composite.name, composite.unit)
        rng = np.random.default_rng([seed, zlib.crc32(f"{first.run.model.name} {bench}".encode())])
        for factor in factors:
            counts, at_zero = dict.fromkeys(VERDICTS, 0), 0
            for _ in range(trials):
                pair = drawn_pair(arms, factor * len(arms[0]), rng)
                usual, strictest = verdicts_of(pair, composite, (tolerance, 0.0))
                counts[usual] += 1
                at_zero += strictest == "REGRESSION"
            shares = {name: n / trials for name, n in counts.items()}
            rows.append(
                {
                    "model": first.run.model.name,
                    "benchmark": bench,
                    "clusters": factor * len(arms[0]),
                    "changed": float(np.mean(np.any(arms[0] != arms[1], axis=1))),
                    "tolerance": tolerance,
                    "regression_at_0": at_zero / trials,
                    "trials": trials,
                    **shares,
                }
            )
    return rows


def real_verdicts(runs: list[Path]) -> list[dict]:
    """What `compare` says of the two runs themselves."""
    found = compare(*runs, Policy())
    return [
        {
            "model": b.base.model,
            "benchmark": b.benchmark,
            "verdict": b.verdict,
            "base": m.base,
            "candidate": m.candidate,
            "delta": m.delta,
            "ci95": m.ci95,
            "p_holm": m.p_holm,
            "n": m.n,
        }
        for b in found.benchmarks
        for m in [b.primary]
    ]


def markdown(found: dict) -> str:
    lines = [
        "# A/A: the same model, another seed",
        "",
        f"Made by `python tests/stats/stats_aa.py`: {found['trials']:,} drawn pairs a row, shares in percent with the "
        "simulation's own 95 % interval. Temperature 1, seeds 1 and 2, embedded profile; default policy; armor-nano "
        f"{found['fingerprint'][:8]}.",
        "",
        "## The two runs themselves",
        "",
    ]
    lines += table(
        ["model", "benchmark", "seed 1", "seed 2", "difference, 95 %", "verdict"],
        [
            [
                r["model"],
                r["benchmark"],
                f"{r['base']:.1f}",
                f"{r['candidate']:.1f}",
                f"{r['delta']:+.2f} [{r['ci95'][0]:+.2f}, {r['ci95'][1]:+.2f}]",
                r["verdict"],
            ]
            for r in found["real"]
        ],
    )
    lines += ["## Pairs drawn from them", ""]
    lines += ["`at 0`: REGRESSION where nothing is tolerated (nominal 2.5 or below).", ""]
    lines += table(
        ["model", "benchmark", "groups", "differ", "tolerance", "REGRESSION at 0", *VERDICTS],
        [
            [
                r["model"],
                r["benchmark"],
                f"{r['clusters']:,}",
                f"{r['changed']:.0%}",
                f"{r['tolerance']:g}",
                share(r, "regression_at_0"),
                *(share(r, v) for v in VERDICTS),
            ]
            for r in found["drawn"]
        ],
    )
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--bench", default="all")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "armor-aa")
    parser.add_argument("--out", type=Path, default=Path("reports/statistics"))
    options = parser.parse_args()
    found: dict = {"trials": options.trials, "seeds": SEEDS, "real": [], "drawn": []}
    for model, benches in (("armor-nano", options.bench), ("mock", "POPE,SEED")):
        runs = [measure(model, benches, options.runs / f"{model}-{seed}", seed) for seed in SEEDS]
        found.setdefault("fingerprint", find(runs[0])[0].run.model.fingerprint)  # of the first: armor-nano
        found["real"] += real_verdicts(runs)
        found["drawn"] += drawn_verdicts(runs, options.trials)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "aa.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.out / "aa.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
