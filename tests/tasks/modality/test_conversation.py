"""Conversations of several turns: what is asked, how answers go back to the model, and what counts as right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from armor_eval.cli import main
from armor_eval.engine import Settings, evaluate
from armor_eval.models.base import Decoding
from armor_eval.models.mock import MockModel
from armor_eval.profiles import profile_of
from armor_eval.runs.bundle import read_bundle
from armor_eval.shapes.conversation import jsonl, judged
from armor_eval.tasks.modality.turns import ConversationTask, TakesTurns
from armor_model.base.errors import UserError
from trainer.shapes.world import Scene, render

RED, BLUE = (render(Scene.parse(f"{color} circle@1")) for color in ("red", "blue"))


def test_the_set_is_frozen_and_even() -> None:
    records = [json.loads(line) for line in jsonl().splitlines()]
    assert len(records) == 360 and len({r["id"] for r in records}) == 360
    for kind in ("own drawing", "follow-up", "decline"):
        for form in ("known", "new"):
            assert sum((r["kind"], r["form"]) == (kind, form) for r in records) == 60
    assert {len(r["messages"]) for r in records} == {1, 2, 3, 4}


class Listens(MockModel):
    """Draws a red circle, then says what colour it is told to; keeps what it was asked."""

    def __init__(self, *answers: object) -> None:
        super().__init__()
        self.answers, self.asked = answers, []

    def respond(self, conversations, seeds, decoding):
        self.asked.append([[dict(m) for m in one] for one in conversations])
        return [self.answers[len(one) // 2] for one in conversations]


def said(*texts: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]} for text in texts]


def test_a_drawing_goes_back_in_its_turn_and_before_the_next_message() -> None:
    model = Listens([RED], ["red"], ["bye"])
    outputs = TakesTurns(model).respond([said("draw it.", "what color?", "bye."), said("hello.")], [1, 2], Decoding())
    assert outputs == [[[RED], ["red"], ["bye"]], [[RED]]]
    second = model.asked[1]
    assert len(second) == 1, "a conversation that is over is not asked again"
    assert [m["role"] for m in second[0]] == ["user", "assistant", "user"]
    assert second[0][1]["content"] == [{"type": "image", "image": RED}]
    assert second[0][2]["content"] == [{"type": "image", "image": RED}, {"type": "text", "text": "what color?"}]
    assert [part["type"] for part in model.asked[2][0][-1]["content"]] == ["text"], "a text is not shown again"


def test_what_fails_ends_its_own_conversation_only() -> None:
    class Fails(Listens):
        def respond(self, conversations, seeds, decoding):
            found = super().respond(conversations, seeds, decoding)
            return [
                ValueError("no") if one[0]["content"][-1]["text"] == "bad" else out
                for one, out in zip(conversations, found, strict=True)
            ]

    first, second = TakesTurns(Fails([RED], ["red"])).respond([said("bad", "b"), said("a", "b")], [0, 1], Decoding())
    assert isinstance(first, ValueError) and second == [[RED], ["red"]]


ABOUT = {"kind": "own drawing", "content": {"ask": "what color is the circle?"}}


@pytest.mark.parametrize(
    ("record", "turns", "right"),
    [
        (ABOUT, [[RED], ["red"]], True),
        (ABOUT, [[RED], ["The circle is red."]], True),
        (ABOUT, [[BLUE], ["red"]], False),  # what was drawn decides, not what was asked for
        (ABOUT, [[BLUE], ["blue"]], True),
        (ABOUT, [[RED], ["red or blue"]], False),
        (ABOUT, [[RED], ["red", RED]], False),
        (ABOUT, [["no"], ["red"]], False),
        (ABOUT, [[RED], []], False),
        (ABOUT | {"content": {"ask": ""}}, [[RED], ["a red circle at the top right."]], True),
        (ABOUT | {"content": {"ask": ""}}, [[RED], ["a red circle and a blue cross."]], False),
        (ABOUT | {"content": {"ask": "is there a red circle in the picture?"}}, [[RED], ["yes, there is."]], True),
        (ABOUT | {"content": {"ask": "how many shapes are there?"}}, [[RED], ["1"]], True),
        (ABOUT | {"content": {"ask": "what color is the cross?"}}, [[RED], ["red"]], False),
        ({"kind": "follow-up", "content": {"things": [["blue", "circle", 1]]}}, [[RED], [BLUE]], True),
        ({"kind": "follow-up", "content": {"things": [["blue", "circle", 1]]}}, [[RED], [RED]], False),
        ({"kind": "follow-up", "content": {"things": [["red", "circle", 1]]}}, [[RED], ["no"]], False),
        ({"kind": "decline", "content": {}}, [["sorry, i only know shapes."]], True),
        ({"kind": "decline", "content": {}}, [["I cannot draw a dog."]], True),
        ({"kind": "decline", "content": {}}, [["a triangle has 3 sides."]], False),
        ({"kind": "decline", "content": {}}, [["sorry", RED]], False),
    ],
)
def test_what_counts_as_right(record: dict, turns: list, right: bool) -> None:
    assert judged(record, turns)[0] is right


def test_a_run_is_a_bundle_with_every_answer(tmp_path: Path) -> None:
    task, settings = (
        ConversationTask(profile_of("shapes"), limit=4),
        Settings("shapes", ["x"], Decoding(), batch_size=5),
    )
    done = evaluate(task, TakesTurns(MockModel()), tmp_path / "m", settings)
    run, items, scores = read_bundle(tmp_path / "m")
    assert (run.kind, run.benchmark, run.status, len(items)) == ("modality", "conversation", "complete", 12)
    assert all(len(item.extras["answers"]) == item.extras["turns"] for item in items)
    assert {"accuracy", "own drawing", "follow-up", "decline", "known wordings"} <= {m.name for m in scores.metrics}
    assert done is not None and done.scores == scores


def test_other_profiles_and_other_requests_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="shapes world"):
        ConversationTask(profile_of("official"))
    assert main(["modality", "--multi-turn", "--prompts", "x.jsonl"]) == 2
    assert "leave --prompts or --multi-turn out" in capsys.readouterr().err


def test_the_command_asks_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["modality", "--multi-turn", "--limit", "1", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "conversation" in shown and "follow-up" in shown and (tmp_path / "conversation" / "run.json").is_file()
