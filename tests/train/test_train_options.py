"""bf16, gradient checkpointing, losses by type, samples: what the loop's options do."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from train_helpers import mixture, pools, tiny_model

from armor_model.base.errors import RunFailed, UserError, disk_is_full
from armor_model.losses import IGNORE, head_losses
from trainer.batches import collate
from trainer.config import LoopOptions, Optimization
from trainer.loader import DataLoader, Mixture
from trainer.loop import Loop, mark
from trainer.objective import Objective, freeze, recompute_blocks
from trainer.stages import KINDS, STAGES


def train(out=None, model=None, stage="3", steps=12, **how) -> tuple[Loop, list[dict]]:
    model = model or tiny_model()
    options = LoopOptions(out, bar=False, log_every=1, **how.pop("options", {}))
    loop = Loop(model, STAGES[stage], mixture(model, stage, 8), Optimization(steps, 8, lr=3e-3, **how), options)
    loop.run()
    return loop, [] if out is None else [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ["1", "2", "2-no-embeddings", "3", "base"])
def test_gradient_checkpointing_gives_the_same_gradients_and_recomputes(stage):
    """Every block that a gradient passes runs twice; without checkpointing once."""
    found = {}
    for on in (False, True):
        model = tiny_model()
        freeze(model, STAGES[stage])
        model.train()
        if on:
            recompute_blocks(model)
        runs = {"decoder": 0, "adapter": 0, "vision": 0}
        blocks = {
            "decoder": model.model.language_model.layers[0],
            "adapter": model.adapter[0],
            "vision": model.model.vision_tower.encoder.layer[0],
        }
        for name, block in blocks.items():
            # Counted on the way in: the recomputation ends early, before the block's last operation.
            block.mlp.register_forward_pre_hook(lambda *_, name=name, runs=runs: runs.update({name: runs[name] + 1}))
        examples = [p[i] for kind, p in pools(model.config).items() if kind in STAGES[stage].mixture for i in range(3)]
        sums = Objective(model, STAGES[stage])(collate(examples, 0, model.config.imgbos_id))
        (sums.text + sums.image).backward()
        found[on] = ({n: p.grad for n, p in model.named_parameters() if p.requires_grad}, runs)
    assert found[False][0].keys() == found[True][0].keys()
    for name, gradient in found[False][0].items():
        assert torch.equal(gradient, found[True][0][name]), name
    assert found[False][1]["decoder"] == 1
    assert found[True][1]["decoder"] == (1 if stage == "2-no-embeddings" else 2)
    assert found[True][1]["adapter"] == (2 if STAGES[stage].beta else 0)
    assert found[True][1]["vision"] == (2 if stage == "base" else found[False][1]["vision"])


def test_bf16_computes_in_bf16_keeps_fp32_masters_and_learns(tmp_path):
    model, kinds = tiny_model(), set()
    model.adapter[0].mlp.down_proj.register_forward_hook(lambda _, __, out: kinds.add(out.dtype))
    loop, log = train(tmp_path / "bf16", model, precision="bf16", steps=24)
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(
        t.dtype == torch.float32 for s in loop.optimizers.state_dict() for v in s["state"].values() for t in v.values()
    )
    _, exact = train(tmp_path / "fp32", steps=24)
    falls = [sum(r["loss/image"] for r in part[:4]) - sum(r["loss/image"] for r in part[-4:]) for part in (log, exact)]
    assert falls[1] > 0.5 and falls[0] == pytest.approx(falls[1], rel=0.2)
    assert log[0]["loss/image"] == pytest.approx(exact[0]["loss/image"], rel=2e-2)
    assert log[0]["loss/image"] != exact[0]["loss/image"]


def test_frozen_parts_in_bf16_and_trained_ones_in_fp32_learn(tmp_path):
    """What `armor-train stage --precision bf16` makes of a published bf16 checkpoint."""
    model = tiny_model().bfloat16()
    freeze(model, STAGES["2"])
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    before = model.lm_head.weight.clone()
    _, log = train(tmp_path, model, stage="2", precision="bf16", steps=24)
    assert log[-1]["loss/image"] < log[0]["loss/image"]
    assert torch.equal(before, model.lm_head.weight)


@pytest.mark.parametrize("rows", [7, 1000])
def test_the_chunked_head_is_cast_under_autocast_as_a_linear_layer_is(rows):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 16, generator=g, requires_grad=True)
    labels = torch.randint(0, 300, (50,), generator=g)
    hidden = torch.randn(50, 16, generator=g, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss, each = head_losses(hidden, labels, [weight], chunk_elements=300 * rows)
        plain = torch.nn.functional.cross_entropy((hidden @ weight.t()).float(), labels, reduction="sum")
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    loss.backward()
    ours, weight.grad, hidden.grad = (weight.grad, hidden.grad), None, None
    plain.backward()
    assert ours[0].dtype == ours[1].dtype == torch.float32
    for mine, theirs in zip(ours, (weight.grad, hidden.grad), strict=True):
        assert float((mine - theirs).abs().max()) < 0.03 * float(theirs.abs().max())
    assert float(each.sum()) == pytest.approx(float(loss.detach()), rel=1e-6)


def test_losses_by_type_are_those_of_the_type_alone(tmp_path):
    """The first step's line against one conversation after another."""
    model = tiny_model()
    objective, want = Objective(model, STAGES["3"]), {}
    for example in mixture(model, batch=8).batch(0):
        sums = objective(collate([example], 0, model.config.imgbos_id))
        for head, value, labels in (
            ("text", sums.text, example.text_labels),
            ("image", sums.image, example.image_labels),
        ):
            if (labels != IGNORE).any():
                total, count = want.get(f"loss/{head}/{example.kind}", (0.0, 0))
                want[f"loss/{head}/{example.kind}"] = (
                    total + float(value.detach()),
                    count + int((labels != IGNORE).sum()),
                )
    for name, changes in (("plain", {}), ("packed", {"options": {"pack_to": 96}}), ("micro", {"accumulate": 4})):
        _, log = train(tmp_path / name, steps=1, **changes)
        got = {k: v for k, v in log[0].items() if k.split("/")[-1] in KINDS}
        assert got == pytest.approx({k: total / count for k, (total, count) in want.items()}, rel=1e-5)
    assert len(want) >= 5 and {k.split("/")[2] for k in want} <= set(KINDS)
    assert log[0]["tokens_per_second"] > 0 and log[0]["memory_bytes"] > 1e8


