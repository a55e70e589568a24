"""Finds the runs of both sides, pairs them by benchmark, and says whether a pair may be compared at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.runs.bundle import find_runs, read_head
from armor_eval.runs.comparable import COMPARED, differing
from armor_eval.runs.journal import changed_files, read_journal
from armor_eval.runs.schema import Item, Run, Scores
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none

if TYPE_CHECKING:
    from armor_eval.stats.composite import ClusterSums, Composite

CONTROLS = ("-blind", "-constant")
"""Folder endings of the control runs that `understanding --baselines` writes beside a benchmark's own."""

SAME = 1e-9
"""Relative and absolute difference of a number that was only summed in another order."""


@dataclass
class Source:
    """One run as the gate needs it; items are read on demand, and once."""

    path: Path
    run: Run
    scores: Scores | None
    _items: dict[str, Item] | None = None
    dropped: int = 0
    """Lines of the journal that are torn, repeated or no valid item."""
    _sums: dict[str, ClusterSums] = field(default_factory=dict)

    @property
    def items(self) -> dict[str, Item]:
        if self._items is None:
            self._items, self.dropped = read_journal(self.path / "items.jsonl")
        return self._items

    def sums(self, composite: Composite) -> ClusterSums:
        """The composite's sums over all items, made once: the check of the headline and the comparison share them."""
        if composite.name not in self._sums:
            self._sums[composite.name] = composite.cluster_sums(self.items.values())
        return self._sums[composite.name]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.run.kind, self.run.profile, self.run.benchmark


def find(path: Path) -> list[Source]:
    """The bundles at and below a folder, one a benchmark; control runs give way to the real one.

    Raises UserError when there is none, two of one benchmark, or one inside another.
    """
    if not path.exists():
        raise UserError(
            f"no such run: {path}", "give a run folder, a folder of run folders, or a saved baseline's name"
        )
    folders = find_runs(path)
    if not folders:
        raise UserError(f"{path} holds no run: no run.json there or below")
    by_key: dict[tuple[str, str, str], list[Source]] = {}
    for folder in folders:
        source = Source(folder, *read_head(folder))
        by_key.setdefault(source.key, []).append(source)
    chosen = []
    for (_, profile, benchmark), group in by_key.items():
        if len(group) > 1:
            real = [s for s in group if not s.run.extras.get("blind") and not s.path.name.endswith(CONTROLS)]
            group = real or group
        if len(group) > 1:
            names = ", ".join(str(s.path) for s in group[:3])
            raise UserError(f"{path} holds {len(group)} runs of {benchmark} ({profile}): {names}", "give one of them")
        chosen.append(group[0])
    return chosen


def pair(base: list[Source], candidate: list[Source]) -> list[tuple[Source | None, Source | None]]:
    """Runs of the same benchmark and profile side by side, in the base's order; None where one side has none.

    Two single runs are always a pair: what makes them not comparable is then named.
    """
    if len(base) == 1 and len(candidate) == 1:
        return [(base[0], candidate[0])]
    theirs = {s.key: s for s in candidate}
    pairs: list[tuple[Source | None, Source | None]] = [(s, theirs.pop(s.key, None)) for s in base]
    return pairs + [(None, s) for s in theirs.values()]


def differences(base: Run, other: Run, ignore: list[str], name: str = "candidate") -> tuple[list[str], list[str]]:
    """Fields that differ, in words: (those that forbid a comparison, those that the policy ignores)."""
    forbidding: list[str] = []
    ignored: list[str] = []
    for one in differing(base, other):
        line = f"{one} differs: {_contrast(COMPARED[one](base), COMPARED[one](other), name)}"
        (ignored if one in ignore else forbidding).append(line)
    return forbidding, ignored


def _contrast(ours: object, theirs: object, other: str) -> str:
    """Both values whole; of records only the parts that differ, however deep they lie."""
    ours, theirs = (v.model_dump() if hasattr(v, "model_dump") else v for v in (ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        ours, theirs = dict(_parts(ours)), dict(_parts(theirs))
        keys = sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))
        return "; ".join(f"{k}: {_text(ours.get(k))} in base, {_text(theirs.get(k))} in {other}" for k in keys)
    return f"{_text(ours)} in base, {_text(theirs)} in {other}"


