"""Table of the variance between repeats: sampled runs that differ in their seeds alone, also where they were measured
by commands apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from armor_eval.report.doc import Doc, interval_text, value_text
from armor_eval.report.loading import RunView
from armor_eval.runs.comparable import differing
from armor_eval.runs.schema import Metric, Run, decoding_of
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none


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
    """The repeats among any runs: complete, sampled, alike in all that is compared, of one model, each of another
    seed."""
    groups: list[list[RunView]] = []
    for view in views:
        if view.run.status != "complete" or view.primary is None or not _sampled(view.run):
            continue
        alike = next((group for group in groups if _repeat(group[0].run, view.run)), None)
        if alike is None:
            groups.append([view])
        elif _seeds(view.run) not in [_seeds(other.run) for other in alike]:
            alike.append(view)
    return [repeated(group) for group in groups if len(group) > 1]


def _repeat(a: Run, b: Run) -> bool:
    return a.model.fingerprint == b.model.fingerprint and not differing(a, b)


def _sampled(run: Run) -> bool:
    names = ("temperature",) if run.kind == "understanding" else ("temperature", "image_temperature")
    return any(decoding_of(run).get(name) for name in names)


def _seeds(run: Run) -> tuple[object, ...]:
    return (run.decoding.get("seed"), *sorted(run.seeds.items()))
