"""Composite scores: equal to the official formulas, and intervals that are defined only where they mean something."""

from __future__ import annotations

import numpy as np
import pytest

from armor_eval.runs.schema import Item
from armor_eval.stats.composite import measure
from armor_eval.tasks.families.mme import MME_PERCEPTION, MME_REASONING
from armor_eval.tasks.formulas import composites_for, formula_names


def item(i, cluster, score, group=None, status="ok", **extras) -> Item:
    return Item(
        id=str(i),
        cluster=str(cluster),
        group=group,
        prompt="p",
        prompt_sha256="0",
        score=score,
        extras=extras,
        status=status,
    )


def primary(bench):
    return next(c for c in composites_for(bench) if c.primary)


@pytest.mark.parametrize("bench", formula_names())
def test_every_benchmark_has_one_primary_score_and_survives_no_items(bench):
    composites = composites_for(bench)
    assert [c.primary for c in composites].count(True) == 1
    for c in composites:
        metric = measure([], c)
        assert metric.value is None and metric.ci95 is None and metric.n == 0


def test_unknown_benchmark_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean POPE"):
        composites_for("pop")


def test_circular_group_is_right_only_when_all_its_rotations_are():
    items = [item(f"{g}-{r}", g, float(r != bad)) for g, bad in ((0, 9), (1, 2), (2, 9), (3, 0)) for r in range(4)]
    m = measure(items, primary("MMB"))
    assert (m.value, m.n, m.clusters, m.method) == (50.0, 16, 4, "Wilson")


def test_group_with_an_unmeasured_row_is_left_out():
    items = [item(0, "a", 1.0), item(1, "a", None, status="judge_failed"), item(2, "b", 1.0), item(3, "c", 0.0)]
    m = measure(items, primary("MMB"))
    assert (m.value, m.clusters, m.n) == (50.0, 2, 3)


