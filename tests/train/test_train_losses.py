"""Losses at supervised positions only: same numbers and gradients as the plain way, however they are computed."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from train_helpers import example, pools, tiny_model

from armor_model.losses import head_losses
from trainer.batches import collate
from trainer.objective import Objective
from trainer.stages import STAGES


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_chunks_give_the_plain_loss_and_gradients(rows, frozen):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 16, generator=g, requires_grad=True)
    big = torch.randn(201, 16, generator=g, requires_grad=not frozen)
    row = torch.randn(1, 16, generator=g, requires_grad=True)
    labels = torch.randint(0, 202, (50,), generator=g)
    plain = F.cross_entropy(hidden @ torch.cat([big, row]).t(), labels, reduction="sum") * 0.3
    plain.backward()
    expected = [None if t.grad is None else t.grad.clone() for t in (hidden, big, row)]
    for t in (hidden, big, row):
        t.grad = None
    loss = head_losses(hidden, labels, [big, row], chunk_elements=202 * rows)[0] * 0.3
    loss.backward()
    assert torch.allclose(loss, plain, rtol=1e-6)
    for t, want in zip((hidden, big, row), expected, strict=True):
        assert (t.grad is None) == (want is None)
        if want is not None:
            assert torch.allclose(t.grad, want, atol=1e-5)


def test_no_position_asked_is_a_loss_of_zero():
    assert float(head_losses(torch.randn(0, 8), torch.zeros(0, dtype=torch.long), [torch.randn(5, 8)])[0]) == 0.0


def test_a_uniform_head_costs_the_logarithm_of_its_rows():
    loss, _ = head_losses(torch.zeros(3, 4), torch.tensor([0, 1, 2]), [torch.randn(10, 4)])
    assert float(loss) == pytest.approx(3 * math.log(10), rel=1e-6)


@pytest.mark.parametrize("heads", ["switching", "single"])
@pytest.mark.parametrize("stage", ["1", "2", "3"])
def test_the_objective_is_the_models_own_loss(heads, stage):
    model = tiny_model(heads)
    examples = [pool[i] for pool in pools(model.config).values() for i in range(2)]
    batch = collate(examples, 0, model.config.imgbos_id)
    declared = STAGES[stage]
    sums = Objective(model, declared)(batch)
    out = model(
        batch.input_ids,
        batch.attention_mask,
        batch.pixels,
        batch.text_labels,
        batch.image_labels,
        alpha=declared.alpha,
        beta=declared.beta,
    )
    # Written down plainly: every head at every position, masked cross-entropies.
    hidden = model.backbone(model.embed(batch.input_ids, batch.pixels), batch.attention_mask)
    visual = model.visual_logits(model.visual_hidden(hidden, batch.attention_mask))
    text, first = (visual, 0) if heads == "single" else (model.text_logits(hidden), model.config.imgend_id)
    shifted = torch.where(batch.image_labels == -100, -100, batch.image_labels - first)
    if declared.alpha:
        plain = F.cross_entropy(text.flatten(0, 1), batch.text_labels.flatten())
        assert float(sums.text) / out.text_tokens == pytest.approx(float(plain), rel=1e-5)
        assert float(out.text_loss) == pytest.approx(float(plain), rel=1e-5)
    if declared.beta:
        plain = F.cross_entropy(visual.flatten(0, 1), shifted.flatten())
        assert float(sums.image) / out.image_tokens == pytest.approx(float(plain), rel=1e-5)
        assert float(out.image_loss) == pytest.approx(float(plain), rel=1e-5)


def test_switching_starts_at_the_logarithm_of_the_image_tokens():
    """Figure 7's start: ln(K + 2) for the visual head, ln(V + K + 3) for the single one (heads at zero)."""
    rows_of = {"switching": lambda c: c.codebook_size + 2, "single": lambda c: c.vocab_size + c.num_new_tokens}
    for heads, rows in rows_of.items():
        model = tiny_model(heads)
        head = model.visual_head if heads == "switching" else model.single_head
        torch.nn.init.zeros_(head.weight)
        batch = collate([example(model.config, "t2i", 0)], 0, model.config.imgbos_id)
        count = int((batch.image_labels != -100).sum())
        assert float(Objective(model, STAGES["2"])(batch).image) / count == pytest.approx(
            math.log(rows(model.config)), rel=1e-5
        )
