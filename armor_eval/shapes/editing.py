"""Editing in the shapes world: requests for one exact change to an image, and the judge that sees what was changed.

    python -m armor_eval.shapes.editing        prints the JSON lines

Kinds: recolor, reshape, remove, add, move. A record, frozen by the hash in `benchmarks/shapes/edits_v1.json`:

    {"id": "recolor-007", "kind": "recolor", "source": "recolor-007.png", "instruction": "make the circle yellow.",
     "scene": "red circle@0; blue square@3", "target": "yellow circle@0; blue square@3", "held_out": false}

`held_out`: training never shows the target. The words are the world's own (v1), so that its models can read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from armor_eval.base.data import benchmarks_dir
from armor_eval.base.images import write_image
from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.shapes.detector import SceneDetector
from armor_eval.tasks.suites.judges import Reading, Shown
from armor_model.base.errors import UserError
from armor_model.base.files import whole_folder, write_file
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject
from trainer.shapes.changes import change
from trainer.shapes.world import Scene, Thing, is_held_out, render, sample_scene

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


def records() -> list[JsonObject]:
    """200 requests, 40 a kind, each of another pair of scenes."""
    found, seen = [], set()
    for kind, wordings in WORDINGS.items():
        rng = np.random.default_rng([SEED, list(WORDINGS).index(kind)])
        number = 0
        while number < EACH:
            source = sample_scene(rng, training=False)
            made = change(rng, kind, source)
            if made is None or (str(source), str(made[0])) in seen:
                continue
            target, words = made
            seen.add((str(source), str(target)))
            found.append(
                {
                    "id": f"{kind}-{number:03d}",
                    "kind": kind,
                    "source": f"{kind}-{number:03d}.png",
                    "instruction": wordings[number % len(wordings)].format(**words),
                    "scene": str(source),
                    "target": str(target),
                    "held_out": is_held_out(target),
                }
            )
            number += 1
    return found


def jsonl() -> str:
    """The records as JSON lines, held to their declared hash."""
    text = "".join(json.dumps(record) + "\n" for record in records())
    declared = json.loads((benchmarks_dir() / "shapes" / DECLARATION).read_text())
    if (found := sha256_text(text)) != declared["sha256"]:
        raise UserError(
            f"the editing requests came out different (sha256 {found}, declared {declared['sha256']})",
            "this numpy draws another random stream",
        )
    return text


def write(root: Path) -> Path:
    """The folder under `root` that holds `edits.jsonl` and the source images, made if it is missing."""
    text = jsonl()
    folder = root / sha256_text(text)[:16]
    if not (folder / "edits.jsonl").is_file():
        with whole_folder(folder, last="edits.jsonl") as new:
            for record in map(json.loads, text.splitlines()):
                write_image(new / record["source"], render(Scene.parse(record["scene"])))
            write_file(new / "edits.jsonl", text)
    return folder


class DetectorJudge:
    """The embedded detector and pixel colours, held against the target's scene."""

    def __init__(self, device: str = "cpu") -> None:
        self._sight = SceneDetector(device)
        own = self._sight.settings
        self.info = JudgeInfo(name=str(own["detector"]), version=str(own["weights_sha256"])[:16], endpoint="local")
        self.settings: JsonObject = own
        self.facts: JsonObject = {}

    def prepare(self, kind: str) -> None:
        """UserError for what is no rubric; RunFailed where the detector misreads an image with a known answer."""
        if kind != "rubric":
            raise UserError("--judge shapes-detector judges edits of the shapes world", "say --suite shapes-edit")
        self._sight.self_check()

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        raise UserError("--judge shapes-detector gives no probabilities")

    def replies(self, shown: Sequence[Shown], max_new_tokens: int) -> list[list[Reading] | Exception]:
        """Two grades, 0 or 1, and what was seen."""
        seen = self._sight.things([one.images[-1] for one in shown])
        return [[Reading(grades(things, one.item.fields))] for things, one in zip(seen, shown, strict=True)]

    def close(self) -> None: ...


def grades(things: Sequence[Thing], fields: Mapping[str, str]) -> str:
    """The two lines of a rubric reply, 0 or 1 each, and what was seen.

    Instruction: all that is new in the target is there, and what had to go is gone. Preservation: all that both scenes
    hold is there, and nothing that neither holds; two things in one cell are one too many.
    """
    source, target = (set(Scene.parse(fields[name]).things) for name in ("scene", "target"))
    seen = set(things)
    followed = target - source <= seen and not (source - target) & seen
    preserved = source & target <= seen and not seen - source - target and len(things) == len(seen)
    words = "; ".join(f"{t.color} {t.shape}@{t.cell}" for t in things) or "nothing"
    return f"Instruction: {followed:d}\nPreservation: {preserved:d}\nseen: {words}"


def load_judge(rest: str, profile: Profile, *, device: str | None = None, **_: object) -> DetectorJudge:
    """For `--judge shapes-detector`. UserError for a run that is not of the shapes world."""
    if profile != "shapes":
        raise UserError("--judge shapes-detector knows the shapes world only", "take another judge")
    return DetectorJudge(device or "cpu")


if __name__ == "__main__":
    print(jsonl(), end="")
