"""The modality benchmark of the shapes world: which of text, image or both is asked for, in words never trained on.

    python -m armor_eval.shapes.modality        prints the JSON lines

Kinds: t2t and ti2t want text alone, t2i an image alone, t2ti and ti2ti both (`ti`: an image is given). A record:

    {"id": "t2i-0007", "cluster": ..., "kind": "t2i", "form": "plain|negation", "turns": 1,
     "messages": [{"role": "user", "content": "<image>\\n..."}, ...], "images": ["red circle@0; ..."],
     "expect": {"text": false, "image": true}, "content": {"phrase": ..., "things": [[color, shape, count], ...],
     "relation": null} | {"scene": "..."} | null, "held_out": false}

`content` says what an image must show (requests: exactly these things; ti2ti: that scene), for text and image to be
held against. `cluster` is the wording: records of one wording are resampled together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from armor_model.base.jsons import JsonObject
from trainer.shapes.language import CHAT_HELD_OUT, DESCRIBE_AND_REDRAW_HELD_OUT, DESCRIBE_IMAGE_HELD_OUT, chat_facts
from trainer.shapes.requests import DRAW_HELD_OUT, MIXED_HELD_OUT, TELL_ONLY_HELD_OUT, Request, form_of, sample_request
from trainer.shapes.world import HELD_OUT, Scene, is_held_out, pick, render, sample_scene

SEED = 21_001
KINDS: dict[str, tuple[bool, bool]] = {
    "t2t": (True, False),
    "ti2t": (True, False),
    "t2i": (False, True),
    "t2ti": (True, True),
    "ti2ti": (True, True),
}
"""Kind -> (text wanted, image wanted)."""
EACH = 80
"""Records a kind."""
MULTI_TURN_EVERY = 5
"""Every fifth record has an exchange before it."""
IMAGE = "<image>"


def _content(request: Request) -> JsonObject:
    return {"phrase": request.phrase, "things": [list(t) for t in request.things], "relation": request.relation}


def _asked(rng: np.random.Generator, kind: str, number: int) -> tuple[str, str, list[Scene], JsonObject | None, bool]:
    """(wording, filled text, images given, content, held out); wordings take turns, so that all are asked alike."""

    def turn(wordings: Sequence[str]) -> str:
        return wordings[number % len(wordings)]

    if kind in ("ti2t", "ti2ti"):
        scene = sample_scene(rng, training=False)
        wording = turn(DESCRIBE_IMAGE_HELD_OUT if kind == "ti2t" else DESCRIBE_AND_REDRAW_HELD_OUT)
        return wording, f"{IMAGE}\n{wording}", [scene], {"scene": str(scene)}, is_held_out(scene)
    if kind == "t2t" and number % 2:
        wording = CHAT_HELD_OUT[number // 2 % len(CHAT_HELD_OUT)][0]
        return wording, wording, [], None, False
    request = sample_request(rng, training=False)
    held = not HELD_OUT.isdisjoint(request.keys)
    if kind == "t2t":
        wording = TELL_ONLY_HELD_OUT[number // 2 % len(TELL_ONLY_HELD_OUT)]
    else:
        wording = turn(DRAW_HELD_OUT if kind == "t2i" else MIXED_HELD_OUT)
    return wording, wording.format(x=request.phrase), [], _content(request), held


def records(seed: int = SEED) -> list[JsonObject]:
    """400 records, 80 a kind, equal for equal seeds."""
    found = []
    for kind, (text, image) in KINDS.items():
        rng = np.random.default_rng([seed, list(KINDS).index(kind)])
        for number in range(EACH):
            wording, filled, scenes, content, held = _asked(rng, kind, number)
            messages = [{"role": "user", "content": filled}]
            if number % MULTI_TURN_EVERY == MULTI_TURN_EVERY - 1:
                said, reply = pick(rng, chat_facts())
                messages = [{"role": "user", "content": said}, {"role": "assistant", "content": reply}, *messages]
            found.append(
                {
                    "id": f"{kind}-{number:04d}",
                    "cluster": f"{kind}: {wording}",
                    "kind": kind,
                    "form": form_of(wording),
                    "turns": len(messages) // 2 + 1,
                    "messages": messages,
                    "images": [str(scene) for scene in scenes],
                    "expect": {"text": text, "image": image},
                    "content": content,
                    "held_out": held,
                }
            )
    return found


def conversation(record: JsonObject) -> list[JsonObject]:
    """A record's messages as adapters take them: text and image parts, images rendered."""
    images = iter(record["images"])
    messages = []
    for message in record["messages"]:
        text = message["content"]
        parts: list[JsonObject] = []
        for _ in range(text.count(IMAGE)):
            parts.append({"type": "image", "image": render(Scene.parse(next(images)))})
        parts.append({"type": "text", "text": text.replace(f"{IMAGE}\n", "")})
        messages.append({"role": message["role"], "content": parts})
    return messages


def jsonl() -> str:
    """The records as JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records())


if __name__ == "__main__":
    print(jsonl(), end="")
