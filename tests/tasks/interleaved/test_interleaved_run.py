"""Interleaved runs: the frozen requests, what a perfect answer and each control get, baselines, the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import armor_eval
from armor_eval.cli import main
from armor_eval.engine import Finished, Settings, evaluate
from armor_eval.models.base import Decoding
from armor_eval.models.mock import MockModel
from armor_eval.profiles import profile_of
from armor_eval.report.loading import load_runs
from armor_eval.report.results import results_doc
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.comparable import differing
from armor_eval.shapes.interleaved import jsonl, told
from armor_eval.tasks.interleaved.judging import paired
from armor_eval.tasks.interleaved.task import InterleavedTask
from armor_eval.tasks.modality.records import Record, choose, from_lines
from armor_model.base.errors import UserError
from trainer.shapes.language import vocabulary, words
from trainer.shapes.requests import fulfil
from trainer.shapes.world import Scene, render

SHAPES = profile_of("shapes")


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return {record.id: record for record in from_lines(jsonl())[0]}


def test_the_requests_are_400_dialogues_in_the_worlds_own_words(records):
    assert len(records) == 500 and len({r.cluster for r in records.values()}) == 400
    assert {r.kind for r in records.values()} == {"single", "edit", "follow-up", "story"}
    assert sum(r.form == "negation" for r in records.values()) > 150
    assert sorted({r.turns for r in records.values()}) == [1, 2, 3]
    stories = [r for r in records.values() if r.kind == "story"]
    assert {len(r.content["images"]) for r in stories} == {2, 3, 4}
    said = {word for r in records.values() for m in r.messages for word in words(m.content.replace("<image>", ""))}
    assert said <= set(vocabulary())
    edited = [r for r in records.values() if r.kind in ("edit", "follow-up")]
    assert all(r.images[-1] != r.content["images"][0]["scene"] for r in edited if r.turns < 3)
    back = [r for r in edited if "picture one" in r.messages[-1].content]
    assert len(back) == 50, "follow-ups on an image before the last one"


@pytest.mark.parametrize(
    ("parts", "texts"),
    [
        (["a", 1, "b"], ["a b", ""]),
        (["a", 1, "b", 2, "c"], ["a", "b c"]),
        ([1, "a", 2, "b"], ["a", "b"]),
        (["a", "b", 1, 2], ["a b", ""]),
        (["a"], ["a", ""]),
        ([], ["", ""]),
        (["a", 1, "b", 2, "c", 3], ["a", "b", "c"]),
    ],
)
def test_texts_belong_to_their_images(parts, texts):
    targets = [{"scene": "x"}, {"scene": "y"}]
    pairs = paired(parts, targets)
    assert [pair.text for pair in pairs] == texts
    images = [part for part in parts if not isinstance(part, str)]
    assert [pair.image for pair in pairs if pair.image is not None] == images
    assert [pair.target for pair in pairs] == (targets + [None] * len(pairs))[: len(pairs)]


class Scripted(MockModel):
    """Answers each request by a function of its targets' scenes, found by what is asked."""

    def __init__(self, records: dict[str, Record], answer) -> None:
        super().__init__("scripted")
        chosen = (choose(list(records.values()), limit, 0, lambda record: record.kind)[0] for limit in (4, 2))
        asked = [record for some in chosen for record in some]
        self.known = {(r.messages[-1].content.split("\n")[-1], len(r.messages)): r for r in asked}
        self.answer, self.heard = answer, []

    def respond(self, conversations, seeds, decoding):
        made = []
        for conversation in conversations:
            self.heard.append(conversation)
            text = next(p["text"] for p in conversation[-1]["content"] if p["type"] == "text")
            record = self.known[text, len(conversation)]
            scenes = []
            for target in record.content["images"]:
                if "scene" in target:
                    scenes.append(Scene.parse(target["scene"]))
                else:
                    things = tuple(tuple(t) for t in target["things"])
                    scenes.append(fulfil(np.random.default_rng(1), things, target["relation"]))
            made.append(self.answer(scenes))
        return made


def perfect(scenes):
    return [part for scene in scenes for part in (told(scene), render(scene))]


def run(model, out: Path, **options) -> Finished:
    settings = Settings("shapes", ["armor-eval", "interleaved"], Decoding(max_new_tokens=16), batch_size=16)
    return evaluate(InterleavedTask(SHAPES, **{"limit": 4, **options}), model, out, settings)


def values(done: Finished) -> dict[str, float]:
    return {metric.name: metric.value for metric in done.scores.metrics}


