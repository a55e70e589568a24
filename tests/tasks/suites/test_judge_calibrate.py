"""`judge calibrate`: people's CSV read by GenEval's rules, runs against runs, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from paths import SHARED

from armor_eval.cli import main
from armor_eval.tasks.geneval.detections import Instances
from armor_eval.tasks.suites.calibrate import COLUMNS, read_people
from armor_model.base.errors import UserError

PEOPLE = SHARED / "suites" / "fixtures" / "geneval" / "human_annotations.jsonl.gz"
HEAD = ["HITId", *COLUMNS[:2], "Answer.ee", *COLUMNS[2:]]


def write_csv(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEAD, *rows])
    return path


def test_each_person_is_judged_by_genevals_rules(tmp_path) -> None:
    # prompt 353 of the official 553: "a dog right of a teddy bear"; object 0 is the bear, 1 the dog
    x_of = {"right": True, "left": False, "neither_x": False}
    rows = [["h", 353, 0, 1.0, 1, "1.0", "brown", "black", x, "neither_y"] for x in x_of]
    rows += [["h", 353, 0, 1.0, 0, 1, "", "", "right", ""], ["h", 353, 0, 1.0, 2, 1, "", "", "right", "above"]]
    rows += [["h", 182, 1, 1.0, count, "", "", "", "", ""] for count in (2, 2, 3, 2, 5)]  # counting: exactly
    one, two = read_people(write_csv(tmp_path / "a.csv", rows))
    assert two.votes == (True, False, False, False, True) and not two.correct and two.key == "00353/00000"
    assert one.votes.count(True) == 3 and one.correct and not one.unanimous
    # of 2 yes among 5: who says yes faces 1 of 4 (differs), who says no faces 2 of 4, which is no majority (agrees)
    assert two.one_against_the_rest() == [False, True, True, True, False]


def test_a_record_that_a_typed_line_break_cut_is_joined(tmp_path) -> None:
    path = tmp_path / "a.csv"
    line = "h,182,1,1.0,2,,red,,,\n"
    path.write_text(",".join(HEAD) + "\n" + "h,182,1,1\n.0,2,,red,,,\n" + line, encoding="utf-8")
    assert read_people(path)[0].votes == (True, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "lacks the column"),
        (",".join(HEAD) + "\nh,1,2\n", "3 fields"),
        (",".join(HEAD) + "\nh,x,0,1,1,,,,,\n", "record 2"),
        (",".join(HEAD) + "\nh,999,0,1,1,,,,,\n", "other prompts"),
        (",".join(HEAD) + "\n", "no answers"),
    ],
)
def test_files_that_are_no_annotations_are_refused(tmp_path, text, says) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        read_people(tmp_path / "a.csv")


@pytest.mark.skipif(not PEOPLE.is_file(), reason="people's compact answers are not in ../shared")
@pytest.mark.parametrize(
    ("model", "mean", "unanimous", "ceiling"),
    [("sdv2", 0.579, 0.655, 0.863), ("if-xl", 0.734, 0.7325, 0.905), ("clip", 0.414, 0.7625, 0.923)],
)
def test_the_real_answers_give_the_recorded_votes_and_ceilings(tmp_path, model, mean, unanimous, ceiling) -> None:
    with gzip.open(PEOPLE, "rt") as file:
        known = [row for row in map(json.loads, file) if row["model"] == model]
    rows: list[list[object]] = [
        ["h", row["prompt"], row["sample"], 1.0, *counts, *colors, *position]
        for row in known
        for counts, colors, position in zip(row["counts"], row["colors"], row["position"], strict=True)
    ]
    found = {(one.prompt, one.sample): one for one in read_people(write_csv(tmp_path / "a.csv", rows))}
    for row in known:
        one = found[row["prompt"], row["sample"]]
        assert (sum(one.votes), one.tag, one.correct) == (row["votes"], row["tag"], row["correct"])
    tags = {one.tag for one in found.values()}
    groups = [[one.correct for one in found.values() if one.tag == tag] for tag in tags]
    assert sum(sum(g) / len(g) for g in groups) / 6 == pytest.approx(mean, abs=5e-4)
    assert sum(one.unanimous for one in found.values()) / 400 == pytest.approx(unanimous)
    votes = [same for one in found.values() for same in one.one_against_the_rest()]
    assert sum(votes) / len(votes) == pytest.approx(ceiling)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drawn")
    assert main(["draw", "--suite", "shapes-vqa", "--limit", "6", "--out", str(out)]) == 0
    return out / "shapes-vqa"


def calibrated(capsys, *words: object) -> dict:
    capsys.readouterr()
    assert main(["judge", "calibrate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_judge_is_asked_about_the_images_of_a_run(drawn, tmp_path, capsys) -> None:
    found = calibrated(capsys, "--judge", "armor:armor-nano", "--against", drawn, "--out", tmp_path)
    rows = {row["task"]: row for row in found["rows"]}
    assert rows["all"]["pairs"] == sum(row["pairs"] for task, row in rows.items() if task != "all") > 10
    assert found["judge"] == "armor-nano" and found["unmatched"] == [0, 0]
    again = calibrated(capsys, "--judge", tmp_path / "shapes-vqa-armor-nano", "--against", drawn)
    assert again == found


def test_a_run_agrees_with_itself_and_with_labels_of_its_own(drawn, tmp_path, capsys) -> None:
    assert calibrated(capsys, "--judge", drawn, "--against", drawn)["rows"][0]["agreement"]["value"] == 100
    items = [json.loads(line) for line in (drawn / "items.jsonl").read_text().splitlines()]
    lines = [
        {"item": item["id"], "probe": probe["id"], "correct": probe["value"] < 0.5}
        for item in items
        for probe in item["extras"]["probes"]
    ]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = calibrated(capsys, "--judge", drawn, "--against", labels)
    assert found["rows"][0]["agreement"]["value"] == 0
    assert any("on trust" in note for note in found["notes"])


def test_what_cannot_be_held_against_each_other_is_refused(drawn, tmp_path, capsys) -> None:
    def says(*words: object) -> str:
        assert main(["judge", "calibrate", *map(str, words)]) == 2
        return capsys.readouterr().err

    (tmp_path / "far.jsonl").write_text('{"item": "nowhere", "correct": true}\n')
    assert "in common" in says("--judge", drawn, "--against", tmp_path / "far.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"item": "a"}\n')
    assert "correct" in says("--judge", drawn, "--against", tmp_path / "bad.jsonl")
    people = write_csv(tmp_path / "people.csv", [["h", 182, 1, 1.0, 2, "", "", "", "", ""]])
    assert "GenEval's own prompts" in says("--judge", drawn, "--against", people)
    assert "holds no images" in says("--judge", "scene", "--against", tmp_path / "far.jsonl")
    assert (
        main(
            [
                "draw",
                "--suite",
                "shapes-vqa",
                "--limit",
                "6",
                "--seed",
                "0",
                "--samples",
                "1",
                "--out",
                str(tmp_path / "b"),
                "--image-temperature",
                "3",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert "other images" in says("--judge", tmp_path / "b" / "shapes-vqa", "--against", drawn)


class Sees:
    """A detector that finds two of what prompt 182 asks for in bright images, and nothing in dark ones."""

    def __init__(self, classes: tuple[str, ...], wanted: int) -> None:
        self.classes, self._wanted = classes, wanted
        self.settings: dict[str, object] = {"detector": "sees"}

    def detect(self, images):
        def of(image):
            n = 2 if image.mean() > 128 else 0
            boxes = np.array([[0.0, 0, 9, 9], [20, 20, 30, 30]])[:n]
            masks = np.zeros((n, *image.shape[:2]), bool)
            return Instances(np.full(n, self._wanted), np.full(n, 0.99, np.float32), boxes.astype(np.float32), masks)

        return [of(image) for image in images]

    def self_check(self, rules) -> None: ...


def test_selftest_holds_a_detector_against_people(tmp_path, monkeypatch, capsys) -> None:
    """400 images in the real case; here four of one prompt, of which the detector reads one otherwise than people."""
    from PIL import Image

    from armor_eval.tasks.geneval.prompts import load_vocabulary, own_prompts

    vocabulary = load_vocabulary("official")
    [need] = own_prompts(vocabulary).records[182]["include"]
    assert need["count"] == 2
    sees = Sees(vocabulary.classes, vocabulary.classes.index(need["class"]))
    monkeypatch.setattr("armor_eval.tasks.geneval.detectors.load_detector", lambda *_, **__: sees)
    monkeypatch.setattr("armor_eval.tasks.geneval.colors.load_colors", lambda *_, **__: None)
    for sample, (bright, count) in enumerate([(255, 2), (255, 2), (0, 0), (0, 2)]):
        file = tmp_path / "images" / "00182" / "samples" / f"{sample:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (bright,) * 3).save(file)
        rows = [[f"h{sample}{k}", 182, sample, 1.0, count, "", "", "", "", ""] for k in range(5)]
        write_csv(tmp_path / f"{sample}.csv", rows)
    lines = [line for n in range(4) for line in (tmp_path / f"{n}.csv").read_text().splitlines()[n > 0 :]]
    (tmp_path / "people.csv").write_text("\n".join(lines) + "\n")
    words = ["geneval", "selftest", "--people", str(tmp_path / "people.csv")]
    assert main(words) == 2 and "--people and --images" in capsys.readouterr().err
    words += ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "runs"), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    [row] = [row for row in found["rows"] if row["task"] == "all"]
    assert row["agreement"]["value"] == pytest.approx(75.0) and row["agreement"]["n"] == 4
