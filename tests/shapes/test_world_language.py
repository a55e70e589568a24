"""Holds what is said in the shapes world: true answers, balance by type, a closed vocabulary, nothing held out."""

import collections
import hashlib

import numpy as np
import pytest

from trainer.shapes import conversations, language, questions, requests, world

VOCABULARY_SHA256 = "561973862fa6d62702e5bbf64509bf130b42b8a799faf11ab114c43ea13cf021"
HELD_OUT_WORDINGS = (
    *requests.DRAW_HELD_OUT,
    *requests.MIXED_HELD_OUT,
    *requests.TELL_ONLY_HELD_OUT,
    *language.DESCRIBE_IMAGE_HELD_OUT,
    *language.DESCRIBE_AND_REDRAW_HELD_OUT,
)
TRAINING_WORDINGS = (
    *requests.DRAW,
    *requests.TELL_AND_DRAW,
    *requests.SHOW_AND_SAY,
    *requests.OPEN_MIXED,
    *requests.TELL_ONLY,
    *language.DESCRIBE_IMAGE,
    *language.DESCRIBE_AND_REDRAW,
)


@pytest.fixture(scope="module")
def sampled():
    rng = np.random.default_rng(11)
    return {kind: [conversations.sample_conversation(rng, kind) for _ in range(1500)] for kind in conversations.KINDS}


def test_vocabulary_is_frozen_small_and_closed(sampled):
    added = len(language._FOLLOW_UP_WORDS.split())
    vocabulary = language.vocabulary()[:-added]
    assert hashlib.sha256("\n".join(vocabulary).encode()).hexdigest() == VOCABULARY_SHA256
    assert len(vocabulary) < 160 and list(vocabulary) == sorted(set(vocabulary))
    assert len(set(language.vocabulary())) == len(vocabulary) + added, "the words of later conversations stand behind"
    texts = [m["value"] for group in sampled.values() for c in group for m in c["conversations"]]
    used = collections.Counter(word for text in texts for word in language.words(text.replace("<image>", " ")))
    assert set(used) <= set(vocabulary)
    facts = {word for fact in language.chat_facts() for text in fact for word in language.words(text)}
    assert set(vocabulary) == set(used) | facts, "a word that training never shows would stay random"
    for text in (*HELD_OUT_WORDINGS, *(text for pair in language.CHAT_HELD_OUT for text in pair)):
        assert set(language.words(text.replace("{x}", ""))) <= set(vocabulary), text


def test_case_folding_keeps_option_letters():
    assert language.words("A. red")[0] == "A" and language.words("A photo")[0] == "a"
    assert language.words("Can I draw?") == ["can", "i", "draw", "?"] and language.words("(B)") == ["(", "B", ")"]
    assert language.words(questions.MCQ_SUFFIX)[:5] == ["answer", "with", "the", "option", "'"]


def test_the_models_tokenizer_splits_alike(sampled):
    from armor_model.template import build_word_tokenizer

    tokenizer = build_word_tokenizer(language.vocabulary())
    texts = [m["value"].replace("<image>\n", "") for g in sampled.values() for c in g[:60] for m in c["conversations"]]
    for text in ("A. red\nB. blue\nAnswer with the option's letter", "Is it a photo? I see. C", *texts):
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(text.replace("<image>", ""))["input_ids"])
        assert [piece for piece in pieces if piece != "\n"] == language.words(text.replace("<image>", "")), text


def test_held_out_wordings_are_not_trained():
    assert not set(HELD_OUT_WORDINGS) & set(TRAINING_WORDINGS)
    assert not {q for q, _ in language.CHAT_HELD_OUT} & {q for q, _ in language.chat_facts()}


def test_no_training_conversation_touches_a_held_out_combination(sampled):
    for group in sampled.values():
        for conversation in group:
            assert not any(world.is_held_out(scene) for scene in conversation["images"])
            marks = sum(m["value"].count("<image>") for m in conversation["conversations"])
            assert marks == len(conversation["images"])
    rng = np.random.default_rng(5)
    for _ in range(5000):
        request = requests.sample_request(rng)
        assert world.HELD_OUT.isdisjoint(request.keys) and not world.is_held_out(request.scene)
        assert requests.matches(request.scene, request.things, request.relation)


