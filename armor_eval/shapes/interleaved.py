"""Interleaved requests of the shapes world, and the exact comparison of what is asked, told and drawn.

    python -m armor_eval.shapes.interleaved        prints the JSON lines of the newest version

The requests are those of `trainer.shapes.interleaved`, so that training can keep clear of them. A record is one of
`armor_eval.tasks.modality.records` whose content says what each image must show:

    {"images": [{"things": [[color, shape, count], ...], "relation": null} | {"scene": "red circle@0"}, ...]}

Its lines are frozen by the hash in `benchmarks/shapes/interleaved_v1.json`. `cluster` is the dialogue: the turns of one
are resampled together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from armor_eval.base.data import benchmarks_dir
from armor_eval.shapes.claims import agreement, claims_of, image_right, nothing_beyond, text_right
from armor_eval.shapes.detector import SceneDetector
from armor_eval.tasks.interleaved.judging import Compared, Pair
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject
from trainer.shapes.interleaved import VERSION, records
from trainer.shapes.questions import describe
from trainer.shapes.world import Scene, Thing

NAME = "shapes-interleaved"


@lru_cache(maxsize=2)
def jsonl(version: int = VERSION) -> str:
    """The records as JSON lines, held to the declared hash of their version."""
    return frozen(records(version), f"interleaved_v{version}.json", "interleaved requests")


def frozen(records: Sequence[JsonObject], declaration: str, what: str) -> str:
    """Records as JSON lines. UserError where their hash is not the declared one of benchmarks/shapes."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    declared = json.loads((benchmarks_dir() / "shapes" / declaration).read_text(encoding="utf-8"))
    if (found := sha256_text(text)) != declared["sha256"]:
        raise UserError(
            f"the {what} came out different (sha256 {found}, declared {declared['sha256']})",
            "this numpy draws another random stream",
        )
    return text


CONSTANT = Scene((Thing("red", "circle", 0),))
"""What the constant baseline tells and draws each time."""


def told(scene: Scene) -> str:
    """A text that says what a scene shows."""
    return f"{describe(scene)}."


def shuffled(text: str, seen: str) -> float:
    """F1 of a text against what an image shows, as `Compared.seen` has it."""
    things = [Scene.parse(one).things[0] for one in seen.split("; ")] if "@" in seen else []
    return agreement(claims_of(text), things).f1


class SceneComparer:
    """Claims of the text (armor_eval.shapes.claims) and things that the embedded detector sees."""

    def __init__(self, device: str = "cpu") -> None:
        self._sight = SceneDetector(device)
        self._sight.self_check()
        self.info: JsonObject = {**self._sight.settings, "claims": "1"}

    def compare(self, pairs: Sequence[Pair]) -> list[Compared]:
        """Detects all images at once."""
        shown = {at: pair.image for at, pair in enumerate(pairs) if pair.image is not None}
        things = dict(zip(shown, self._sight.things(list(shown.values())), strict=True))
        return [compared(pair.text, things.get(at), pair.target) for at, pair in enumerate(pairs)]


@lru_cache(maxsize=1)
def comparer() -> SceneComparer:
    """The comparer, loaded once: a run and its baselines share it."""
    return SceneComparer()


def compared(text: str, things: Sequence[Thing] | None, target: JsonObject | None) -> Compared:
    """One text and the things of one image (None: no image) against a target (None: nothing more was asked for)."""
    told, seen = claims_of(text), list(things or ())
    both = agreement(told, seen)
    return Compared(
        text_right=target is not None and text_right(told, target),
        image_right=target is not None and image_right(seen, target),
        agreement=both.f1,
        agrees=both.exact,
        nothing_beyond=target is not None and nothing_beyond(told, seen, target),
        claims=len(told),
        seen="no image" if things is None else "; ".join(f"{t.color} {t.shape}@{t.cell}" for t in seen) or "nothing",
    )


if __name__ == "__main__":
    print(jsonl(), end="")
