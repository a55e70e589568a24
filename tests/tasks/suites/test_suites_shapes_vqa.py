"""The embedded twin of GenEval 2: its data follow from the generator, and both judges look for real."""

from __future__ import annotations

import json

import pytest
import torch
from paths import ROOT

from armor_eval.cli import main
from armor_eval.models.armor import load_bundled
from armor_eval.models.base import Question
from armor_eval.runs.bundle import read_bundle
from armor_eval.shapes import vqa
from trainer.shapes.world import NUMBERS, Scene, Thing, render

DATA = ROOT / "benchmarks" / "shapes" / "vqa_v1.jsonl"


def test_the_data_file_is_what_the_generator_makes() -> None:
    assert DATA.read_text(encoding="utf-8") == vqa.jsonl()


def test_every_question_is_answered_right_by_the_scene_it_was_made_from() -> None:
    digits = {word: str(n) for n, word in enumerate(NUMBERS)}
    for row in map(json.loads, DATA.read_text(encoding="utf-8").splitlines()):
        questions, gold = zip(*row["vqa_list"], strict=True)
        shown = vqa.answers(render(Scene.parse(row["scene"])), list(questions))
        assert shown == [digits.get(word, word) for word in gold], row["prompt"]
        assert row["atom_count"] == len(row["skills"]) == len(gold)


def test_the_scene_judge_says_no_where_the_scene_is_another() -> None:
    image = render(Scene((Thing("red", "circle", 0), Thing("blue", "circle", 1))))
    asked = ["is there a square in the picture?", "how many circles are there?", "is the circle left of the square?"]
    assert vqa.answers(image, asked) == ["no", "2", "unsettled"]


def test_a_batch_of_questions_has_the_logits_of_each_alone() -> None:
    model = load_bundled("armor-nano", device="cpu")
    image = render(Scene((Thing("red", "circle", 0), Thing("blue", "square", 3))))
    texts = ["is there a circle in the picture?", "how many squares are there?", "what color is the square?"]
    questions = [Question(text, [image, text]) for text in texts]
    together = model.first_logits(questions)
    alone = torch.cat([model.first_logits([question]) for question in questions])
    assert together.shape[0] == 3
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1.0)


@pytest.mark.parametrize("suite", ["shapes-vqa", "shapes-vqa-text"])
def test_the_model_draws_and_both_judges_look(tmp_path, capsys, suite) -> None:
    for judge, out in (("scene", "scene"), ("armor:armor-nano", "own")):
        assert main(["draw", "--suite", suite, "--judge", judge, "--limit", "4", "--out", str(tmp_path / out)]) == 0
    capsys.readouterr()
    (exact, seen, _), (own, asked, _) = (read_bundle(tmp_path / out / suite) for out in ("scene", "own"))
    assert exact.judge.name == "shapes-scene" and not [r for r in exact.reservations if r.kind == "judge"]
    assert [r for r in own.reservations if r.kind == "judge"]
    by_id = {item.id: item for item in asked}
    assert len(seen) == 4
    for item in seen:
        values = [probe["value"] for probe in item.extras["probes"]]
        assert set(values) <= {0.0, 1.0}
        twin = [probe["value"] for probe in by_id[item.id].extras["probes"]]
        assert len(twin) == len(values)
        assert suite == "shapes-vqa-text" or any(0 < value < 1 for value in twin)


def test_the_scene_judge_is_refused_outside_of_its_world(tmp_path, capsys) -> None:
    rows = [{"prompt": "a cup", "atom_count": 3, "vqa_list": [["Is there a cup?", "Yes"]], "skills": ["object"]}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.toml").write_text(
        'name = "own"\ntitle = "t"\njudge = "vqa_prob"\nloader = "geneval2:read"\nreduction = "soft_tifa"\n'
        'skills = ["object"]\ngroups = ["3"]\n[[files]]\nname = "own.jsonl"\n'
    )
    folder = tmp_path / "images"
    folder.mkdir()
    render(Scene((Thing("red", "circle", 0),))).save(folder / "0.png")
    args = ["draw", "--suite", str(tmp_path / "own.toml"), "--images", str(folder), "--judge", "scene"]
    assert main([*args, "--out", str(tmp_path / "out")]) == 2
    assert "embedded world" in capsys.readouterr().err
