"""Padding, packing, dropping prompts and the order of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from train_helpers import example, pools, tiny_model

from trainer.batches import collate, pack
from trainer.loader import Mixture
from trainer.objective import Objective
from trainer.stages import STAGES


def test_a_packed_batch_has_the_loss_of_the_unpacked_one():
    model = tiny_model()
    examples = [pool[i] for pool in pools(model.config).values() for i in range(4)]
    plain = collate(examples, 0, model.config.imgbos_id)
    packed = collate(examples, 0, model.config.imgbos_id, pack_to=96)
    assert packed.input_ids.shape[0] < len(examples) / 2
    assert packed.tokens == plain.tokens == sum(len(e) for e in examples)
    objective = Objective(model, STAGES["3"])
    for a, b in zip(objective(plain)[:2], objective(packed)[:2], strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-5)


def test_a_neighbour_in_the_row_changes_nothing():
    """Packing's boundaries hold: another neighbour, same loss at this example's positions."""
    model = tiny_model()
    first, a, b = (example(model.config, "t2ti", seed) for seed in (1, 2, 3))
    hidden = []
    for other in (a, b):
        batch = collate([other, first], 0, model.config.imgbos_id, pack_to=len(first) + len(other))
        out = model.backbone(model.embed(batch.input_ids), batch.attention_mask, batch.position_ids)
        row = batch.input_ids[0].tolist()
        start = next(i for i in range(len(row)) if row[i : i + len(first)] == first.input_ids.tolist())
        hidden.append(out[0, start : start + len(first)])
    assert torch.allclose(hidden[0], hidden[1], atol=1e-5)


def test_packing_fills_rows_and_refuses_what_does_not_fit():
    config = tiny_model().config
    examples = [example(config, "t2i", i) for i in range(10)]
    rows = pack(examples, 80)
    assert sorted(id(e) for row in rows for e in row) == sorted(id(e) for e in examples)
    assert all(sum(len(e) for e in row) <= 80 for row in rows)
    with pytest.raises(ValueError, match="does not fit"):
        pack(examples, 10)


def test_images_are_handed_over_in_the_rows_order():
    config = tiny_model().config
    examples = [example(config, "ti2t", i) for i in range(5)]
    batch = collate(examples, 0, config.imgbos_id, pack_to=64)
    order = [e for row in pack(examples, 64) for e in row]
    assert [id(image) for image in batch.pixels] == [id(image) for e in order for image in e.pixels]


def test_an_emptied_request_keeps_its_image_and_asks_no_text():
    config = tiny_model().config
    full = example(config, "t2i", 3)
    bare = full.without_prompt()
    start, end = full.prompt_span
    assert bare.input_ids.tolist() == [*full.input_ids[:start].tolist(), *full.input_ids[end:].tolist()]
    assert (bare.text_labels == -100).all()
    assert (bare.image_labels != -100).sum() == (full.image_labels != -100).sum() == config.codes_per_image + 1


def test_a_pass_holds_exactly_the_counts_and_each_example_evenly():
    data = pools(tiny_model().config, each=5)
    mixture = Mixture(data, {"t2t": 20, "t2i": 12}, 8, seed=1)
    assert len(mixture) == 4
    seen = [e for step in range(4) for e in mixture.batch(step)]
    assert sum(e.kind == "t2t" for e in seen) == 20
    assert sum(e.kind == "t2i" for e in seen) == 12
    times = [sum(e is one for e in seen) for one in data["t2t"]]
    assert times == [4] * 5


def test_a_pool_larger_than_its_count_is_used_up_over_the_passes():
    data = pools(tiny_model().config, each=12)
    mixture = Mixture(data, {"t2t": 4}, 4, seed=1)
    seen = {id(e) for step in range(3) for e in mixture.batch(step)}
    assert len(seen) == 12


def test_the_order_depends_on_seed_and_step_alone():
    data = pools(tiny_model().config)
    ids = [[id(e) for e in Mixture(data, {"t2t": 24, "t2i": 24}, 8, seed=s).batch(9)] for s in (3, 3, 4)]
    assert ids[0] == ids[1] != ids[2]


def test_a_mixture_without_data_is_refused():
    with pytest.raises(ValueError, match="asks for ti2ti"):
        Mixture(pools(tiny_model().config), {"ti2ti": 8}, 4, seed=0)


def test_condition_dropout_empties_about_its_share():
    data = pools(tiny_model().config)
    mixture = Mixture(data, {"t2i": 400}, 40, seed=0, condition_dropout=0.1)
    emptied = [e.prompt_span is None for step in range(len(mixture)) for e in mixture.batch(step)]
    assert np.mean(emptied) == pytest.approx(0.1, abs=0.05)
