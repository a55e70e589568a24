"""Judges armor-nano in the shapes world while it is trained and for its model card: questions, modality choice,
drawings.

A drawn image is read by matching each cell against the world's own tiles (nearest of 21): exact in this world and
cheap.
It is stricter than GenEval's rule, since anything beyond what was asked counts as wrong. The harness judges again,
with a detector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from armor_model.base.jsons import JsonObject
from armor_model.base.statistics import wilson
from trainer.data.records import sides, to_messages
from trainer.shapes.conversations import sample_conversation
from trainer.shapes.language import CHAT_HELD_OUT, DESCRIBE_IMAGE_HELD_OUT
from trainer.shapes.questions import (
    QUESTION_TYPES,
    WORD_SUFFIX,
    YES_NO,
    YES_NO_SUFFIX,
    multiple_choice,
    options_for,
    sample_question,
)
from trainer.shapes.requests import (
    DRAW_HELD_OUT,
    MIXED_HELD_OUT,
    TASKS,
    TELL_ONLY_HELD_OUT,
    Request,
    matches,
    sample_request,
)
from trainer.shapes.world import (
    CELLS,
    COLOR_NAMES,
    EMPTY_TILE,
    GRID,
    HELD_OUT,
    SHAPES,
    SIZE,
    Scene,
    Thing,
    cell_tiles,
    pick,
    render,
    sample_scene,
)

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

DISTANCE_LIMIT = 30.0
"""Root mean square difference (0..255) beyond which a cell is no tile at all: half of that between the two nearest
tiles."""


def read_images(images: Sequence[Image.Image]) -> list[Scene | None]:
    """The scene that each 32x32 image shows, None where a cell looks like nothing or all are empty."""
    cell = SIZE // GRID
    pixels = np.stack([np.asarray(p.convert("RGB").resize((SIZE, SIZE)), dtype=np.float32) for p in images])
    cells = pixels.reshape(len(images), GRID, cell, GRID, cell, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 3 * cell**2)
    tiles = cell_tiles(cell).reshape(EMPTY_TILE + 1, -1).astype(np.float32)
    distance = ((cells[:, None] - tiles[None]) ** 2).mean(axis=2) ** 0.5
    nearest, how_far = distance.argmin(axis=1).reshape(-1, CELLS), distance.min(axis=1).reshape(-1, CELLS)
    scenes: list[Scene | None] = []
    for indices, far in zip(nearest, how_far, strict=True):
        things = tuple(
            Thing(COLOR_NAMES[i // len(SHAPES)], SHAPES[i % len(SHAPES)], c)
            for c, i in enumerate(indices)
            if i != EMPTY_TILE
        )
        scenes.append(Scene(things) if things and far.max() <= DISTANCE_LIMIT else None)
    return scenes


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % Wilson interval."""

    right: int
    of: int

    @property
    def value(self) -> float:
        return self.right / self.of if self.of else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.value, self.of) if self.of else (0.0, 1.0)


def rates(outcomes: Iterable[tuple[str, bool]]) -> dict[str, Rate]:
    right: dict[str, int] = defaultdict(int)
    of: dict[str, int] = defaultdict(int)
    for name, good in outcomes:
        right[name] += int(good)
        of[name] += 1
    return {name: Rate(right[name], of[name]) for name in of}


def clean(text: str) -> str:
    return text.strip().strip(".").strip().lower()


