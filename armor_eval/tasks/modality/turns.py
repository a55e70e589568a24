"""Conversations of several turns, in which a model goes on from its own answers: asking and measuring them.

A drawing of the model's own enters twice, as `armor-model chat` has it: in its turn, and as an image before the user's
next message (armor_model.chat says why).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.engine import Conversation, Described, Outcome, Unit
from armor_eval.engine.task import Progress
from armor_eval.models.base import Decoding, HasImageDefaults, Model, RespondsFreely
from armor_eval.models.drawing import one_line
from armor_eval.profiles import ProfileSpec
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.comparable import blank_of, reserve_blank
from armor_eval.runs.schema import DataInfo, Item, Metric, ModelInfo, ScorerInfo, Scores
from armor_eval.stats.composite import accuracy, measure
from armor_eval.tasks.modality.layouts import IMAGE
from armor_eval.tasks.modality.records import choose
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_json, sha256_text
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from PIL import Image

BENCHMARK = "conversation"
Parts = list["str | Image.Image"]
"""One answer: texts and images in order."""


class TakesTurns:
    """A model that is given the user's messages alone, and answers them one after the other."""

    def __init__(self, model: RespondsFreely) -> None:
        self._model = model
        self.info = model.info
        self.image_defaults = model.image_defaults if isinstance(model, HasImageDefaults) else {}

    def settings(self, decoding: Decoding) -> JsonObject:
        return self._model.settings(decoding)

    def close(self) -> None:
        self._model.close()

    def respond(self, conversations: Sequence[list[JsonObject]], seeds: Sequence[int], decoding: Decoding) -> list[Any]:
        """Of each conversation its answers, one a message of the user's; an exception where one failed."""
        answers: list[list[Parts]] = [[] for _ in conversations]
        history: list[list[JsonObject]] = [[] for _ in conversations]
        failed: dict[int, Exception] = {}
        for turn in range(max(map(len, conversations), default=0)):
            going = [at for at, one in enumerate(conversations) if turn < len(one) and at not in failed]
            for at in going:
                own = [part for part in (answers[at][-1] if turn else []) if not isinstance(part, str)]
                shown = [{"type": "image", "image": image} for image in own]
                history[at].append({"role": "user", "content": [*shown, *conversations[at][turn]["content"]]})
            outputs = self._model.respond([history[at] for at in going], [seeds[at] + turn for at in going], decoding)
            for at, output in zip(going, outputs, strict=True):
                if isinstance(output, Exception):
                    failed[at] = output
                    continue
                answers[at].append(output)
                history[at].append({"role": "assistant", "content": [_part(part) for part in output]})
        return [failed.get(at, each) for at, each in enumerate(answers)]


def _part(part: str | Image.Image) -> JsonObject:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}


class ConversationTask:
    """A guest profile's conversations. `seed` chooses the subset and, where `drawn_from` does not, seeds answers."""

    whole_batches = False

    def __init__(
        self, profile: ProfileSpec, *, limit: int | None = None, seed: int = 0, drawn_from: int | None = None
    ) -> None:
        if profile.guest is None:
            raise UserError(
                "only the shapes world's reader can tell whether a model speaks of its own drawing",
                "give --profile shapes, or --prompts FILE.jsonl without --multi-turn",
            )
        self._world = profile.part("conversation")
        text = self._world.jsonl()
        self._sha256 = sha256_text(text)
        self._all: list[JsonObject] = [json.loads(line) for line in text.splitlines()]
        chosen, self._subset = choose(self._all, limit, seed, kind=lambda record: record["kind"])
        self._by_id = {record["id"]: record for record in chosen}
        self._seed = seed if drawn_from is None else drawn_from

    def check(self, model: Model) -> None:
        if not isinstance(model, RespondsFreely):
            raise UserError(f"{model.info.name} cannot answer with text and images", "see armor-eval list")

    @staticmethod
    def asked_through(model: RespondsFreely) -> TakesTurns:
        """Who is asked in the model's place."""
        return TakesTurns(model)

    def describe(self, model: ModelInfo) -> Described:
        return Described(
            kind="modality",
            benchmark=BENCHMARK,
            data=DataInfo(name=self._world.NAME, sha256=self._sha256, items=len(self._all)),
            subset=self._subset,
            prompt_sha256=sha256_json([record["messages"] for record in self._all]),
            scorer=ScorerInfo(name="shapes tile reader and rules", version="1"),
            seeds={"base": self._seed},
        )

    def units(self) -> Sequence[Unit]:
        return [Unit(r["id"], f"{r['kind']}: {r['wording']}", r["kind"]) for r in self._by_id.values()]

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Conversation]:
        return [
            Conversation(
                unit.id,
                [{"role": "user", "content": [_part(text)]} for text in self._by_id[unit.id]["messages"]],
                int(sha256_text(f"{self._seed}:{unit.id}")[:8], 16),
            )
            for unit in units
        ]

    def judge(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[Any], bundle: Bundle
    ) -> list[Item]:
        return [self._item(unit, output, bundle) for unit, output in zip(units, outputs, strict=True)]

    def _item(self, unit: Unit, output: Any, bundle: Bundle) -> Item:
        record = self._by_id[unit.id]
        prompt = "\n".join(f"user: {text}" for text in record["messages"])
        fields = unit.fields(prompt)
        asked: JsonObject = {"form": record["form"], "turns": len(record["messages"])}
        if isinstance(output, Exception):
            return Item(**fields, status="error", reason=one_line(output), extras=asked)
        right, wanted, reason = self._world.judged(record, output)
        images = [part for answer in output for part in answer if not isinstance(part, str)]
        return Item(
            **fields,
            gold=wanted,
            output=_text(output[-1]) or None,
            output_images=[bundle.add_image(image) for image in images],
            score=float(right),
            reason=reason,
            status="ok",
            extras={**asked, "answers": [_text(answer) for answer in output]},
        )

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items = [bundle.items[name] for name in self._by_id if name in bundle.items]
        counts = Counter(item.status for item in items)
        blank, drawn = blank_of(items)
        scores = Scores(metrics=score(items), counts=counts, expected_items=len(self._by_id), blank=blank)
        lost = counts["error"]
        reason = f"{lost} of {len(items)} conversations failed" if lost else None
        return Outcome(items, scores, reason, {"reservations": reserve_blank(bundle.run.reservations, blank, drawn)})


def _text(parts: Parts) -> str:
    """An answer as one text with a mark for each image."""
    return " ".join(part if isinstance(part, str) else IMAGE for part in parts).strip()


def score(items: Sequence[Item]) -> list[Metric]:
    """Accuracy in all, by kind, by the words of the last message, and by the number of turns."""
    slices = {"accuracy": list(items)}
    for item in items:
        slices.setdefault(item.group or "", []).append(item)
    for form in ("known", "new"):
        slices[f"{form} wordings"] = [item for item in items if item.extras["form"] == form]
    for turns in sorted({item.extras["turns"] for item in items}):
        slices[f"{turns} turn{'s' * (turns > 1)}"] = [item for item in items if item.extras["turns"] == turns]
    return [measure(part, accuracy(name, primary=name == "accuracy")) for name, part in slices.items() if part]
