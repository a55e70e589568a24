"""The engine's static and compiled steps, its continuous refill: same tokens as the plain loop."""

from dataclasses import replace

import pytest
import torch

from armor_model import ArmorError, GenerationSettings

SAMPLED = GenerationSettings(max_new_tokens=16, temperature=1.0, max_images=2)


def run_engine(talker, conversations, settings, **options):
    """Tokens of every row, straight from the engine."""
    from armor_model.generation.api import UNCONDITIONAL
    from armor_model.generation.engine import Engine
    from armor_model.generation.state import Request

    model, processor = talker
    encoded = [processor.encode_one(c, add_generation_prompt=True) for c in conversations]
    requests = [Request(row.ids, row.tiles, seed) for seed, row in enumerate(encoded)]
    without = processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids
    engine = Engine(model, settings, processor.stop_ids, without, **options)
    return engine, [(row.tokens, row.imgbos_masked, row.adapter_steps) for row in engine.run(requests)]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("force", [False, True])
def test_static_steps_equal_sliced_ones(talker, conversations, guidance, force):
    """The form that CUDA graphs capture, run uncaptured: same tokens, padded row counts included."""
    settings = GenerationSettings(
        max_new_tokens=16, temperature=1.0, max_images=1, guidance=guidance, force_image=force
    )
    _, plain = run_engine(talker, conversations, settings, static=False)
    engine, static = run_engine(talker, conversations, settings, static=True)
    assert static == plain
    assert {drawing for *_, drawing in engine.steps} == {True, False}
    if force:  # three rows, or six, begin together, on padded buffers
        assert {rows for rows, *_ in engine.steps} & {4, 8}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_steps_equal_plain_ones(talker, conversations, backend):
    """One graph a step, text and pictures, with guidance, several row counts: same tokens."""
    from torch._dynamo.utils import counters

    settings = GenerationSettings(max_new_tokens=12, temperature=1.0, max_images=1, guidance=2.0)
    before = counters["stats"]["unique_graphs"]
    engine, compiled = run_engine(talker, conversations * 2, settings, compile=backend)
    assert compiled == run_engine(talker, conversations * 2, settings, static=False)[1]
    assert {drawing for *_, drawing in engine.steps} == {True, False}
    assert counters["stats"]["unique_graphs"] > before and not counters["graph_break"]


def test_when_steps_are_compiled(talker, conversations, monkeypatch):
    """`auto`: on CUDA, for many requests; never for a few."""
    monkeypatch.setattr("armor_model.generation.engine.COMPILE_PAYS", 1000)

    def backend(requests, **options):
        engine, _ = run_engine(talker, conversations[:1], SAMPLED, batch_size=4, **options)
        engine.device = torch.device("cuda")
        return engine._backend(requests)

    assert backend(3, static=True) == "" and backend(400, static=True) == "inductor"
    assert backend(400, static=True, compile=False) == backend(400, static=False) == ""
    with pytest.raises(ArmorError, match="static"):
        run_engine(talker, conversations, SAMPLED, static=False, compile=True)


@pytest.mark.parametrize("static", [False, True])
def test_an_engine_serves_again(talker, conversations, static):
    """A second run reuses caches and steps, and is not told anything by what the first left there."""
    from armor_model.generation.state import Request

    _, processor = talker
    engine, first = run_engine(talker, conversations, SAMPLED, static=static)
    encoded = [processor.encode_one(c, add_generation_prompt=True) for c in conversations[:2]]
    cache = engine.batch.cache
    again = engine.run([Request(row.ids, row.tiles, seed) for seed, row in enumerate(encoded)])
    assert [row.tokens for row in again] == [tokens for tokens, *_ in first[:2]] and engine.batch.cache is cache


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("static", [False, True])
def test_continuous_refill_changes_no_answer(talker, conversations, static, guidance, monkeypatch):
    """Many requests through few places: rows (and their shadows) come and go, slots run out and are shifted."""
    from armor_model.generation.engine import Engine
    from armor_model.generation.state import Batch

    shifts, joined = [], []
    shift, admit = Batch.shift, Engine._admit
    monkeypatch.setattr(
        Engine, "_admit", lambda self, batch, new: (joined.append(len(batch.rows)), admit(self, batch, new))[1]
    )
    for module in ("engine", "steps"):
        monkeypatch.setattr(f"armor_model.generation.{module}.LENGTH_STEP", 16)
    monkeypatch.setattr(Batch, "shift", lambda self, first: (shifts.append(self.slot), shift(self, first))[1])
    settings = GenerationSettings(max_new_tokens=16, temperature=1.0, max_images=1, guidance=guidance)
    many = conversations * 10
    _, few_places = run_engine(talker, many, settings, batch_size=4, static=static)
    _, all_at_once = run_engine(talker, many, settings, batch_size=64, static=False)
    assert [tokens for tokens, *_ in few_places] == [tokens for tokens, *_ in all_at_once]
    assert shifts and any(joined)  # some came in beside rows under way


