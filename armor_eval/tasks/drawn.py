"""Tasks whose outputs are images, drawn or read from a folder: what GenEval and the suites have in common.

A batch of which a resumed run lacks anything is drawn and judged whole, so that a run that was killed ends with the
very numbers of one that was not. What is drawn is judged as stored, never from memory.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from armor_eval.base.images import make_durable, read_image, write_image
from armor_eval.engine import Conversation, Outcome, Prompt, Ready, Unit
from armor_eval.models.base import NotAsked
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.comparable import blank_of, reserve_blank
from armor_eval.runs.schema import Item, ModelInfo, Scores, Subset
from armor_eval.stats.composite import Composite, measure
from armor_model.base.hashing import sha256_file, sha256_json
from armor_model.base.images import BadImageError
from armor_model.base.jsons import JsonObject
from armor_model.base.sheets import GREY, Tile, contact_sheet, spread

if TYPE_CHECKING:
    from PIL import Image

IMAGES = "images"
"""Folder of a run that holds its images."""
SHEETS = "sheets"
ROWS = 10
"""Prompts on a sheet."""

Read: TypeAlias = "tuple[Image.Image, str | None]"
"""An image as it is judged, and what had to be done to read it."""


class Given(Protocol):
    """A folder of images that exist, matched with prompts."""

    @property
    def root(self) -> Path: ...

    @property
    def files(self) -> Mapping[tuple[int, int], Path]:
        """(prompt, sample) -> file; a pair without one is missing."""
        ...

    def read(self, index: int, sample: int) -> tuple[Image.Image, str | None]:
        """RGB, and what had to be done to read it. BadImageError where it is missing, or no image."""
        ...


def drawn_elsewhere(images: Given) -> NotAsked:
    """Stands for the model of a folder of images; known by their content."""
    digest = sha256_json({f"{i}/{k}": sha256_file(path) for (i, k), path in sorted(images.files.items())})
    return NotAsked(ModelInfo(spec=f"images:{images.root}", name=images.root.resolve().name, fingerprint=digest))


class NoImageError(BadImageError):
    """A model that may respond freely did so without an image."""


class DrawnTask:
    """Reads, draws and stores a task's images; `pairs`: item's id -> (index of its prompt, sample)."""

    whole_batches = True

    def __init__(self, pairs: Mapping[str, tuple[int, int]], images: Given | None, seed: int) -> None:
        self._pairs, self._images, self._seed = pairs, images, seed
        self._tried, self._trying = False, threading.Lock()

    def _try_judges(self) -> None:
        """What is done once, before the first image is drawn."""
        raise NotImplementedError

    def _request(self, unit: Unit) -> Prompt | Conversation:
        raise NotImplementedError

    def _file(self, unit: Unit, images: Path) -> Path:
        """Where a drawn image lies in the folder of the run's images."""
        raise NotImplementedError

    def _copy(self, unit: Unit, image: Read, file: Path) -> None:
        """A given image into the run's folder."""
        raise NotImplementedError

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Prompt | Conversation | Ready | Exception]:
        """Images that are on the disk, or else the whole batch's prompts: an image may hang on those drawn beside it.
        The judges are tried before the first image is drawn."""
        with self._trying:
            if not self._tried:
                self._try_judges()
                self._tried = True
        found = [self._read(unit, folder / IMAGES) for unit in units]
        if self._images is None and any(isinstance(f, Exception) for f in found):
            return [self._request(unit) for unit in units]
        return [f if isinstance(f, Exception) else Ready(f) for f in found]

    def _read(self, unit: Unit, images: Path) -> Read | BadImageError:
        """The user's image of a unit, or the one that this run drew."""
        try:
            if self._images is not None:
                return self._images.read(*self._pairs[unit.id])
            return read_image(self._file(unit, images), images)
        except BadImageError as error:
            return error

    def _store(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[Any], images: Path
    ) -> list[Read | Exception]:
        """Images into the run's folder and to the disk; one that is there already is left as it is."""
        found: list[Read | Exception] = []
        for unit, request, output in zip(units, requests, outputs, strict=True):
            file = self._file(unit, images)
            if isinstance(request, Prompt | Conversation):
                there, drawn = self._read(unit, images), _drawn(output)
                if isinstance(there, Exception) and not isinstance(drawn, Exception):
                    write_image(file, drawn)
                    there = self._read(unit, images)
                output = drawn if isinstance(drawn, Exception) and isinstance(there, Exception) else there
            elif self._images is not None and not isinstance(output, Exception):
                self._copy(unit, output, file)
            found.append(output)
        make_durable(file for unit in units if (file := self._file(unit, images)).exists())
        return found

    def _outcome(
        self, bundle: Bundle, items: list[Item], scores: Scores, extras: JsonObject, lost: str | None = None
    ) -> Outcome:
        """What a run ends with; `lost` says why prompts may be missing."""
        write_sheets(bundle, items)
        sizes = Counter(item.extras["size"] for item in items if "size" in item.extras)
        extras = {**bundle.run.extras, **extras, "image_sizes": dict(sizes.most_common())}
        reservations = reserve_blank(bundle.run.reservations, *blank_of(items))
        return Outcome(items, scores, lost, {"extras": extras, "reservations": reservations})


