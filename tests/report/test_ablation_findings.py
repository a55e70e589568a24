"""The arithmetic behind the ablations' verdicts, by number."""

import numpy as np
import pytest

from armor_eval.ablations.findings import area, faster, mean_interval, retention, share_difference, steps_to
from armor_eval.ablations.heads import arms_of
from armor_eval.ablations.plan import HeadsPlan, StagesPlan
from armor_eval.ablations.schemes import arms_of as stage_arms
from armor_eval.ablations.schemes import moments
from armor_eval.errors import UserError

CURVE = [(0, 4.0), (10, 2.0), (30, 1.0)]


def test_area_is_the_mean_over_steps_whatever_their_spacing() -> None:
    assert area(CURVE) == pytest.approx((3.0 * 10 + 1.5 * 20) / 30)
    assert area([(0, 2.0), (5, 2.0), (100, 2.0)]) == 2.0


def test_steps_to_a_loss_are_interpolated_and_none_where_it_is_not_reached() -> None:
    assert steps_to(CURVE, 3.0) == 5.0
    assert steps_to(CURVE, 2.0) == 10.0
    assert steps_to(CURVE, 1.5) == 20.0
    assert steps_to(CURVE, 0.9) is None
    assert steps_to(CURVE, 9.0) == 0.0


def test_three_seeds_give_a_student_interval_and_one_gives_none() -> None:
    mean, interval = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert interval == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
    assert mean_interval([1.0]) == (1.0, None)


@pytest.mark.parametrize(
    ("a", "verdict"),
    [
        ([0.80, 0.81, 0.79], "supported"),
        ([1.00, 1.01, 0.99], "contradicted"),
        ([0.98, 0.98, 0.98], "contradicted"),
        ([0.70, 1.10, 0.90], "undecided"),
    ],
)
def test_faster_wants_more_than_a_sign(a: list[float], verdict: str) -> None:
    b = [1.0, 1.0, 1.0]
    assert faster(a, b)[0] == verdict
    assert faster(a, b, quick=True)[0] == "undecided"
    assert faster(a[:2], b[:2])[0] == "undecided"
    assert faster(a[:1], b[:1])[0] == "undecided"


def test_shares_are_compared_prompt_by_prompt() -> None:
    one = [[True] * 40, [True] * 40]
    gap, interval = share_difference(one, [[False] * 40, [False] * 40])
    assert (gap, interval) == (1.0, (1.0, 1.0))
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 60)) < 0.6, rng.random((3, 60)) < 0.6
    gap, interval = share_difference(a.tolist(), b.tolist())
    assert interval[0] < gap < interval[1]
    assert share_difference([[True]], [[False]])[1] is None


def test_retention_is_a_paired_ratio() -> None:
    before = [True] * 80 + [False] * 20
    after = [True] * 72 + [False] * 28
    value, interval = retention(after, before)
    assert value == 0.9 and interval[0] < 0.9 < interval[1] <= 1.0
    assert retention(before, before) == (1.0, (1.0, 1.0))
    assert retention(after, [False] * 100) == (None, None)


def test_plans_come_from_data_and_mistakes_are_one_line(tmp_path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('steps = 12\nseeds = [4, 5]\narms = ["single-copy"]\n')
    plan = HeadsPlan.read(file, base="bundled")
    assert (plan.steps, plan.seeds, plan.base) == (12, (4, 5), "bundled")
    assert [a.key for a in arms_of(plan)] == ["single-copy/seed4", "single-copy/seed5"]
    assert plan.identity() == HeadsPlan.read(file, base="bundled", seeds=(4,)).identity(), (
        "adding a seed keeps finished arms"
    )
    assert plan.identity() != HeadsPlan.read(file, base="bundled", lr=1e-4).identity()
    file.write_text("stepps = 3\n")
    with pytest.raises(UserError, match="stepps"):
        HeadsPlan.read(file)
    with pytest.raises(UserError, match="cannot read"):
        HeadsPlan.read(tmp_path / "none.toml")
    with pytest.raises(UserError, match="unknown arm"):
        arms_of(HeadsPlan(arms=("double-random",)))
    with pytest.raises(UserError, match="did you mean wohg"):
        stage_arms(StagesPlan(schemes=("wohgg",)))


def test_the_stages_cover_the_rows_of_tables_four_and_five() -> None:
    plan = StagesPlan()
    arms = {a.name: a for a in stage_arms(plan)}
    assert [label for label, _, _ in moments(plan, "one-stage")] == [
        f"{plan.one_stage_steps} steps ('10 epochs')",
        f"{2 * plan.one_stage_steps} steps ('20 epochs')",
    ]
    assert [p.stage for p in arms["wohg"].parts] == ["1", "2", "3"]
    assert [p.stage for p in arms["wohg-imgbos"].parts] == ["1-imgbos", "2", "3-imgbos"]
    assert arms["wohg-no-embeddings"].parts[1].stage == "2-no-embeddings"
    assert len(arms["wohg"].parts[1].judged_at) == plan.pictures


def test_both_arms_start_from_the_same_weights() -> None:
    """Matched initialisation: before the first step both lose the same over image tokens."""
    import torch

    from armor_eval.ablations.base import Base, new_arm
    from armor_eval.ablations.judging import Validation
    from trainer.nano import build, default_recipe

    model, processor = build(default_recipe(0))
    base = Base(model.eval(), processor, "untrained", "test")
    two, one = (new_arm(base, heads, "random", 3).eval() for heads in ("switching", "single"))
    for (name, p), (other, q) in zip(two.adapter.named_parameters(), one.adapter.named_parameters(), strict=True):
        assert name == other and torch.equal(p, q)
    assert torch.equal(two.new_embeddings, one.new_embeddings)
    assert not torch.equal(two.new_embeddings, new_arm(base, "switching", "random", 4).new_embeddings)
    check = Validation(base, ("t2i", "t2ti"), 16, 0)
    a, b = check(two), check(one)
    assert a["image_renormalised"] == pytest.approx(b["image_renormalised"], abs=1e-5)
    assert b["image"] > a["image"] + 0.5, "the single head's softmax is over the whole vocabulary"
    assert a["image"] == a["image_renormalised"]
    for name, parameter in two.named_parameters():
        if name.startswith(("model.", "lm_head")):
            assert torch.equal(parameter, dict(model.named_parameters())[name]), name
