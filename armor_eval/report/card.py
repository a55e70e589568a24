"""A checkpoint's card: one page of what was measured of it, what it cost, what is reserved, and what nobody measured.

    armor-eval card CHECKPOINT RUN... --out card

Every number is a run's own; a section without a run says so instead of being left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from armor_eval.profiles import OFFICIAL, profile_of
from armor_eval.report.claims import Cell, load_claims
from armor_eval.report.doc import Doc, Shown, interval_text, value_text
from armor_eval.report.loading import RunView
from armor_eval.report.prose import Judged, judge_statements
from armor_eval.report.results import control_of, results_doc
from armor_eval.report.tables import paper_table, training_of
from armor_eval.runs.comparable import reservations_of
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import Run, TrainingInfo
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_folder
from armor_model.base.jsons import JsonObject


@dataclass(frozen=True)
class Section:
    """One kind of measurement."""

    kind: str
    title: str
    command: str
    """What measures it."""
    detailed: bool = False
    """Whether its second numbers are shown too."""


SECTIONS = (
    Section("understanding", "Understanding", "armor-eval understanding --bench all --baselines --model {model}"),
    Section("geneval", "Drawing", "armor-eval geneval --model {model}", detailed=True),
    Section("suite", "Suites of prompts and questions", "armor-eval draw --suite NAME --model {model}", detailed=True),
    Section("modality", "Choice of modality", "armor-eval modality --model {model}", detailed=True),
    Section("interleaved", "Interleaved answers", "armor-eval interleaved --baselines --model {model}", detailed=True),
    Section("text", "Text", "armor-eval lm-eval --model {model}"),
)


KEPT = ("understanding", "text")
"""What a base model has too, of which a share is kept."""


@dataclass(frozen=True)
class Kept:
    """What of a base's score is kept, in percent."""

    kind: str
    benchmark: str
    """Or `mean`."""
    kept: float
    ci95: tuple[float, float] | None


@dataclass
class Card:
    """One checkpoint's runs, and what they say."""

    checkpoint: str
    views: list[RunView]
    """Of the checkpoint itself, whole or not."""
    controls: list[RunView]
    training: tuple[Run, TrainingInfo] | None
    kept: list[Kept]
    others: list[str]
    """Models whose runs were given too and are not shown."""

    @property
    def model(self) -> Run:
        return self.views[0].run

    def of_kind(self, kind: str) -> list[RunView]:
        return [view for view in self.views if view.run.kind == kind]


def collect(checkpoint: str, views: Sequence[RunView]) -> Card:
    """The runs of one checkpoint: a folder is known by its content, anything else by what `--model` said or the name.

    Raises UserError where no run is of it, or runs of different weights go by its name.
    """
    folder = Path(checkpoint)
    fingerprint = sha256_folder(folder) if folder.is_dir() else None
    real = [view for view in _once(views) if control_of(view) != "constant" and view.run.kind != "training"]
    if fingerprint is not None:
        own = [view for view in real if view.run.model.fingerprint == fingerprint]
    else:
        own = [view for view in real if checkpoint in (view.run.model.spec, view.run.model.name)]
    known = dict.fromkeys(f"{v.run.model.name} {v.run.model.fingerprint[:8]}" for v in real)
    if not own:
        what = f" (its content is {fingerprint[:8]})" if fingerprint else ""
        raise UserError(
            f"none of the runs measured {checkpoint}{what}", f"they measured {', '.join(known) or 'nothing'}"
        )
    prints = dict.fromkeys(view.run.model.fingerprint for view in own)
    if len(prints) > 1:
        fingerprints = ", ".join(name[:8] for name in prints)
        raise UserError(
            f"the runs are of {len(prints)} checkpoints named {checkpoint}: {fingerprints}", "give the runs of one"
        )
    blind = [view for view in own if control_of(view)]
    own = [view for view in own if not control_of(view)] or own
    controls = [*blind, *(view for view in views if control_of(view) == "constant")]
    others = [name for name in known if not name.endswith(own[0].run.model.fingerprint[:8])]
    return Card(checkpoint, own, controls, training_of(own, views), [], others)


def _once(views: Sequence[RunView]) -> list[RunView]:
    return list({view.run.run_id: view for view in reversed(views)}.values())[::-1]


def docs_of(card: Card) -> list[Doc]:
    """The card's tables, in the order of the page."""
    docs = [_model_doc(card)]
    for section in SECTIONS:
        views = card.of_kind(section.kind)
        doc = results_doc([*views, *(c for c in card.controls if c.run.kind == section.kind)]) if views else None
        if doc is not None:
            doc.notes += [*_protocols(views), *_judges(views)]
            docs.append(replace(doc, key=section.kind, title=section.title))
        if section.detailed:
            docs += [doc for view in views if (doc := _detail_doc(view))]
    docs += [_kept_doc(card)] if card.kept else []
    return [*docs, _cost_doc(card), _reservations_doc(card), _missing_doc(card), _claims_doc(card)]


