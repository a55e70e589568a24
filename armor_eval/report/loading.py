"""Finds and reads the bundles that a table or a page is made of, and says in one line what does not fit together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from armor_eval.profiles import profile_of
from armor_eval.runs.bundle import as_found, find_runs, read_head
from armor_eval.runs.comparable import HONESTY, with_known
from armor_eval.runs.journal import changed_files, check_journal, read_journal
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import Item, Metric, Point, Run, Scores
from armor_model.base.errors import UserError


@dataclass(frozen=True)
class RunView:
    """A bundle as its readers see it: head in memory, items and series on demand."""

    path: Path
    run: Run
    scores: Scores | None
    damage: str | None = None
    """What of the run's files is missing or torn, in words."""

    def items(self) -> list[Item]:
        """The journal's records, in its order."""
        by_id, _ = read_journal(self.path / "items.jsonl")
        return list(by_id.values())

    def series(self) -> list[Point]:
        """Points of series.jsonl, empty where the run has none. A torn last line is left out."""
        file = self.path / "series.jsonl"
        return list(_points(file)) if file.is_file() else []

    def metric(self, name: str) -> Metric | None:
        return next((m for m in self.scores.metrics if m.name == name), None) if self.scores else None

    @property
    def primary(self) -> Metric | None:
        return next((m for m in self.scores.metrics if m.primary), None) if self.scores else None

    @property
    def who(self) -> str:
        """The model, and whether its eyes were shut: a blind run must never read as the model's own."""
        name = self.run.model.name
        if self.run.extras.get("blind"):
            return f"{name}, blind"
        control = self.run.protocol.get("answers")  # interleaved: what a baseline leaves of the model's answers
        return name if control is None else control if control == "constant" else f"{name}, {control}"

    @property
    def label(self) -> str:
        """Benchmark and model, with the profile's label."""
        return f"{self.run.benchmark}{profile_of(self.run.profile).label}, {self.who}"


def _points(file: Path) -> Iterator[Point]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Point.model_validate_json(line)
            except ValidationError as error:
                raise UserError(f"{file} line {number} is damaged: {error.errors()[0]['msg']}") from error


def load_runs(paths: Iterable[Path]) -> list[RunView]:
    """Bundles at or below the given folders, in a stable order, each once. Raises UserError when there are none.

    A run inside a run is refused too. What a calibration among them says of a judge stands with all its runs.
    """
    paths = list(paths)
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"no such run: {path}", "give the folder that a measuring command wrote (--out)")
        run_folders = find_runs(path)
        if not run_folders:
            raise UserError(f"no runs in {path}: no run.json there or below", "measure first, e.g. armor-eval demo")
        folders.update({f.resolve(): f for f in run_folders})
    if not folders:
        raise UserError("no runs given", "give at least one folder that a measuring command wrote")
    views = [load_run(folder) for folder in folders.values()]
    calibrations = [view.run for view in views if view.run.benchmark == HONESTY]
    return [replace(view, run=with_known(view.run, calibrations)) for view in views] if calibrations else views


def load_run(folder: Path) -> RunView:
    """One bundle; `partial` where its journal holds fewer items than its scores are of. Raises UserError."""
    run, scores = read_head(folder)
    edited = changed_files(folder, run)
    damage = f"was changed after it was measured ({', '.join(edited)})" if edited else None
    if scores is None:
        lost = "has no scores.json: none of its numbers is shown" if run.status in ("complete", "partial") else None
        return RunView(folder, run, scores, damage or lost)
    items, dropped = check_journal(folder / "items.jsonl")
    torn = f"has {dropped} torn or repeated lines in items.jsonl: its scores stand without them" if dropped else None
    return RunView(folder, as_found(folder, run, scores, len(items)), scores, damage or torn)


def notices(views: Iterable[RunView]) -> list[str]:
    """One line for whatever a reader must know before comparing: unfinished, subsets, different questions."""
    lines: list[str] = []
    by_bench: dict[tuple[str, str], list[RunView]] = {}
    for view in views:
        run = view.run
        if run.status != "complete":
            why = f": {run.status_reason}" if run.status_reason else ""
            lines.append(f"{run.run_id} ({view.label}) is {run.status}{why}; it carries no verdict.")
        if view.damage:
            lines.append(f"{run.run_id} ({view.label}) in {view.path} {view.damage}.")
        by_bench.setdefault((run.profile, run.benchmark), []).append(view)
    subsets = [(v, v.run.subset) for group in by_bench.values() for v in group if v.run.subset is not None]
    if subsets:
        subset_text = "; ".join(
            f"{v.label} ({s.items} of {s.of_items} items: {s.limit} x {s.rule}, seed {s.seed})" for v, s in subsets
        )
        lines.append(f"Subsets, not compared with full runs: {subset_text}.")
    for what, get in _MUST_AGREE.items():
        differ = []
        for (_, benchmark), group in by_bench.items():
            values = {get(v.run) for v in group}
            if len(values) > 1:
                differ.append(f"{benchmark} ({len(group)} runs: {_listed(values)})")
        if differ:
            lines.append(
                f"Runs differ in {what}: {', '.join(differ)}; "
                "they stand side by side and are never averaged or ranked together."
            )
    return lines


_MUST_AGREE = {
    "data": lambda run: f"{run.data.name} {run.data.sha256[:8]}",
    "protocol": lambda run: ", ".join(f"{k} {v}" for k, v in sorted(protocol_of(run).items())) or "no label",
    "prompts": lambda run: run.prompt_sha256[:8],
    "scorer": lambda run: f"{run.scorer.name} {run.scorer.version}",
    "judge": lambda run: run.judge.name,
}
"""The compared fields that a reader of a table can tell apart by a few words."""


def _listed(values: Iterable[str]) -> str:
    ordered = sorted(values)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def inside(folder: Path, name: str) -> Path | None:
    """The file that a record's path means, only where it lies in the bundle: records are untrusted."""
    try:
        path = (folder / name).resolve()
        root = folder.resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError):
        return None