def test_watching_leaves_the_run_as_it_was(tmp_path):
    """Samples and evaluations draw random numbers; the parameters at the end are the same without them."""

    def greedy(model, step):
        torch.rand(1000)
        return {"score": 1.0}

    def drawn(model, step):
        torch.rand(1000)
        return {"a": Image.new("L", (1, 1))}

    watching = {"evaluate": greedy, "evaluate_every": 2, "sample": drawn, "sample_every": 3}
    watched, _ = train(tmp_path / "a", options=watching, steps=6)
    alone, _ = train(tmp_path / "b", steps=6)
    for name, value in watched.trained_parameters().items():
        assert torch.equal(value, alone.trained_parameters()[name]), name


def test_masters_beside_frozen_bf16_weights_are_watched_in_one_type(tmp_path):
    """Samples are drawn without autocast: with two types of weights a real checkpoint's first ones ended its run."""
    model = tiny_model().bfloat16()
    freeze(model, STAGES["2"])
    for parameter in model.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    before = {name: p.dtype for name, p in model.named_parameters()}
    types, frozen = [], model.model.language_model.layers[0].mlp.down_proj.weight

    def watch(model, step):
        types.append({p.dtype for p in model.parameters()})
        assert model.model.language_model.layers[0].mlp.down_proj.weight.data_ptr() == frozen.data_ptr()
        return {"score": float(model.visual_head.weight.float().sum())}

    watching = {"evaluate": watch, "evaluate_every": 1}
    loop, log = train(tmp_path, model, "2", precision="bf16", steps=2, options=watching)
    assert types == [{torch.bfloat16}] * 2 and before == {name: p.dtype for name, p in loop.model.named_parameters()}
    assert set(before.values()) == {torch.float32, torch.bfloat16}
    one, two = (line["eval/score"] for line in log if "eval/score" in line)
    assert one != two  # it is the model as it is now


def test_a_loss_that_is_no_number_in_an_early_micro_batch_stops_the_run():
    """Without clipping nothing else would notice: the last micro-batch is fine."""
    model = tiny_model()
    data = pools(model.config)
    seen = min(data["ti2t"], key=len)
    broken = replace(seen, pixels=[torch.full_like(image, float("nan")) for image in seen.pixels])
    longer = [e for kind in ("t2ti", "t2i", "ti2t") for e in data[kind] if len(e) > len(broken)][:7]
    assert len(longer) == 7  # so the broken one comes first, sorted by length or not
    mixture = Mixture({"ti2t": [broken, *longer]}, {"ti2t": 8}, 8, 5)
    before = model.new_embeddings.detach().clone()
    with pytest.raises(RunFailed, match="the text loss of step 0 is nan"):
        Loop(model, STAGES["1"], mixture, Optimization(4, 8, clip=0.0, accumulate=4), LoopOptions(bar=False)).run()
    assert torch.equal(before, model.new_embeddings)


