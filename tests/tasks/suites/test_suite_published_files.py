"""Published files of WISE, LongText and OneIG: read into records, or one line that names the place."""

import json

import pytest

from armor_eval.tasks.suites import longtext, oneig, wise
from armor_model.base.errors import UserError

WISE = [{"Prompt": "a sweet of spring", "Explanation": "a cake", "Category": "x", "Subcategory": "y", "prompt_id": 7}]
LONG = {"prompt_id": 3, "prompt": "a sign", "text": ["OPEN"], "category": "sign", "length": "short", "text_length": 1}
ASKED = {"question": json.dumps({"1": "Is it a cat?", "2": "Is it red?"}), "dependency": '{"1": [0], "2": [1]}'}


def jsonl(*rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_records_are_typed():
    (row,) = wise.rows("f.json", json.dumps(WISE).encode())
    assert (row.prompt_id, row.prompt, row.explanation) == (7, "a sweet of spring", "a cake")
    first, second = longtext.rows("f.jsonl", jsonl(LONG, LONG | {"prompt_id": 4, "text": ["A\u2028B"]}))
    assert first.text == ["OPEN"] and second.text == ["A\u2028B"]
    found = oneig.questions("anime.json", json.dumps({"000": ASKED}).encode())
    assert found["000"].question == {1: "Is it a cat?", 2: "Is it red?"} and found["000"].dependency == {1: [0], 2: [1]}
    table = 'category,id,prompt_en,type,prompt_length,class\nPortrait,000,"a ""man""\nsits",NP,short,None\n'
    assert oneig.prompts("f.csv", table.encode()) == {("human", "000"): 'a "man"\nsits'}
    assert oneig.prompts("f.csv", (table + "Multilingualism,000,x,NP,short,None\n").encode()).keys() == {
        ("human", "000")
    }
    assert oneig.texts("t.csv", b"\xef\xbb\xbfid,text_content\n000,\"['A', 'B\\n']\"\n") == {"000": "['A', 'B\\n']"}


def test_categories_follow_from_the_id():
    assert [wise.category("wise", i) for i in (1, 400, 401, 567, 568, 1000)] == [
        "culture", "culture", "time", "time", "space", "chemistry"
    ]  # fmt: skip
    assert wise.category("wise-verified", 521) == "space"
    with pytest.raises(UserError, match="wise has no prompt 1001: its ids are 1 to 1000"):
        wise.category("wise", 1001)


@pytest.mark.parametrize(
    ("read", "data", "why"),
    [
        (wise.rows, b"{}", "expected a JSON list, got dict"),
        (wise.rows, b"[", "f: not JSON"),
        (wise.rows, b"\xff", "f is not UTF-8"),
        (wise.rows, b"[" * 100_000, "f: not JSON"),
        (wise.rows, json.dumps([*WISE, {"Prompt": "x"}]).encode(), "f entry 2: prompt_id: Field required"),
        (longtext.rows, jsonl(LONG, LONG), "3 occurs 2 times"),
        (longtext.rows, jsonl(LONG | {"text": []}), "f line 1: text: List should have at least 1 item"),
        (longtext.rows, b"\n", "f holds no records"),
        (longtext.rows, b'{"prompt_id": 1}\n{', "f line 1: prompt: Field required"),
        (oneig.questions, b"[]", "expected a JSON object"),
        (oneig.questions, json.dumps({"0": ASKED | {"dependency": '{"1": [3]}'}}).encode(), "f 0: a dependency on"),
        (oneig.questions, json.dumps({"0": ASKED | {"question": "{"}}).encode(), "f 0: question: Invalid JSON"),
        (oneig.texts, b"id\n1\n", "f row 1: text_content: Field required"),
        (oneig.texts, b"id,text_content\n1,a\n1,b\n", "'1' occurs 2 times"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(read, data, why):
    with pytest.raises(UserError) as error:
        read("f", data)
    assert why in str(error.value) and "\n" not in str(error.value)
