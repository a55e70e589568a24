"""Plots as SVG text for the page: Okabe-Ito colours with a marker or a dash of their own, axes named with units.

Text and axes are drawn in the page's own text colour (`currentColor`), so that a plot is readable in dark and in light.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.profiles import EMBEDDED
from armor_eval.report.claims import find, incomparable, load_claims, row_of_model
from armor_eval.report.loading import RunView
from armor_eval.runs.schema import Metric
from armor_model.base.jsons import JsonObject
from armor_model.base.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour while matplotlib draws; replaced in the SVG."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette without black and yellow, which vanish on dark or on white."""
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


@dataclass(frozen=True)
class Plot:
    title: str
    svg: str
    text: str
    """The same in words, for who cannot see it."""


def draw(size: tuple[float, float], paint: Callable[[Figure], None], salt: str) -> str:
    """An SVG of a figure, equal for equal data: no date, ids derived from `salt` so that no two plots share them."""
    import matplotlib

    style: JsonObject = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": 10,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": INK,
        "grid.alpha": 0.15,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):  # type: ignore[arg-type]  # its keys are a Literal of 300 names
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    width = round(size[0] * 96)  # CSS pixels: text keeps the size it was drawn in, the page may shrink it
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        rf'<svg viewBox="\1" role="img" style="max-width:{width}px" xmlns:xlink="http://www.w3.org/1999/xlink">',
        svg,
        count=1,
    )
    # Ids of matplotlib's fixed groups (axes_1, figure_1 ...) recur in every figure; nothing refers to them.
    svg = re.sub(r'<g id="[a-z]+\d*_\d+">', "<g>", svg)
    return visible(re.sub(r" id=\"(figure_1|axes_1|patch_\d+)\"", "", svg).replace(INK, "currentColor"))


def plots(views: Sequence[RunView]) -> list[Plot]:
    """Everything the runs have to show: headlines, GenEval's tasks, the confusion of modalities, curves."""
    all_plots = [_headlines(views), _tasks(views)]
    all_plots += [_confusion(v) for v in views if v.run.kind == "modality"]
    all_plots += [c for v in views for c in curves(v)]
    return [p for p in all_plots if p is not None]


def _headlines(views: Sequence[RunView]) -> Plot | None:
    """Primary metrics as intervals, by unit; the paper's printed value beside a comparable run."""
    headlines = [(v, v.primary) for v in views if v.primary is not None and v.primary.value is not None]
    if not headlines:
        return None
    units = list(dict.fromkeys(m.unit for _, m in headlines))
    printed = {v.run.run_id: value for v, m in headlines if (value := _printed(v, m)) is not None}

    def paint(figure: Figure) -> None:
        axes = figure.subplots(
            len(units), 1, squeeze=False, height_ratios=[1 + sum(m.unit == u for _, m in headlines) for u in units]
        )
        for axis, unit in zip(axes[:, 0], units, strict=True):
            rows = [(v, m) for v, m in headlines if m.unit == unit]
            for y, (view, metric) in enumerate(rows):
                index = 0 if view.run.profile == "official" else 1
                if metric.ci95 is not None:
                    axis.plot(metric.ci95, [y, y], color=COLORS[index], lw=2, solid_capstyle="butt")
                axis.plot([metric.value], [y], MARKERS[index], color=COLORS[index], ms=6)
                if view.run.run_id in printed:
                    axis.plot([printed[view.run.run_id]], [y], "x", color=INK, ms=8, mew=2)
            axis.set_yticks(range(len(rows)), [f"{v.label}: {m.name}"[:70] for v, m in rows])
            axis.invert_yaxis()
            axis.set_ylim(len(rows) - 0.4, -0.6)
            axis.grid(axis="x")
            axis.set_xlabel(_unit(unit))

    caption = "; ".join(
        f"{v.label} {m.name} {m.value:.4g}" + (f" [{m.ci95[0]:.4g}, {m.ci95[1]:.4g}]" if m.ci95 else "")
        for v, m in headlines
    )
    title = (
        "Headline numbers with 95 % intervals (circles official, squares "
        f"{EMBEDDED} profile; cross: printed in the paper)"
    )
    return Plot(title, draw((7.5, 0.9 * len(units) + 0.34 * len(headlines)), paint, _salt(caption)), caption)


def _printed(view: RunView, metric: Metric) -> float | None:
    """The paper's value for a comparable run of one of its models."""
    for table in load_claims().tables:
        for column in table.columns:
            if (
                find([view], column)
                and metric.name in {s.metric for s in column.sources}
                and incomparable(view.run, column) is None
            ):
                row = row_of_model(table, [view.run.model.name, view.run.model.spec])
                if row is not None and (printed := row.printed[column.key]) is not None:
                    return float(printed)
    return None