class Judge:
    """Asks a model through `respond(conversations, allow_images, seeds) -> responses with .text and .images`."""

    def __init__(self, model: ArmorModel, processor: ArmorProcessor, settings: Any) -> None:
        self.model, self.processor, self.settings = model, processor, settings

    def questions(self, each: int, seed: int) -> dict[str, Rate]:
        """Accuracy of every question type, asked openly and as multiple choice: `color`, `color/mcq`."""
        rng = np.random.default_rng([seed, 1])
        names, prompts, golds = [], [], []
        for type_ in QUESTION_TYPES:
            for i in range(each):
                # Scenes of held-out combinations too: understanding is judged on every image of the world.
                scene, question = sample_question(rng, type_, training=False)
                if i % 2:
                    options, letter = options_for(rng, question)
                    text, gold, name = multiple_choice(question.text, options), letter, f"{type_}/mcq"
                else:
                    suffix = f" {YES_NO_SUFFIX}" if question.choices == YES_NO else f" {WORD_SUFFIX}"
                    text, gold, name = question.text + suffix, question.answer, type_
                names.append(name)
                golds.append(gold)
                prompts.append([_user([render(scene), text])])
        answers = self._respond(prompts, max_new_tokens=6, images=False, seed=seed)
        return rates((n, clean(a.text) == clean(g)) for n, a, g in zip(names, answers, golds, strict=True))

    def modality(self, each: int, seed: int, asked: str = "first") -> dict[str, Rate]:
        """Whether the answer has the parts it was asked for: text only, image only, or both.

        `first` asks the first turn of a conversation of each kind. One in ten drawing requests comes after small talk,
        whose answer in text alone, which is right, counts as wrong: .90 on t2i and t2ti is what a perfect model gets on
        average. Kept as it is for comparison with earlier releases. `last` asks the same conversations up to their last
        turn. `new` asks in wordings that training never used.
        """
        rng = np.random.default_rng([seed, 2])
        until = {"first": 1, "last": -1}
        kinds, prompts = [], []
        for kind in ("t2t", "ti2t", "t2i", "t2ti"):
            for _ in range(each):
                kinds.append(kind)
                if asked == "new":
                    prompts.append([new_wording(rng, kind)])
                else:
                    prompts.append(asked_until(sample_conversation(rng, kind), until[asked]))
        answers = self._respond(prompts, max_new_tokens=48, images=True, seed=seed)
        return rates((k, modality_of(a) == _WANTED[k]) for k, a in zip(kinds, answers, strict=True))

    def drawings(self, each: int, seed: int) -> tuple[dict[str, Rate], list[tuple[Request, Image.Image]]]:
        """Each GenEval task on held-out prompts, `each` images a task; and the images."""
        from armor_model.generation import draw

        rng = np.random.default_rng([seed, 3])
        asked = [held_out_request(rng, task) for task in TASKS for _ in range(each)]
        prompts = [f"a photo of {request.phrase}" for request in asked]
        seeds = [seed * 100_000 + i for i in range(len(asked))]
        images = draw(self.model, self.processor, prompts, self.settings, seeds)
        scenes = read_images(images)
        outcomes = [
            (request.task, scene is not None and matches(scene, request.things, request.relation))
            for request, scene in zip(asked, scenes, strict=True)
        ]
        return rates(outcomes), list(zip(asked, images, strict=True))

    def _respond(self, conversations: list, max_new_tokens: int, images: bool, seed: int) -> list[Any]:
        from dataclasses import replace

        from armor_model.generation import generate

        settings = replace(self.settings, max_new_tokens=max_new_tokens, allow_images=images, temperature=0.0)
        answers = []
        for start in range(0, len(conversations), 64):
            part = conversations[start : start + 64]
            seeds = [seed * 1_000_000 + start + i for i in range(len(part))]
            answers += generate(self.model, self.processor, part, settings, seeds)
        return answers


_WANTED = {"t2t": "text", "ti2t": "text", "t2i": "image", "t2ti": "both"}


def modality_of(response: Any) -> str:
    """`text`, `image`, `both` or `none`."""
    text, image = bool(response.text.strip()), bool(response.images)
    return "both" if text and image else "text" if text else "image" if image else "none"


def held_out_request(rng: np.random.Generator, task: str) -> Request:
    """A request that names a held-out combination, so no training image was asked for in these terms."""
    while True:
        request = sample_request(rng, task, training=False)
        if not request.keys.isdisjoint(HELD_OUT):
            return request


def new_wording(rng: np.random.Generator, kind: str) -> JsonObject:
    """A request in words that training never used, its content random."""
    if kind == "ti2t":
        scene = sample_scene(rng, training=False)
        return _user([render(scene), pick(rng, DESCRIBE_IMAGE_HELD_OUT)])
    if kind == "t2t" and rng.random() < 0.3:
        return _user([pick(rng, CHAT_HELD_OUT)[0]])
    wordings = {"t2t": TELL_ONLY_HELD_OUT, "t2i": DRAW_HELD_OUT, "t2ti": MIXED_HELD_OUT}[kind]
    return _user([pick(rng, wordings).format(x=sample_request(rng, training=False).phrase)])


def asked_until(conversation: JsonObject, turn: int) -> list[JsonObject]:
    """A conversation's first turns as messages, `turn` of them; -1 leaves the last answer out. Images are
    rendered."""
    part = {**conversation, "conversations": conversation["conversations"][:turn]}
    return to_messages(part, [render(scene) for scene in sides(part)[0]], [])


def _user(content: list[Any]) -> JsonObject:
    parts = [{"type": "text", "text": c} if isinstance(c, str) else {"type": "image", "image": c} for c in content]
    return {"role": "user", "content": parts}