def test_held_out_requests_never_appear_as_words(sampled):
    """By text, independent of the keys: no training request contains a held-out content phrase as its whole content."""
    phrases = {
        "a purple triangle",
        "a cross",
        "a square and a cross",
        "a cross and a square",
        "three circles",
        "a circle left of a square",
        "a square right of a circle",
        "two crosses",
    }
    wordings = (*requests.DRAW, *requests.TELL_AND_DRAW, *requests.SHOW_AND_SAY, *requests.TELL_ONLY)
    named = {wording.format(x=phrase) for wording in wordings for phrase in phrases}
    said = {m["value"] for g in sampled.values() for c in g for m in c["conversations"] if m["from"] == "human"}
    # the knowledge question `what is a cross?` does not ask for a drawing, and is never sampled either
    assert not named & said


@pytest.mark.parametrize("type", questions.QUESTION_TYPES)
def test_question_type_is_true_and_balanced(type):
    rng = np.random.default_rng(7)
    answers = collections.Counter()
    for _ in range(600):
        scene, question = questions.sample_question(rng, type)
        assert question.type == type and question.answer in question.choices
        assert not world.is_held_out(scene)
        answers[question.answer] += 1
        assert question.answer == _oracle(scene, question.text), (str(scene), question.text)
        assert set(language.words(language.long_answer(question))) <= set(language.vocabulary())
    possible = len(questions.YES_NO) if "yes" in answers else len(answers)
    assert max(answers.values()) / 600 < 1.45 / possible, answers


def _oracle(scene, text):
    """Answers from the words alone, written apart from the generator."""
    things, ws = scene.things, text.rstrip("?").split()
    shapes = {questions.plural(s): s for s in world.SHAPES}
    only = lambda key: next(t for t in things if key in (t.color, t.shape))  # noqa: E731
    colors = [w for w in ws if w in world.COLORS]
    if ws[0] == "does":
        sides = {"circle": "0", "square": "4", "triangle": "3", "cross": "12"}[only(colors[0]).shape]
        return "yes" if sides == ws[-2] else "no"
    if "number" in ws:
        name = " ".join(ws[4:-1])
        keep = [t for t in things if name in (f"{t.color} shapes", questions.plural(t.shape), "shapes")]
        return "yes" if ws[-1] == str(4 - len(things) if "empty" in ws else len(keep)) else "no"
    if "sides" in ws:
        return {"circle": "0", "square": "4", "triangle": "3", "cross": "12"}[only(colors[0]).shape]
    if "empty" in ws:
        return str(4 - len(things))
    if ws[:2] == ["are", "there"]:
        first, second = (sum(t.shape == shapes[w] for t in things) for w in ws if w in shapes)
        return "yes" if first > second else "no"
    if ws[:2] == ["are", "all"]:
        last = shapes.get(ws[-1], ws[-1])
        return "yes" if all(last in (t.color, t.shape) for t in things) else "no"
    if ws[:2] == ["how", "many"]:
        name = next((w for w in ws if w in shapes), None)
        keep = [t for t in things if (not name or t.shape == shapes[name]) and (not colors or t.color == colors[0])]
        return str(len(keep))
    if ws[:2] == ["is", "there"]:
        shape = next((w for w in ws if w in world.SHAPES), None)
        keep = [t for t in things if (not shape or t.shape == shape) and (not colors or t.color == colors[0])]
        return "yes" if keep else "no"
    if ws[0] == "is":
        a, b = (only(w) for w in ws if w in world.SHAPES)
        return "yes" if world.holds(a, next(r for r in world.RELATIONS if r in text), b) else "no"
    if ws[0] == "where":
        return world.CELL_NAMES[only(ws[-1]).cell]
    if "at" in ws:
        thing = scene.at(world.CELL_NAMES.index(" ".join(ws[-2:])))
        return thing.shape if thing else "nothing"
    if relation := next((r for r in world.RELATIONS if r in text), None):
        (found,) = [t for t in things if t is not only(ws[-1]) and world.holds(t, relation, only(ws[-1]))]
        return found.shape
    if "color" in ws:
        return only(ws[-1]).color
    return only(colors[0]).shape


def test_equal_seeds_give_equal_conversations():
    kinds = {"t2i": 1.0, "ti2t": 2.0, "t2t": 1.0}
    first, second = (conversations.stream(3, kinds) for _ in range(2))
    one = [conversations.to_json(next(first)) for _ in range(50)]
    assert one == [conversations.to_json(next(second)) for _ in range(50)]
    assert {c["type"] for c in one} == set(kinds)


def test_paper_form(sampled):
    record = conversations.to_json(sampled["ti2t"][0])
    assert set(record) == {"id", "type", "conversations", "images"} and isinstance(record["images"][0], str)
    assert [m["from"] for m in record["conversations"]][:2] == ["human", "gpt"]
    assert record["conversations"][0]["value"].startswith("<image>")
