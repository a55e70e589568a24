"""The record that every export target reads: one run, its numbers with slug and bounds, and what travels with them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from armor_eval.profiles import profile_of
from armor_eval.report.loading import RunView
from armor_eval.report.results import control_of
from armor_eval.runs.comparable import reservations_of
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import Item, Metric, Run
from armor_eval.tasks.formulas import composites_of
from armor_model.base.errors import ArmorError, UserError
from armor_model.base.files import write_file

Bounds = tuple[float | None, float | None]
"""Least and greatest possible value; None = no end on that side."""


@dataclass(frozen=True)
class Result:
    """One number of a run that has a value."""

    metric: Metric
    value: float
    slug: str
    """The metric's name in letters, digits and underscores, unique in the run."""
    bounds: Bounds | None
    """None where they are not known."""


@dataclass(frozen=True)
class Options:
    """What only the user can say about an export."""

    organization: str | None = None
    relationship: str | None = None
    """Of who measured to the model: first_party, third_party, collaborative, other."""
    datasets: tuple[tuple[str, str, str], ...] = ()
    """(benchmark, data set on the Hub, its task) of the runs that go to a leaderboard there."""
    project: str = "armor-eval"
    """Of trackers."""
    items: bool = True


@dataclass(frozen=True)
class Record:
    """A run as the targets see it."""

    view: RunView
    results: list[Result]

    @property
    def run(self) -> Run:
        return self.view.run

    @property
    def benchmark(self) -> str:
        """Its name with the profile's label: `POPE (shapes)` is never taken for POPE."""
        return f"{self.run.benchmark}{profile_of(self.run.profile).label}"

    @property
    def model(self) -> str:
        """The model's name, and which baseline it is of where it is one."""
        control = control_of(self.view)
        return f"{self.run.model.name}, {control}" if control else self.run.model.name

    @property
    def model_id(self) -> str:
        """`organization/name` as on the Hub; `unknown-org/name` where no organization is known."""
        kind, _, rest = self.run.model.spec.partition(":")
        name = rest.partition("@")[0] if kind == "hf" else ""
        known = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith((".", "~"))
        base = name if known else f"unknown-org/{path_part(self.run.model.name)}"
        control = control_of(self.view)
        return f"{base}-{control}" if control else base

    @property
    def primary(self) -> Result | None:
        return next((r for r in self.results if r.metric.primary), None)

    @property
    def reservations(self) -> list[str]:
        """What the numbers must not be read without, one line each."""
        return [r.text for r in reservations_of(self.run)]

    @property
    def remarks(self) -> dict[str, str]:
        """What travels with every number of the run, as words: profile, status, protocol, reservations, subset."""
        run = self.run
        said = {"run_id": run.run_id, "profile": run.profile, "status": run.status, "data_sha256": run.data.sha256}
        said |= {f"protocol_{name}": value for name, value in sorted(protocol_of(run).items())}
        if self.reservations:
            said["reservations"] = "; ".join(self.reservations)
        if run.subset is not None:
            said["subset"] = f"{run.subset.items} of {run.subset.of_items} items"
        if notice := profile_of(run.profile).notice:
            said["notice"] = notice
        if control := control_of(self.view):
            said["baseline"] = control
        return said

    @property
    def command(self) -> str:
        return " ".join(self.run.command)

    @cached_property
    def items(self) -> list[Item]:
        """The run's items; [] where none were kept (an archived run)."""
        return self.view.items() if (self.view.path / "items.jsonl").is_file() else []


def build(views: Sequence[RunView], *, partial: bool = False) -> list[Record]:
    """Records of the runs. Raises UserError for a run that is edited or without scores; and, unless `partial`, for one
    that is not complete or whose headline is withheld. Training runs have no scores and are to be left out before."""
    records = [_record(view, partial) for view in _each_once(views)]
    if not records:
        raise UserError("none of these runs has scores", "give runs that a measuring command wrote")
    return records


def _each_once(views: Sequence[RunView]) -> Iterable[RunView]:
    """Each run once: of a run and its archived copy the one that kept its items. UserError where the two differ."""
    found: dict[str, RunView] = {}
    for view in views:
        other = found.setdefault(view.run.run_id, view)
        if view.scores and other.scores and view.scores.metrics != other.scores.metrics:
            raise UserError(f"{view.path} and {other.path} are one run with two results", "export one of them")
        if not (other.path / "items.jsonl").is_file():
            found[view.run.run_id] = view
    return found.values()


def _record(view: RunView, partial: bool) -> Record:
    run = view.run
    if view.scores is None:
        raise UserError(f"{view.path} has no scores (it is {run.status})", "expected a run that was scored")
    if view.damage and "was changed" in view.damage:
        raise UserError(f"{view.path} {view.damage}", "measure again: an edited record is not exported")
    if not partial:
        why = f" ({run.status_reason})" if run.status_reason else ""
        if run.status != "complete":
            raise UserError(f"{view.path} is {run.status}{why}", "finish it, or say --partial: it is then marked")
        if view.primary is not None and view.primary.value is None:
            why = view.scores.withheld or view.primary.note or "no value"
            raise UserError(f"the headline of {view.path} is withheld: {why}", "say --partial to export the rest")
    shown = [m for m in view.scores.metrics if m.value is not None]
    return Record(view, list(_results(run, shown)))


def _results(run: Run, metrics: Sequence[Metric]) -> Iterable[Result]:
    known = {} if all(metric.bounds for metric in metrics) else _bounds_of(run)
    used: Counter[str] = Counter()
    for metric in metrics:
        name = slug(metric.name)
        used[name] += 1
        name = name if used[name] == 1 else f"{name}_{used[name]}"
        bounds = metric.bounds or known.get(metric.name) or known.get(metric.name.partition(", ")[0])
        assert metric.value is not None
        yield Result(metric, metric.value, name, bounds)


def _bounds_of(run: Run) -> dict[str, Bounds]:
    """Metric -> bounds by the benchmark's composites, for runs of before they were recorded; {} where the benchmark
    has none (ablations), or its recorded declaration cannot be read."""
    from armor_eval.stats.composite import ends

    try:
        return {c.name: ends(c) for c in composites_of(run)}
    except (KeyError, TypeError, ValueError, ArmorError):  # a recorded declaration may be any JSON
        return {}


def slug(name: str) -> str:
    """A metric's name for trackers and keys: `F1, our reading` -> `F1_our_reading`."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "metric"


def path_part(name: str) -> str:
    """An untrusted name as one part of a path: letters, digits, dot, dash; never `..` or empty."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip(".-")[:80] or "unnamed"


def text_of(value: object) -> str:
    """A gold or parsed answer as a string: JSON where it is none."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def write_json(path: Path, value: object) -> Path:
    """An indented JSON file, written whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", sync=False)
    return path


def write_jsonl(path: Path, rows: Iterable[object]) -> Path:
    """A line a row, written whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_file(path, text, sync=False)
    return path
