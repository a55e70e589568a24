"""Packs items and thumbnails for the page's per-item viewer, within a budget of bytes.

Failures and flips get their pictures and their whole text first; what does not fit is cut and says so. The table is
stored by column, repeated prompts once, and compressed: 20,000 items stay a few megabytes.
"""

from __future__ import annotations

import base64
import functools
import gc
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from armor_eval.report.loading import RunView
from armor_eval.runs.schema import Item
from armor_model.base.errors import UserError

STATUSES = ("ok", "unparsed", "judge_failed", "error")
OUTCOMES = ("right", "partly", "wrong", "marked", "unmeasured")
"""By score: 1, between 0 and 1, 0, above 1 (a judge's mark out of ten), none."""

TEXT_BUDGET = 6_000_000
"""Bytes of the compressed item table, before base64 adds a third."""
PICTURE_BUDGET = 12_000_000
"""Bytes of all thumbnails, as base64."""
CAPS = ((4000, 2000), (2000, 600), (1000, 200), (400, 120), (160, 60), (80, 0))
"""(characters kept of a failure's text, of a right answer's), tried in turn until the table fits."""
THUMB_SIDE = 192
BOX_SCORE = 0.3
"""GenEval's own threshold: boxes below it took no part in the verdict."""
MAX_BOXES = 24


@dataclass(frozen=True)
class Flip:
    """An item that changed between two runs of the same questions."""

    item_id: str
    base: str
    """run_id of the run that is compared against."""
    candidate: str
    """run_id of the run under test."""
    kind: Literal["lost", "gained"]


@dataclass
class Payload:
    """What the page embeds."""

    table: str
    """gzip + base64 of the item table's JSON."""
    pictures: str
    """JSON: key -> [width, height, mime, base64]; `<` is written as an escape so that it cannot end its element."""
    items: int
    pictures_kept: int
    pictures_left: int
    text_cap: tuple[int, int]
    """Characters kept of failures and of right answers."""
    cut: int
    """Texts that were shortened."""


def outcome(item: Item) -> int:
    """Index into OUTCOMES."""
    score = item.score
    if score is None:
        return 4
    if score > 1:
        return 3
    return 0 if score == 1 else 2 if score <= 0 else 1


@dataclass
class _Record:
    """One row of the viewer."""

    run: int
    item: Item
    flip: int = 0
    other: Item | None = None
    other_run: int = -1
    pictures: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def urgent(self) -> bool:
        """Flips and everything that is not plainly right come first where space is short."""
        return bool(self.flip) or self.item.status != "ok" or outcome(self.item) != 0


def pack(views: Sequence[RunView], flips: Sequence[Flip] | None = None) -> Payload:
    """Items of the runs, or - with `flips` - only those that changed, each with both answers."""
    collecting = gc.isenabled()
    gc.disable()  # nothing here makes cycles, and walking a million live records takes a third of the time
    try:
        records = _all_records(views) if flips is None else _flip_records(views, flips)
        pictures, left = _pack_pictures(records, views)
        payload, cap, cut = _pack_table(records, views, set(pictures))
    finally:
        if collecting:
            gc.enable()
    text = json.dumps(pictures, separators=(",", ":")).replace("<", "\\u003c")
    return Payload(payload, text, len(records), len(pictures), left, cap, cut)


def _all_records(views: Sequence[RunView]) -> list[_Record]:
    return [_Record(i, item) for i, view in enumerate(views) for item in view.items()]


def _flip_records(views: Sequence[RunView], flips: Sequence[Flip]) -> list[_Record]:
    """Raises UserError for a flip whose run or item is not in the bundles."""
    place = {v.run.run_id: i for i, v in enumerate(views)}
    wanted = {run for f in flips for run in (f.base, f.candidate)}
    missing = wanted - set(place)
    if missing:
        raise UserError(f"a flip names run {sorted(missing)[0]!r}, which is not among the given bundles")
    items = {run: {it.id: it for it in views[place[run]].items()} for run in wanted}
    records = []
    for flip in flips:
        try:
            base, candidate = items[flip.base][flip.item_id], items[flip.candidate][flip.item_id]
        except KeyError:
            raise UserError(f"a flip names item {flip.item_id!r}, which one of its runs does not hold") from None
        kind = 1 if flip.kind == "lost" else 2
        records.append(_Record(place[flip.candidate], candidate, kind, base, place[flip.base]))
    return records


# --- the table -------------------------------------------------------------------------------------------------------


def _pack_table(records: list[_Record], views: Sequence[RunView], kept: set[str]) -> tuple[str, tuple[int, int], int]:
    packed, cut = b"", 0
    for cap in CAPS:
        table, cut = _table(records, views, kept, cap)
        packed = gzip.compress(
            json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace"), 5, mtime=0
        )
        if len(packed) <= TEXT_BUDGET:
            return base64.b64encode(packed).decode(), cap, cut
    return base64.b64encode(packed).decode(), CAPS[-1], cut


class _Cutter:
    """Shortens texts and counts how many it shortened."""

    def __init__(self) -> None:
        self.cut = 0

    def __call__(self, value: Any, limit: int) -> str:
        text = (
            ""
            if value is None
            else value
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False, default=str)
        )
        if len(text) <= limit:
            return text
        self.cut += 1
        return text[:limit] + "\u2026" if limit else ""


