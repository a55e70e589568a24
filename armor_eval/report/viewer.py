"""Packs items and thumbnails for the page's per-item viewer, within a budget of bytes.

Failures and flips get their images and their whole text first; what does not fit is cut and says so. The table is
stored by column, repeated prompts once, and compressed: 20,000 items stay a few megabytes.
"""

from __future__ import annotations

import base64
import functools
import gc
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from armor_eval.report.loading import RunView, inside
from armor_eval.report.question_images import QuestionImages, encoded, find_question_images, is_reference, thumbnail
from armor_eval.runs.schema import Item
from armor_model.base.errors import UserError
from armor_model.base.text import visible

STATUSES = ("ok", "unparsed", "judge_failed", "error")
OUTCOMES = ("right", "partly", "wrong", "marked", "unmeasured")
"""By score: 1, between 0 and 1, 0, above 1 (a judge's mark out of ten), none."""

TEXT_BUDGET = 6_000_000
"""Bytes of the compressed item table, before base64 adds a third."""
ALL_IMAGES = 2000
"""Items of a page that carries every image, however large it grows."""
PAGE_BUDGET = 25_000_000
"""Bytes of a page of more items: images are put in, wrong and changed items first, until it is full."""
PAGE_REST = 1_000_000
"""Bytes of the page that are neither the item table nor images of items: tables, plots."""
CAPS = ((4000, 2000), (2000, 600), (1000, 200), (400, 120), (160, 60), (80, 0))
"""(characters kept of a failure's text, of a right answer's), tried in turn until the table fits."""
SIDES = ((448, 300), (320, 800), (192, 1 << 62))
"""(longest side of a thumbnail, most images of a page that has them so large)."""
BOX_SCORE = 0.3
"""GenEval's own threshold: boxes below it took no part in the verdict."""
MAX_BOXES = 24

Link = Callable[[Path, str, str, QuestionImages], list[str]]
"""(a run's folder, an image's name in it, its key, the questions) -> the addresses a server gives its images at."""


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
    images: str
    """JSON: key -> [width, height, mime, base64], or [0, 0, "", address] of a server; `<` is written as an escape so
    that it cannot end its element. The further images of a question are `KEY~1`, `KEY~2` ..."""
    items: int
    images_kept: int
    images_left: int
    """Left out for want of room."""
    urgent_left: int
    """Those of them that belong to wrong or changed items."""
    text_cap: tuple[int, int]
    """Characters kept of failures and of right answers."""
    cut: int
    """Texts that were shortened."""
    missing: list[str]
    """Runs whose question images could not be read, and why."""


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

    @property
    def urgent(self) -> bool:
        """Flips and everything that is not plainly right come first where space is short."""
        return bool(self.flip) or self.item.status != "ok" or outcome(self.item) != 0


def pack(
    views: Sequence[RunView], flips: Sequence[Flip] | None = None, data: Path | None = None, link: Link | None = None
) -> Payload:
    """Items of the runs, or - with `flips` - only those that changed, each with both answers.

    `data`: where the TSV files of the questions lie, for their images. `link`: images are named by their address, all
    of them, instead of carried.
    """
    collecting = gc.isenabled()
    gc.disable()  # nothing here makes cycles, and walking a million live records takes a third of the time
    try:
        if flips is None:
            records = [_Record(i, item) for i, view in enumerate(views) for item in view.items()]
        else:
            records = _flip_records(views, flips)
        questions = _question_images(records, views, data)
        table, cap, cut = _pack_table(records, views, questions)
        room = None if len(records) <= ALL_IMAGES else PAGE_BUDGET - PAGE_REST - len(table)
        images, images_left_out, urgent_left = _pack_images(records, views, questions, room, link)
    finally:
        if collecting:
            gc.enable()
    text = json.dumps(images, separators=(",", ":")).replace("<", "\\u003c")
    return Payload(table, text, len(records), len(images), images_left_out, urgent_left, cap, cut, questions.missing)


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


def _pack_table(
    records: list[_Record], views: Sequence[RunView], questions: QuestionImages
) -> tuple[str, tuple[int, int], int]:
    packed, cut = b"", 0
    for cap in CAPS:
        table, cut = _table(records, views, questions, cap)
        text = visible(json.dumps(table, separators=(",", ":"), ensure_ascii=False))
        packed = gzip.compress(text.encode(), 5, mtime=0)
        if len(packed) <= TEXT_BUDGET:
            return base64.b64encode(packed).decode(), cap, cut
    return base64.b64encode(packed).decode(), CAPS[-1], cut


class _Cutter:
    """Shortens texts and counts how many it shortened."""

    def __init__(self) -> None:
        self.cut = 0

    def __call__(self, value: object, limit: int) -> str:
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