def _protocols(views: Sequence[RunView]) -> list[str]:
    """`protocol of MMB, POPE: reading keep-none, thinking strip`, a line a label."""
    labels: dict[str, list[str]] = {}
    for view in views:
        label = ", ".join(f"{name} {value}" for name, value in sorted(protocol_of(view.run).items()))
        labels.setdefault(label, []).append(view.run.benchmark)
    return [f"protocol of {', '.join(names)}: {label}" for label, names in labels.items() if label]


def _judges(views: Sequence[RunView]) -> list[str]:
    """`judge of armor-rubric-v1: NAME`, a line a judge that is a model."""
    judged: dict[str, dict[str, None]] = {}
    for run in (view.run for view in views):
        if run.judge.endpoint not in ("none", "rules"):
            judged.setdefault(run.judge.name, {})[run.benchmark] = None
    return [f"judge of {', '.join(names)}: {judge}" for judge, names in judged.items()]


def _model_doc(card: Card) -> Doc:
    model = card.model.model
    doc = Doc("model", "Checkpoint", "", ["What", "Value"], text_columns=2)
    facts = {
        "name": model.name,
        "asked for as": model.spec,
        "content or address (sha256)": model.fingerprint,
        "parameters": f"{model.parameters:,}" if model.parameters else "-",
        "number type": model.dtype or "-",
        "revision": model.revision or "-",
        "runs on this card": str(len(card.views)),
    }
    for name, value in facts.items():
        doc.add([name, value])
    doc.notes = [f"not shown: runs of {name}" for name in card.others]
    return doc


def _detail_doc(view: RunView) -> Doc | None:
    metrics = [m for m in view.scores.metrics if not m.primary] if view.scores else []
    if not metrics:
        return None
    doc = Doc(
        f"{view.run.kind}-{view.run.run_id}", f"{view.label}, in parts", "", ["Number", "Score", "95 % interval", "n"]
    )
    for metric in metrics:
        doc.add([metric.name, value_text(metric), interval_text(metric), f"{metric.n:,}"])
    return doc


def _kept_doc(card: Card) -> Doc:
    doc = Doc(
        "kept",
        "Kept of the base",
        "Score in percent of the base's, clusters resampled in both at once.",
        ["What", "Benchmark", "Kept", "95 % interval"],
        text_columns=2,
    )
    for row in card.kept:
        ends = f"{row.ci95[0]:.1f} to {row.ci95[1]:.1f}" if row.ci95 else "-"
        doc.add([row.kind, row.benchmark, f"{row.kept:.1f} %", ends])
    return doc


def _cost_doc(card: Card) -> Doc:
    doc = Doc(
        "cost",
        "Cost",
        "Of the training that the runs or a training bundle of these weights recorded, and of measuring.",
        ["What", "Amount"],
        text_columns=1,
    )
    if card.training is not None:
        run, cost = card.training
        doc.add(["training: images seen", f"{cost.images_seen:,}"])
        doc.add(["training: tokens", f"{cost.tokens:,}"])
        doc.add(["training: optimizer steps", f"{cost.optimizer_steps:,}"])
        doc.add([f"training: days of one {run.device.kind}", f"{cost.device_days:.3g}"])
    else:
        doc.add(["training", "not recorded"])
    for section in SECTIONS:
        if views := card.of_kind(section.kind):
            wall, cpu = (sum(getattr(v.run, name) for v in views) for name in ("wall_seconds", "cpu_seconds"))
            doc.add([f"measuring: {section.title.lower()}", f"{wall:,.0f} s, {cpu:,.0f} s of CPU"])
    return doc


def _reservations_doc(card: Card) -> Doc:
    doc = Doc(
        "reservations",
        "Reservations",
        "What the numbers above must not be read without.",
        ["Runs", "Reservation"],
        text_columns=2,
        wide=True,
    )
    for text, names in reservations(card).items():
        doc.add([", ".join(names), text])
    if not doc.lines:
        doc.add(["-", "none was recorded"])
    return doc


def reservations(card: Card) -> dict[str, list[str]]:
    """Text -> the runs that it is about: reservations, a profile's notice, a damaged record, a withheld headline."""
    benchmarks_by_text: dict[str, list[str]] = {}
    for view in card.views:
        run, headline = view.run, view.primary
        texts = [r.text for r in reservations_of(run)]
        texts += [text for text in (profile_of(run.profile).notice, view.damage) if text]
        if headline is not None and headline.value is None:
            texts.append(f"headline withheld: {(view.scores.withheld if view.scores else None) or headline.note}")
        for text in texts:
            benchmarks_by_text.setdefault(text, []).append(run.benchmark)
    return benchmarks_by_text


