"""The stages are the paper's, and a stage moves exactly the parts it names."""

from __future__ import annotations

import pytest
import torch
from train_helpers import mixture, tiny_model

from armor_model.bases import find_base
from trainer.config import Optimization
from trainer.loop import Loop
from trainer.objective import freeze
from trainer.stages import FROZEN_ALWAYS, PARTS, SCHEMES, STAGES, Stage, part_of

PAPER = {  # section 3.4: conversations, alpha, beta
    "1": ({"t2t": 100_000, "ti2t": 100_000, "t2i": 100_000, "t2ti": 100_000}, 1, 0),
    "2": ({"t2i": 2_500_000, "t2ti": 2_500_000}, 0, 1),
    "3": ({"t2t": 50_000, "ti2t": 50_000, "t2i": 50_000, "t2ti": 50_000}, 1, 1),
}


@pytest.mark.parametrize("name", PAPER)
def test_counts_and_weights_are_the_papers(name):
    stage = STAGES[name]
    assert (stage.mixture, stage.alpha, stage.beta) == PAPER[name]


def test_the_three_stages_see_five_and_a_half_million_conversations():
    assert sum(STAGES[name].conversations for name in "123") == 400_000 + 5_000_000 + 200_000


def test_table_4_has_its_four_rows():
    rows = [SCHEMES[n].stages[0] for n in SCHEMES if n.startswith("one-stage")]
    found = {(STAGES[r].epochs, "new_embeddings" in STAGES[r].trains) for r in rows}
    assert found == {(10, False), (10, True), (20, False), (20, True)}


@pytest.mark.parametrize("stage", [s for s in STAGES.values() if s.name != "base"], ids=lambda s: s.name)
def test_no_stage_of_the_paper_trains_the_backbone(stage):
    assert not set(stage.trains) & set(FROZEN_ALWAYS)


@pytest.mark.parametrize("heads", ["switching", "single"])
def test_every_parameter_belongs_to_the_part_the_model_says(heads):
    model = tiny_model(heads)
    owner = {id(p): part for part, ps in model.parts().items() for p in ps}
    for name, parameter in model.named_parameters():
        assert owner[id(parameter)] in part_of(name, model.base), name
    assert set(model.parts()) == set(PARTS) - {"lora"}


def test_an_unknown_parameter_is_an_error():
    with pytest.raises(KeyError, match="belongs to no known part"):
        part_of("surprise.weight", find_base("internvl"))


def test_a_stage_with_an_unknown_part_cannot_be_declared():
    with pytest.raises(ValueError, match="unknown parts"):
        Stage("x", ("adaptor",), 1, 1)


@pytest.mark.parametrize(
    ("name", "heads"),
    [(name, "switching") for name in sorted(STAGES) if not name.startswith("one-stage-20") and name != "base"]
    + [(name, "single") for name in "123"],
)
def test_after_ten_steps_exactly_the_named_parts_moved(name, heads):
    model = tiny_model(heads)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    stage = STAGES[name]
    Loop(model, stage, mixture(model, stage, 8, each=24, seed=0), Optimization(10, 8, lr=1e-2, weight_decay=0.1)).run()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    expected = {n for n, p in model.named_parameters() if any(part in stage.trains for part in part_of(n, model.base))}
    if not stage.beta and heads == "switching":
        # No image loss, so no gradient reaches the visual branch, ticked or not: Figure 5a and Table 5 agree in effect.
        expected = {n for n in expected if part_of(n, model.base)[0] not in ("adapter", "visual_head")}
    if heads == "single":
        expected = {n for n in expected if not n.startswith("lm_head")}
    assert moved == expected


def test_the_single_head_leaves_the_unused_text_head_out():
    model = tiny_model("single")
    assert not [n for n in freeze(model, STAGES["3"]) if n.startswith("lm_head")]


def test_original_embedding_rows_stay_in_every_stage():
    model = tiny_model()
    before = model.model.language_model.embed_tokens.weight.detach().clone()
    for name in "123":
        stage = STAGES[name]
        Loop(model, stage, mixture(model, stage, 8, each=8, seed=0), Optimization(2, 8, lr=1e-2)).run()
    assert torch.equal(before, model.model.language_model.embed_tokens.weight)
