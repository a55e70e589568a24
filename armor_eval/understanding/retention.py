"""How much of a base model's understanding is kept (the paper says ~95 %): score / base score, with paired intervals.

The number and its interval are `armor_eval.stats.retention`'s: what both runs find hard does not count as noise, and
nothing is drawn at random. Defined only where both runs asked the same questions; a question that has no score in one
of them counts in neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from armor_eval.errors import UserError
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import Run
from armor_eval.stats import retention as kept
from armor_eval.stats.composite import composites_for
from armor_eval.stats.intervals import interval
from armor_eval.stats.tallies import scored_in_all


@dataclass(frozen=True)
class Retention:
    benchmark: str
    base: float
    score: float
    kept: float
    """Percent of the base score."""
    ci95: tuple[float, float] | None


def check_base(base: Path, benchmarks: list[str]) -> None:
    """Raise UserError, before anything is measured, where `base` lacks a run of a benchmark."""
    held = {run.benchmark for _, run in find_bundles(base)}
    missing = [name for name in benchmarks if name not in held]
    if missing:
        raise UserError(
            f"{base} holds no run of {', '.join(missing)}", f"it holds {', '.join(sorted(held)) or 'no run'}"
        )


def retention(base: Path, runs: list[Path]) -> tuple[list[Retention], Retention]:
    """Per benchmark, and their unweighted mean. `base` is a bundle or a folder of bundles.

    Raises UserError where a benchmark has no base run, the two asked different questions, or one has no headline.
    """
    base_runs = {run.benchmark: (path, run) for path, run in find_bundles(base)}
    parts = []
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
        composite = next(c for c in composites_for(run.benchmark) if c.primary)
        own, theirs = scored_in_all({it.id: it for it in items}, {it.id: it for it in base_items})
        sums = composite.cluster_sums(own), composite.cluster_sums(theirs)
        parts.append(kept.Part(run.benchmark, run.data.name, composite, *sums))
    rows = [Retention(part.benchmark, *_scores(part), *_kept([part])) for part in parts]
    return rows, Retention("mean", float("nan"), float("nan"), *_kept(parts))


def _scores(part: kept.Part) -> tuple[float, float]:
    """Of the base and of the run."""
    base, own = (float(part.composite.formula(side.sums_CS.sum(axis=0))) for side in (part.reference, part.own))
    return base, own


def _kept(parts: list[kept.Part]) -> tuple[float, tuple[float, float] | None]:
    try:
        composite, sums = kept.retention(parts)
    except ValueError as error:
        raise UserError(str(error)) from None
    ci95, _ = interval(sums.sums_CS, composite, "jackknife", 0, 0)
    return float(composite.formula(sums.sums_CS.sum(axis=0))), ci95


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
