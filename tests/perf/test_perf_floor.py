"""Steps against the machine's floor, and peak memory against weights and cache (`make bench`).

On a GPU at InternVL2.5-8B's sizes with random bf16 weights. Without one the same code measures armor-nano's sizes on
the CPU and says what was not measured; at tiny sizes it runs among the ordinary tests, so that it cannot rot.
"""

import json
import math
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import floor
import pytest
import torch

TARGETS = {
    "draw, batch 1, guidance 1: step over the floor": "<= 1.25",
    "text, batch 1: step over the floor": "<= 1.25",
    **{f"draw, batch {n}, guidance 1: step over the floor": "<= 1.67" for n in (64, 128)},
    **{f"text, batch {n}: step over the floor": "<= 1.67" for n in (64, 128)},
}
"""On a GPU; 1.67 is 60 % of the floor's throughput."""


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_model(name, dtype, device):
    from armor_model import ArmorForConditionalGeneration, build_vq, preset

    config = preset(name)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = ArmorForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device(device):
        return model, build_vq(config).eval()


def test_every_row_at_tiny_sizes(one_thread):
    """All kinds of rows but the GPU's memory, each a positive number with its floor beside it."""
    from armor_model.presets import preset_dict

    plan = floor.Plan(
        "cpu",
        batches=(1, 3),
        text_batches=(1, 2),
        share_batches=(2,),
        compile_batches=(2,),
        vqgan_batches=(1, 2),
        prompt=9,
        text_tokens=4,
        runs=1,
        copy_bytes=2**20,
        matrix=128,
        backend="eager",
    )
    model, vq = random_model("tiny", torch.float32, "cpu")
    found = list(floor.rows(plan, model, preset_dict("tiny"), vq))
    assert {kind for kind, *_ in found} == set(floor.KINDS) - {"memory"}
    assert len({name for _, name, *_ in found}) == len(found) == 4 + 2 + 4 + 1 + 2
    for kind, name, value, _, more in found:
        numbers = {"value": value, **more}
        assert all(math.isfinite(x) and x > 0 for x in numbers.values()), (name, numbers)
        assert kind in ("shares", "compile") or any("floor" in key for key in more), name


def test_the_floor_of_8b_by_hand():
    """35 blocks of 218.1 M and a head of 33.6 M in bf16: 15.33 GB a step, 4.38 ms at 3.5 TB/s; 128 rows over 200
    positions read 3.67 GB of keys and values more; arithmetic leads only where the matrix rate is small."""
    from armor_model.presets import preset_dict

    cost = floor.Cost(preset_dict("internvl2_5-8b"), 2, drawing=True)
    fast = floor.Rates(3.5e12, 800e12)
    assert cost.floor(fast, 1, 0) == pytest.approx(2 * (35 * 218.112e6 + 8194 * 4096) / 3.5e12, rel=1e-3)
    more = cost.floor(fast, 128, 200) - cost.floor(fast, 128, 0)
    assert more == pytest.approx(2 * 2 * 35 * 8 * 128 * 200 * 128 / 3.5e12, rel=1e-3)
    slow = floor.Rates(3.5e12, 10e12)
    assert cost.floor(slow, 128, 0) == pytest.approx(2 * 128 * (35 * 218.112e6 + 8194 * 4096) / 10e12, rel=1e-3)


@pytest.mark.perf
@pytest.mark.gpu
def test_against_the_floor(bench_row, one_thread):
    from armor_model.presets import preset_dict

    gpu = torch.cuda.is_available()
    name, dtype, device = ("internvl2_5-8b", torch.bfloat16, "cuda") if gpu else ("armor-nano", torch.float32, "cpu")
    plan = floor.Plan(device) if gpu else floor.Plan(device, copy_bytes=2**26, matrix=512, prompt=20, text_tokens=32)
    model, vq = random_model(name, dtype, device)
    where = torch.cuda.get_device_name() if gpu else "CPU, one thread"
    for _, row, value, unit, more in floor.rows(plan, model, preset_dict(name), vq):
        bench_row(f"{where}, {name}: {row}", value, unit, TARGETS.get(row) if gpu else None, size=name, **more)
    if not gpu:
        for what in floor.KINDS.values():
            bench_row(f"GPU, internvl2_5-8b, bf16: {what}", None, "", note="no GPU here")


