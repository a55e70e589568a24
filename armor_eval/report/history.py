"""A score over time: headline numbers of comparable runs by date and commit, as lines of a plot and rows of a table.

    armor-eval history runs --out history

A line joins only runs that `armor_eval.runs.comparable` calls comparable - same questions, words, protocol, scorer,
judge and reservations -, of one model's name unless models are joined on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from armor_eval.profiles import profile_of
from armor_eval.report.doc import Doc, interval_text, value_text
from armor_eval.report.loading import RunView
from armor_eval.report.plots import COLORS, DASHES, MARKERS, Plot, draw
from armor_eval.report.tables import Footnotes
from armor_eval.runs.comparable import differing, reservations_of
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import Metric
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Axis = Literal["date", "commit"]
COMMIT = 10
"""Digits of a commit that are shown."""


@dataclass(frozen=True)
class Dot:
    """One run's number on a line."""

    view: RunView
    metric: Metric
    value: float

    @property
    def commit(self) -> str:
        """Shortened; `+dirty` stays: the commit alone does not say what ran."""
        full, plus, rest = (self.view.run.git_commit or "no commit").partition("+")
        return full[:COMMIT] + plus + rest


@dataclass(frozen=True)
class Series:
    """Comparable runs in the order of their start."""

    dots: list[Dot]
    name: str
    """Benchmark, number and model, with a letter where several lines would be called alike."""


@dataclass(frozen=True)
class History:
    lines: list[Series]
    left_out: list[str]
    """Runs that are on no line, each with its reason."""


def history(
    views: Sequence[RunView], *, metric: str | None = None, join_models: bool = False, controls: bool = False
) -> History:
    """Lines of the runs' headlines, or of the metric of that name, a line for whatever may be compared.

    `join_models`: different models share a line. `controls`: blind and constant baselines are shown too.
    """
    from armor_eval.report.results import control_of

    groups: list[list[Dot]] = []
    left_out: list[str] = []
    for view in sorted(views, key=lambda v: v.run.started):
        chosen = view.metric(metric) if metric is not None else view.primary
        if view.run.kind == "training" or (control_of(view) and not controls):
            continue
        if why := _unfit(view, chosen, metric):
            left_out.append(f"{view.label} ({view.run.run_id}): {why}")
            continue
        assert chosen is not None and chosen.value is not None
        dot = Dot(view, chosen, chosen.value)
        if any(other.view.run.run_id == view.run.run_id for group in groups for other in group):
            continue  # an archived copy
        home = next((g for g in groups if _joins(g[0], dot, join_models)), None)
        groups.append([dot]) if home is None else home.append(dot)
    return History(
        [Series(dots, name) for dots, name in zip(groups, _names(groups, join_models), strict=True)], left_out
    )


def _unfit(view: RunView, metric: Metric | None, wanted: str | None) -> str | None:
    if view.run.status != "complete":
        return f"is {view.run.status}"
    if view.damage:
        return view.damage
    if metric is None:
        return f"has no number {wanted!r}" if wanted else "has no headline"
    return "its number is withheld" if metric.value is None else None


def _joins(first: Dot, other: Dot, join_models: bool) -> bool:
    same = join_models or first.view.who == other.view.who
    return same and first.metric.name == other.metric.name and not differing(first.view.run, other.view.run)


def _names(groups: Sequence[list[Dot]], join_models: bool) -> list[str]:
    plain = []
    for first, *_ in groups:
        run = first.view.run
        who = [] if join_models else [first.view.who]
        plain.append(", ".join([f"{run.benchmark}{profile_of(run.profile).label}", first.metric.name, *who]))
    seen: dict[str, int] = {}
    names = []
    for name in plain:
        seen[name] = seen.get(name, 0) + 1
        names.append(f"{name} #{seen[name]}" if plain.count(name) > 1 else name)
    return names


def history_doc(timeline: History) -> Doc:
    """A row a run, line by line; reservations as letters, and why lines of one name are several."""
    doc = Doc(
        "history",
        "History",
        "Comparable runs only; 95 % intervals. Whether two runs differ is for armor-eval compare.",
        ["Line", "Date", "Commit", "Model", "Score", "95 % interval", "n", "Run"],
        text_columns=4,
    )
    notes = Footnotes()
    for line in timeline.lines:
        for dot in line.dots:
            run = dot.view.run
            model = f"{dot.view.who} {run.model.fingerprint[:8]}{notes.reservations(run)}"
            day = datetime.fromisoformat(run.started).strftime("%Y-%m-%d %H:%M")
            cells = [line.name, day, dot.commit, model, value_text(dot.metric), interval_text(dot.metric)]
            doc.add([*cells, f"{dot.metric.n:,}", run.run_id])
    doc.notes = [*notes.lines(), *_why_apart(timeline.lines), *(f"left out: {line}" for line in timeline.left_out)]
    return doc


