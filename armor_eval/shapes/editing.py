"""Editing in the shapes world: requests for one exact change to an image, and the judge that sees what was changed.

    python -m armor_eval.shapes.editing        prints the JSON lines

Kinds: recolor, reshape, remove, add, move. A record, frozen by the hash in `benchmarks/shapes/edits_v1.json`:

    {"id": "recolor-007", "kind": "recolor", "source": "red circle@0; blue square@3", "instruction": "make the circle
     yellow.", "target": "yellow circle@0; blue square@3", "held_out": false}

`held_out`: training never shows the target. The words are the world's own (v1), so that its models can read them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from armor_eval.base.resources import benchmarks_dir
from armor_eval.runs.schema import JudgeInfo, ScorerInfo
from armor_eval.shapes.colors import PixelColors
from armor_eval.shapes.detector import EmbeddedDetector
from armor_eval.tasks.geneval.colors import Crop
from armor_eval.tasks.geneval.instances import Instances
from armor_eval.tasks.geneval.verdicts import Rules
from armor_eval.tasks.geneval.vocabulary import load_vocabulary
from armor_eval.tasks.suites.editing import EditRequest, EditVerdict
from armor_model.base.errors import UserError
from trainer.shapes.world import CELL_NAMES, CELLS, COLOR_NAMES, GRID, SHAPES, Scene, Thing, is_held_out, pick
from trainer.shapes.world import render as render_scene
from trainer.shapes.world import sample_scene as sample

if TYPE_CHECKING:
    from PIL import Image

SEED = 26_001
EACH = 40
"""Requests a kind."""
DECLARATION = "edits_v1.json"
WORDINGS: dict[str, tuple[str, ...]] = {
    "recolor": ("make the {it} {color}.", "draw this picture again with the {it} in {color}."),
    "reshape": ("make the {it} a {shape}.", "draw this picture again with a {shape}, not the {it}."),
    "remove": ("draw this picture again without the {it}.", "show me this image, only without the {it}."),
    "add": ("also draw a {color} {shape} at the {cell}.", "show this image with a {color} {shape} at the {cell} too."),
    "move": (
        "draw this picture again with the {it} at the {cell}.",
        "show me this image with the {it} at the {cell}, not at the {old}.",
    ),
}
"""Kind -> wordings, taken in turn. A reshaped thing keeps its colour and place, a moved one its colour and shape."""


def records() -> list[dict[str, Any]]:
    """200 requests, 40 a kind, each of another pair of scenes."""
    found, seen = [], set()
    for kind, wordings in WORDINGS.items():
        rng = np.random.default_rng([SEED, list(WORDINGS).index(kind)])
        number = 0
        while number < EACH:
            source = sample(rng, training=False)
            change = _change(rng, kind, source)
            if change is None or (str(source), str(change[0])) in seen:
                continue
            target, words = change
            seen.add((str(source), str(target)))
            found.append(
                {
                    "id": f"{kind}-{number:03d}",
                    "kind": kind,
                    "source": str(source),
                    "instruction": wordings[number % len(wordings)].format(**words),
                    "target": str(target),
                    "held_out": is_held_out(target),
                }
            )
            number += 1
    return found


def _change(rng: np.random.Generator, kind: str, source: Scene) -> tuple[Scene, dict[str, str]] | None:
    """(the scene asked for, what fills the wording); None where this source allows no such change in plain words."""
    free = [cell for cell in range(CELLS) if source.at(cell) is None]
    if kind == "add":
        if not free:
            return None
        new = Thing(pick(rng, COLOR_NAMES), pick(rng, SHAPES), pick(rng, free))
        words = {"color": new.color, "shape": new.shape, "cell": CELL_NAMES[new.cell]}
        return Scene((*source.things, new)), words
    old = pick(rng, source.things)
    rest = tuple(thing for thing in source.things if thing is not old)
    if any((thing.color, thing.shape) == (old.color, old.shape) for thing in rest):
        return None
    alike = any(thing.shape == old.shape for thing in rest)
    words = {"it": f"{old.color} {old.shape}" if alike else old.shape, "old": CELL_NAMES[old.cell]}
    if kind == "remove":
        return (Scene(rest), words) if rest else None
    if kind == "recolor":
        new = old._replace(color=pick(rng, [c for c in COLOR_NAMES if c != old.color]))
    elif kind == "reshape":
        new = old._replace(shape=pick(rng, [s for s in SHAPES if s != old.shape]))
    else:
        if not free:
            return None
        new = old._replace(cell=pick(rng, free))
    return Scene((*rest, new)), {**words, "color": new.color, "shape": new.shape, "cell": CELL_NAMES[new.cell]}


def jsonl() -> str:
    """The records as JSON lines, held to their declared hash."""
    text = "".join(json.dumps(record) + "\n" for record in records())
    declared = json.loads((benchmarks_dir() / "shapes" / DECLARATION).read_text())
    if (found := hashlib.sha256(text.encode()).hexdigest()) != declared["sha256"]:
        raise UserError(
            f"the editing requests came out different (sha256 {found}, declared {declared['sha256']})",
            "this numpy draws another random stream",
        )
    return text


def render(scene: str) -> Image.Image:
    """The image of a scene in words."""
    return render_scene(Scene.parse(scene))


class DetectorJudge:
    """The embedded detector and pixel colours, held against the target's scene. A thing is where its box is centred."""

    reservations = ()

    def __init__(self, device: str = "cpu", batch: int = 32) -> None:
        vocabulary = load_vocabulary("shapes")
        self._detector, self._colors = EmbeddedDetector(vocabulary, device, batch), PixelColors(vocabulary)
        self._rules, self._checked = Rules(), False
        settings = {**self._detector.settings, **self._colors.settings, "threshold": self._rules.threshold}
        self.scorer = ScorerInfo(name="shapes edits: the target's scene", version="1", settings=settings)
        self.info = JudgeInfo(name=str(settings["detector"]), endpoint="none")

    def judge(
        self, sources: Sequence[Image.Image], edited: Sequence[Image.Image], requests: Sequence[EditRequest]
    ) -> list[EditVerdict | Exception]:
        """A verdict an image. RunFailed where the detector does not read an image with a known answer right."""
        if not self._checked:
            self._detector.self_check(self._rules)
            self._checked = True
        arrays = [np.asarray(image.convert("RGB")) for image in edited]
        found = self._detector.detect(arrays)
        seen = [self._things(array, instances) for array, instances in zip(arrays, found, strict=True)]
        return [verdict(things, request.record) for things, request in zip(seen, requests, strict=True)]

    def _things(self, image: np.ndarray, found: Instances) -> list[Thing]:
        height, width = image.shape[:2]
        things = []
        for place in np.flatnonzero(found.scores > self._rules.threshold):
            box, shape = found.boxes[place], self._detector.classes[found.labels[place]]
            (answer,) = self._colors.name([Crop(image, found.masks[place], box, shape)])
            column, row = (int(GRID * (box[i] + box[i + 2]) / 2 / side) for i, side in ((0, width), (1, height)))
            things.append(Thing(answer.color, shape, min(row, GRID - 1) * GRID + min(column, GRID - 1)))
        return sorted(things, key=lambda thing: thing.cell)


def verdict(things: Sequence[Thing], record: dict[str, Any]) -> EditVerdict:
    """Followed: all that is new in the target is there, and what had to go is gone. Preserved: all that both scenes
    hold is there, and nothing that neither holds; two things in one cell are one too many."""
    source, target = (set(Scene.parse(record[name]).things) for name in ("source", "target"))
    seen = set(things)
    followed = target - source <= seen and not (source - target) & seen
    preserved = source & target <= seen and not seen - source - target and len(things) == len(seen)
    words = "; ".join(f"{t.color} {t.shape}@{t.cell}" for t in things) or "nothing"
    return EditVerdict(float(followed), float(preserved), words)


if __name__ == "__main__":
    print(jsonl(), end="")
