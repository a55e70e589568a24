"""Result tables of a page: the runs' headline numbers first, then each run's slices. No printed value stands here."""

from __future__ import annotations

from collections.abc import Sequence

from armor_eval.profiles import profile_of
from armor_eval.report.doc import Doc, interval_text, value_text
from armor_eval.report.loading import RunView
from armor_eval.report.tables import Footnotes
from armor_eval.runs.comparable import COMPARED, differing
from armor_eval.runs.schema import Item
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