def _why_apart(lines: Sequence[Series]) -> list[str]:
    """`POPE, F1, m #1 and #2 differ in prompt_sha256`, for lines of one benchmark and model."""
    notes = []
    for at, line in enumerate(lines):
        base, mark, _ = line.name.rpartition(" #")
        other = next((o for o in lines[:at] if mark and o.name.startswith(f"{base} #")), None)
        if other is not None:
            fields = differing(other.dots[0].view.run, line.dots[0].view.run)
            notes.append(f"{line.name} is not comparable with #{other.name.rpartition('#')[2]}: {', '.join(fields)}")
    return notes


def history_plots(timeline: History, axis: Axis = "date") -> list[Plot]:
    """A plot a benchmark and unit, its lines with their intervals; by date, or evenly spaced by commit."""
    panels: dict[tuple[str, str], list[Series]] = {}
    for line in timeline.lines:
        first = line.dots[0]
        name = f"{first.view.run.benchmark}{profile_of(first.view.run.profile).label}"
        panels.setdefault((name, first.metric.unit), []).append(line)
    return [_panel(name, unit, lines, axis) for (name, unit), lines in panels.items()]


def _panel(benchmark: str, unit: str, lines: Sequence[Series], axis: Axis) -> Plot:
    dots = sorted((dot for line in lines for dot in line.dots), key=lambda dot: dot.view.run.started)
    commits = list(dict.fromkeys(dot.commit for dot in dots))

    def place(dot: Dot) -> Any:
        return commits.index(dot.commit) if axis == "commit" else datetime.fromisoformat(dot.view.run.started)

    def paint(figure: Figure) -> None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

        plot = figure.subplots()
        for k, line in enumerate(lines):
            at, values = [place(dot) for dot in line.dots], [dot.value for dot in line.dots]
            color = COLORS[k % len(COLORS)]
            plot.plot(at, values, DASHES[k % len(DASHES)], color=color, lw=1)
            plot.plot(at, values, MARKERS[k % len(MARKERS)], color=color, ms=6, label=line.name)
            for x, dot in zip(at, line.dots, strict=True):
                if dot.metric.ci95 is not None:
                    plot.plot([x, x], dot.metric.ci95, color=color, lw=2, alpha=0.5, solid_capstyle="butt")
        if axis == "commit":
            plot.set_xticks(range(len(commits)), commits, rotation=30, ha="right")
            plot.set_xlabel("commit, in the order of the runs")
        else:
            first, last = (datetime.fromisoformat(dots[end].view.run.started) for end in (0, -1))
            margin = max((last - first) / 20, timedelta(hours=12))  # one instant has no range to draw
            plot.set_xlim(date2num(first - margin), date2num(last + margin))
            locator = AutoDateLocator(maxticks=8)
            plot.xaxis.set_major_locator(locator)
            plot.xaxis.set_major_formatter(ConciseDateFormatter(locator))
            plot.set_xlabel("start of the run (UTC)")
        plot.set_ylabel(f"{benchmark} ({unit})")
        plot.grid(axis="y")
        figure.legend(loc="outside lower left", fontsize=8)

    caption = "; ".join(f"{dot.view.run.started[:10]} {dot.commit} {value_text(dot.metric)}" for dot in dots)
    return Plot(f"{benchmark} by {axis}", draw((7.5, 3.4 + 0.2 * len(lines)), paint, sha256_text(caption)[:8]), caption)


def history_json(timeline: History) -> JsonObject:
    """The lines as data."""
    lines = [
        {
            "name": line.name,
            "runs": [
                {
                    "run_id": dot.view.run.run_id,
                    "path": str(dot.view.path),
                    "started": dot.view.run.started,
                    "git_commit": dot.view.run.git_commit,
                    "model": dot.view.who,
                    "fingerprint": dot.view.run.model.fingerprint,
                    "metric": dot.metric.model_dump(mode="json"),
                    "protocol": protocol_of(dot.view.run),
                    "reservations": [r.text for r in reservations_of(dot.view.run)],
                }
                for dot in line.dots
            ],
        }
        for line in timeline.lines
    ]
    return {"lines": lines, "left_out": timeline.left_out}
