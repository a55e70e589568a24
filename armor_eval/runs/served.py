"""What a run says of how its answers were had from a server: refused fields, answers cut short, failures by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from armor_eval.runs.schema import Item, Reservation, Run

NOT_GREEDY = "the server refuses the temperature: its answers are drawn at its own default, not greedily"


def with_requests(run: Run, model: object) -> Run:
    """The record with what the model's server wanted said otherwise; what an earlier command learned stays."""
    served = getattr(model, "served", None)
    if not served:
        return run
    known = run.extras.get("served", {})
    served = {name: {**known.get(name, {}), **value} for name, value in {**known, **served}.items()}
    reservations = [one for one in run.reservations if one.kind != "decoding"]
    if "temperature" in served.get("adapted", {}):
        reservations.append(Reservation(kind="decoding", text=NOT_GREEDY))
    return run.model_copy(update={"extras": {**run.extras, "served": served}, "reservations": reservations})


def answer_kinds(items: Iterable[Item]) -> dict[str, int]:
    """How many answers were cut by length, are refusals in the reply's own field, or failed, by kind of failure."""
    counts: Counter[str] = Counter()
    for item in items:
        if item.status == "error":
            counts[f"failed: {failure_kind(item)}"] += 1
        counts["cut by length"] += "length" in (item.extras.get("finish_reason"), item.extras.get("finish"))
        counts["refusal"] += bool(item.extras.get("refusal"))
    return {kind: n for kind, n in sorted(counts.items()) if n}


def failure_kind(item: Item) -> str:
    """What an item without an answer failed with: a server's kind of failure, else what its reason begins with (`data`,
    `image`, an exception's name)."""
    return item.extras.get("failure") or re.split(r": | \(", item.reason or "unknown", maxsplit=1)[0]


def lost(items: Iterable[Item], what: str) -> str | None:
    """How many items came to nothing, and why the first did: what a user mends first."""
    items = list(items)
    first = next((item for item in items if item.status in ("error", "judge_failed")), None)
    if first is None:
        return None
    count = sum(item.status in ("error", "judge_failed") for item in items)
    return f"{count} of {len(items)} {what}; the first, {first.id}: {(first.reason or 'no reason is known')[:200]}"


def remarks(run: Run) -> list[str]:
    """Lines under the table of scores."""
    lines = []
    if kinds := run.extras.get("answers"):
        lines.append("answers: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    if adapted := run.extras.get("served", {}).get("adapted"):
        lines.append("server: " + "; ".join(f"{field}: {how}" for field, how in adapted.items()))
    return lines