def test_all_right_is_wilson_and_never_width_zero():
    m = measure([item(i, i // 2, 1.0) for i in range(200)], primary("SEED"))
    assert m.value == 100.0 and m.ci95[1] == 100.0 and 95.0 < m.ci95[0] < 97.0


def test_one_cluster_has_no_interval():
    m = measure([item(i, "a", float(i % 2)) for i in range(10)], primary("SEED"))
    assert m.value == 50.0 and m.ci95 is None and "fewer than two clusters" in m.note


def test_nan_score_is_refused():
    with pytest.raises(ValueError, match="finite"):
        measure([item("x", 0, float("nan"))], primary("SEED"))


def test_clusters_widen_the_interval():
    same = [item(i, i // 5, float((i // 5) % 2)) for i in range(500)]
    alone = [item(i, i, float((i // 5) % 2)) for i in range(500)]
    width = [np.subtract(*measure(x, primary("SEED")).ci95[::-1]) for x in (same, alone)]
    assert 2.1 < width[0] / width[1] < 2.4  # sqrt(5) = 2.24


def test_bootstrap_is_seeded_and_agrees_with_the_jackknife():
    from armor_eval.stats.intervals import measure as measure_by

    rng = np.random.default_rng(0)
    items = [item(i, i // 4, float(rng.random() < 0.4), group="colors") for i in range(800)]
    c = primary("geneval")
    a, b = (measure_by(items, c, seed=7, method="bootstrap") for _ in range(2))
    assert a == b and "seed 7" in a.method
    assert np.allclose(a.ci95, measure(items, c).ci95, atol=0.01)


def test_missing_extras_are_named():
    with pytest.raises(ValueError, match=r"item 0: extras has no 'figure'"):
        measure([item(0, "VD_1", 1.0)], primary("HallusionBench"))


# --- equal to the official code ---------------------------------------------------------------------------------------


@pytest.fixture
def tsv(tmp_path):
    import pandas as pd

    from armor_eval.vlmevalkit.importing import quiet_vlmeval

    def write(rows):
        path = tmp_path / "data.tsv"
        pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
        return str(path)

    with quiet_vlmeval():  # its import turns gradients off for the whole process
        yield write


def test_mme_equals_the_official_rating(tsv):
    from vlmeval.dataset.utils.yorn import MME_rating

    rng = np.random.default_rng(3)
    categories = [*MME_PERCEPTION, *MME_REASONING]
    rows = [
        {"index": f"{c}{k}{q}", "category": c, "image_path": f"{c}/{k}.png", "score": bool(rng.random() < 0.7)}
        for c in categories
        for k in range(rng.integers(2, 9))
        for q in range(2)
    ]
    official = MME_rating(tsv(rows)).iloc[0]
    items = [item(r["index"], r["image_path"], float(r["score"]), r["category"]) for r in rows]
    total, perception, reasoning = (measure(items, c).value for c in composites_for("MME"))
    assert perception == pytest.approx(official["perception"], abs=1e-9)
    assert reasoning == pytest.approx(official["reasoning"], abs=1e-9)
    assert total == pytest.approx(official["perception"] + official["reasoning"], abs=1e-9)
    assert measure(items, primary("MME-P")).value == perception


def test_hallusionbench_equals_the_official_rating(tsv):
    from vlmeval.dataset.utils.yorn import Hallusion_rating

    rng = np.random.default_rng(4)
    rows = [
        {"index": f"VD_{l2}_1_{s}_{f}_{q}", "category": "VD", "l2-category": l2, "score": bool(rng.random() < 0.7)}
        for l2 in ("chart", "map")
        for s in range(9)
        for f in range(3)
        for q in range(2)
        if rng.random() < 0.9
    ]
    official = Hallusion_rating(tsv(rows)).set_index("split").loc["Overall"]
    items = []
    for r in rows:
        _, _, _, s, f, q = r["index"].split("_")
        items.append(
            item(r["index"], f"{r['l2-category']}_{s}", float(r["score"]), r["l2-category"], figure=f, question=q)
        )
    mean, *parts = (measure(items, c).value for c in composites_for("HallusionBench")[:4])
    expected = [official[k] for k in ("aAcc", "fAcc", "qAcc")]
    assert parts == pytest.approx(expected, abs=1e-9) and mean == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("said", [("Yes", "No", "Unknown"), ("No",), ("Yes",)])
def test_pope_equals_the_official_rating(tsv, said):
    from vlmeval.dataset.utils.yorn import POPE_rating

    rng = np.random.default_rng(5)
    lists = ["random", "random,popular", "random,popular,adversarial", "adversarial"]
    rows = []
    for i in range(400):
        answer, extracted = rng.choice(["Yes", "No"]), rng.choice(said)
        rows.append(
            {
                "index": i,
                "category": rng.choice(lists),
                "answer": answer,
                "extracted": extracted,
                "score": answer == extracted,
            }
        )
    ratings = POPE_rating(tsv(rows)).set_index("split")
    official = ratings.loc["Overall"]
    items = [
        item(
            r["index"],
            r["index"] // 6,
            float(r["score"]),
            str(r["category"]),
            answer=r["answer"],
            extracted=r["extracted"],
        )
        for r in rows
    ]
    ours = {c.name: measure(items, c).value for c in composites_for("POPE")}
    assert ours["F1"] == pytest.approx(official["Overall"], abs=1e-9)
    assert [ours[k] for k in ("accuracy", "precision", "recall")] == pytest.approx(
        [official[k] for k in ("acc", "precision", "recall")], abs=1e-9
    )
    categories = ("adversarial", "popular", "random")
    assert [ours[f"F1, {c}"] for c in categories] == pytest.approx(
        [ratings.loc[c, "Overall"] for c in categories], abs=1e-9
    )


def test_llavabench_and_mmvet_equal_the_official_scores(tsv):
    import pandas as pd
    from vlmeval.dataset.utils.llavabench import LLaVABench_score
    from vlmeval.dataset.utils.mmvet import MMVet_acc

    rng = np.random.default_rng(6)
    marks = [
        {"category": "conv", "score": float(rng.integers(1, 11)), "gpt4_score": float(rng.integers(5, 11))}
        for _ in range(60)
    ]
    official = LLaVABench_score(pd.DataFrame(marks)).set_index("split").loc["overall"]
    items = [item(i, i // 3, m["score"], "conv", reference_score=m["gpt4_score"]) for i, m in enumerate(marks)]
    ours = [measure(items, c).value for c in composites_for("LLaVABench")]
    assert ours == pytest.approx(
        [official["Relative Score (main)"], official["VLM Score"], official["GPT4 Score"]], abs=1e-9
    )

    kinds = ["rec,spat", "ocr,math", "rec,know,gen", "ocr,spat", "rec,gen"]
    rows = [
        {"index": i, "category": kinds[i % 5], "score": round(float(rng.integers(0, 11)) / 10, 1)} for i in range(100)
    ]
    official = MMVet_acc(tsv(rows))[0].set_index("Category")["acc"]
    items = [item(r["index"], r["index"], r["score"], r["category"]) for r in rows]
    ours = {c.name: measure(items, c).value for c in composites_for("MMVet")}
    assert ours.pop("score") == pytest.approx(official["Overall"], abs=1e-9)
    assert ours == {k: pytest.approx(official[k], abs=1e-9) for k in ours}


def test_mmmu_counts_the_validation_split_and_circular_evaluation_matches(tsv):
    import pandas as pd
    from vlmeval.dataset.utils.multiple_choice import report_acc

    rng = np.random.default_rng(7)
    rows = [{"split": "validation" if i % 7 else "dev", "hit": int(rng.random() < 0.5)} for i in range(210)]
    official = report_acc(pd.DataFrame(rows)).set_index("split")["Overall"]["validation"]
    items = [item(i, i, float(r["hit"]), split=r["split"]) for i, r in enumerate(rows)]
    m = measure(items, primary("MMMU"))
    assert m.value == pytest.approx(100 * official, abs=1e-9) and m.n == 180


def test_geneval_overall_is_the_mean_of_the_task_means():
    items = [
        item(f"{t}{p}{k}", f"{t}{p}", float(k < p), t)
        for t in ("colors", "position")
        for p in range(4)
        for k in range(4)
    ]
    items += [item(f"c{p}{k}", f"c{p}", 1.0, "counting") for p in range(2) for k in range(4)]
    got = {c.name: measure(items, c).value for c in composites_for("geneval")}
    assert got["colors"] == 6 / 16 and got["counting"] == 1.0 and got["single_object"] is None
    assert got["overall"] == pytest.approx((6 / 16 + 6 / 16 + 1) / 3)
    assert got["images"] == pytest.approx(20 / 40) and got["prompts"] == pytest.approx(8 / 10)


@pytest.mark.parametrize(("official", "fits"), [(84.7, True), (84.8, True), (84.6, False), (84.9, False)])
def test_a_ratio_that_is_half_a_decimal_fits_both_roundings(official, fits):
    """LLaVABench's evaluate prints one decimal: 84.75 is 84.7 there, and armor-nano once had it."""
    from armor_eval.tasks.understanding.declare import benchmarks
    from armor_eval.tasks.understanding.score import _disagreement
    from armor_eval.vlmevalkit.records import Evaluated

    class Table:
        benchmark = benchmarks()["LLaVABench"]
        has_answers = True

    items = [item(i, i, 8.475, "conv", reference_score=10.0) for i in range(4)]
    assert (_disagreement(Table, items, Evaluated(official, {})) is None) is fits