MEDIUM = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "intermediate_size": 2048,
}
"""With three blocks of adapter and 8,192 codes a model of 124 M parameters."""


def model_of_124_m():
    """(the model, its settings), randomly filled."""
    from armor_model import ArmorForConditionalGeneration, preset
    from armor_model.presets import preset_dict

    shape = {"num_adapter_layers": 3, "codebook_size": 8192, "image_grid": 4}
    settings = preset_dict("tiny") | shape
    settings["text_config"].update(MEDIUM, vocab_size=3000)
    model = ArmorForConditionalGeneration(preset("tiny", 3000, MEDIUM, **shape)).eval()
    assert 123.5 < sum(p.numel() for p in model.parameters()) / 1e6 < 124.5
    return model, settings


def as_torch_has_them(engine):
    """Steps of an engine through torch's own products and attention."""
    engine._kernels.products.clear()
    engine._kernels.attending.clear()


@pytest.mark.perf
def test_writing_at_124_m(bench_row, one_thread):
    """Text on a CPU, with the products through oneDNN and as torch has them, in turn; the best of three turns each."""
    from armor_model.generation import GenerationSettings
    from armor_model.generation.engine import Engine

    model, _ = model_of_124_m()
    for batch in (1, 4, 16):
        engines, taken = {}, {"oneDNN": [], "plain": []}
        for how in taken:
            engines[how] = Engine(model, GenerationSettings(max_new_tokens=24, max_images=0), [], [], batch)
            if how == "plain":
                as_torch_has_them(engines[how])
            engines[how].run([floor.Request([7] * 8, [], i) for i in range(batch)])
        for _ in range(3):
            for how, engine in engines.items():
                start = time.process_time()
                engine.run([floor.Request([7] * 8, [], i) for i in range(batch)])
                taken[how].append(time.process_time() - start)
        ours, plain = (taken[how] for how in ("oneDNN", "plain"))
        pairs = [b / a for a, b in zip(ours, plain, strict=True)]
        found = {"turns": 3, "lowest": min(pairs), "highest": max(pairs), "ours_cpu_s": min(ours)}
        name = f"write, batch {batch}: torch's own products over oneDNN's, CPU-seconds"
        bench_row(name, min(plain) / min(ours), "x", None, size="124 M parameters", **found)


