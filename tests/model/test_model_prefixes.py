"""A prefix cache: later turns compute what is new, and say what they would have said."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from armor_model import GenerationSettings, generate
from armor_model.generation.prefixes import Prefix, PrefixCache, common, marks_of
from armor_model.generation.state import Request

GREEDY = GenerationSettings(max_new_tokens=10, image_temperature=0.0, max_images=2)
FOLLOW_UPS = ("and what is it ?", "draw the circle", "a picture of it , not red", "what is there ?")


@pytest.fixture(scope="module")
def exact(talker):
    """In float64: what differs then is no rounding."""
    model, processor = talker
    dtype = model.dtype
    yield model.double(), processor
    model.to(dtype)


@pytest.fixture
def computed(exact, monkeypatch):
    """Positions that the decoder computed, the images that the vision tower saw."""
    model, _ = exact
    counts = {"positions": 0, "images": 0}
    backbone, embed = model.backbone, model.embed

    def counting_backbone(embeds, *rest):
        counts["positions"] += embeds.shape[0] * embeds.shape[1]
        return backbone(embeds, *rest)

    def counting_embed(ids, images=None):
        counts["images"] += len(images or [])
        return embed(ids, images)

    monkeypatch.setattr(model, "backbone", counting_backbone)
    monkeypatch.setattr(model, "embed", counting_embed)
    return counts


def talk(exact, turns, settings, prefixes=None, first=None, dialogues=1, **options):
    """Several dialogues, turn by turn; tokens of every answer."""
    histories = [[] for _ in range(dialogues)]
    tokens = []
    for turn in range(turns):
        for d, history in enumerate(histories):
            text = " ".join([FOLLOW_UPS[(turn + d) % 4]] * (1 + d % 3))  # dialogues differ in length
            shown = [{"type": "image", "image": first}] if first and not turn and d % 2 == 0 else []
            history.append({"role": "user", "content": [*shown, {"type": "text", "text": text}]})
        answers = generate(*exact, histories, settings, prefixes=prefixes, **options)
        tokens.append([answer.tokens for answer in answers])
        for history, answer in zip(histories, answers, strict=True):
            history.append(answer.message())
    return tokens


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_dialogue_with_images_goes_on_from_its_cache(exact, computed, guidance):
    """Four turns with an image given and images drawn in between: equal tokens; only what is new is computed."""
    settings, red = replace(GREEDY, guidance=guidance), Image.new("RGB", (40, 30), "red")
    anew = talk(exact, 4, settings, first=red)
    before = dict(computed)
    kept = PrefixCache()
    assert talk(exact, 4, settings, kept, first=red) == anew
    after = {name: computed[name] - before[name] for name in before}
    codes = exact[1].first_code_id
    assert any(token >= codes for turn in anew[:3] for tokens in turn for token in tokens)
    assert before["images"] == 4 and after["images"] == 1  # shown once, seen once
    assert kept.reused == before["positions"] - after["positions"] > 0 if guidance == 1 else kept.reused > 0


@pytest.mark.parametrize(("static", "guidance"), [(False, 1.0), (True, 1.0), (False, 2.0)])
def test_dialogues_of_differing_length_in_few_rows(exact, static, guidance, monkeypatch):
    """Rows refill while others draw; what was kept belongs to other slots and other rows by then."""
    monkeypatch.setattr("armor_model.generation.engine.LENGTH_STEP", 16)
    settings, red = replace(GREEDY, guidance=guidance), Image.new("RGB", (40, 30), "red")
    anew = talk(exact, 3, settings, first=red, dialogues=5)
    if static:
        from armor_model.generation import api

        monkeypatch.setattr(api, "Engine", lambda *a, _made=api.Engine, **k: _made(*a, static=True, **k))
    kept = PrefixCache()
    assert talk(exact, 3, settings, kept, first=red, dialogues=5, batch_size=2) == anew and kept.reused


def test_turns_that_are_asked_together_share_their_beginning(exact, computed):
    """Every turn of a dialogue in one call, history given: the longest is computed, the others are its beginnings."""
    red = Image.new("RGB", (40, 30), "red")
    history, asked = [], []
    for n, text in enumerate(FOLLOW_UPS):
        shown = [{"type": "image", "image": red}] if n == 0 else []
        history.append({"role": "user", "content": [*shown, {"type": "text", "text": text}]})
        asked.append(list(history))
        drawn = {"type": "image", "codes": torch.full((16,), n)}
        history.append({"role": "assistant", "content": [{"type": "text", "text": "a circle"}, drawn]})
    settings = replace(GREEDY, max_new_tokens=3)
    anew = [answer.tokens for answer in generate(*exact, asked, settings)]
    seen = computed["images"]
    kept = PrefixCache(most_bytes=0)
    assert [answer.tokens for answer in generate(*exact, asked, settings, prefixes=kept)] == anew
    assert computed["images"] - seen == 1 and kept.reused and not kept._kept


def test_another_image_is_another_prefix(exact):
    """Equal ids, other pixels: nothing of the first image is told of the second."""

    def ask(color):
        shown = {"type": "image", "image": Image.new("RGB", (40, 30), color)}
        return [[{"role": "user", "content": [shown, {"type": "text", "text": "what is there ?"}]}]]

    model, processor = exact
    alone = generate(model, processor, ask("blue"), GREEDY)[0].tokens
    kept = PrefixCache()
    first = generate(model, processor, ask("red"), GREEDY, prefixes=kept)[0].tokens
    assert generate(model, processor, ask("blue"), GREEDY, prefixes=kept)[0].tokens == alone != first
    row = processor.encode_one(ask("red")[0])
    marks = marks_of(Request(row.ids, row.tiles, 0, shown=row.shown), model.config.image_token_id)
    at = row.ids.index(model.config.image_token_id)
    assert (marks[at : at + row.shown[0]] < 0).all() and (np.delete(marks, range(at, at + row.shown[0])) >= 0).all()


def test_what_was_kept_without_the_adapter_serves_no_drawing(exact):
    """Text-only turns keep no hidden states: a turn that may draw computes them."""
    text, kept = replace(GREEDY, allow_images=False), PrefixCache()
    talked = [{"role": "user", "content": "what is there ?"}]
    [answer] = generate(*exact, [talked], text, prefixes=kept)
    more = [*talked, answer.message(), {"role": "user", "content": "draw a red circle"}]
    anew = generate(*exact, [more], GREEDY)[0].tokens
    assert generate(*exact, [more], GREEDY, prefixes=kept)[0].tokens == anew and not kept.reused
    assert generate(*exact, [more], text, prefixes=kept)[0].tokens and kept.reused


def test_least_used_prefixes_go_first():
    def prefix(*marks):
        return Prefix(np.array(marks), [torch.zeros(len(marks))], 0)

    kept = PrefixCache(most_bytes=4 * 8)
    kept.keep(prefix(1, 2, 3))
    kept.keep(prefix(7, 8, 9))
    kept.keep(prefix(1, 2, 3, 4))  # in place of its beginning
    assert [len(each.marks) for each in kept._kept] == [3, 4]
    found, length = kept.longest(np.array([7, 8, 1]), stores=1)
    assert found is not None and length == 2 == common(found.marks, np.array([7, 8, 5]))
    kept.keep(prefix(5, 6))
    assert [each.marks[0] for each in kept._kept] == [7, 5]
    assert kept.longest(np.array([7]), stores=2) == (None, 0)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_an_earlier_image_stays_as_it_was_drawn(exact, guidance):
    """Several images with less text between them than a lagging row has to catch up on: what the adapter kept of the
    first is not computed again, from hidden states that nobody stored. So no answer depends on its batch."""
    rng = np.random.default_rng(0)
    words = ("what", "is", "there", "?", "a", "red", "circle", "the", "image", "draw", "of", "and", "not")
    settings = replace(GREEDY, guidance=guidance, max_images=4, max_new_tokens=20)
    asked = [[{"role": "user", "content": " ".join(rng.choice(words, 1 + n % 8))}] for n in range(9)]
    together = [answer.tokens for answer in generate(*exact, asked, settings)]
    assert max(tokens.count(exact[1].imgbos_id) for tokens in together) > 1
    assert [generate(*exact, [one], settings)[0].tokens for one in asked] == together
