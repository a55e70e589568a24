"""How much of a base model's understanding is kept (the paper says ~95 %): score / base score, with paired intervals.

The number and its interval are `armor_eval.stats.retention`'s: what both runs find hard does not count as noise, and
nothing is drawn at random. Defined only where both runs asked the same questions; a question that has no score in one
of them counts in neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from armor_eval.compare.sources import CONTROLS
from armor_eval.runs.bundle import read_bundle, read_head
from armor_eval.runs.schema import Run
from armor_eval.stats import retention as kept
from armor_eval.stats.intervals import interval
from armor_eval.stats.tallies import scored_in_all
from armor_eval.tasks.formulas import primary_of
from armor_model.base.errors import UserError


@dataclass(frozen=True)
class Retention:
    benchmark: str
    base: float
    score: float
    kept: float
    """Percent of the base score."""
    ci95: tuple[float, float] | None


def retention(base: Path, runs: list[Path]) -> tuple[list[Retention], Retention]:
    """Per benchmark, and their unweighted mean. `base` is a bundle or a folder of bundles.

    Raises UserError where a benchmark has no base run, the two asked different questions, or one has no headline.
    """
    heads = [read_head(path)[0] for path in runs]
    base_runs = base_of(base, [run.benchmark for run in heads])
    parts = []
    for path in runs:
        run, items, scores = read_bundle(path)
        base_path, base_run = base_runs[run.benchmark]
        _, base_items, base_scores = read_bundle(base_path)
        sides = ((path, scores, run.status, items), (base_path, base_scores, base_run.status, base_items))
        for name, found, status, held in sides:
            if found is None or status != "complete":
                raise UserError(f"{name} is {status}: retention needs complete runs")
            if len(held) != found.expected_items:
                raise UserError(f"{name} holds {len(held)} of {found.expected_items} items: retention needs them all")
        _same_questions(run, base_run, path, base_path)
        composite = primary_of(run)
        own, theirs = scored_in_all({it.id: it for it in items}, {it.id: it for it in base_items})
        sums = composite.cluster_sums(own), composite.cluster_sums(theirs)
        parts.append(kept.Part(run.benchmark, run.data.name, composite, *sums))
    rows = [Retention(part.benchmark, *_scores(part), *_kept([part])) for part in parts]
    return rows, Retention("mean", float("nan"), float("nan"), *_kept(parts))


def base_of(base: Path, benchmarks: Sequence[str]) -> dict[str, tuple[Path, Run]]:
    """Benchmark -> the base's run of it, without its controls. UserError where one is missing or not complete: asked
    before measuring too."""
    found = {}
    for path, run in find_bundles(base):
        if path == base or not (run.extras.get("blind") or path.name.endswith(CONTROLS)):
            found[run.benchmark] = (path, run)
    for name in benchmarks:
        if name not in found:
            raise UserError(f"{base} holds no run of {name}", f"it holds {', '.join(found) or 'none'}")
        path, run = found[name]
        if run.status != "complete":
            raise UserError(f"{path} is {run.status}: retention needs complete runs")
    return found


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
    return [(path, read_head(path)[0]) for path in paths]


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