def test_a_gradient_that_is_no_number_stops_the_run_without_clipping(tmp_path):
    model = tiny_model()
    model.adapter[0].mlp.down_proj.weight.register_hook(lambda g: g * float("inf"))
    before = model.new_embeddings.detach().clone()
    with pytest.raises(RunFailed, match="the gradient of step 0 is"):
        train(tmp_path, model, clip=0.0)
    assert torch.equal(before, model.new_embeddings)


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"muon_lr": -1.0}, {"clip": -1.0}, {"weight_decay": -0.1}]
)
def test_rates_that_would_train_uphill_are_refused(wrong):
    with pytest.raises(ValueError, match=r"above 0|0 or more"):
        Optimization(4, 4, **wrong)


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"alpha": math.nan}, {"beta": math.inf}, {"alpha": 0, "beta": 0}])
def test_weights_that_are_no_weights_are_refused(wrong):
    with pytest.raises(ValueError, match=r"alpha .* and beta"):
        replace(STAGES["3"], **wrong)


def test_a_table_of_a_published_size_has_a_fingerprint():
    """Over 2**24 values float32 can not count: the last index was past the end, and every real model failed."""
    table = torch.zeros(4097, 4096, dtype=torch.bfloat16)
    found = mark("embed_tokens", table)
    table[-1, -1] = 1
    assert mark("embed_tokens", table) != found
    mark("empty", torch.zeros(0))


def test_what_was_used_stands_in_the_log(tmp_path):
    loop, log = train(tmp_path, steps=3)
    last = {k.removeprefix("cost/"): v for k, v in log[-1].items() if k.startswith("cost/")}
    assert last == {**asdict(loop.cost), "device_days": loop.cost.device_days} and last["images_seen"] > 0
    assert [line["cost/tokens"] for line in log] == sorted({line["cost/tokens"] for line in log})


def test_images_are_opened_for_ones_own_examples_only():
    """What another process computes is not decoded here; pictures may be given as what opens them."""
    model, opened = tiny_model(), []
    data = pools(model.config)

    def lazily(e):
        return replace(e, pixels=lambda: opened.append(id(e)) or e.pixels) if e.pixels is not None else e

    lazy = {kind: [lazily(e) for e in pool] for kind, pool in data.items()}
    counts, how, ids = dict.fromkeys(data, 12), Optimization(2, 8, accumulate=2), (0, model.config.imgbos_id)
    for rank in range(2):
        ours, plain = (DataLoader(Mixture(d, counts, 8, 5), how, (rank, 2), ids) for d in (lazy, data))
        for step in range(how.steps):
            for a, b in zip(*(f.micro_batches(step) for f in (ours, plain)), strict=True):
                assert torch.equal(a.input_ids, b.input_ids)
                assert (a.pixels is None and b.pixels is None) or all(map(torch.equal, a.pixels, b.pixels))
        ours.close(), plain.close()
    assert len(opened) == len(set(opened)) > 0  # both ranks together opened each picture once


def test_a_full_disk_is_known_in_every_form_it_takes():
    said = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    behind = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    behind.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert all(map(disk_is_full, (said, behind, OSError(errno.EDQUOT, "quota"))))
    assert not any(map(disk_is_full, (OSError(errno.EACCES, "no"), RuntimeError("x"), SafetensorError("bad header"))))


def test_trackers_get_what_the_log_gets(tmp_path, monkeypatch):
    """accelerate's own classes, by name; the fake stands where W&B's client would."""
    from accelerate import tracking

    class Fake:
        requires_logging_directory, calls = False, []

        def __init__(self, run):
            self.calls.append(run)

        def start(self):
            self.calls.append("start")

        def store_init_configuration(self, values):
            self.calls.append(values["lr"])

        def log(self, values, step):
            self.calls.append((step, values["loss/image"]))

        def finish(self):
            self.calls.append("finish")

    assert {"start", "store_init_configuration", "log", "finish"} <= set(dir(tracking.WandBTracker))
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    _, log = train(tmp_path / "a", steps=3, options={"track": ("wandb",)})
    lines = [(line["step"], line["loss/image"]) for line in log]
    assert Fake.calls == ["stage 3", "start", 3e-3, *lines, "finish"]
    with pytest.raises(UserError, match=r"unknown tracker 'wandbb' \(did you mean wandb\?\)"):
        train(tmp_path / "b", steps=3, options={"track": ("wandbb",)})
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    with pytest.raises(UserError, match="--track wandb: its package is not installed - pip install wandb"):
        train(tmp_path / "c", steps=3, options={"track": ("wandb",)})


@pytest.mark.slow
def test_compiled_blocks_learn_the_same(tmp_path, monkeypatch):
    """Captured by torch.compile and run as they are: generating code for six blocks takes two minutes of a CPU."""
    whole = torch.nn.Module.compile
    compiled_blocks = []

    def captured(block, **options):
        compiled_blocks.append(block)
        whole(block, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", captured)
    _, plain = train(tmp_path / "plain", steps=3)
    _, compiled = train(tmp_path / "compiled", steps=3, compile=True)
    assert len(compiled_blocks) == len(tiny_model().blocks)
    for ours, theirs in zip(compiled, plain, strict=True):
        assert ours["loss/image"] == pytest.approx(theirs["loss/image"], rel=1e-3)