def _table(
    records: list[_Record], views: Sequence[RunView], questions: QuestionImages, cap: tuple[int, int]
) -> tuple[dict, int]:
    """The item table by column; an equal prompt or group is stored once."""
    short = _Cutter()
    prompts: dict[str, int] = {}
    groups: dict[str, int] = {}
    columns: dict[str, list] = {}
    for record in records:
        item, limit = record.item, cap[0 if record.urgent else 1]
        # A prompt is asked by many runs and stored once, so it may be as long as a failure's.
        prompt = short(item.prompt, max(cap[0], 120))
        row = {
            "run": record.run,
            "id": item.id[:200],
            "status": STATUSES.index(item.status),
            "outcome": outcome(item),
            "score": item.score,
            "group": groups.setdefault(item.group or "", len(groups)),
            "prompt": prompts.setdefault(prompt, len(prompts)),
            "gold": short(item.gold, limit or 40),
            "output": short(item.output, limit),
            "parsed": short(item.parsed, limit and min(limit, 400)),
            "reason": short(item.reason, limit),
            "seen": _keys(record.run, item.images, questions),
            "drawn": _keys(record.run, item.output_images, questions),
            "boxes": boxes(item),
            "flip": record.flip,
            "other": _other(record, questions, short, limit),
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    if not any(columns.get("flip", ())):
        columns["flip"], columns["other"] = [], []
    table = {
        "runs": [
            {"id": v.run.run_id, "bench": v.run.benchmark, "label": v.label, "model": v.run.model.name} for v in views
        ],
        "groups": list(groups),
        "prompts": list(prompts),
        "statuses": STATUSES,
        "outcomes": OUTCOMES,
        **columns,
    }
    return table, short.cut


def _other(record: _Record, questions: QuestionImages, short: _Cutter, limit: int) -> list | None:
    base = record.other
    if base is None:
        return None
    drawn = _keys(record.other_run, base.output_images, questions)
    return [
        record.other_run,
        STATUSES.index(base.status),
        outcome(base),
        base.score,
        short(base.output, limit),
        short(base.parsed, limit),
        short(base.reason, limit),
        drawn,
        boxes(base),
    ]


def _keys(run: int, names: Sequence[str], questions: QuestionImages) -> list[str] | int:
    """Image keys, also of images that the page does not hold, so that the reader knows of them. 0 for none."""
    return [_key(run, name, questions) for name in names] or 0


def boxes(item: Item) -> list[list] | int:
    """[x1, y1, x2, y2, score, label], best first, from GenEval's `{class: [[x1, y1, x2, y2, score], ...]}`."""
    raw = item.extras.get("detections")
    if not isinstance(raw, dict):
        return 0
    colors = item.extras.get("colors")
    if not isinstance(colors, dict):
        colors = {}
    all_boxes = []
    for name, rows in raw.items():
        named = colors.get(name) or []
        for i, row in enumerate(rows if isinstance(rows, list) else ()):
            if not isinstance(row, list) or len(row) < 5 or not all(isinstance(v, int | float) for v in row[:5]):
                continue
            if row[4] > BOX_SCORE:
                color = named[i] if i < len(named) and named[i] else ""
                all_boxes.append([*(round(v, 1) for v in row[:4]), round(row[4], 3), f"{color} {name}".strip()[:60]])
    return sorted(all_boxes, key=lambda b: -b[4])[:MAX_BOXES] or 0


# --- images ----------------------------------------------------------------------------------------------------------


def _question_images(records: list[_Record], views: Sequence[RunView], data: Path | None) -> QuestionImages:
    """The rows of the TSV files that the records name."""
    named: dict[int, dict[str, None]] = {}
    for record in records:
        for name in record.item.images:
            if is_reference(name):
                named.setdefault(record.run, {})[name] = None
    return find_question_images(dict(enumerate(views)), named, data)


def _key(run: int, name: str, questions: QuestionImages) -> str:
    """A question's image by its content, a file of a bundle by its name."""
    return (questions.keys.get((run, name)) or name) if is_reference(name) else _file_key(str(run), name)


@functools.lru_cache(maxsize=1 << 18)
def _file_key(run: str, name: str) -> str:
    """A content-addressed file name is its own key; anything else is told apart by its run.

    Cached: ten runs of a benchmark name the same few thousand images 280,000 times.
    """
    stem = name.rsplit("/", 1)[-1].partition(".")[0]
    return stem[:16] if len(stem) >= 32 and not set(stem) - _HEX else f"{run}/{name[-200:]}"


_HEX = frozenset("0123456789abcdef")


def _pack_images(
    records: list[_Record], views: Sequence[RunView], questions: QuestionImages, room: int | None, link: Link | None
) -> tuple[dict[str, list], int, int]:
    """Thumbnails in order of urgency until the room (None: no end) is full: kept, left out, urgent ones left out."""
    wanted: dict[str, tuple[Path, str, bool]] = {}
    for record in sorted(records, key=lambda r: not r.urgent):
        for run, item in ((record.run, record.item), (record.other_run, record.other)):
            if item is None:
                continue
            for name in (*item.output_images, *item.images):
                wanted.setdefault(_key(run, name, questions), (views[run].path, name, record.urgent))
    side = next(side for side, most in SIDES if len(wanted) <= most)
    packed: dict[str, list] = {}
    spent = left_out = urgent_left = 0
    for key, (folder, name, urgent) in wanted.items():
        path = None if is_reference(name) else inside(folder, name)
        if path is None and key not in questions.rows:
            continue
        if link is None and room is not None and spent > room:
            left_out, urgent_left = left_out + 1, urgent_left + urgent
            continue
        if link is not None:
            thumbnails: list[list | None] = [[0, 0, "", address] for address in link(folder, name, key, questions)]
        elif path is not None:
            thumbnails = [thumbnail(path, side)]
        else:
            thumbnails = [encoded(image, image.size, side) for image in questions.open(key)]
        for part, one in enumerate(thumbnails):
            if one is not None:
                packed[f"{key}~{part}" if part else key] = one
                spent += len(one[3]) + len(key) + 40
    return packed, left_out, urgent_left
