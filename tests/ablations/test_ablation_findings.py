"""The arithmetic behind the ablations' verdicts, by number."""

import numpy as np
import pytest

from armor_eval.ablations.findings import area, faster, mean_interval, retention, share_difference, steps_to
from armor_eval.ablations.heads import arms_of
from armor_eval.ablations.plan import HeadsPlan, StagesPlan
from armor_eval.ablations.schemes import arms_of as stage_arms
from armor_eval.ablations.schemes import moments
from armor_model.base.errors import UserError

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
    prompts = [str(i) for i in range(40)]
    gap, interval = share_difference(one, [[False] * 40, [False] * 40], prompts)
    assert (gap, interval) == (1.0, (1 - 3 / 40, 1.0)), "no spread is no certainty: the rule of three"
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 60)) < 0.6, rng.random((3, 60)) < 0.6
    gap, interval = share_difference(a.tolist(), b.tolist(), [str(i) for i in range(60)])
    assert interval[0] < gap < interval[1]
    assert share_difference([[True, True]], [[False, False]], ["one prompt", "one prompt"])[1] is None


def test_images_of_one_prompt_are_no_further_evidence() -> None:
    """Ten pictures of each of four prompts, all alike: the interval is that of four, not of forty."""
    gap_by_prompt = [True, False, False, False]
    a = [[g for g in gap_by_prompt for _ in range(10)]]
    b = [[False] * 40]
    clusters = [str(i) for i in range(4) for _ in range(10)]
    wide = share_difference(a, b, clusters)[1]
    assert wide == share_difference([gap_by_prompt], [[False] * 4], ["0", "1", "2", "3"])[1]
    narrow = share_difference(a, b, [str(i) for i in range(40)])[1]
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def trained(name: str, seed: int, renormalised: float, printed: float, right: int):
    """A finished arm whose losses fall from a start of 3 (or `printed`) by seed, and `right` of 10 drawings."""
    from armor_eval.ablations.arms import ArmResult, Judgement

    curves = [(0, "eval/image_renormalised", 3.0), (0, "eval/image", printed)]
    curves += [(0, "eval/text", 1.0), (100, "eval/text", 0.5)]
    curves += [(100, "eval/image_renormalised", renormalised + seed / 100), (100, "eval/image", renormalised)]
    last = Judgement("figure7", 100, [], [i < right for i in range(10)], [""] * 10, [])
    return ArmResult("x", name, seed, curves, [last], 60.0, 1, 1, 60.0)


@pytest.mark.parametrize(
    ("switching", "single", "drawn", "verdicts", "words"),
    [
        (1.0, 2.5, (9, 4), ("supported", "supported"), "holds here"),
        (1.0, 1.0, (5, 5), ("contradicted", "undecided"), "does NOT hold here"),
        (2.5, 1.0, (2, 6), ("contradicted", "contradicted"), "does NOT hold here"),
    ],
)
def test_the_verdict_says_in_words_whether_the_papers_claim_holds(switching, single, drawn, verdicts, words) -> None:
    from types import SimpleNamespace

    from armor_eval.ablations.heads import _verdicts

    def told(seeds: tuple[int, ...], **changes):
        plan = HeadsPlan(steps=100, arms=("switching-random", "single-random"), seeds=seeds, **changes)
        by_arm = {
            "switching-random": [trained("switching-random", s, switching, 3.0, drawn[0] - (s == 1)) for s in seeds],
            "single-random": [trained("single-random", s, single, 9.0, drawn[1] - (s == 1)) for s in seeds],
        }
        found = SimpleNamespace(metrics=[], claims={}, verdict="")
        _verdicts(plan, by_arm, found)
        return found

    found = told((0, 1, 2))
    assert tuple(c["verdict"] for c in found.claims.values()) == verdicts
    assert f"Figure 7's claim {words}" in found.verdict
    assert (
        "100 steps of 64 conversations (6,400), 3 seeds" in found.verdict
        and "CPU-minutes: switching-random 1, single-random 1." in found.verdict
    )
    assert f"difference {(switching - single) / 2:+.3f} [" in found.verdict, "difference of areas, with interval"
    assert f"the difference is {(switching - single) / 2 - 3:+.3f}" in found.verdict, "as printed: 6 nats of arithmetic"
    assert "start at 3.00 and 9.00 before anything is learned" in found.verdict
    assert "text loss 0.750 against 0.750, +0.000" in found.verdict
    assert f"{(drawn[0] - 1 / 3) / 10:.3f} against {(drawn[1] - 1 / 3) / 10:.3f}" in found.verdict
    for fewer in (told((0,)), told((0, 1)), told((0, 1, 2), quick=True)):
        assert {c["verdict"] for c in fewer.claims.values()} == {"undecided"}
        assert "holds here" not in fewer.verdict and "does NOT" not in fewer.verdict
    assert told((0,), quick=True).verdict.startswith("QUICK RUN, NO VERDICT. ")


