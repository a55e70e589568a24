"""How many are asked at once: by number or by memory, halved and remembered where memory runs out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from armor_eval.engine import Described, Outcome, Settings, Unit, evaluate
from armor_eval.engine.batches import ANSWER, Size
from armor_eval.models.base import Answer, Decoding, Question, Room
from armor_eval.models.drawing import one_by_one
from armor_eval.models.room import room_of, token_numbers
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import DataInfo, Item, Metric, ModelInfo, ScorerInfo, Scores
from armor_model.base.errors import UserError

LENGTHS = [1200, 1200, 800, 400, 400, 400, 80, 80, 80, 80, 80, 80, 80, 80, 80, 80]
"""Characters of each question, the longest first."""


@given(st.lists(st.integers(0, 4000), max_size=60), st.integers(1, 5000), st.integers(1, 32))
def test_a_batch_is_within_its_tokens_and_nothing_is_lost(lengths, tokens, rows) -> None:
    units = [Unit(str(i), "c", length=length) for i, length in enumerate(sorted(lengths, reverse=True))]
    size = Size(rows, tokens, answer=16)
    batches = list(size.batches(units))
    assert [u for batch in batches for u in batch] == units
    for batch in batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * (batch[0].length // 4 + 16) <= tokens


class Crowded:
    """A model whose memory holds so many tokens: more rows than that, padded to the longest, run out of it."""

    info = ModelInfo(spec="crowded", name="crowded", fingerprint="f")

    def __init__(self, holds: int, believes: int) -> None:
        self.holds, self.believes = holds, believes
        self.failures, self.asked = 0, []

    def room(self) -> Room:
        return Room(self.believes, 8)

    def encode(self, questions, decoding):
        return list(questions)

    def answers(self, source, decoding, rows):
        number = 0
        while (group := source(True)) is not None:
            while group:
                together, group = group[:rows], group[rows:]
                if len(together) * (max(len(q.parts[0]) for q in together) // 4 + 2) > self.holds:
                    self.failures += 1
                    raise torch.OutOfMemoryError("out of memory")
                self.asked.append(len(together))
                for question in together:
                    yield number, Answer(text=question.id)
                    number += 1

    def answer(self, questions, decoding):
        raise AssertionError("asked one by one")

    def close(self) -> None:
        pass


class LongTask:
    whole_batches = False

    def check(self, model) -> None:
        pass

    def describe(self, model) -> Described:
        data = DataInfo(name="long", sha256="0" * 64, items=len(LENGTHS))
        return Described("understanding", "long", data, None, "0" * 64, ScorerInfo(name="long", version="1"))

    def units(self):
        return [Unit(f"{i:02d}", f"{i:02d}", length=length) for i, length in enumerate(LENGTHS)]

    def requests(self, units, folder):
        return [Question(u.id, ["x" * u.length]) for u in units]

    def judge(self, units, requests, outputs, bundle):
        return [
            Item(id=u.id, cluster=u.id, output=o.text, score=1.0, status="ok", prompt="p", prompt_sha256="h")
            for u, o in zip(units, outputs, strict=True)
        ]

    def finish(self, bundle, progress):
        items = list(bundle.items.values())
        metric = Metric(name="long", value=100.0, unit="%", n=len(items), clusters=len(items), primary=True)
        counts = Counter(i.status for i in items)
        return Outcome(items, Scores(metrics=[metric], counts=counts, expected_items=len(LENGTHS)))


AUTO = Settings("official", ["test"], Decoding(max_new_tokens=1), batch_size="auto")


def answered(folder: Path) -> dict[str, str]:
    return {i.id: i.output for i in read_bundle(folder)[1]}


def test_auto_asks_more_at_once_where_questions_are_shorter(tmp_path: Path) -> None:
    model = Crowded(holds=10**6, believes=640)
    evaluate(LongTask(), model, tmp_path / "r", AUTO)
    assert answered(tmp_path / "r") == {f"{i:02d}": f"{i:02d}" for i in range(len(LENGTHS))}
    assert model.asked == [2, 2, 4, 8] and "memory" not in read_bundle(tmp_path / "r")[0].extras


@pytest.mark.parametrize("batch_size", ["auto", 8])
def test_what_ran_out_of_memory_is_halved_and_a_resumed_run_does_not_try_it_again(tmp_path: Path, batch_size) -> None:
    settings, model = replace(AUTO, batch_size=batch_size), Crowded(holds=640, believes=10**5)
    evaluate(LongTask(), model, tmp_path / "r", settings)
    assert len(answered(tmp_path / "r")) == len(LENGTHS) and model.failures == 2
    run = read_bundle(tmp_path / "r")[0]
    assert run.extras["memory"] == ({"tokens": 604} if batch_size == "auto" else {"rows": 2}) and not run.protocol
    lines = (tmp_path / "r" / "items.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "r" / "items.jsonl").write_text("".join(lines[3:]))
    again = Crowded(holds=640, believes=10**5)
    done = evaluate(LongTask(), again, tmp_path / "r", settings)
    assert done.run.status == "complete" and again.failures == 0 and sum(again.asked) == 3


def test_auto_is_refused_where_no_memory_or_no_length_is_known(tmp_path: Path) -> None:
    class Elsewhere(Crowded):
        room = None

    class Whole(LongTask):
        whole_batches = True

    class Unmeasured(LongTask):
        def units(self):
            return [replace(unit, length=0) for unit in super().units()]

    for task, model, why in (
        (LongTask(), type("Served", (), {"info": Crowded.info})(), "not in this process's memory"),
        (Whole(), Crowded(1, 1), "batch by batch"),
        (Unmeasured(), Crowded(1, 1), "how long"),
    ):
        with pytest.raises(UserError, match=why):
            evaluate(task, model, tmp_path / "r", AUTO)
    assert not (tmp_path / "r").exists()


def test_a_drawn_batch_that_is_too_much_is_halved_until_it_fits() -> None:
    sizes = []

    def draw(prompts):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return list(prompts)

    assert one_by_one(draw, list("abcdefgh")) == list("abcdefgh")
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_tokens_by_hand_for_the_8b_sizes() -> None:
    """InternVL2.5-8B: 32 layers, 8 heads of 128 for keys and values; 4,096 wide with 14,336 inside; 1,024 and 4,096 in
    the vision tower, of which four patches are behind one token."""
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

    text = Qwen2Config(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
    )
    vision = InternVLVisionConfig(hidden_size=1024, intermediate_size=4096)
    config = InternVLConfig(text_config=text, vision_config=vision)
    assert token_numbers(config) == 65536 + max(6 * 4096 + 3 * 14336, 4 * (6 * 1024 + 3 * 4096))
    room = room_of(config, torch.bfloat16, torch.device("cpu"))
    assert room.tokens > 0 and room.rows == 64 and ANSWER == 512