def _parts(record: JsonObject, above: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of a record by their dotted names."""
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from _parts(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _text(value: object) -> str:
    """A value in words: `none`, `limit 10, seed 0`."""
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)


def unusable(source: Source, side: str) -> str | None:
    """Why a run cannot be compared yet, in one line."""
    run = source.run
    if run.status == "running":
        interrupted = run.status_reason == "interrupted"
        return f"the {side} run " + (
            "was interrupted: the same command continues it" if interrupted else "is still being written"
        )
    if run.status != "complete":
        return f"the {side} run is {run.status}" + (f": {run.status_reason}" if run.status_reason else "")
    if edited := changed_files(source.path, run):
        return f"the {side} run was changed after it was measured ({', '.join(edited)})"
    if not source.items:
        return f"the {side} run holds no items"
    if source.dropped:
        return f"the {side} run's journal has {source.dropped} lines that are torn, repeated or no valid item (NaN)"
    if source.scores is None:
        return f"the {side} run has no scores"
    if len(source.items) != source.scores.expected_items:
        return f"the {side} run holds {len(source.items)} items, its scores are of {source.scores.expected_items}"
    if source.scores.withheld:
        return f"the {side} run's headline is withheld: {source.scores.withheld}"
    unscored = [i for i, item in source.items.items() if item.score is None and item.status in ("ok", "unparsed")]
    if unscored:
        many = f"{len(unscored)} items that are answered and have no score, the first is {unscored[0][:60]!r}"
        return f"the {side} run has {many}"
    if why := _contradiction(source):
        return f"the {side} run's scores.json is not of its items: {why}"
    return None


def _contradiction(source: Source) -> str | None:
    """How scores.json and the items disagree, in words; both are written at once, so one was changed since.

    The headline is computed again from the items by the formula that wrote it.
    """
    from armor_eval.tasks.formulas import primary_of

    scores = not_none(source.scores)
    counted = Counter(item.status for item in source.items.values())
    if stated := {k: n for k, n in scores.counts.items() if n != counted[k]}:
        return "; ".join(f"it counts {n} {k}, the items are {counted[k]}" for k, n in stated.items())
    try:
        composite = primary_of(source.run)
        found = composite.value_of(source.sums(composite))
    except KeyError as error:
        raise UserError(f"{source.path}: {error.args[0]}") from None
    except ValueError as error:
        return str(error)
    told = next((m for m in scores.metrics if m.primary), None)
    if told is None or told.name != composite.name:
        return f"it has no {composite.name}, which is the benchmark's number"
    if told.value is None or found is None:
        return None if told.value is found else f"{told.name} is {told.value} there, {found} from the items"
    if not math.isclose(told.value, found, rel_tol=SAME, abs_tol=SAME):
        return f"{told.name} is {told.value:.12g} there, {found:.12g} from the items"
    return None


def item_differences(base: dict[str, Item], other: dict[str, Item], name: str = "candidate") -> str | None:
    """Why the two runs did not ask the same questions, in one line."""
    for side, ours, theirs in (("base", base, other), (name, other, base)):
        odd = [i for i in ours if i not in theirs]
        if odd:
            return f"items differ: {len(odd)} are in the {side} only, the first is {odd[0][:60]!r}"
    for i, item in base.items():
        twin = other[i]
        for one in ("cluster", "group", "gold"):
            if getattr(item, one) != getattr(twin, one):
                return f"item {i[:60]!r} differs in {one}: {_contrast(getattr(item, one), getattr(twin, one), name)}"
        shorter = min(len(item.prompt_sha256), len(twin.prompt_sha256))  # a saved baseline keeps 16 characters
        if item.prompt_sha256[:shorter] != twin.prompt_sha256[:shorter]:
            return f"item {i[:60]!r} was asked in other words (prompt_sha256)"
    return None