def test_drawings_are_judged_by_the_detector_with_genevals_rules() -> None:
    from armor_eval.ablations.judging import own_prompts
    from armor_eval.shapes.ablations import DrawingReader, drawings
    from trainer.shapes.world import Scene, render

    asked = drawings(3)
    assert len(asked) == 18 and len({w.id for w in asked}) == 18
    assert all(w.record["held_out"] for w in asked)
    assert len({w.cluster for w in asked if w.record["tag"] == "single_object"}) == 1, (
        "one held-out prompt, three seeds"
    )
    assert {w.seed for w in asked if w.record["tag"] == "single_object"} == {0, 1, 2}
    color = next(w for w in asked if w.record["tag"] == "colors")
    thing = color.record["include"][0]
    other = "red" if thing["color"] != "red" else "blue"
    right, reasons = DrawingReader().read(
        [color, color], [render(Scene.parse(f"{c} {thing['class']}@0")) for c in (thing["color"], other)]
    )
    assert right == [True, False]
    assert reasons[0] == "" and thing["color"] in reasons[1]
    assert own_prompts(["draw."], 0)[0].record is None


def test_retention_is_a_paired_ratio() -> None:
    before = [True] * 80 + [False] * 20
    after = [True] * 72 + [False] * 28
    kept = retention("kept/a", after, before, "a note")
    assert kept.value == 0.9 and kept.ci95[0] < 0.9 < kept.ci95[1] <= 1.0
    assert kept.ci95[0] * kept.ci95[1] == pytest.approx(0.81) and kept.method.startswith("Student's t on the log ratio")
    same = retention("kept/a", before, before, "a note")
    assert same.ci95 == (1 - 3 / 80, 1 + 3 / 80), "no change seen in 80 is not no change"
    assert same.method == "rule of three over questions"
    unknown = retention("kept/a", after, [False] * 100, "a note")
    assert (unknown.value, unknown.ci95, unknown.method) == (None, None, None)


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
    with pytest.raises(UserError, match="batch_size 6 does not split into 4 micro-batches"):
        HeadsPlan.read(None, batch_size=6, accumulate=4)
    with pytest.raises(UserError, match="seeds must be different"):
        HeadsPlan.read(None, seeds=(1, 1))
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
    assert len(arms["wohg"].parts[1].judged_at) == plan.images


@pytest.fixture(scope="module")
def untrained():
    from armor_eval.ablations.base import Base
    from trainer.shapes.recipe import build, default_recipe

    model, processor = build(default_recipe(0))
    return Base(model.eval(), processor, "untrained", "test")


def test_the_budget_is_measured_and_said_before_anything_is_trained(untrained, tmp_path) -> None:
    """Runs two real steps, so a trainer that changed under the ablations is seen here and not in an hour's run."""
    from armor_eval.ablations.arms import say_budget

    plan = HeadsPlan.read(None, steps=30, batch_size=4, seeds=(0, 1))
    arms = arms_of(plan)
    data = plan.world.TrainingData(untrained.processor)
    pools = {kind: data.training(kind, 8) for kind in ("t2i", "t2ti")}
    told = say_budget(arms, dict.fromkeys([a.key for a in arms], untrained), pools, plan, tmp_path)
    assert told.startswith("budget: 6 arms (2 seeds), steps per arm: switching-random 30, single-random 30")
    assert "CPU-minutes of training left" in told and "the same command goes on" in told
    assert not list(tmp_path.iterdir())


def test_both_arms_start_from_the_same_weights(untrained) -> None:
    """Matched initialisation: before the first step both lose the same over image tokens."""
    import torch

    from armor_eval.ablations.base import new_arm
    from armor_eval.ablations.judging import Validation
    from armor_eval.shapes.ablations import TrainingData

    base, model = untrained, untrained.model
    two, one = (new_arm(base, heads, "random", 3).eval() for heads in ("switching", "single"))
    for (name, p), (other, q) in zip(two.adapter.named_parameters(), one.adapter.named_parameters(), strict=True):
        assert name == other and torch.equal(p, q)
    assert torch.equal(two.new_embeddings, one.new_embeddings)
    assert not torch.equal(two.new_embeddings, new_arm(base, "switching", "random", 4).new_embeddings)
    data = TrainingData(base.processor)
    check = Validation(base, data.held_back("t2i", 16) + data.held_back("t2ti", 16))
    a, b = check(two), check(one)
    assert a["image_renormalised"] == pytest.approx(b["image_renormalised"], abs=1e-5)
    assert b["image"] > a["image"] + 0.5, "the single head's softmax is over the whole vocabulary"
    assert a["image"] == a["image_renormalised"]
    for name, parameter in two.named_parameters():
        if name.startswith(("model.", "lm_head")):
            assert torch.equal(parameter, dict(model.named_parameters())[name]), name


def test_moments_lie_on_the_curves_grid():
    """133, 266 and 400 have no common divisor: every step would be evaluated."""
    from armor_eval.ablations.arms import _divisor, evenly

    assert evenly(400, 3, 20) == (140, 260, 400)
    assert evenly(48, 3, 8) == (16, 32, 48)
    assert _divisor(20, set(evenly(400, 6, 20))) == 20
    assert evenly(2, 3, 20) == (1, 2)
