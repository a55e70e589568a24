"""Text in images: the official counts of LongText and OneIG, on invented texts and on the golden fixtures."""

import gzip
import json

import pytest
from paths import SHARED

from armor_eval.tasks.suites import written
from armor_eval.tasks.suites.written import Written, longtext, oneig

STUB = SHARED / "suites" / "fixtures" / "text_stub"
PROMPTS = SHARED / "suites" / "data" / "longtext"


@pytest.mark.parametrize(
    ("target", "read", "matched", "of"),
    [
        (["Open 24-hour"], "open\n24hour", 2, 2),  # case and hyphens vanish
        (["don't stop", "NOW"], "dont NOW, now", 2, 3),  # surplus is not punished
        (["the the cat"], "the cat", 2, 3),  # each as often as it is asked for
        (["cat sat"], "sat cat", 2, 2),  # order is ignored
        (["Café à gogo"], "CAFÉ gogo", 2, 3),  # accents stay
        (["text please"], "No text recognized", 1, 2),  # without its stop it is what was read
        (["text please"], "No text recognized.", 0, 2),
        (["!!!"], "anything", 0, 0),
    ],
)
def test_longtext_matches_words(target, read, matched, of):
    found = longtext(target, read, "words")
    assert (found.matched, found.target) == (matched, of)


def test_longtext_matches_chinese_characters_without_space():
    assert longtext(["每日 新鲜", "B"], "新 鲜b每", "characters") == Written(3, 5)


def test_oneig_keeps_case_and_compacts_each_chinese_text_for_itself():
    assert oneig("Grand Opening", "grand Opening") == Written(1, 2, 1)
    assert oneig("新 店", "新店") == Written(2, 2, 0)
    assert oneig("New shop", "New 店") == Written(0, 2, 5)  # what was read holds Chinese: its space is gone
    assert oneig("a\\nb", "anb") == Written(1, 1, 0)  # a backslash escape becomes a letter, as officially


@pytest.mark.skipif(not STUB.is_dir(), reason="../shared/suites is not here")
@pytest.mark.parametrize(("language", "units"), [("en", "words"), ("zh", "characters")])
def test_the_official_scripts_counts(language, units):
    expected = json.loads((STUB / "expected.json").read_text())
    rows = [json.loads(line) for line in (STUB / f"longtext_{language}.jsonl").read_text().splitlines()]
    found = [longtext(row["ocr_gt"], row["ocr_results"], units) for row in rows]
    assert [[one.matched, one.target] for one in found] == expected[language]["items"]
    found = [oneig(" ".join(row["ocr_gt"]), row["ocr_results"]) for row in rows]
    assert [[one.distance, one.matched, one.target] for one in found] == expected[f"oneig_{language}"]["items"]


@pytest.mark.skipif(not PROMPTS.is_dir(), reason="../shared/suites is not here")
@pytest.mark.parametrize(
    ("file", "units", "of"), [("text_prompts", "words", 4263), ("text_prompts_zh", "characters", 7944)]
)
def test_the_published_targets_have_the_published_length(file, units, of):
    rows = [json.loads(line) for line in gzip.decompress((PROMPTS / f"{file}.jsonl.gz").read_bytes()).splitlines()]
    assert sum(longtext(row["text"], "", units).target for row in rows) == of


def test_nothing_is_left_of_what_does_not_count():
    assert written.kept(" a—b  ¿c? \n") == "ab c"
