"""Our rules against a complete real result of the official evaluator, and against invented lines in its form."""

import gzip
import json
import re

import pytest
from paths import SHARED

from armor_eval.cli import main

RECORD = SHARED / "records" / "geneval" / "geneditevalkit_results.jsonl.gz"


def official_line(name, tag, include, boxes, correct, reason="", exclude=()):
    meta = {"tag": tag, "include": include, **({"exclude": list(exclude)} if exclude else {}), "prompt": f"draw {name}"}
    return {
        "filename": f"{name}.png",
        "tag": tag,
        "prompt": meta["prompt"],
        "correct": correct,
        "reason": reason,
        "metadata": json.dumps(meta),
        "details": json.dumps(boxes),
    }


def need(name, count=1, **more):
    return {"class": name, "count": count, **more}


CUP, BENCH = [10.0, 10.0, 60.0, 60.0, 0.95], [200.0, 20.0, 260.0, 80.0, 0.91]
RED_CUP, BLUE_BENCH = need("cup", color="red"), need("bench", color="blue")
LEFT = [need("bench"), need("cup", position=["left of", 0])]
INVENTED = [
    official_line("one", "single_object", [need("cup")], {"cup": [CUP]}, True),
    official_line("none", "single_object", [need("cup")], {"bench": [BENCH]}, False, "expected cup>=1, found 0"),
    official_line(
        "three", "counting", [need("cup", 2)], {"cup": [CUP] * 3}, False, "expected cup<3, found 3", [need("cup", 3)]
    ),
    official_line("left", "position", LEFT, {"cup": [CUP], "bench": [BENCH]}, True),
    official_line(
        "right",
        "position",
        LEFT,
        {"cup": [BENCH], "bench": [CUP]},
        False,
        "expected cup left of target, found right of target",
    ),
    official_line(
        "alone", "position", LEFT, {"cup": [CUP]}, False, "expected bench>=1, found 0\nno target for cup to be left of"
    ),
    official_line("red", "colors", [RED_CUP], {"cup": [CUP, CUP]}, True),
    official_line("green", "colors", [RED_CUP], {"cup": [CUP]}, False, "expected red cup>=1, found 0 red; and 1 green"),
    official_line("lost", "colors", [RED_CUP], {}, False, "expected cup>=1, found 0"),
    official_line("both", "color_attr", [RED_CUP, BLUE_BENCH], {"cup": [CUP], "bench": [BENCH]}, True),
    official_line(
        "half",
        "color_attr",
        [RED_CUP, BLUE_BENCH],
        {"bench": [BENCH]},
        False,
        "expected cup>=1, found 0\nexpected blue bench>=1, found 0 blue; and 1 white",
    ),
    official_line(
        "pair",
        "colors",
        [need("cup", 2, color="red")],
        {"cup": [CUP, BENCH]},
        False,
        "expected red cup>=2, found 1 red; and 1 red, 1 pink",
    ),
]


def in_our_words(line, meta):
    """An official reason as ours says it, written from the two formats alone."""
    target = meta["include"][0]["class"]
    if m := re.fullmatch(r"expected (.+)>=(\d+), found (\d+)", line):
        return f"expected at least {m[2]} {m[1]}, found {m[3]}"
    if m := re.fullmatch(r"expected (.+)<(\d+), found (\d+)", line):
        return f"expected fewer than {m[2]} {m[1]}, found {m[3]}"
    if m := re.fullmatch(r"expected (\w+) (.+)>=(\d+), found (\d+) \1; and (.+)", line):
        return f"expected {m[3]} {m[1]} {m[2]}, found {m[4]} (seen: {m[5]})"
    if m := re.fullmatch(r"no target for (.+) to be (.+)", line):
        return f"no {target} for the {m[1]} to be {m[2]}"
    m = re.fullmatch(r"expected (.+) (left of|right of|above|below) target, found (.*) target", line)
    where = " and ".join(sorted(m[3].split(" and "))) if m[3] else "in no clear relation"
    return f"expected {m[1]} {m[2]} {target}, found it {where}"


def score(path, capsys):
    assert main(["geneval", "score", "--detections", str(path)]) == 0
    shown = capsys.readouterr()
    return [json.loads(line) for line in shown.out.splitlines()], shown.err


def check_reasons(theirs, ours):
    for line, scored in zip(theirs, ours, strict=True):
        assert scored["image"] == line["filename"] and scored["correct"] == scored["recorded"] == line["correct"]
        reasons = [in_our_words(r, json.loads(line["metadata"])) for r in line["reason"].split("\n") if r]
        assert scored["reason"] == "; ".join(reasons), line


def test_invented_official_lines_of_every_kind(tmp_path, capsys):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in INVENTED))
    ours, said = score(path, capsys)
    check_reasons(INVENTED, ours)
    from_colors = {"red.png", "green.png", "both.png", "pair.png"}
    assert {line["image"] for line in ours if not line["from_boxes"]} == from_colors
    assert "verdicts of the file that follow from its boxes: 8 of 8 equal" in said
    assert "verdicts that need colours, rebuilt from its reasons: 4 of 4 consistent" in said


def test_a_verdict_that_its_boxes_contradict_is_counted(tmp_path, capsys):
    path = tmp_path / "results.jsonl"
    wrong = [{**INVENTED[0], "correct": False}, {**INVENTED[6], "correct": False}, *INVENTED[1:6]]
    path.write_text("".join(json.dumps(line) + "\n" for line in wrong))
    _, said = score(path, capsys)
    assert "its boxes: 5 of 6 equal" in said and "its reasons: 0 of 1 consistent" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"details": "{"}, "Expecting property name"),
        ({"details": [1]}, "not JSON texts of objects"),
        ({"details": json.dumps({"cup": [[1, 2, 3]]})}, "detections.cup"),
        ({"metadata": "{}"}, "tag"),
        ({"reason": "expected red cup>=1, found 0 red; and 2 green"}, "2 colours for 1 cup"),
    ],
)
def test_a_line_that_is_not_in_the_official_form_is_one_line(tmp_path, capsys, change, words):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({**INVENTED[7], **change}) + "\n")
    assert main(["geneval", "score", "--detections", str(path)]) == 2
    said = capsys.readouterr().err
    assert words in said and f"{path}:1" in said and said.count("\n") == 1


@pytest.mark.skipif(not RECORD.is_file(), reason="../shared/records/geneval is not here")
def test_a_real_result_of_2212_images_is_reproduced(tmp_path, capsys):
    """1,583 verdicts follow from the boxes alone; for the other 629 the colours are rebuilt from the reasons.

    Thresholds are not exercised: only boxes above them are stored.
    """
    path = tmp_path / "results.jsonl"
    path.write_bytes(gzip.decompress(RECORD.read_bytes()))
    ours, said = score(path, capsys)
    check_reasons([json.loads(line) for line in path.read_text().splitlines()], ours)
    assert "its boxes: 1583 of 1583 equal" in said and "its reasons: 629 of 629 consistent" in said
    assert "overall 0.5741" in said