def test_controls_come_out_as_known(records, tmp_path):
    got = values(run(Scripted(records, perfect), tmp_path / "perfect"))
    assert {got[n] for n in ("all right", "story", "text right", "image right", "nothing beyond")} == {100}
    assert got["agreement (F1)"] == 100 > got["agreement (F1), texts of other answers"]
    kinds = {
        "swapped sentence": lambda s: [p for x in s for p in ("a red cross and two purple crosses.", render(x))],
        "blank": lambda s: [p for x in s for p in (told(x), Image.new("RGB", (32, 32), (255, 255, 255)))],
        "last is missing": lambda s: perfect(s)[:-1],
        "one too many": lambda s: [*perfect(s), told(s[0]), render(s[0])],
        "only talks": lambda s: [" ".join(map(told, s))],
    }
    found = {name: run(Scripted(records, answer), tmp_path / name, limit=2) for name, answer in kinds.items()}
    assert all(values(done)["all right"] == 0 for done in found.values())
    swapped, blank = values(found["swapped sentence"]), values(found["blank"])
    assert swapped["image right"] == 100 and swapped["text and image agree"] == 0
    assert blank["agreement (F1)"] == 0 and blank["text right"] == 100 and found["blank"].scores.blank > 0
    assert found["only talks"].run.extras["given"] == {"text": 8}
    assert values(found["one too many"])["single"] == 0


def test_baselines_leave_out_what_they_say(records, tmp_path):
    model = Scripted(records, perfect)
    blind = run(model, tmp_path / "blind", baseline="blind")
    assert blind.run.extras["blind"] is True
    assert not [p for c in model.heard for m in c for p in m["content"] if p["type"] == "image"]
    text = run(model, tmp_path / "t", baseline="text-only")
    assert values(text)["text right"] >= 75 and values(text)["all right"] == values(text)["image right"] == 0
    image = run(model, tmp_path / "i", baseline="image-only")
    assert values(image)["image right"] == 100 and values(image)["text right"] == values(image)["agreement (F1)"] == 0
    asked = len(model.heard)
    constant = run(model, tmp_path / "c", baseline="constant")
    assert len(model.heard) == asked and values(constant)["all right"] < 25
    assert (text.run.protocol, blind.run.protocol) == ({"answers": "text-only"}, {})
    with pytest.raises(UserError, match="baseline"):
        InterleavedTask(SHAPES, baseline="deaf")


def test_outside_of_the_shapes_world_it_says_what_is_needed():
    with pytest.raises(UserError, match="shapes world only"):
        InterleavedTask(profile_of("official"))


def test_the_command_measures_the_bundled_model(tmp_path):
    assert main(["interleaved", "--limit", "1", "--out", str(tmp_path)]) == 0
    found, items, _ = read_bundle(tmp_path / "interleaved")
    assert found.status == "complete" and found.model.name == "armor-nano" and len(items) == 4
    assert sum(found.extras["given"].values()) == 4
    assert (tmp_path / "interleaved" / found.extras["figures"][0]["path"]).is_file()


def test_the_command_measures_baselines_beside(tmp_path, capsys):
    argv = ["interleaved", "--model", "mock", "--limit", "2", "--baselines", "--out", str(tmp_path)]
    assert main(argv) == 0
    assert "texts of other answers" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"interleaved", *(f"interleaved-{b}" for b in ("blind", "text-only", "image-only", "constant"))}
    assert main([*argv, "--json"]) == 0
    assert [one["run"]["status"] for one in json.loads(capsys.readouterr().out)] == ["complete"] * 5
    doc = results_doc(load_runs([tmp_path]))
    own = next(line for line in doc.lines if line.cells[1].text == "mock")
    beside = [own.cells[doc.head.index(name)].text for name in ("Blind", "Constant")]
    assert all(text.endswith(" %") for text in beside), "a column each, whatever its protocol says"
    [by_hand] = armor_eval.evaluate("mock", "interleaved", tmp_path / "api", profile="shapes", limit=1)
    typed = read_bundle(tmp_path / "interleaved")[0]
    assert differing(by_hand.run, typed) == ["subset"], "from Python it is the same measurement"
    assert main([*argv, "--repeats", "2"]) == 2


def test_halves_are_of_the_answers_of_the_run_beside_and_nothing_is_asked_twice(records, tmp_path):
    def odd(scenes):
        return ["look.", *perfect(scenes), "done."] if len(scenes) > 1 else perfect(scenes)[::-1]

    model = Scripted(records, odd)
    own = run(model, tmp_path / "x", limit=2)
    asked, halves = len(model.heard), {}
    for half in ("text-only", "image-only"):
        anew = run(Scripted(records, odd), tmp_path / half, limit=2, baseline=half)
        halves[half] = run(model, tmp_path / f"x-{half}", limit=2, baseline=half)
        there, made = (read_bundle(done.path)[1] for done in (halves[half], anew))
        compared = [[i.model_copy(update={"seconds": 0.0}) for i in items] for items in (there, made)]
        assert compared[0] == compared[1] and values(anew) == values(halves[half])
    assert len(model.heard) == asked and halves["text-only"].run.extras["given"] == {"text": 8}
    assert own.run.extras["given"] == {"both": 8}
    run(model, tmp_path / "x-text-only-2", limit=2, baseline="text-only")
    assert len(model.heard) == 2 * asked, "no run beside: asked"
    run(model, tmp_path / "y", limit=4)
    asked = len(model.heard)
    run(model, tmp_path / "y-text-only", limit=2, baseline="text-only")
    assert len(model.heard) > asked, "of another subset: asked"