@pytest.mark.perf
def test_drawing_at_124_m(bench_row, one_thread):
    """On a CPU in the middle of an image of 256 codes: the step over its floor, and what guidance costs; both with our
    products and attention and as torch has them, in turn. The best of four turns each, and the range."""
    from armor_model.generation import PrefixCache

    turns, (model, settings) = 4, model_of_124_m()
    plan = floor.Plan("cpu", prompt=140, runs=1, copy_bytes=2**28, matrix=1024)
    cases = [(batch, guidance) for batch in (1, 4, 16) for guidance in (1.0, 3.0)]
    taken = {(case, how): [] for case in cases for how in ("ours", "plain")}
    engines = {}
    for case, how in taken:
        options = {"prefixes": PrefixCache()}  # one prompt for all rows: it is computed once
        settings_of_case = replace(floor.DRAW, guidance=case[1])
        engine = engines[case, how] = floor.engine_for(plan, model, settings_of_case, case[0], **options)
        if how == "plain":
            as_torch_has_them(engine)
        engine.run([floor.Request([7] * plan.prompt, [], i) for i in range(case[0])])
    for _ in range(turns):
        for case, how in taken:  # each way right after the other
            engine = engines[case, how]
            engine.spent, engine.stepped = 0.0, 0
            engine.run([floor.Request([7] * plan.prompt, [], i) for i in range(case[0])])
            taken[case, how].append(1e3 * engine.spent / engine.stepped)
    rates = floor.rates(plan, model.dtype)
    more = {"size": "124 M parameters", "turns": turns, "gb_per_s": rates.bandwidth / 1e9, "gflops": rates.flops / 1e9}
    best = {key: min(times) for key, times in taken.items()}
    for batch, guidance in cases:
        rows = batch * (1 if guidance == 1 else 2)
        least = 1e3 * floor.Cost(settings, 4, True).floor(rates, rows, floor.seen(plan, guidance, 7))
        ms, plain = (taken[(batch, guidance), how] for how in ("ours", "plain"))
        found = {"ms": min(ms), "highest_ms": max(ms), "plain_ms": min(plain), "floor_ms": least, **more}
        name = f"draw, batch {batch}, guidance {guidance:g}, on a CPU: step over the floor"
        bench_row(name, min(ms) / least, "x", "<= 2" if (batch, guidance) == (16, 1.0) else None, **found)
        if guidance != 1:
            ratio, before = (best[(batch, guidance), how] / best[(batch, 1.0), how] for how in ("ours", "plain"))
            bench_row(f"draw, batch {batch}: cost of guidance", ratio, "x", "<= 1.3", plain=before, **more)
    assert best[(16, 1.0), "ours"] < best[(16, 1.0), "plain"]


@pytest.mark.perf
def test_peak_memory_of_drawing(bench_row):
    """On a CPU: what a process takes beyond its imports, over weights, their copy for oneDNN, and cache (64 rows, 63 M
    parameters)."""
    code = """
        import json, re
        from dataclasses import replace
        from pathlib import Path
        import torch, floor
        from armor_model import ArmorForConditionalGeneration, preset

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

        torch.set_num_threads(1)
        text = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8,
                "intermediate_size": 2048}
        plan = floor.Plan("cpu", prompt=20, runs=0)
        before = peak()
        model = ArmorForConditionalGeneration(preset("tiny", text=text, num_adapter_layers=3)).eval()
        engine = floor.engine_for(plan, model, replace(floor.DRAW, guidance=3.0), 32)
        engine.run([floor.Request([7] * plan.prompt, [], i) for i in range(32)])
        print(json.dumps([peak() - before, *floor.sizes(model, engine)]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "PYTHONPATH": str(Path(floor.__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    peak, weights, cache = json.loads(done.stdout.splitlines()[-1])
    more = {"size": "63 M parameters", "peak_mb": peak / 1e6, "weights_mb": weights / 1e6, "cache_mb": cache / 1e6}
    bench_row("CPU, guided, 64 rows: peak over weights and cache", peak / (weights + cache), "x", "<= 1.3", **more)
    assert peak <= 1.3 * (weights + cache)


@pytest.mark.slow
def test_the_script_for_a_gpu_at_tiny_sizes(tmp_path, monkeypatch, capsys):
    """tests/perf/gpu.py: every part measures something, and the files are what it prints."""
    import gpu

    monkeypatch.setattr("sys.argv", ["gpu.py", "--tiny", "--out", str(tmp_path)])
    assert gpu.main() == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {"decode", "prefill", "refill", "judging", "training"}
    assert all(row["value"] > 0 for row in rows)
    assert (tmp_path / "gpu.md").read_text() in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["gpu.py", "--tiny", "--minutes", "0", "--out", str(tmp_path / "late")])
    assert gpu.main() == 1
    late = json.loads((tmp_path / "late" / "gpu.json").read_text())["rows"]
    assert [row["part"] for row in late] == ["training", "prefill", "refill", "judging", "decode"]
    assert all(row["not_measured"] == "the minutes were over" for row in late)
