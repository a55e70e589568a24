"""The 553 prompts come out byte for byte as published, and a file of prompts is checked line by line."""

import hashlib
import json
from collections import Counter

import pytest
from paths import SHARED

from armor_eval.tasks.geneval import prompts as P
from armor_eval.tasks.geneval.prompts import load_vocabulary
from armor_model.base.errors import UserError

OFFICIAL = SHARED / "geneval"


def test_official_prompts_are_byte_identical():
    text = P.to_jsonl(P.official_records())
    assert len(text.encode()) == 85_209
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
    if (OFFICIAL / "evaluation_metadata.jsonl").is_file():
        assert text == (OFFICIAL / "evaluation_metadata.jsonl").read_text()


def test_official_counts_by_task():
    found = Counter(record["tag"] for record in P.official_records())
    expected = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
    assert found == expected and P.official_prompts().official


def test_class_list_is_the_published_one():
    assert len(load_vocabulary("official").classes) == 80
    assert {"computer mouse", "tv remote", "computer keyboard"} <= set(load_vocabulary("official").classes)


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda r: r["include"][0].update({"class": "bnech"}), "did you mean bench"),
        (lambda r: r["include"][0].update(color="turquoise"), "unknown color"),
        (lambda r: r["include"][0].update(count=0), "include.0.count"),
        (lambda r: r.update(tag="colour"), "tag"),
        (lambda r: r.update(include=[]), "include"),
        (lambda r: r["include"][0].update(position=["left of", 0]), "not before it"),
        (lambda r: r.pop("prompt"), "prompt"),
    ],
)
def test_a_bad_prompt_file_is_refused_by_line(tmp_path, change, word):
    good = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}
    bad = json.loads(json.dumps(good))
    change(bad)
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(UserError) as error:
        P.read_prompts(path, load_vocabulary("official"))
    assert "mine.jsonl:2" in error.value.line() and word in error.value.line()


def test_the_published_file_is_recognised_and_a_rewritten_one_is_not(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(P.to_jsonl(P.official_records()))
    assert P.read_prompts(path, load_vocabulary("official")).official
    path.write_text(path.read_text().replace("a photo of a bench", "a lovely photo of a bench", 1))
    assert not P.read_prompts(path, load_vocabulary("official")).official
