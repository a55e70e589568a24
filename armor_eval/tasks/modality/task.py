"""The modality task: does a model answer with text, an image or both, as asked?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from armor_eval.engine import Described, Outcome, Unit
from armor_eval.engine.task import Progress
from armor_eval.models.drawing import one_line
from armor_eval.profiles import ProfileSpec
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.comparable import blank_of, reserve_blank
from armor_eval.runs.schema import DataInfo, Item, Metric, ModelInfo, ScorerInfo, Scores
from armor_eval.runs.served import lost
from armor_eval.tasks.modality import LINE, SECTION
from armor_eval.tasks.modality.asking import AsksRecords
from armor_eval.tasks.modality.judging import Judged, judge
from armor_eval.tasks.modality.records import Record, Requests, image_in, own_records, read_records
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_json
from armor_model.base.jsons import JsonObject

GIVEN = ("text", "image", "both", "none")


class ModalityTask(AsksRecords):
    """A guest profile's requests, or a file's."""

    def __init__(
        self,
        profile: ProfileSpec,
        *,
        prompts: Path | Requests | None = None,
        limit: int | None = None,
        seed: int = 0,
        drawn_from: int | None = None,
    ) -> None:
        if profile.guest is None and prompts is None:
            raise UserError(
                "no public benchmark asks for a modality: outside of the shapes world requests are needed",
                f"give --prompts FILE.jsonl with lines like {LINE}, or --profile shapes",
            )
        self._reader = profile.part("reader") if profile.guest is not None else None
        if isinstance(prompts, Path):
            prompts = Requests(prompts.name, *read_records(prompts), image_in(prompts.parent))
        elif prompts is None:
            prompts = Requests(f"{profile.name}-modality", *own_records(profile), profile.part("reader").render)
        self._name, self._sha256 = prompts.name, prompts.sha256
        super().__init__(prompts.records, prompts.image, limit=limit, seed=seed, drawn_from=drawn_from)

    def describe(self, model: ModelInfo) -> Described:
        return Described(
            kind="modality",
            benchmark="modality",
            data=DataInfo(name=self._name, sha256=self._sha256, items=len(self._all)),
            subset=self._subset,
            prompt_sha256=sha256_json([[m.model_dump() for m in r.messages] for r in self._all]),
            scorer=ScorerInfo(
                name="modality of the answer" + (f", {self._reader.NAME}" if self._reader else ""), version="1"
            ),
            seeds={"base": self._seed},
        )

    def judge(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[object], bundle: Bundle
    ) -> list[Item]:
        return [self._item(u, r, o, bundle) for u, r, o in zip(units, requests, outputs, strict=True)]

    def _item(self, unit: Unit, request: object, output: Any, bundle: Bundle) -> Item:
        record = self._by_id[unit.id]
        fields = self._asked(unit, request, bundle)
        asked = {"form": record.form, "turns": record.turns}
        if isinstance(output, Exception):
            return Item(**fields, status="error", reason=one_line(output), extras=asked)
        judged = judge(record, output, self._reader.read if self._reader else None)
        answer, more = self._answered(output, bundle)
        return Item(
            **fields,
            **answer,
            parsed=judged.given,
            score=float(judged.right),
            reason=_reason(record, judged),
            status="ok",
            extras={**asked, "held_out": record.held_out, **asdict(judged.reading), **more},
        )

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items = self._scored(bundle)
        counts = Counter(item.status for item in items)
        metrics = score(items)
        extras = {k: v for k, v in bundle.run.extras.items() if k != "claims"} | {"confusion": self._confusion(items)}
        if bundle.run.subset is None and not counts["error"] and self._name != SECTION:
            extras["claims"] = findings(metrics)
        blank, drawn = blank_of(items)
        scores = Scores(metrics=metrics, counts=counts, expected_items=len(self._records), blank=blank)
        reason = lost(items, "requests failed")
        reservations = reserve_blank(bundle.run.reservations, blank, drawn)
        return Outcome(items, scores, reason, {"extras": extras, "reservations": reservations})

    def _confusion(self, items: Sequence[Item]) -> JsonObject:
        """Requests of each kind by what was given."""
        wants = {r.kind: r.wants for r in self._records}
        return {
            "wanted": [f"{wanted} ({kind})" for kind, wanted in wants.items()],
            "given": list(GIVEN),
            "counts": [[sum(i.group == kind and i.parsed == g for i in items) for g in GIVEN] for kind in wants],
        }


def _reason(record: Record, judged: Judged) -> str | None:
    notes = [] if judged.right else [f"wanted {record.wants}, got {judged.given}"]
    reading = judged.reading
    if reading.shown is False:
        notes.append(f"the image shows {reading.seen}")
    if reading.agrees is False:
        notes.append(f"text and image disagree ({reading.seen})")
    return "; ".join(notes) or None


def score(items: Sequence[Item]) -> list[Metric]:
    """Accuracy in all, by kind, of negations and later turns; what images show; whether text and image agree."""
    from armor_eval.stats.composite import accuracy, measure

    slices = {"accuracy": list(items)}
    for item in items:
        slices.setdefault(item.group or "", []).append(item)
    slices["negations"] = [i for i in items if i.extras["form"] == "negation"]
    slices["later turns"] = [i for i in items if i.extras["turns"] > 1]
    metrics = [
        measure(part, accuracy(name, primary=name == "accuracy"))
        for name, part in slices.items()
        if name == "accuracy" or any(i.score is not None for i in part)
    ]
    for name, key in (("picture shows it", "shown"), ("text and picture agree", "agrees")):
        told = [i.model_copy(update={"score": float(i.extras[key])}) for i in items if i.extras.get(key) is not None]
        if told:
            metrics.append(measure(told, accuracy(name, primary=False)))
    return metrics


def findings(metrics: Sequence[Metric]) -> dict[str, dict[str, str]]:
    """What the paper says of stage 1 and of ti2ti, with this run's verdict: 90 % and 50 % against the interval."""
    by_name = {m.name: m for m in metrics}
    kinds = ("t2t", "ti2t", "t2i", "t2ti", "ti2ti")
    found = {}
    for key, name, line in (("answers-in-the-right-modality", "accuracy", 90.0), ("ti2ti-unintended", "ti2ti", 50.0)):
        metric = by_name.get(name)
        if metric is None or metric.value is None or metric.ci95 is None:
            continue
        low, high = metric.ci95
        verdict = "supported" if low >= line else "contradicted" if high < line else "undecided"
        told = f"{metric.value:.1f} % [{low:.1f}, {high:.1f}] of {metric.n} requests in the modality asked for"
        if name == "accuracy":
            parts = [f"{k} {by_name[k].value:.1f}" for k in kinds if k in by_name and by_name[k].value is not None]
            told += f" ({', '.join(parts)})"
        found[key] = {"verdict": verdict, "evidence": f"{told}; supported from {line:g} % on"}
    return found