@pytest.mark.parametrize("static", [False, True])
def test_requests_that_are_still_coming(talker, conversations, static, monkeypatch):
    """They trickle in, short ones first: longer prompts than the caches were laid out for wait until those are free;
    caches grow where answers are long. Same tokens as all at once."""
    from armor_model.generation.api import UNCONDITIONAL
    from armor_model.generation.engine import Engine
    from armor_model.generation.state import Batch, Request

    model, processor = talker
    settings = GenerationSettings(max_new_tokens=40, temperature=1.0, max_images=1)
    many = sorted(conversations * 6, key=lambda c: len(processor.encode_one(c, add_generation_prompt=True).ids))
    _, at_once = run_engine(talker, many, settings, batch_size=64, static=False)
    monkeypatch.setattr("armor_model.generation.engine.ANSWER_SLOTS", 8)
    for module in ("engine", "steps"):
        monkeypatch.setattr(f"armor_model.generation.{module}.LENGTH_STEP", 16)
    grown, grow = [], Batch.grow
    monkeypatch.setattr(Batch, "grow", lambda self, slots: (grown.append(slots), grow(self, slots))[1])
    encoded = [processor.encode_one(c, add_generation_prompt=True) for c in many]
    requests = [Request(row.ids, row.tiles, seed) for seed, row in enumerate(encoded)]
    asked: list[bool] = []

    def source(wait):
        asked.append(wait)
        if not requests:
            return None
        return [requests.pop(0) for _ in range(min(2, len(requests)))] if wait or len(asked) % 3 else []

    without = processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids
    engine = Engine(model, settings, processor.stop_ids, without, batch_size=3, static=static)
    rows = dict(engine.feed(source))
    assert [rows[i].tokens for i in range(len(many))] == [tokens for tokens, *_ in at_once]
    assert grown and not all(asked)
    assert engine.batch.slots <= engine.most_slots + 2 * 16


@pytest.mark.parametrize("static", [False, True])
def test_each_request_may_have_its_own_settings(talker, conversations, static):
    """Together they say what each says alone, in an engine that has its settings; and what `watch` ends leaves whole
    neighbours behind."""
    from armor_model.generation.api import UNCONDITIONAL
    from armor_model.generation.engine import Engine
    from armor_model.generation.state import Request

    whole = GenerationSettings(max_new_tokens=40, max_images=2)
    drawn = replace(whole, max_new_tokens=1, max_images=1, force_image=True, stop_after_image=True)
    kinds = [whole, drawn, replace(whole, temperature=1.0, allow_images=False), replace(whole, max_new_tokens=5)]
    model, processor = talker
    without = processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids
    requests = []
    for i in range(12):
        row = processor.encode_one(conversations[i % 3], add_generation_prompt=True)
        requests.append(Request(row.ids, row.tiles, i, kinds[i % 4]))

    def engine(settings):
        return Engine(model, settings, processor.stop_ids, without, batch_size=5, static=static)

    alone = [engine(r.settings).run([replace(r, settings=None)])[0].tokens for r in requests]
    assert [row.tokens for row in engine(whole).run(requests)] == alone

    def end_those_of_three(rows):
        for row in rows:
            if row.request % 3 == 0:
                row.finish = "dropped"

    groups = iter([requests])
    ended = dict(engine(whole).feed(lambda _: next(groups, None), end_those_of_three))
    assert {i: row.tokens for i, row in ended.items() if i % 3} == {i: t for i, t in enumerate(alone) if i % 3}
    assert any(row.finish == "dropped" for row in ended.values())
    for wrong in (replace(whole, image_temperature=0.5), replace(whole, max_images=3)):
        with pytest.raises(ArmorError, match="change neither"):
            engine(whole).run([replace(requests[0], settings=wrong)])


@pytest.mark.parametrize("most", [0, 1 << 30])
@pytest.mark.parametrize("draws", [True, False])
def test_steps_through_onednn_keep_every_image_and_answer(talker, conversations, draws, most, monkeypatch):
    """Weights laid out for oneDNN, and as they are where a copy would be too large: same images and answers; afterwards
    the layers are what they were, also where a step fails."""
    from armor_model.generation import cpu

    settings = GenerationSettings(max_new_tokens=8)
    if draws:
        settings = replace(
            settings, max_new_tokens=1, force_image=True, stop_after_image=True, max_images=1, guidance=2.0
        )
    _, as_before = run_engine(talker, conversations * 4, settings, batch_size=5)
    monkeypatch.setattr(cpu, "SMALLEST", 1)
    monkeypatch.setattr(cpu, "MOST_BYTES", most)
    calls, product = [], cpu.Product.__call__
    monkeypatch.setattr(cpu.Product, "__call__", lambda self, *given: (calls.append(self), product(self, *given))[1])
    engine, through = run_engine(talker, conversations * 4, settings, batch_size=5)
    assert through == as_before
    products = engine._kernels.products
    assert len(products) > 7 and {each.module for each in calls} <= {each.module for each in products}
    assert len(calls) >= (engine.passes * (len(products) - 1) if draws else len(products))
    assert all(each.weight.is_mkldnn == bool(most) for each in set(calls))
    with pytest.raises(ZeroDivisionError), engine._kernels.used():
        raise ZeroDivisionError
    assert not any("forward" in vars(each.module) for each in products)
    assert {config._attn_implementation for config in engine._kernels.attending} == {"sdpa"}


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_parallel_drawing_gives_the_images_of_one_by_one_drawing(talker, conversations, guidance, temperature):
    """Every image, not the distribution alone: the random number of a position is the same. Prompts of several lengths,
    windows from two codes to more than an image; and it takes fewer passes where codes can be guessed."""
    base = GenerationSettings(
        max_new_tokens=1,
        max_images=1,
        force_image=True,
        stop_after_image=True,
        guidance=guidance,
        image_temperature=temperature,
    )
    engine, one_by_one = run_engine(talker, conversations * 4, base, batch_size=5)
    for window in (2, 3, 7, 100):
        parallel, images = run_engine(talker, conversations * 4, replace(base, parallel_draw=window), batch_size=5)
        assert images == one_by_one
        assert parallel.passes <= engine.passes
