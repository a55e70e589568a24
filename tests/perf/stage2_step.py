"""A stage-2 training step at InternVL2.5-8B's sizes with random weights, against the same step written plainly: tokens
a second, peak memory, model-flops utilisation.

    python tests/perf/stage2_step.py                   on a GPU; without one it says what was not measured
    python tests/perf/stage2_step.py --config tiny --batch 4 --device cpu

Both train the same parts in the same types with the same optimizer, without recomputation. Plain means: logits of both
heads at every position, as transformers' own models compute them, and a masked cross-entropy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F

from armor_model.losses import IGNORE
from trainer.batches import Batch, Example, collate
from trainer.objective import Objective, count_labels, freeze
from trainer.stages import STAGES

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
"""Dense bf16 operations a second that the vendor states, by a part of the device's name."""

STAGE = STAGES["2"]


def build(config: str, device: str) -> Any:
    """A model with random weights: frozen parts in bf16 on a GPU, trained ones in fp32."""
    from armor_model import new_model, preset

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device != "cpu" else torch.float32)
    try:
        with torch.device(device):
            model = new_model(preset(config))
    finally:
        torch.set_default_dtype(before)
    freeze(model, STAGE)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.train()


def make_batch(config: Any, size: int, prompt: int = 32) -> Batch:
    """`size` drawing requests of `prompt` tokens, each answered with one picture."""
    g = torch.Generator().manual_seed(1)
    examples = []
    for _ in range(size):
        words = torch.randint(8, config.vocab_size - 8, (prompt,), generator=g)
        codes = torch.randint(config.first_code_id, config.last_id + 1, (config.codes_per_image,), generator=g)
        ids = torch.cat([words, torch.tensor([config.imgbos_id]), codes, torch.tensor([config.imgend_id, 2])])
        text, image = torch.full_like(ids, IGNORE), torch.full_like(ids, IGNORE)
        text[prompt - 1], text[-2] = config.imgbos_id, 2
        image[prompt:-2] = ids[prompt + 1 : -1]
        examples.append(Example("t2i", ids, text, image))
    return collate(examples, 0, config.imgbos_id)


def ours(model: Any, batch: Batch) -> torch.Tensor:
    """The trainer's mean image loss."""
    return Objective(model, STAGE)(batch).image / count_labels(batch)[1]


def plain(model: Any, batch: Batch) -> torch.Tensor:
    """Equation 3 written down: both heads everywhere, weighted by alpha and beta."""
    hidden_BTD = model.backbone(model.embed(batch.input_ids, batch.pixels), batch.attention_mask)
    text_BTV = model.text_logits(hidden_BTD).float()
    image_BTK = model.visual_logits(model.visual_hidden(hidden_BTD, batch.attention_mask)).float()
    labels_image = torch.where(batch.image_labels == IGNORE, IGNORE, batch.image_labels - model.config.imgend_id)
    text = F.cross_entropy(text_BTV.flatten(0, 1), batch.text_labels.flatten(), ignore_index=IGNORE)
    image = F.cross_entropy(image_BTK.flatten(0, 1), labels_image.flatten(), ignore_index=IGNORE)
    return STAGE.alpha * text + STAGE.beta * image


WAYS = {"ours": ours, "plain": plain}


def needed_operations(config: Any, batch: Batch) -> float:
    """Multiply-adds (counted as two) that a step cannot do without.

    Frozen blocks: forward and the gradient of their inputs, which the new embeddings ask for (4 a weight and token);
    the adapter's also of its weights (6); the visual head at its positions only (6); causal attention likewise.
    """
    from armor_model.presets import block

    text, (rows, length) = config.text_config, batch.input_ids.shape
    tokens, image = batch.tokens, count_labels(batch)[1]
    one = block({**text.to_dict(), "head_dim": getattr(text, "head_dim", None)})
    layers, adapter = text.num_hidden_layers, config.num_adapter_layers
    attention = 3 * (layers + adapter) * rows * 2 * length * length * text.hidden_size
    head = 6 * image * (config.codebook_size + 2) * text.hidden_size
    return (4 * layers + 6 * adapter) * one * tokens + head + attention


def measure(config: str, size: int, repeats: int, device: str) -> dict[str, Any]:
    """Both ways in turns on one model; medians. Memory is None on a CPU, utilisation where the peak is not known."""
    model = build(config, device)
    batch = make_batch(model.config, size).to(torch.device(device))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=device != "cpu")
    on_gpu = device != "cpu"
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    peaks, losses = dict.fromkeys(WAYS, 0), {}

    def step(way: str) -> float:
        started = time.perf_counter() if on_gpu else time.process_time()
        with torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=on_gpu):
            loss = WAYS[way](model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.synchronize()
        losses.setdefault(way, float(loss.detach()))
        return (time.perf_counter() if on_gpu else time.process_time()) - started

    for way in WAYS:  # kernels are chosen, optimizer states exist; losses of the first two differ by one small step
        step(way)
    for _ in range(repeats):
        for way in WAYS:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            seconds[way].append(step(way))
            if on_gpu:
                peaks[way] = max(peaks[way], torch.cuda.max_memory_allocated())
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    peak = next((v for k, v in PEAK.items() if k in name), None)
    operations = needed_operations(model.config, batch)
    result: dict[str, Any] = {"config": config, "device": name, "batch": size, "tokens": batch.tokens, "loss": losses}
    for way, times in seconds.items():
        middle = statistics.median(times)
        result[way] = {
            "tokens_per_second": batch.tokens / middle,
            "spread": (max(times) - min(times)) / middle,
            "peak_bytes": peaks[way] if on_gpu else None,
            "utilisation": operations / middle / peak if peak else None,
        }
    return result


def not_measured(config: str) -> str:
    """What a machine without a GPU leaves open, in one line."""
    return (
        f"not measured, no GPU here: stage-2 step at {config}: tokens/s, peak memory and model-flops utilisation, "
        "ours and plain"
    )


def main(argv: list[str] | None = None) -> int:
    """0 measured; 3 nothing could be measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="internvl2_5-8b", help="a preset of armor_model")
    parser.add_argument("--batch", type=int, default=16, help="conversations in a step")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    asked = parser.parse_args(argv)
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write(not_measured(asked.config) + "\n")
        return 3
    result = measure(asked.config, asked.batch, asked.repeats, asked.device)
    if asked.json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
        return 0
    sys.stdout.write(f"{result['config']} on {result['device']}: {result['tokens']} tokens a step\n")
    for way in WAYS:
        one = result[way]
        memory = "-" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 2**30:.1f} GiB"
        use = "-" if one["utilisation"] is None else f"{one['utilisation']:.1%}"
        sys.stdout.write(f"  {way:<6} {one['tokens_per_second']:>10,.0f} tokens/s  peak {memory}  utilisation {use}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
