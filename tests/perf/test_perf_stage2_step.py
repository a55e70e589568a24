"""The GPU bench of a whole stage-2 step: measured where a GPU is, named as not measured elsewhere; its arithmetic and
its two ways are held on a CPU at tiny sizes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


def test_both_ways_have_one_loss_and_one_gradient():
    import stage2_step as bench

    model = bench.build("tiny", "cpu")
    batch = bench.make_batch(model.config, 4)
    found = {}
    for name, way in bench.WAYS.items():
        loss = way(model, batch)
        loss.backward()
        found[name] = (float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        model.zero_grad(set_to_none=True)
    assert found["ours"][0] == pytest.approx(found["plain"][0], rel=1e-5)
    assert {n.split(".")[0] for n in found["ours"][1]} == {"new_embeddings", "adapter", "adapter_norm", "visual_head"}
    for name, gradient in found["plain"][1].items():
        assert torch.allclose(found["ours"][1][name], gradient, atol=1e-5), name


def test_the_script_measures_on_a_cpu_and_says_what_it_cannot(capsys, monkeypatch):
    import stage2_step as bench

    assert bench.main(["--config", "tiny", "--device", "cpu", "--batch", "2", "--repeats", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["tokens"] == 2 * (32 + 1 + 16 + 1 + 1)
    assert result["loss"]["ours"] == pytest.approx(result["loss"]["plain"], rel=1e-2)
    for way in ("ours", "plain"):
        assert result[way]["tokens_per_second"] > 0
        assert result[way]["peak_bytes"] is None and result[way]["utilisation"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main([]) == 3
    said = capsys.readouterr().err
    assert "not measured, no GPU here: stage-2 step at internvl2_5-8b" in said and said.count("\n") == 1


def test_needed_operations_of_the_8b_step_by_hand():
    """32 frozen and 3 trained blocks of 218.1 M weights (norms counted along), one head of 8,194 rows, 35 layers of
    attention: 9.4 TFLOP for one picture of 291 tokens."""
    import stage2_step as bench

    from armor_model import preset

    config = preset("internvl2_5-8b")
    batch = bench.make_batch(config, 1)
    assert batch.tokens == 291
    blocks = (4 * 32 + 6 * 3) * 218_112_000 * 291
    head = 6 * 257 * 8_194 * 4_096
    attention = 3 * 35 * 2 * 291**2 * 4_096
    assert bench.needed_operations(config, batch) == pytest.approx(blocks + head + attention, rel=1e-4)


@pytest.mark.perf
def test_stage_2_step_at_8b_sizes(bench_row):
    import stage2_step as bench

    names = ("tokens/s", "peak memory", "model-flops utilisation")
    if not torch.cuda.is_available():
        for name in names:
            bench_row(f"stage-2 step at internvl2_5-8b: {name}", None, "", None, why="no GPU")
        return
    found = bench.measure("internvl2_5-8b", 16, 10, "cuda")
    mine, theirs = found["ours"], found["plain"]
    both = {"ours": mine["tokens_per_second"], "plain": theirs["tokens_per_second"]}
    bench_row(
        f"stage-2 step at internvl2_5-8b: {names[0]}",
        both["ours"] / both["plain"],
        "x",
        None,
        size="internvl2_5-8b",
        **both,
    )
    peaks = {"ours_gib": mine["peak_bytes"] / 2**30, "plain_gib": theirs["peak_bytes"] / 2**30}
    bench_row(
        f"stage-2 step at internvl2_5-8b: {names[1]}",
        peaks["plain_gib"] / peaks["ours_gib"],
        "x less",
        size="internvl2_5-8b",
        **peaks,
    )
    bench_row(f"stage-2 step at internvl2_5-8b: {names[2]}", mine["utilisation"], "", None, device=found["device"])
    assert found["loss"]["ours"] == pytest.approx(found["loss"]["plain"], rel=2e-2)
