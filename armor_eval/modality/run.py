"""Runs the modality benchmark on any adapter that responds freely, into a run bundle; resumes what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armor_eval.errors import UserError
from armor_eval.modality.judging import judge
from armor_eval.modality.records import Record, choose, conversation, read_records, shapes_records
from armor_eval.models.base import Decoding, RespondsFreely
from armor_eval.runs import provenance
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.runs.schema import DataInfo, Item, JudgeInfo, Metric, Run, ScorerInfo, Scores

GIVEN = ("text", "image", "both", "none")
READER = "shapes tile reader"


@dataclass(frozen=True)
class Settings:
    profile: str
    command: list[str]
    decoding: Decoding
    prompts: Path | None = None
    """JSON lines of one's own; None = the embedded requests."""
    limit: int | None = None
    seed: int = 0
    batch_size: int = 32


@dataclass(frozen=True)
class Finished:
    path: Path
    run: Run
    scores: Scores


def run_modality(
    adapter: Any, out: Path, settings: Settings, tick: Callable[[int, int], None] | None = None
) -> Finished:
    """Ask, judge, score; a finished run is read back. Raises UserError for a model that cannot respond freely."""
    if not isinstance(adapter, RespondsFreely):
        raise UserError(f"{adapter.info.name} cannot answer with text and pictures", "see armor-eval list")
    everything, sha = shapes_records() if settings.prompts is None else read_records(settings.prompts)
    records, subset = choose(everything, settings.limit, settings.seed)
    name = "shapes-modality" if settings.prompts is None else settings.prompts.name
    readable = settings.profile == "shapes"
    run = Run(
        run_id=f"modality-{provenance.sha256_text(adapter.info.fingerprint + sha + provenance.now())[:12]}",
        kind="modality",
        benchmark="modality",
        command=settings.command,
        profile=settings.profile,
        status="running",
        subset=subset,
        model=adapter.info,
        data=DataInfo(name=name, sha256=sha, items=len(everything)),
        prompt_sha256=provenance.sha256_json([[m.model_dump() for m in r.messages] for r in everything]),
        scorer=ScorerInfo(name="modality of the answer" + (f", {READER}" if readable else ""), version="1"),
        judge=JudgeInfo(name="none", endpoint="none"),
        decoding=settings.decoding.model_dump(),
        seeds={"base": settings.decoding.seed},
        packages=provenance.packages(),
        device=provenance.device(),
        git_commit=provenance.git_commit(),
        started=provenance.now(),
    )
    folder = settings.prompts.parent if settings.prompts is not None else None
    with Bundle.open(out, run) as bundle:
        if not bundle.complete:
            left = [r for r in records if r.id not in bundle.items]
            for start in range(0, len(left), settings.batch_size):
                batch = left[start : start + settings.batch_size]
                replies = ask(adapter, [conversation(r, folder) for r in batch], batch, settings.decoding)
                lost = 0
                for record, reply in zip(batch, replies, strict=True):
                    bundle.append(_item(bundle, record, reply, readable))
                    lost += isinstance(reply, Exception)
                if tick is not None:
                    tick(len(batch), lost)
            _finish(bundle, records)
    done, _, scores = read_bundle(out)
    return Finished(out, done, scores)


def ask(adapter: Any, conversations: list, records: Sequence[Record], decoding: Decoding) -> list[Any]:
    """Answers in order; where a batch fails its requests are asked one by one, so that only the culprit is lost."""
    seeds = [int(provenance.sha256_text(f"{decoding.seed}:{r.id}")[:8], 16) for r in records]
    try:
        return list(adapter.respond(conversations, seeds, decoding))
    except Exception as error:
        if len(conversations) == 1:
            return [error]
        pairs = zip(conversations, records, strict=True)
        return [ask(adapter, [c], [r], decoding)[0] for c, r in pairs]


def _item(bundle: Bundle, record: Record, reply: Any, readable: bool) -> Item:
    fields = {
        "id": record.id, "cluster": record.cluster or record.id, "group": record.kind, "prompt": record.prompt,
        "prompt_sha256": provenance.sha256_text(record.prompt), "gold": record.wants,
    }  # fmt: skip
    if readable and record.images:
        pictures = [p["image"] for m in conversation(record, None) for p in m["content"] if p["type"] == "image"]
        fields["images"] = [bundle.add_image(p) for p in pictures]
    if isinstance(reply, Exception):
        reason = " ".join(f"{type(reply).__name__}: {reply}".split())[:300]
        return Item(**fields, status="error", reason=reason, extras={"form": record.form, "turns": record.turns})
    found = judge(record, reply, readable=readable)
    notes = [] if found.right else [f"wanted {record.wants}, got {found.given}"]
    if found.shown is False:
        notes.append(f"the picture shows {found.seen}")
    if found.agrees is False:
        notes.append(f"text and picture disagree ({found.seen})")
    return Item(
        **fields,
        output=" ".join(p for p in reply if isinstance(p, str)).strip() or None,
        output_images=[bundle.add_image(p) for p in reply if not isinstance(p, str)],
        parsed=found.given,
        score=float(found.right),
        reason="; ".join(notes) or None,
        status="ok",
        extras={"form": record.form, "turns": record.turns, "held_out": record.held_out, "shown": found.shown,
                "agrees": found.agrees, "seen": found.seen},
    )  # fmt: skip


def _finish(bundle: Bundle, records: Sequence[Record]) -> None:
    by_id = bundle.items
    items = [by_id[r.id] for r in records if r.id in by_id]
    counts: dict[str, int] = {}
    for item in items:
        counts[item.status] = counts.get(item.status, 0) + 1
    lost = counts.get("error", 0)
    metrics = score(items)
    wanted = sorted({r.kind for r in records}, key=[r.kind for r in records].index)
    confusion = {
        "wanted": [f"{next(r.wants for r in records if r.kind == k)} ({k})" for k in wanted],
        "given": list(GIVEN),
        "counts": [[sum(i.group == k and i.parsed == g for i in items) for g in GIVEN] for k in wanted],
    }
    extras = {**bundle.run.extras, "confusion": confusion}
    if bundle.run.subset is None and not lost:
        extras["claims"] = findings(metrics)
    bundle.update(extras=extras)
    reason = f"{lost} of {len(items)} requests failed" if lost else None
    bundle.finish(items, Scores(metrics=metrics, counts=counts, expected_items=len(records)), reason)


def score(items: Sequence[Item]) -> list[Metric]:
    """Accuracy in all, by kind, of negations and later turns; what pictures show; whether text and picture agree."""
    from armor_eval.stats.composite import accuracy, measure

    kinds = list(dict.fromkeys(i.group for i in items))
    slices = [("accuracy", lambda i: True)]
    slices += [(kind, lambda i, kind=kind: i.group == kind) for kind in kinds]
    slices += [
        ("negations", lambda i: i.extras["form"] == "negation"),
        ("later turns", lambda i: i.extras["turns"] > 1),
    ]
    metrics = [
        measure([i for i in items if keep(i)], accuracy(name, primary=name == "accuracy"))
        for name, keep in slices
        if name == "accuracy" or any(keep(i) and i.score is not None for i in items)
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
