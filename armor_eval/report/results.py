"""Result tables of a page: the runs' headline numbers first, then each run's slices. No printed value stands here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from armor_eval.profiles import profile_of
from armor_eval.report.doc import Doc, interval_text, value_text
from armor_eval.report.loading import RunView
from armor_eval.report.tables import Footnotes
from armor_eval.runs.comparable import COMPARED, differing
from armor_eval.runs.schema import Item, Metric, Run, decoding_of
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none

CONTROLS = ("blind", "constant")
"""Baselines that a score is held against: the model without images, one answer to everything."""
FEWEST_SLICES = 2
MOST_SLICES = 60


def results_doc(views: Sequence[RunView]) -> Doc | None:
    """A row a run with its headline number; beside it what the baselines scored on the same questions."""
    headlined = [v for v in views if v.primary is not None]
    if not headlined:
        return None
    notes = Footnotes()
    real = [v for v in headlined if control_of(v) is None] or headlined
    beside = [name for name in CONTROLS if any(control_of(v) == name for v in headlined) and real is not headlined]
    controls = [name.capitalize() for name in beside]
    doc = Doc(
        "results",
        "Results",
        "Headline numbers with 95 % intervals that resample what belongs together. Unread answers count as wrong, lost "
        "ones are not counted.",
        ["Benchmark", "Model", "Score", "95 % interval", *controls, "n", "Clusters", "Unread", "Lost"],
        text_columns=2,
    )
    for view in real:
        metric, run = not_none(view.primary), view.run
        tally = not_none(view.scores).counts
        label = f"{run.benchmark}{profile_of(run.profile).label}"
        lost = tally.get("judge_failed", 0) + tally.get("error", 0)
        counts = (metric.n, metric.clusters, tally.get("unparsed", 0), lost)
        scores = (value_text(metric), interval_text(metric), *(_control_text(view, headlined, name) for name in beside))
        doc.add([f"{label}{notes.reservations(run)}", view.who, *scores, *(f"{count:,}" for count in counts)])
    doc.notes = notes.lines()
    return doc


def slices_doc(view: RunView) -> Doc | None:
    """Mean item score by category of one run, the lowest first; None where its items have no categories."""
    groups: dict[str, list[Item]] = {}
    for item in view.items():
        if item.group and item.score is not None:
            groups.setdefault(item.group, []).append(item)
    if not FEWEST_SLICES <= len(groups) <= MOST_SLICES:
        return None
    from armor_eval.stats.composite import accuracy, measure

    binary = all(0 <= not_none(item.score) <= 1 for items in groups.values() for item in items)
    if not binary:  # a judge's marks out of ten are no shares
        return None
    metrics = {group: measure(items, accuracy(group)) for group, items in groups.items()}
    doc = Doc(
        f"slices-{view.run.run_id}",
        f"{view.label} by category",
        "Mean score of single items, not of whole groups or pairs; never the benchmark's own number.",
        ["Category", "Score", "95 % interval", "n"],
    )
    for group, metric in sorted(metrics.items(), key=lambda pair: pair[1].value or 0.0):
        doc.add([group, value_text(metric), interval_text(metric), f"{metric.n:,}"])
    return doc


def control_of(view: RunView) -> str | None:
    """`blind` or `constant` where the run is a baseline, by how it was asked and by where `--baselines` put it."""
    if view.run.extras.get("blind"):
        return "blind"
    return "constant" if view.path.name.endswith("-constant") else None


def _control_text(view: RunView, views: Sequence[RunView], name: str) -> str:
    """The baseline's score on the same questions; a blind one is asked in other words by its nature.

    The reservations of the row are printed with it; a baseline need not share those of how the model was asked.
    """
    same = {f for f in COMPARED if f not in ("extras.blind", "prompt_sha256", "decoding", "reservations")}
    for other in views:
        own_label = {"protocol"} if other.run.protocol.get("answers") == name else set()  # that it is this baseline
        if control_of(other) == name and not differing(view.run, other.run, same - own_label):
            return value_text(not_none(other.primary))
    return "-"


# --- the variance between repeats: sampled runs that differ in their seeds alone, also measured by commands apart ----


@dataclass(frozen=True)
class Repeated:
    """The primary number of one benchmark over its repeats; no mean where a repeat's number is withheld."""

    views: Sequence[RunView]
    mean: Metric
    """With the interval over questions and seeds."""
    draws: Metric
    """The same with the interval over the seeds alone, on these questions."""
    sd: Metric
    """The standard deviation between repeats."""
    values: list[float | None]

    def record(self) -> JsonObject:
        """As `--json` shows it."""
        return {
            "benchmark": self.views[0].run.benchmark,
            "unit": self.mean.unit,
            "values": self.values,
            "mean": self.mean.value,
            "sd": self.sd.value,
            "ci95": self.draws.ci95,
            "ci95_over_both": self.mean.ci95,
        }