def _table(records: list[_Record], views: Sequence[RunView], kept: set[str], cap: tuple[int, int]) -> tuple[dict, int]:
    """The item table by column; an equal prompt or group is stored once."""
    short = _Cutter()
    prompts: dict[str, int] = {}
    groups: dict[str, int] = {}
    names = ("run", "id", "status", "outcome", "score", "group", "prompt", "gold", "output", "parsed", "reason", "seen",
             "drawn", "boxes", "flip", "other")  # fmt: skip
    columns: dict[str, list] = {name: [] for name in names}
    for record in records:
        item, limit = record.item, cap[0 if record.urgent else 1]
        # A prompt is asked by many runs and stored once, so it may be as long as a failure's.
        prompt = short(item.prompt, max(cap[0], 120))
        row = (
            record.run, item.id[:200], STATUSES.index(item.status), outcome(item), item.score,
            groups.setdefault(item.group or "", len(groups)), prompts.setdefault(prompt, len(prompts)),
            short(item.gold, limit or 40), short(item.output, limit), short(item.parsed, limit and min(limit, 400)),
            short(item.reason, limit), _refs(record, item, item.images, record.run, views, kept),
            _refs(record, item, item.output_images, record.run, views, kept), boxes(item), record.flip,
            _other(record, views, kept, short, limit),
        )  # fmt: skip
        for name, value in zip(names, row, strict=True):
            columns[name].append(value)
    if not any(columns["flip"]):
        columns["flip"], columns["other"] = [], []
    table = {
        "runs": [
            {"id": v.run.run_id, "bench": v.run.benchmark, "label": v.label, "model": v.run.model.name} for v in views
        ],
        "groups": list(groups), "prompts": list(prompts), "statuses": STATUSES, "outcomes": OUTCOMES, **columns,
    }  # fmt: skip
    return table, short.cut


def _other(record: _Record, views: Sequence[RunView], kept: set[str], short: _Cutter, limit: int) -> list | None:
    base = record.other
    if base is None:
        return None
    drawn = _refs(record, base, base.output_images, record.other_run, views, kept)
    return [record.other_run, STATUSES.index(base.status), outcome(base), base.score, short(base.output, limit),
            short(base.parsed, limit), short(base.reason, limit), drawn, boxes(base)]  # fmt: skip


def _refs(
    record: _Record, item: Item, names: Iterable[str], run: int, views: Sequence[RunView], kept: set[str]
) -> list[str] | int:
    """Picture keys; a picture without a thumbnail is given by its name, so that the reader knows of it. 0 for none."""
    found = []
    for name in names:
        key = _key(str(run), name)
        found.append(key if key in kept else f"?{name[-80:]}")
    return found or 0


def boxes(item: Item) -> list[list] | int:
    """[x1, y1, x2, y2, score, label], best first, from GenEval's `{class: [[x1, y1, x2, y2, score], ...]}`."""
    raw = item.extras.get("detections")
    if not isinstance(raw, dict):
        return 0
    colors = item.extras.get("colors") if isinstance(item.extras.get("colors"), dict) else {}
    found = []
    for name, rows in raw.items():
        named = colors.get(name) or []
        for i, row in enumerate(rows if isinstance(rows, list) else ()):
            if not isinstance(row, list) or len(row) < 5 or not all(isinstance(v, int | float) for v in row[:5]):
                continue
            if row[4] > BOX_SCORE:
                color = named[i] if i < len(named) and named[i] else ""
                found.append([*(round(v, 1) for v in row[:4]), round(row[4], 3), f"{color} {name}".strip()[:60]])
    return sorted(found, key=lambda b: -b[4])[:MAX_BOXES] or 0


# --- pictures --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1 << 18)
def _key(run: str, name: str) -> str:
    """A content-addressed file name is its own key; anything else is told apart by its run.

    Cached: ten runs of a benchmark name the same few thousand pictures 280,000 times.
    """
    stem = name.rsplit("/", 1)[-1].partition(".")[0]
    return stem[:16] if len(stem) >= 32 and not set(stem) - _HEX else f"{run}/{name}"


_HEX = frozenset("0123456789abcdef")


def _pack_pictures(records: list[_Record], views: Sequence[RunView]) -> tuple[dict[str, list], int]:
    """Thumbnails in order of urgency until the budget is spent: (kept, how many were left out)."""
    wanted: dict[str, tuple[Path, str]] = {}
    for record in sorted(records, key=lambda r: not r.urgent):
        for run, item in ((record.run, record.item), (record.other_run, record.other)):
            if item is None:
                continue
            for name in (*item.output_images, *item.images):
                wanted.setdefault(_key(str(run), name), (views[run].path, name))
    kept: dict[str, list] = {}
    spent = 0
    left = 0
    for key, (folder, name) in wanted.items():
        path = inside(folder, name)
        if path is None:
            continue
        if spent > PICTURE_BUDGET:
            left += 1
            continue
        made = thumbnail(path)
        if made is not None:
            kept[key] = made
            spent += len(made[3]) + len(key) + 40
    return kept, left


def inside(folder: Path, name: str) -> Path | None:
    """The file that a record's path means, only where it lies in the bundle: records are untrusted."""
    try:
        path = (folder / name).resolve()
        root = folder.resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError):
        return None


def thumbnail(path: Path) -> list | None:
    """[width, height, mime, base64]; small PNGs as they are, others reduced. The size is the original's."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if image.format == "PNG" and len(data) <= 2500:
                return [width, height, "image/png", base64.b64encode(data).decode()]
            image.draft("RGB", (THUMB_SIDE, THUMB_SIDE))
            small = image.convert("RGB")
            small.thumbnail((THUMB_SIDE, THUMB_SIDE))
            buffer = io.BytesIO()
            small.save(buffer, format="JPEG", quality=72)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return None
    return [width, height, "image/jpeg", base64.b64encode(buffer.getvalue()).decode()]
