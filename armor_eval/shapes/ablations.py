"""The ablations' materials in the shapes world: training data, questions, drawing requests, their judge, and a base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.ablations.judging import DrawingRequest, ShortQuestion
from armor_eval.profiles import profile_of
from armor_eval.shapes.colors import PixelColors
from armor_eval.shapes.geneval import records
from armor_eval.tasks.geneval.detectors import load_detector
from armor_eval.tasks.geneval.judging import judge_images
from armor_eval.tasks.geneval.prompts import Metadata, load_vocabulary
from armor_eval.tasks.geneval.verdicts import Rules
from armor_model import bundled
from armor_model.base.jsons import JsonObject
from trainer.checkpoints import save_model
from trainer.data.records import encode, to_messages
from trainer.shapes.data import Codes, make_pool
from trainer.shapes.language import DESCRIBE_IMAGE, caption
from trainer.shapes.questions import (
    QUESTION_TYPES,
    WORD_SUFFIX,
    YES_NO,
    YES_NO_SUFFIX,
    multiple_choice,
    options_for,
    sample_question,
)
from trainer.shapes.recipe import build, default_recipe, phases, scaled, train_nano
from trainer.shapes.walk import Walk
from trainer.shapes.world import pick, render, sample_scene

if TYPE_CHECKING:
    from PIL import Image

    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor
    from trainer.data.records import Example

VALIDATION_SEED = 90_000
"""Of held-back conversations: no arm is trained on them."""
BASE_STEPS = ("vqgan", "vision", "data", "base")
"""Steps of armor-nano's recipe that a base needs."""


class TrainingData:
    """Tokenised conversations for one processor, equal for equal seeds."""

    def __init__(self, processor: ArmorProcessor) -> None:
        self._processor = processor
        self._codes = Codes(processor.vq)

    def training(self, kind: str, count: int, seed: int = 0) -> list[Example]:
        """What arms read. ti2t only describes images, as the paper's ShareGPT4V does: the world's own ti2t
        conversations are the base's training data, on them it could not forget."""
        return self._descriptions(count, seed) if kind == "ti2t" else self._pool(kind, count, seed)

    def held_back(self, kind: str, count: int) -> list[Example]:
        return self._pool(kind, count, VALIDATION_SEED)

    def _pool(self, kind: str, count: int, seed: int) -> list[Example]:
        return make_pool(self._processor, self._codes, kind, count, seed, version=1)

    def _descriptions(self, count: int, seed: int) -> list[Example]:
        rng = np.random.default_rng([seed, 73])
        examples = []
        for i in range(count):
            scene = sample_scene(rng)
            turns = [
                {"from": "human", "value": f"<image>\n{pick(rng, DESCRIBE_IMAGE)}"},
                {"from": "gpt", "value": caption(scene, rng)},
            ]
            record = {"id": f"describe-{i}", "type": "ti2t", "conversations": turns}
            examples.append(encode(self._processor, "ti2t", to_messages(record, [render(scene)], [])))
        return examples


def questions(each: int, seed: int = 0) -> list[ShortQuestion]:
    """`each` questions of every type, alternately in words and as multiple choice."""
    rng = np.random.default_rng([seed, 71])
    made = []
    for type_ in QUESTION_TYPES:
        for i in range(each):
            scene, question = sample_question(rng, type_, training=False)
            if i % 2:
                options, gold = options_for(rng, question)
                text = multiple_choice(question.text, options)
            else:
                gold = question.answer
                text = f"{question.text} {YES_NO_SUFFIX if question.choices == YES_NO else WORD_SUFFIX}"
            made.append(ShortQuestion(f"{type_}-{i:02d}", text, gold, render(scene)))
    return made


def drawings(each: int, seed: int = 0) -> list[DrawingRequest]:
    """`each` images of each of GenEval's six tasks, over the prompts whose combinations training never shows."""
    held_out: dict[str, list[JsonObject]] = {}
    for record in records():
        if record["held_out"]:
            held_out.setdefault(record["tag"], []).append(record)
    made = []
    for number, (task, of_task) in enumerate(held_out.items()):
        order = np.random.default_rng([seed, 72, number]).permutation(len(of_task))
        for i in range(each):
            record = of_task[order[i % len(of_task)]]
            made.append(DrawingRequest(f"{task}-{i:02d}", record["prompt"], 1000 * seed + i, record))
    return made


class DrawingReader:
    """The embedded detector, checked on an image with a known answer, and GenEval's rules over its detections."""

    def __init__(self) -> None:
        vocabulary = load_vocabulary("shapes")
        detector = profile_of("shapes").detector
        self._rules, self._colors = Rules(), PixelColors(vocabulary)
        self._detector = load_detector(detector, vocabulary, weights=None, download=False, device="cpu", batch=None)
        self._detector.self_check(self._rules)
        self.settings = {**self._detector.settings, **self._colors.settings}

    def read(self, requests: Sequence[DrawingRequest], images: Sequence[Image.Image]) -> tuple[list[bool], list[str]]:
        """(whether each image shows what was asked for, what is missing), in order."""
        metas = [Metadata.model_validate(r.record) for r in requests]
        judged = judge_images([np.asarray(i) for i in images], metas, self._detector, self._colors, self._rules)
        return [j.verdict.correct for j in judged], [j.verdict.reason for j in judged]


def base_seconds(share: float) -> float:
    """CPU-seconds that a base trained on this share of the recipe takes, as the bundled one took."""
    costs = json.loads((Path(bundled("armor-nano")) / "training.json").read_text(encoding="utf-8"))["cost"]
    return share * sum(c["cpu_seconds"] for c in costs if c["name"] in BASE_STEPS)


def train_base(share: float, folder: Path, base: str = "internvl") -> None:
    """Train the recipe's understanding model on a base, on a share of its steps, into a checkpoint folder."""
    recipe = default_recipe(0, base)
    recipe = replace(recipe, stages=tuple(s for s in recipe.stages if s.stage == "base"))
    recipe = scaled(recipe, share) if share < 1 else recipe
    with closing(Walk(phases(recipe)[:-1])) as walk:  # its judging is not asked for
        outcome = train_nano(recipe, folder.with_name("base-training"), walk)
    save_model(outcome.model, outcome.processor, folder)


def untrained_model(seed: int, base: str = "internvl") -> ArmorModel:
    """A model of the recipe's size that has learned nothing; torch's generator is seeded."""
    import torch

    torch.manual_seed(seed)
    return build(default_recipe(seed, base))[0]