def repeated(views: Sequence[RunView]) -> Repeated:
    """What varies between runs that are repeats of one another."""
    from armor_eval.stats.repeats import between, over_both
    from armor_eval.tasks.formulas import primary_of

    metrics = [not_none(view.primary) for view in views]
    values = [metric.value for metric in metrics]
    none = metrics[0].model_copy(update={"value": None, "ci95": None, "note": "withheld in a repeat"})
    had = [value for value in values if value is not None]
    if len(had) < len(values) or len(had) < 2:
        return Repeated(views, none, none, none, values)
    spread, composite = between(had), primary_of(views[0].run)
    both = over_both([composite.cluster_sums(view.items()) for view in views], composite)
    draws = none.model_copy(update={"value": spread.mean, "ci95": spread.ci95, "note": None})
    sd = none.model_copy(update={"value": spread.sd, "note": None})
    return Repeated(views, draws.model_copy(update={"ci95": both}), draws, sd, values)


def repeats_doc(groups: Sequence[Repeated]) -> Doc:
    """A row a benchmark and model."""
    doc = Doc(
        "repeats",
        "Between seeds",
        "The same questions, other draws. The interval of the mean counts both, questions and seeds; what the seeds "
        "alone leave open on these questions stands beside it.",
        ["Benchmark", "Model", "Mean", "95 % interval", "SD between seeds", "Of seeds alone", "Seeds"],
        text_columns=2,
    )
    for one in groups:
        view = one.views[0]
        alone = interval_text(one.draws) if one.sd.value else "-"  # without spread it would have no width
        texts = [value_text(one.mean), interval_text(one.mean), value_text(one.sd), alone]
        doc.add([view.run.benchmark, view.who, *texts, str(len(one.values))])
    return doc


def by_benchmark(views: Sequence[RunView]) -> list[Repeated]:
    """What a command that was told to repeat has measured."""
    names = dict.fromkeys(view.run.benchmark for view in views)
    return [repeated([view for view in views if view.run.benchmark == name]) for name in names]


def found(views: Sequence[RunView]) -> list[Repeated]:
    """The repeats among any runs: complete, sampled, of one model, comparable, each of another seed."""
    groups: list[list[RunView]] = []
    for view in views:
        if view.run.status != "complete" or view.primary is None or not _sampled(view.run):
            continue
        same = (g for g in groups if g[0].run.model.fingerprint == view.run.model.fingerprint)
        alike = next((g for g in same if not differing(g[0].run, view.run)), None)
        if alike is None:
            groups.append([view])
        elif _seeds(view.run) not in [_seeds(other.run) for other in alike]:
            alike.append(view)
    return [repeated(group) for group in groups if len(group) > 1]


def _sampled(run: Run) -> bool:
    names = ("temperature",) if run.kind == "understanding" else ("temperature", "image_temperature")
    return any(decoding_of(run).get(name) for name in names)


def _seeds(run: Run) -> tuple[object, ...]:
    return (run.decoding.get("seed"), *sorted(run.seeds.items()))
