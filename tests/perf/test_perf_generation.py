"""Generation speed, side by side in one run: ours against a plain transformers loop (`make bench`: table and JSON).

Times are CPU seconds of one thread (the machine may be shared), the best of several runs, both sides alternating.
Steps against the machine's floor are in test_perf_floor.py.
"""

import time
from dataclasses import replace

import pytest
import torch

pytestmark = pytest.mark.perf
SIZE = "armor-nano's sizes, random weights"

PROMPT = "please draw a red circle left of a blue square and say what is there"
RUNS = 7


@pytest.fixture(scope="module")
def nano():
    """armor-nano's sizes, random weights: speed does not depend on them."""
    from armor_model import ArmorForConditionalGeneration, ArmorProcessor, build_word_tokenizer, preset

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = build_word_tokenizer([*PROMPT.split(), *(f"word{i}" for i in range(220))])
    config = preset("armor-nano", vocab_size=len(tokenizer))
    yield ArmorForConditionalGeneration(config).eval(), ArmorProcessor.for_config(tokenizer, config)
    torch.set_num_threads(threads)


def alternate(*functions, runs=RUNS):
    """Best CPU seconds of each function, runs interleaved so that a busy machine hits them alike."""
    best = [float("inf")] * len(functions)
    for function in functions:
        function()
    for _ in range(runs):
        for i, function in enumerate(functions):
            start = time.process_time()
            function()
            best[i] = min(best[i], time.process_time() - start)
    return best


def base_of(model):
    """The same InternVL as a plain transformers model."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    known = model.config.to_dict()
    names = ("text_config", "vision_config", "image_token_id", "image_seq_length")
    config = InternVLConfig(**{name: known[name] for name in names}, tie_word_embeddings=False)
    base = InternVLForConditionalGeneration(config).eval()
    base.load_state_dict({k: v for k, v in model.state_dict().items() if k.startswith(("model.", "lm_head."))})
    return base


@torch.inference_mode()
def naive_draw(model, processor, prompts):
    """What a plain loop does: one prompt at a time, KV cache, adapter and both heads at every step."""
    from transformers import DynamicCache

    c, images = model.config, []
    for prompt in prompts:
        talk = [{"role": "user", "content": prompt}]
        ids = processor.encode([talk], add_generation_prompt=True)["input_ids"]
        ids = torch.cat([ids, torch.tensor([[c.imgbos_id]])], 1)
        backbone, adapter, codes, seen = DynamicCache(), DynamicCache(), [], 0
        while len(codes) < c.codes_per_image:
            positions = torch.arange(seen, seen + ids.shape[1])[None]
            hidden = model.backbone(model.embed(ids), None, positions, backbone)
            visual = model.visual_hidden(hidden, None, positions, adapter)
            model.text_logits(hidden[:, -1])
            p = model.visual_logits(visual[:, -1])[:, 2:].softmax(-1)
            codes.append(int(torch.multinomial(p, 1)))
            seen += ids.shape[1]
            ids = torch.tensor([[c.first_code_id + codes[-1]]])
        side = c.image_grid
        images += processor.decode_codes(torch.tensor(codes).view(1, side, side))
    return images


def test_drawing_in_batches(nano, bench_row):
    """At least 8x the naive images/s at batch 16."""
    from armor_model import draw

    model, processor = nano
    prompts = [PROMPT] * 16
    ours, naive = alternate(lambda: draw(model, processor, prompts), lambda: naive_draw(model, processor, prompts))
    rates = {"images_per_s": 16 / ours, "naive_images_per_s": 16 / naive}
    bench_row("draw, batch 16, against one prompt at a time and both heads", naive / ours, "x", ">= 8", **rates)
    for batch in (1, 64):
        [seconds] = alternate(lambda batch=batch: draw(model, processor, [PROMPT] * batch))
        bench_row(f"draw, batch {batch}", batch / seconds, "images/s")
    assert naive / ours >= 8


def test_guided_drawing(nano, bench_row):
    from armor_model import GenerationSettings, draw

    model, processor = nano
    prompts, settings = [PROMPT] * 16, GenerationSettings(guidance=3.0)
    with_it, without = alternate(
        lambda: draw(model, processor, prompts, settings),
        lambda: draw(model, processor, prompts, replace(settings, guidance=1.0)),
    )
    bench_row("draw, batch 16, cost of guidance", with_it / without, "x", "< 2.5", images_per_s=16 / with_it)
    assert with_it / without < 2.5


def test_text_at_batch_one(nano, bench_row):
    """Text-only answers within 3 % of plain InternVL's time under transformers' `generate`; the adapter never runs."""
    from armor_model import GenerationSettings, generate

    model, processor = nano
    base, talk = base_of(model), [{"role": "user", "content": PROMPT}]
    settings = GenerationSettings(max_new_tokens=64)
    [answer] = generate(model, processor, [talk], settings)
    assert answer.stats["adapter_steps"] == 0
    tokens = len(answer.tokens)
    batch = processor.encode([talk], add_generation_prompt=True)
    kwargs = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": tokens, "min_new_tokens": tokens}
    ours, theirs = alternate(
        lambda: generate(model, processor, [talk], settings),
        lambda: base.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **kwargs),
    )
    times = {"ms_per_token": 1e3 * ours / tokens, "transformers_ms": 1e3 * theirs / tokens}
    bench_row("text, batch 1, time against transformers' generate", ours / theirs, "x", "<= 1.03", **times)
    assert ours / theirs <= 1.03


def test_image_at_batch_one(nano, bench_row):
    """Per code no slower than 1.05x transformers' `generate` with a plain decoder of backbone and adapter together."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from armor_model import draw

    model, processor = nano
    text = model.config.text_config.to_dict()
    text["num_hidden_layers"] += model.config.num_adapter_layers
    text |= {"layer_types": None, "vocab_size": model.config.last_id + 1}
    plain = Qwen2ForCausalLM(Qwen2Config(**text)).eval()
    ids = processor.encode([[{"role": "user", "content": PROMPT}]], add_generation_prompt=True)["input_ids"]
    codes = model.config.codes_per_image
    kwargs = {"do_sample": True, "pad_token_id": 0, "max_new_tokens": codes, "min_new_tokens": codes}
    ours, theirs = alternate(
        lambda: draw(model, processor, [PROMPT]),
        lambda: plain.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **kwargs),
    )
    times = {"ms_per_code": 1e3 * ours / codes, "transformers_ms": 1e3 * theirs / codes}
    bench_row("picture, batch 1, time against transformers' generate", ours / theirs, "x", "<= 1.05", **times)
    assert ours / theirs <= 1.05