def _missing_doc(card: Card) -> Doc:
    doc = Doc("missing", "Not measured", "", ["What", "What measures it"], text_columns=2, wide=True)
    for what, how in missing(card):
        doc.add([what, how])
    if not doc.lines:
        doc.add(["-", "nothing that this card knows of"])
    return doc


def missing(card: Card) -> list[tuple[str, str]]:
    """What no run of the card measured, and the command that does."""
    from armor_eval.tasks.understanding.declare import benchmarks

    model = card.model.model.spec
    lines = [(s.title, s.command.format(model=model)) for s in SECTIONS if not card.of_kind(s.kind)]
    done = {view.run.benchmark for view in card.of_kind("understanding")}
    if done:
        open_names = [b.name for b in benchmarks().values() if b.in_paper and b.name not in done]
        lines += [(name, f"armor-eval understanding --bench {name} --model {model}") for name in open_names]
    if all(view.run.profile != OFFICIAL for view in card.views):
        lines.append(("any published benchmark", "the same commands with --profile official"))
    retained = {(row.kind, row.benchmark) for row in card.kept}
    for kind in KEPT:
        own = dict.fromkeys(view.run.benchmark for view in card.of_kind(kind))
        bare = [name for name in own if (kind, name) not in retained]
        if bare or not own:
            names_text = f" ({', '.join(bare)})" if bare and retained else ""
            lines.append((f"what is kept of a base's {kind}{names_text}", "this card with --base RUNS_OF_THE_BASE"))
    if all(view.run.judge.endpoint in ("none", "rules") for view in card.of_kind("interleaved")):
        how = f"armor-eval interleaved --tasks FILE --judge JUDGE --model {model}"
        lines.append(("answers of text and images to questions of any kind", how))
    if card.training is None:
        lines.append(("cost of training", "give the training's bundle among the runs"))
    return lines


def claims(card: Card) -> tuple[list[Cell], list[Judged]]:
    """The printed cells that a run of the card measured, and the statements that only a run can judge."""
    ids = {view.run.run_id for view in card.views}
    tables = [paper_table(table, card.views) for table in load_claims().tables]
    cells = [cell for doc in tables for cell in doc.cells if cell.run is not None and cell.run.run_id in ids]
    return cells, [j for j in judge_statements([v.run for v in card.views]) if j.scope != "paper"]


def _claims_doc(card: Card) -> Doc:
    doc = Doc(
        "claims",
        "Against the paper's claims",
        "",
        ["Claim", "In the paper", "Here", "Verdict", "Why"],
        text_columns=5,
        wide=True,
    )
    cells, judged = claims(card)
    for cell in cells:
        measured = f"{value_text(cell.metric)} [{interval_text(cell.metric)}]" if cell.metric else "-"
        claim = f"{cell.row}, {cell.column}"
        doc.add([claim, cell.printed or "-", measured, Shown(cell.verdict, verdict=cell.verdict), cell.why])
    for one in judged:
        doc.add([one.statement, one.where, one.scope, Shown(one.verdict, verdict=one.verdict), one.evidence])
    if not cells:
        doc.notes.append("No cell of the paper's tables stands beside a run of this card.")
    return doc


def as_json(card: Card) -> JsonObject:
    """The card as data: a record a run with all its numbers."""
    cells, judged = claims(card)
    sections: dict[str, list[JsonObject]] = {section.kind: [] for section in SECTIONS}
    for view in [*card.views, *card.controls]:
        run = view.run
        sections.setdefault(run.kind, []).append(
            {
                "run_id": run.run_id,
                "benchmark": run.benchmark,
                "profile": run.profile,
                "status": run.status,
                "baseline": control_of(view),
                "protocol": protocol_of(run),
                "reservations": [r.model_dump(mode="json") for r in reservations_of(run)],
                "metrics": [m.model_dump(mode="json") for m in view.scores.metrics] if view.scores else [],
            }
        )
    return {
        "checkpoint": card.checkpoint,
        "model": card.model.model.model_dump(mode="json"),
        "sections": sections,
        "kept": [vars(row) for row in card.kept],
        "training": card.training[1].model_dump() if card.training else None,
        "reservations": reservations(card),
        "not_measured": [{"what": what, "command": how} for what, how in missing(card)],
        "claims": {
            "cells": [
                {
                    "row": c.row,
                    "column": c.column,
                    "printed": c.printed,
                    "verdict": c.verdict,
                    "why": c.why,
                    "measured": c.metric.model_dump(mode="json") if c.metric else None,
                }
                for c in cells
            ],
            "statements": [vars(one) for one in judged],
        },
    }
