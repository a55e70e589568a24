"""Every base against InternVL at equal shapes of the decoder: generation and a stage-2 step within 1.1x, in one run."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch
from PIL import Image
from test_perf_generation import PROMPT, RUNS

from armor_model.bases import BASES

sys.path.insert(0, str(Path(__file__).parent))
pytestmark = pytest.mark.perf
SIZE = "armor-nano's sizes, random weights"
NAMES = {base: "armor-nano" if base == "internvl" else f"armor-nano-{base}" for base in BASES}


@pytest.fixture(scope="module")
def nanos():
    """By base: armor-nano's sizes, random weights; and InternVL with Qwen3's blocks, which norm queries and keys."""
    from armor_model import ArmorProcessor, build_word_tokenizer, new_model, preset

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for base, name in [*NAMES.items(), ("internvl+qwen3", "armor-nano")]:
        torch.manual_seed(0)
        words = [*PROMPT.split(), *(f"word{i}" for i in range(160))]
        tokenizer = build_word_tokenizer(words, base=base.partition("+")[0])
        config = preset(name, 240, {"model_type": "qwen3", "head_dim": 24} if "+" in base else None)
        found[base] = new_model(config).eval(), ArmorProcessor.for_config(tokenizer, config)
    yield found
    torch.set_num_threads(threads)


def compare(nanos, bench_row, what, make, most=1.1):
    """A row for each base: its CPU time over that of an InternVL with the same blocks, turn by turn: the median of the
    turns' ratios, and their range."""
    steps = {base: make(*each) for base, each in nanos.items()}
    for step in steps.values():
        step()
    turns = [{base: cpu_seconds(step) for base, step in steps.items()} for _ in range(RUNS)]
    ratios = {}
    for base in BASES:
        if base == "internvl":
            continue
        equal = "internvl+qwen3" if base == "qwen3_vl" else "internvl"
        each = sorted(turn[base] / turn[equal] for turn in turns)
        ratios[base] = median(each)
        more = {
            "size": "armor-nano",
            "turns": RUNS,
            "lowest": each[0],
            "highest": each[-1],
            "ms": 1e3 * min(turn[base] for turn in turns),
        }
        target = f"<= {most}" if most else None
        bench_row(f"{what} on {base}, CPU time against {equal}", ratios[base], "x", target, **more)
    assert not most or max(ratios.values()) <= most, ratios


def cpu_seconds(step):
    start = time.process_time()
    step()
    return time.process_time() - start


def test_drawing(nanos, bench_row):
    from armor_model import draw

    compare(nanos, bench_row, "draw, batch 16", lambda model, processor: lambda: draw(model, processor, [PROMPT] * 16))


def test_text_about_an_image(nanos, bench_row):
    from armor_model import GenerationSettings, generate

    settings = GenerationSettings(max_new_tokens=48, allow_images=False)
    look = {"type": "image", "image": Image.new("RGB", (32, 32), "red")}
    talks = [[{"role": "user", "content": [look, {"type": "text", "text": PROMPT}]}]] * 8

    def make(model, processor):
        with torch.no_grad():  # answers of equal length: none ends before its 48 tokens
            model.lm_head.weight[processor.stop_ids] = 0
        never = ArmorProcessorWithoutStops(processor)
        return lambda: generate(model, never, talks, settings)

    compare(nanos, bench_row, "text about an image, batch 8", make)


class ArmorProcessorWithoutStops:
    """A processor whose answers end at the length only."""

    def __init__(self, processor):
        self._processor = processor

    stop_ids = ()

    def __getattr__(self, name):
        return getattr(self._processor, name)


@pytest.mark.parametrize("seen", [False, True])
def test_stage_2_step(nanos, bench_row, seen):
    """The bench's own batch; with `seen`, each request begins with an image: for information, as the towers differ
    (Qwen's own attends to each image in turn, which costs most where images are tiny)."""
    import stage2_step as bench

    from trainer.objective import freeze

    def make(model, processor):
        freeze(model.train(), bench.STAGE)
        batch = bench.make_batch(model.config, 16)
        if seen:
            pixels = processor.cut(Image.new("RGB", (32, 32), "red"))
            batch.input_ids[:, :4] = model.config.image_token_id
            batch = replace(batch, pixels=[pixels.clone() for _ in range(16)])

        def step():
            bench.ours(model, batch).backward()
            model.zero_grad(set_to_none=True)

        return step

    compare(nanos, bench_row, f"stage-2 step{', an image seen' * seen}", make, None if seen else 1.1)
