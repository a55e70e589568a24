"""Whole ablations on an untrained armor-nano, a few steps long: bundles, resuming by arm, tables and page on top."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from armor_eval.ablations import heads, schemes
from armor_eval.ablations.plan import HeadsPlan, StagesPlan
from armor_eval.cli import main
from armor_eval.report.loading import load_runs
from armor_eval.runs.bundle import read_bundle

pytestmark = pytest.mark.slow

SMALL = {"batch_size": 8, "pool": 40, "validation": 8, "questions": 1, "drawings": 1, "evaluate_every": 3, "warmup": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    from armor_model import save
    from trainer.shapes.recipe import build, default_recipe

    folder = tmp_path_factory.mktemp("base") / "nano"
    model, processor = build(default_recipe(0))
    model.init_new_parts("copy")
    save(model, processor, folder)
    return str(folder)


def test_heads_resumed_equals_uninterrupted_and_finished_arms_are_not_trained_again(
    base, tmp_path: Path, monkeypatch
) -> None:
    plan = HeadsPlan.read(
        None, base=base, steps=6, seeds=(0, 1, 2), arms=("switching-random", "single-random"), **SMALL
    )
    assert heads.ablate_heads(plan, tmp_path / "whole", ["x"]) == "complete"
    real, trained = heads.run_arm, []

    def killed_at_the_fourth(arm, *args):
        trained.append(arm.key)
        if len(trained) == 4:
            raise KeyboardInterrupt
        return real(arm, *args)

    monkeypatch.setattr(heads, "run_arm", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        heads.ablate_heads(plan, tmp_path / "cut", ["x"])
    monkeypatch.setattr(heads, "run_arm", real)
    finished = tmp_path / "cut/work/single-random/seed0/result.json"
    before = finished.stat().st_mtime_ns
    assert heads.ablate_heads(plan, tmp_path / "cut", ["x"]) == "complete"
    assert finished.stat().st_mtime_ns == before
    whole, cut = (read_bundle(tmp_path / name) for name in ("whole", "cut"))
    assert whole[2].metrics == cut[2].metrics
    assert [(i.id, i.score, i.output_images) for i in whole[1]] == [(i.id, i.score, i.output_images) for i in cut[1]]
    names = {m.name for m in whole[2].metrics}
    assert {
        "drawing/single-random",
        "text kept/switching-random",
        "image loss, mean over the run/single-random",
    } <= names
    assert set(whole[0].extras["claims"]) == {"faster-convergence", "better-pictures-at-equal-epochs"}
    assert whole[0].training.optimizer_steps == 36
    assert main(["tables", str(tmp_path / "whole"), "--out", str(tmp_path / "t")]) == 0
    assert "Shapes: forward switching" in (tmp_path / "t/tables.md").read_text()
    assert main(["report", str(tmp_path / "whole"), "--out", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    assert "Figure 8: the same prompts at equal steps" in text and "softmax over the image tokens only" in text


@pytest.mark.parametrize(
    "launch",
    [
        ("torch.distributed.run", "--nproc-per-node", "2"),
        ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    ],
    ids=["torchrun", "accelerate-launch"],
)
def test_two_processes_give_the_curves_of_one(base, tmp_path: Path, launch: tuple[str, ...]) -> None:
    """The command line as it is typed at any size: two gloo processes here, GPUs elsewhere."""
    module, *options = launch
    if module == "torch.distributed.run":
        options += ["--standalone"]
    else:
        options += ["--main_process_port", "0"]  # a free one, either way
    config = tmp_path / "plan.toml"
    fields = {**SMALL, "steps": 4, "evaluate_every": 2, "seeds": [0], "arms": ["switching-random", "single-random"]}
    config.write_text("\n".join([f'base = "{base}"', *(f"{k} = {json.dumps(v)}" for k, v in fields.items())]))
    command = ["ablate-heads", "--config", str(config), "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    done = subprocess.run(
        [sys.executable, "-m", module, *options, "-m", "armor_eval", *command, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("budget:") == 1 and done.stdout.count("see it with") == 1, "both processes spoke"
    one, two = (read_bundle(tmp_path / name) for name in ("one", "two"))
    assert two[0].device.processes == 2
    assert [i.id for i in one[1]] == [i.id for i in two[1]]
    curves = [
        {(p.arm, p.name, p.step): p.value for p in load_runs([tmp_path / name])[0].series()} for name in ("one", "two")
    ]
    assert curves[0].keys() == curves[1].keys() and len(curves[0]) > 20
    losses = [k for k in curves[0] if "drawing" not in k[1]]
    assert {k: curves[1][k] for k in losses} == pytest.approx({k: curves[0][k] for k in losses}, rel=2e-3)


def test_stages_run_every_scheme_and_name_every_row_of_tables_four_and_five(base, tmp_path: Path) -> None:
    plan = StagesPlan.read(None, base=base, one_stage_steps=3, stage_steps=(3, 6, 3), images=2, **SMALL)
    assert schemes.ablate_stages(plan, tmp_path / "s", ["x"]) == "complete"
    run, items, scores = read_bundle(tmp_path / "s")
    names = {m.name for m in scores.metrics}
    for scheme in plan.schemes:
        assert any(n.startswith(f"kept/{scheme}, ") for n in names), scheme
    assert {
        "kept/one-stage, 3 steps ('10 epochs')",
        "kept/one-stage, 6 steps ('20 epochs')",
        "kept/wohg, after stage 1",
    } <= names
    assert {f["name"] for f in run.extras["figures"]} == {"figure6", "figure9"}
    assert any(i.id.startswith("base/ask/") for i in items)


def test_the_imgbos_only_head_keeps_every_original_row_and_stage_one_leaves_the_adapter(base, tmp_path: Path) -> None:
    import torch

    from armor_eval.ablations.arms import Arm, _run_part
    from armor_eval.ablations.base import get_base, new_arm

    plan = StagesPlan.read(None, base=base, one_stage_steps=3, stage_steps=(3, 3, 3), images=2, **SMALL)
    loaded = get_base(plan, tmp_path)
    data = plan.world.TrainingData(loaded.processor)
    pools = {kind: data.training(kind, 40) for kind in ("t2t", "t2i", "t2ti", "ti2t")}

    class Silent:
        def validation(self, model):
            return {}

        def judge(self, *_):
            return type("J", (), {"drawn": [True]})()

    for scheme, moved in (("wohg-imgbos", {"new_embeddings", "imgbos_head.weight"}), ("wohg", None)):
        parts = schemes.parts_of(plan, scheme)
        model = new_arm(loaded, "switching", "copy", 0)
        start = {n: p.detach().clone() for n, p in model.named_parameters()}
        _run_part(
            parts[0],
            Arm(scheme, 0, "switching", "copy", parts),
            model,
            loaded,
            pools,
            Silent(),
            plan,
            tmp_path / scheme,
        )
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, start[n])}
        assert not any(n.startswith(("adapter", "visual_head", "model.")) for n in changed), changed
        assert changed == (moved or {"new_embeddings", "imgbos_head.weight", "lm_head.weight"})


def test_the_same_ablation_runs_on_tokenised_data_of_any_model(base, tmp_path: Path) -> None:
    import numpy as np

    from armor_model import load
    from trainer.data.tokenizing import tokenize
    from trainer.shapes.conversations import sample_conversation
    from trainer.shapes.world import render

    rng, lines = np.random.default_rng(0), []
    for i in range(60):
        record = sample_conversation(rng, ("t2i", "t2ti")[i % 2], i)
        names = [f"{i}-{k}.png" for k in range(len(record["images"]))]
        for name, scene in zip(names, record["images"], strict=True):
            render(scene).save(tmp_path / name)
        lines.append(json.dumps({**record, "images": names}))
    (tmp_path / "c.jsonl").write_text("\n".join(lines) + "\n")
    _, processor = load(base)
    tokenize(tmp_path / "c.jsonl", tmp_path / "shards", processor, "nano")
    config = tmp_path / "plan.toml"
    config.write_text(
        f'base = "{base}"\ndata = ["{tmp_path / "shards"}"]\nprompts = ["draw a red circle."]\n'
        "steps = 3\nseeds = [0]\nbatch_size = 8\nvalidation = 4\nevaluate_every = 1\nwarmup = 1\n"
        'arms = ["switching-random", "single-random"]\n'
    )
    assert main(["ablate-heads", "--config", str(config), "--out", str(tmp_path / "o")]) == 0
    run, items, scores = read_bundle(tmp_path / "o")
    assert {m.name.partition("/")[0] for m in scores.metrics} >= {"image loss, mean over the run", "image loss, end"}
    assert not any(m.name.startswith(("drawing", "text kept")) for m in scores.metrics)
    assert [i.score for i in items] == [None, None]
    assert run.extras["figures"][0]["name"] == "figure8"
    config.write_text(config.read_text().replace("validation = 4", "validation = 40"))
    assert main(["ablate-heads", "--config", str(config), "--out", str(tmp_path / "p")]) == 2


def test_a_base_is_announced_trained_and_found_again(tmp_path):
    from armor_eval.ablations.base import get_base

    plan, said = HeadsPlan(base="train", base_share=0.002), []
    first = get_base(plan, tmp_path, say=said.append)
    assert len(said) == 1
    assert "the base is trained first: about" in said[0]
    assert get_base(plan, tmp_path, say=said.append).fingerprint == first.fingerprint
    assert len(said) == 1


SHORT = {"heads": ("steps=6",), "stages": ("one_stage_steps=2", "stage_steps=[2, 4, 2]", "evaluate_every=2")}


@pytest.mark.parametrize(("kind", "base"), [("heads", "smolvlm"), ("stages", "smolvlm"), ("stages", "qwen2_5_vl")])
def test_a_base_by_name_is_trained_on(kind: str, base: str, tmp_path: Path) -> None:
    """`--base smolvlm`: the recipe's understanding model on another base, and every arm from it; the bundle says so."""
    out = tmp_path / "run"
    argv = [f"ablate-{kind}", "--quick", "--base", base, "--out", str(out)]
    for change in ("base_share=0.001", "pool=64", "validation=8", "questions=1", "drawings=1", *SHORT[kind]):
        argv += ["--set", change]
    assert main(argv) == 0
    config = json.loads((out / "work" / "base" / "config.json").read_text())
    assert config["model_type"] == f"armor-{base}"
    run = read_bundle(out)[0]
    assert (run.status, run.model.spec, run.extras["plan"]["base"]) == ("complete", base, base)
    assert run.model.name == f"armor-nano-{base} (ablation)"