def _tasks(views: Sequence[RunView]) -> Plot | None:
    """GenEval's six tasks, a series a run."""
    tasks = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    runs = [v for v in views if v.run.benchmark == "geneval" and v.scores and any(v.metric(t) for t in tasks)][
        : len(COLORS)
    ]
    if not runs:
        return None

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        for k, view in enumerate(runs):
            xs, ys = [], []
            for i, task in enumerate(tasks):
                metric = view.metric(task)
                if metric is None or metric.value is None:
                    continue
                xs.append(i + (k - (len(runs) - 1) / 2) * 0.12)
                ys.append(metric.value)
                if metric.ci95:
                    axis.plot([xs[-1]] * 2, metric.ci95, color=COLORS[k], lw=1.5)
            axis.plot(xs, ys, MARKERS[k], color=COLORS[k], label=view.label)
        axis.set_xticks(range(len(tasks)), [t.replace("_", " ") for t in tasks])
        axis.set_ylabel("share of pictures that are right")
        axis.set_ylim(-0.02, 1.02)
        axis.grid(axis="y")
        axis.legend(loc="upper right")

    caption = "; ".join(
        f"{v.label}: " + ", ".join(f"{t} {m.value:.2f}" for t in tasks if (m := v.metric(t)) and m.value is not None)
        for v in runs
    )
    return Plot(
        "GenEval by task, with 95 % intervals clustered by prompt", draw((7.5, 3.4), paint, _salt(caption)), caption
    )


def _confusion(view: RunView) -> Plot | None:
    """Wanted modality against given, from the run's own table in extras."""
    table = view.run.extras.get("confusion")
    if not isinstance(table, dict) or not table.get("counts"):
        return None
    counts = np.asarray(table["counts"], dtype=float)

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
        for (i, j), n in np.ndenumerate(counts):
            axis.text(j, i, f"{int(n)}", ha="center", va="center", color="#000000" if share[i, j] < 0.75 else "#ffffff")
        axis.set_xticks(range(counts.shape[1]), table["given"])
        axis.set_yticks(range(counts.shape[0]), table["wanted"])
        axis.set_xlabel("answered with")
        axis.set_ylabel("request wants")

    caption = "; ".join(
        f"wants {w}: " + ", ".join(f"{g} {int(n)}" for g, n in zip(table["given"], row, strict=True))
        for w, row in zip(table["wanted"], counts, strict=True)
    )
    svg = draw((5.2, 0.9 + 0.5 * len(counts)), paint, _salt(view.run.run_id + caption))
    return Plot(f"{view.label}: requests by what was wanted and given (counts)", svg, caption)


def curves(view: RunView) -> list[Plot]:
    """Every named series of a run against steps; arms of equal name but seed are drawn as mean and range."""
    names: dict[str, dict[str, dict[str, list[tuple[int, float]]]]] = {}
    for point in view.series():
        arm, _, seed = (point.arm or "").partition("/")
        names.setdefault(point.name, {}).setdefault(arm, {}).setdefault(seed, []).append((point.step, point.value))
    return [_curve(view, name, arms) for name, arms in names.items()]


SERIES = {
    "eval/image": ("held-back image loss as printed, each head over its own vocabulary", "nats a token"),
    "eval/image_renormalised": ("held-back image loss, softmax over the image tokens only", "nats a token"),
    "eval/text": ("held-back text loss", "nats a token"),
    "eval/drawing": ("drawings of held-out prompts that are right", "share of pictures"),
    "loss/image": ("training image loss as printed", "nats a token"),
    "loss/text": ("training text loss", "nats a token"),
}
"""Name of a series -> (title, axis label)."""


def _curve(view: RunView, name: str, arms: dict[str, dict[str, list[tuple[int, float]]]]) -> Plot:
    drawn = list(arms.items())[: len(COLORS)]
    title, label = SERIES.get(name, (name, name))
    if view.run.kind == "ablate-heads" and name != "eval/drawing":
        title = f"Figure 7, {title}"

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axis = figure.subplots()
        for k, (arm, seeds) in enumerate(drawn):
            steps, values_RS = aligned(list(seeds.values()))
            mean = values_RS.mean(axis=0)
            axis.plot(
                steps,
                mean,
                ls=DASHES[k],
                color=COLORS[k],
                label=arm or None,
                marker=MARKERS[k] if len(steps) < 12 else None,
            )
            if len(values_RS) > 1:
                axis.fill_between(steps, values_RS.min(axis=0), values_RS.max(axis=0), color=COLORS[k], alpha=0.2, lw=0)
        axis.set_xlabel("optimizer step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylabel(label)
        if label.startswith("share"):
            axis.set_ylim(-0.02, 1.02)
        axis.grid()
        if any(arm for arm, _ in drawn):
            axis.legend()

    caption = "; ".join(
        f"{arm or name}: {len(seeds)} run(s), last {next(iter(seeds.values()))[-1][1]:.4g}" for arm, seeds in drawn
    )
    seeds = max(len(s) for _, s in drawn)
    band = f" (mean and range of {seeds} seeds)" if seeds > 1 else ""
    return Plot(
        f"{view.run.benchmark}: {title}{band}",
        draw((7.5, 3.2), paint, _salt(view.run.run_id + name + caption)),
        caption,
    )


def aligned(series: list[list[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps that all seeds share, and their values [runs, steps]."""
    tables = [dict(s) for s in series]
    steps = sorted(set.intersection(*(set(t) for t in tables)))
    return np.array(steps), np.array([[t[s] for s in steps] for t in tables])


def _unit(unit: str) -> str:
    return {"%": "per cent", "score": "score (0 to 1)", "grade": "grade of a judge"}.get(unit, unit)


def _salt(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
