"""How much of a base model's understanding is kept (the paper says ~95 %): score / base score, with paired intervals.

Clusters are resampled for both runs at once, so that what both find hard does not count as noise. Defined only where
both runs asked the same questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from armor_eval.errors import UserError
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import Item, Run
from armor_eval.stats.composite import Composite, composites_for
from armor_eval.stats.resample import bootstrap_sums
from armor_eval.understanding.declare import benchmarks

RESAMPLES = 2000


@dataclass(frozen=True)
class Retention:
    benchmark: str
    base: float
    score: float
    kept: float
    """Percent of the base score."""
    ci95: tuple[float, float] | None


def retention(base: Path, runs: list[Path], seed: int = 0) -> tuple[list[Retention], Retention]:
    """Per benchmark, and their unweighted mean. `base` is a bundle or a folder of bundles.

    Raises UserError where a benchmark has no base run, the two asked different questions, or one has no headline.
    """
    base_runs = {run.benchmark: (path, run) for path, run in find_bundles(base)}
    rows, resampled = [], []
    for path in runs:
        run, items, scores = read_bundle(path)
        if run.benchmark not in base_runs:
            raise UserError(f"{base} holds no run of {run.benchmark}", f"it holds {', '.join(base_runs) or 'none'}")
        base_path, base_run = base_runs[run.benchmark]
        _, base_items, base_scores = read_bundle(base_path)
        for name, found, status in ((path, scores, run.status), (base_path, base_scores, base_run.status)):
            if found is None or status != "complete":
                raise UserError(f"{name} is {status}: retention needs complete runs")
        _same_questions(run, base_run, path, base_path)
        composite = next(c for c in composites_for(benchmarks()[run.benchmark].composite) if c.primary)
        row, ratios = _ratio(run.benchmark, composite, items, base_items, seed)
        rows.append(row)
        resampled.append(ratios)
    mean = float(np.mean([row.kept for row in rows]))
    spread = np.mean(resampled, axis=0)
    usable = spread[np.isfinite(spread)]
    ci95 = _ends(usable) if len(usable) == RESAMPLES else None
    return rows, Retention("mean", float("nan"), float("nan"), mean, ci95)


def find_bundles(folder: Path) -> list[tuple[Path, Run]]:
    """The bundle itself, or those one level below."""
    paths = [folder] if (folder / "run.json").is_file() else sorted(p.parent for p in folder.glob("*/run.json"))
    if not paths:
        raise UserError(f"{folder} holds no run")
    return [(path, read_bundle(path)[0]) for path in paths]


def _same_questions(run: Run, base: Run, path: Path, base_path: Path) -> None:
    for name, mine, theirs in (
        ("data", run.data.sha256, base.data.sha256),
        ("subset", run.subset, base.subset),
        ("profile", run.profile, base.profile),
        ("prompts", run.prompt_sha256, base.prompt_sha256),
        ("judge", run.judge, base.judge),
    ):
        if mine != theirs:
            raise UserError(f"{path} and {base_path} differ in {name}: what is kept cannot be told")


def _ratio(
    name: str, composite: Composite, items: list[Item], base_items: list[Item], seed: int
) -> tuple[Retention, np.ndarray]:
    """The kept share in percent and its bootstrap replicates (R,)."""
    mine, theirs = composite.cluster_sums(items), composite.cluster_sums(base_items)
    if mine.clusters != theirs.clusters:
        raise UserError(f"{name}: the two runs measured different groups, retention needs the same")
    columns = mine.sums_CS.shape[1]
    both = np.concatenate([mine.sums_CS, theirs.sums_CS], axis=1)
    replicates = bootstrap_sums(both, RESAMPLES, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = 100.0 * composite.formula(replicates[:, :columns]) / composite.formula(replicates[:, columns:])
    score, base = (float(composite.formula(side.sums_CS.sum(axis=0))) for side in (mine, theirs))
    if not base > 0:
        raise UserError(f"{name}: the base run scores {base:.1f}, nothing can be kept of it")
    ci95 = _ends(ratios) if np.isfinite(ratios).all() else None
    return Retention(name, base, score, 100.0 * score / base, ci95), ratios


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
