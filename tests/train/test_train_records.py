"""Conversation records: whatever a line holds, it is one record left out under a stated rule, never the whole file."""

from __future__ import annotations

import json

import pytest
from data_helpers import BAD, gpt, human, write_corpus, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.records import RULES, Rejected, Tally, normalise, read_conversations

TALK = [human("hi"), gpt("hello")]
SEEN = [human("<image>?"), gpt("x")]
WORSE = {  # beyond the helpers' BAD: the record, and the rule that must count it
    "a turn without from": ({"conversations": [{"value": "hi"}, gpt("x")]}, "unknown_role"),
    "from null": ({"conversations": [{"from": None, "value": "hi"}, gpt("x")]}, "unknown_role"),
    "a list for a role": ({"conversations": [{"from": ["human"], "value": "hi"}, gpt("x")]}, "unknown_role"),
    "a number for pictures": ({"conversations": SEEN, "images": 5}, "missing_image"),
    "an object for pictures": ({"conversations": SEEN, "images": {"a.png": 1}}, "missing_image"),
    "a number for a picture": ({"conversations": SEEN, "images": [5]}, "missing_image"),
    "false for pictures": ({"conversations": TALK, "images": False}, "missing_image"),
    "NUL in a name": ({"conversations": SEEN, "images": ["a\0.png"]}, "missing_image"),
    "half a pair in a name": ({"conversations": SEEN, "images": ["\ud800.png"]}, "missing_image"),
    "a long name": ({"conversations": SEEN, "images": ["a" * 5000]}, "missing_image"),
    "a directory": ({"conversations": SEEN, "images": ["."]}, "missing_image"),
    "a loop of links": ({"conversations": SEEN, "images": ["loop.png"]}, "missing_image"),
    "a picture in a system turn": (
        {"conversations": [{"from": "system", "value": "<image>"}, *TALK], "images": ["a.png"]},
        "too_many_image_marks",
    ),
    "half a pair in a text": ({"conversations": [human("\ud800"), gpt("x")]}, "bad_text"),
    "half a pair in an id": ({"id": "\udc80", "conversations": TALK}, "bad_text"),
    "a list for a type": ({"type": ["t2t"], "conversations": TALK}, "unknown_type"),
    "a list": ([1], "not_json"),
    "very many brackets": ('{"id": ' + "[" * 100_000, "not_json"),
}


@pytest.mark.parametrize("what", WORSE)
def test_one_bad_record_is_counted_and_the_rest_is_read(tmp_path, what):
    record, rule = WORSE[what]
    corpus = write_corpus(tmp_path)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    lines = corpus.read_text().splitlines()[:4]
    write_lines(corpus, [*lines[:2], record, *lines[2:]])
    tally = Tally()
    assert [r["id"] for r in read_conversations(corpus, tally)] == ["1", "2", "3", "4"]
    assert dict(tally.dropped) == {rule: 1}
    assert (tally.read, tally.kept) == (5, 4)
    json.dumps(tally.to_json()).encode()


def test_a_record_without_a_usable_id_is_named_by_its_place(tmp_path):
    corpus = write_lines(tmp_path / "c.jsonl", [{"conversations": TALK}, {"id": [1], "conversations": TALK}])
    assert [r["id"] for r in read_conversations(corpus, Tally())] == [f"{corpus}:1", f"{corpus}:2"]


def test_every_rule_is_stated():
    assert set(BAD) | {rule for _, rule in WORSE.values()} <= set(RULES)


letters = st.text(alphabet=st.characters(exclude_categories=()), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | letters,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(letters, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["a.png", "b.png", "gone.png", "a\0.png", "", ".", "/"])
texts = st.sampled_from(["hi", "<image>", "<image> and <image>", "\ud800"]) | letters
roles = st.sampled_from(["human", "gpt", "system"])
turns = st.lists(
    st.fixed_dictionaries({}, optional={"from": roles | values, "value": texts | values}) | values, max_size=4
)
dialogues = st.lists(st.tuples(texts, texts), min_size=1, max_size=2).map(
    lambda pairs: [turn for asked, said in pairs for turn in (human(asked), gpt(said))]
)
records = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "type": st.sampled_from(["t2t", "ti2t", "t2i", "refuse", "none"]) | values,
        "conversations": dialogues | turns | values,
        "images": st.lists(names, max_size=3) | st.lists(names | values, max_size=3) | values,
        "image": names | values,
    },
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_corpus(folder)
    return folder


@settings(max_examples=150)
@given(record=records)
def test_normalise_accepts_or_rejects_and_does_nothing_else(root, record):
    try:
        found = normalise(record, root)
    except Rejected as rejected:
        assert rejected.rule in RULES
        return
    text = " ".join(turn["value"] for turn in found["conversations"])
    assert len(found["images"]) == text.count("<image>")
    assert all(path.is_file() for path in found["images"])
    f"{found['id']} {found['images']} {text}".encode()
