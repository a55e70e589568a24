"""Judges an arm: validation losses, understanding questions and drawings, each as records that go into the bundle.

Drawings are judged as `armor-eval geneval` judges them: the embedded prompts, the bundled detector, GenEval's rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from armor_eval.ablations.base import VALIDATION_SEED, Base
from armor_model.base.hashing import sha256_text

DRAW_TEMPERATURE = 0.5
"""Of the visual head, as on armor-nano's card."""


@dataclass(frozen=True)
class Asked:
    """One understanding question, equal in every arm."""

    id: str
    type: str
    text: str
    gold: str
    scene: Any


@dataclass(frozen=True)
class Wanted:
    """One drawing request, equal in every arm."""

    id: str
    prompt: str
    seed: int
    record: dict[str, Any] | None = None
    """GenEval's metadata; None for a prompt of one's own, which nobody here can judge."""

    @property
    def cluster(self) -> str:
        """Pictures of one prompt are resampled together."""
        return sha256_text(self.prompt)[:12]


def questions(each: int, seed: int) -> list[Asked]:
    """`each` questions of every type, alternately in words and as multiple choice."""
    from trainer.shapes.questions import (
        QUESTION_TYPES,
        WORD_SUFFIX,
        YES_NO,
        YES_NO_SUFFIX,
        multiple_choice,
        options_for,
        sample_question,
    )

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
            made.append(Asked(f"{type_}-{i:02d}", type_, text, gold, scene))
    return made


def wanted(each: int, seed: int) -> list[Wanted]:
    """`each` pictures of each of GenEval's six tasks, over the prompts whose combinations training never shows."""
    from armor_eval.tasks.geneval.pictures import shapes_prompts

    held_out: dict[str, list[dict[str, Any]]] = {}
    for record in shapes_prompts().records:
        if record["held_out"]:
            held_out.setdefault(record["tag"], []).append(record)
    made = []
    for number, (task, records) in enumerate(held_out.items()):
        order = np.random.default_rng([seed, 72, number]).permutation(len(records))
        for i in range(each):
            record = records[order[i % len(records)]]
            made.append(Wanted(f"{task}-{i:02d}", record["prompt"], 1000 * seed + i, record))
    return made


def own_prompts(prompts: Sequence[str], seed: int) -> list[Wanted]:
    """Requests that are drawn for the eye only."""
    return [Wanted(f"prompt-{i:02d}-00", text, 1000 * seed + i) for i, text in enumerate(prompts)]


def answer(model: Any, processor: Any, asked: Sequence[Asked]) -> list[str]:
    """Greedy short answers, drawing masked."""
    from armor_model.generation import GenerationSettings, generate
    from trainer.shapes.world import render

    rows = []
    for a in asked:
        content = [{"type": "image", "image": render(a.scene)}, {"type": "text", "text": a.text}]
        rows.append([{"role": "user", "content": content}])
    settings = GenerationSettings(max_new_tokens=6, allow_images=False)
    return [r.text for r in generate(model, processor, rows, settings)]


def right(said: str, gold: str) -> bool:
    """Whether an answer is the gold one, apart from case, spaces and a full stop."""
    return said.strip().strip(".").strip().lower() == gold.strip().strip(".").lower()


def draw_all(model: Any, processor: Any, requests: Sequence[Wanted]) -> list[Any]:
    """A picture a request."""
    from armor_model.generation import GenerationSettings, draw

    settings = GenerationSettings(image_temperature=DRAW_TEMPERATURE)
    return draw(model, processor, [r.prompt for r in requests], settings, [r.seed for r in requests])


class DrawingReader:
    """The embedded detector, checked on a picture with a known answer, and GenEval's rules over what it finds."""

    def __init__(self) -> None:
        from armor_eval.tasks.geneval.colors import PixelColors
        from armor_eval.tasks.geneval.detectors import load_detector
        from armor_eval.tasks.geneval.verdicts import Rules
        from armor_eval.tasks.geneval.vocabulary import load_vocabulary

        vocabulary = load_vocabulary("shapes")
        self._rules, self._colors = Rules(), PixelColors(vocabulary)
        self._detector = load_detector("embedded", vocabulary, weights=None, download=False, device="cpu", batch=None)
        self._detector.self_check(self._rules)
        self.settings = {**self._detector.settings, **self._colors.settings}

    def read(self, requests: Sequence[Wanted], pictures: Sequence[Any]) -> tuple[list[bool], list[str]]:
        """(whether each picture shows what was asked for, what is missing), in order."""
        from armor_eval.tasks.geneval.judging import judge_pictures
        from armor_eval.tasks.geneval.pictures import as_array
        from armor_eval.tasks.geneval.prompts import Metadata

        metas = [Metadata.model_validate(r.record) for r in requests]
        found = judge_pictures([as_array(p) for p in pictures], metas, self._detector, self._colors, self._rules)
        return [f.verdict.correct for f in found], [f.verdict.reason for f in found]


class Validation:
    """Mean losses on held-back conversations: as the loss is printed, and with the softmax over image tokens only."""

    def __init__(self, base: Base, kinds: Sequence[str], count: int, seed: int, batch_size: int = 64) -> None:
        self._collate(base, [e for kind in kinds for e in base.pool(kind, count, VALIDATION_SEED + seed)], batch_size)

    @classmethod
    def of(cls, base: Base, examples: list[Any], batch_size: int) -> Validation:
        """On given examples, e.g. the held-back end of tokenised shards."""
        made = cls.__new__(cls)
        made._collate(base, list(examples), batch_size)
        return made

    def _collate(self, base: Base, examples: list[Any], batch_size: int) -> None:
        from trainer.batches import collate

        examples.sort(key=len)
        pad = base.model.config.text_config.pad_token_id or 0
        parts = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
        self.batches = [collate(part, pad, base.model.config.imgbos_id) for part in parts]

    def __call__(self, model: Any) -> dict[str, float]:
        """`image` and `text` as printed, `image_renormalised`: nats a token."""
        import torch

        sums = dict.fromkeys(("image", "image_renormalised", "text"), 0.0)
        counts = {"image": 0, "text": 0}
        device = next(model.parameters()).device
        with torch.no_grad():
            for batch in self.batches:
                batch = batch.to(device)
                out = model(batch.input_ids, batch.attention_mask, batch.pixels, batch.text_labels, batch.image_labels,
                            position_ids=batch.position_ids)  # fmt: skip
                if out.image_loss is not None:
                    sums["image"] += float(out.image_loss) * out.image_tokens
                    sums["image_renormalised"] += float(out.image_loss_image_tokens) * out.image_tokens
                    counts["image"] += out.image_tokens
                if out.text_loss is not None:
                    sums["text"] += float(out.text_loss) * out.text_tokens
                    counts["text"] += out.text_tokens
        return {name: value / max(1, counts[name.split("_")[0]]) for name, value in sums.items()}