def _drawn(output: Any) -> Image.Image | Exception:
    """The image of a model's output: of a free response the first one, else an exception that says there is none."""
    if isinstance(output, list):
        return next((part for part in output if not isinstance(part, str)), NoImageError("the response holds no image"))
    return output


def seed_of(base: int, prompt: int, sample: int) -> int:
    """An image's own seed, 31 bits: the same in any batch, subset or process."""
    digest = hashlib.sha256(f"{base}:{prompt}:{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def choose_prompts(
    groups: Sequence[str | None],
    limit: int | None,
    seed: int,
    samples: int,
    *,
    order: Sequence[str] = (),
    what: str = "images",
) -> tuple[list[int], Subset | None]:
    """Indices of the prompts to draw, by the group of each; with a limit, from each group in turn, seeded.

    `order`: of the groups, else as they come. `what`: how the subset's rule calls the samples.
    """
    if limit is None or limit >= len(groups):
        return list(range(len(groups))), None
    generator = random.Random(seed)
    queues: dict[str | None, list[int]] = {group: [] for group in order}
    for index, group in enumerate(groups):
        queues.setdefault(group, []).append(index)
    for queue in queues.values():
        generator.shuffle(queue)
    longest = max(map(len, queues.values()))
    turns = [queue[k] for k in range(longest) for queue in queues.values() if k < len(queue)]
    rule, items = f"prompt, {samples} {what} each", limit * samples
    return sorted(turns[:limit]), Subset(rule=rule, limit=limit, seed=seed, items=items, of_items=len(groups) * samples)


def score_items(
    items: Sequence[Item], composites: Iterable[Composite], expected: int, lacking: str, remark: str | None = None
) -> Scores:
    """The numbers with intervals by prompt; the headline is withheld while an image has no score, which `lacking` says.

    `remark` is put under the headline (prompts that are not the official ones ...).
    """
    scored = [item for item in items if item.score is not None]
    lost = expected - len(scored)
    withheld = f"{lost} of {expected} {lacking}" if lost else None
    metrics = []
    for composite in composites:
        metric = measure(scored, composite)
        if composite.primary and withheld:
            metric = metric.model_copy(update={"value": None, "ci95": None, "note": f"withheld: {withheld}"})
        elif composite.primary and remark:
            metric = metric.model_copy(update={"note": remark})
        metrics += [metric] if metric.n or composite.primary else []
    counts = Counter(item.status for item in items)
    return Scores(metrics=metrics, counts=counts, expected_items=expected, blank=blank_of(items)[0], withheld=withheld)


def frame_of(score: float | None) -> tuple[int, int, int]:
    """Grey without a score, else from red (0) to green (1)."""
    if score is None:
        return GREY
    share = min(1.0, max(0.0, score))
    return (round(200 - 170 * share), round(40 + 100 * share), round(40 + 20 * share))


def write_sheets(bundle: Bundle, items: Sequence[Item]) -> None:
    """sheets/GROUP.png for each group (a suite's, GenEval's tasks), or sheets/all.png."""
    for group in dict.fromkeys(item.group for item in items):
        rows: dict[str, tuple[str, list[Tile]]] = {}
        own = [item for item in items if item.group == group]
        for item in own:
            image = next((bundle.path / name for name in item.output_images), None)
            rows.setdefault(item.id.rpartition("/")[0], (item.prompt, []))[1].append(Tile(image, frame_of(item.score)))
        scores = [item.score for item in own if item.score is not None]
        mean = f"{sum(scores) / len(scores):.2f}" if scores else "-"
        where = f"{bundle.run.benchmark}, {group}" if group else bundle.run.benchmark
        title = f"{where}: mean {mean} of {len(own)} images, {len(rows)} prompts"
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in group or "all")
        write_image(bundle.path / SHEETS / f"{name}.png", contact_sheet(spread([*rows.values()], ROWS), title=title))
