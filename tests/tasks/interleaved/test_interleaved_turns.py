"""Turns of one dialogue that are asked together compute their common beginning once, and answer as when asked alone."""

import json

from armor_eval.models.armor import load_bundled
from armor_eval.models.base import Decoding
from armor_eval.shapes.interleaved import jsonl
from armor_eval.shapes.modality import conversation
from armor_model.generation import PrefixCache


def test_follow_ups_asked_together_answer_as_alone(monkeypatch):
    reused = []
    shared = PrefixCache.shared

    def spy(self, *where):
        before = self.reused
        found = shared(self, *where)
        reused.append(self.reused - before)
        return found

    monkeypatch.setattr(PrefixCache, "shared", spy)
    asked = [record for record in map(json.loads, jsonl().splitlines()) if record["kind"] == "follow-up"][:6]
    assert [record["turns"] for record in asked] == [2, 3] * 3
    model = load_bundled("armor-nano")
    talks, decoding = [conversation(record) for record in asked], Decoding(max_new_tokens=40, image_temperature=0.0)
    together = model.respond(talks, [0] * 6, decoding)
    assert sum(reused) > 100  # each second turn is the beginning of a third
    alone = [model.respond([talk], [0], decoding)[0] for talk in talks]
    texts = [[part if isinstance(part, str) else part.tobytes() for part in answer] for answer in together]
    assert texts == [[part if isinstance(part, str) else part.tobytes() for part in answer] for answer in alone]
