"""The equality table by base: `python tests/model/equality_table.py OUT.json OUT.md` asks every base what
test_model_every_base.py asks, with the numbers kept. Tiny models with random weights, float32, one seed."""

import importlib
import json
import sys
from pathlib import Path

import torch
from test_model_every_base import SETTINGS, conversations, hidden_of, inputs_of, pair, theirs
from test_model_generation import step_by_step

from armor_model import GenerationSettings, generate
from armor_model.bases import BASES
from trainer.batches import collate
from trainer.data.records import encode
from trainer.objective import Objective
from trainer.stages import STAGES


class Request:
    """What the fixture reads of pytest's request."""

    def __init__(self, param: str) -> None:
        self.param = param


def base_inputs(processor, batch):
    if processor.base.name != "internvl" or not batch["pixel_values"]:
        return inputs_of(processor, batch)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "pixel_values": torch.cat(batch["pixel_values"]),
    }


def logits_difference(model, processor, talks) -> float:
    """Largest absolute difference of the text logits, real positions of one batch padded on the left."""
    batch = processor.encode(talks, add_generation_prompt=True)
    inputs, real = base_inputs(processor, batch), batch["attention_mask"].bool()
    inputs["position_ids"] = model.positions(batch["attention_mask"], batch["input_ids"])
    if "image_grid_thw" in inputs:  # these classes count positions of several axes themselves
        del inputs["position_ids"]
    with torch.no_grad():
        ours = model.text_logits(hidden_of(model, batch)[0])[..., :-1]
        return float((ours - theirs(model)(**inputs).logits)[real].abs().max())


def greedy_equal(model, processor, talks) -> int:
    settings = GenerationSettings(max_new_tokens=20, allow_images=False)
    answers, base, equal = generate(model, processor, talks, settings), theirs(model), 0
    for talk, answer in zip(talks, answers, strict=True):
        inputs = base_inputs(processor, processor.encode([talk], add_generation_prompt=True))
        stops = {"eos_token_id": processor.stop_ids, "pad_token_id": 0}
        said = base.generate(**inputs, max_new_tokens=20, do_sample=False, **stops)
        equal += answer.tokens == said[0, inputs["input_ids"].shape[1] :].tolist()
    return equal


def sampled_equal(model, processor, talks) -> tuple[int, int]:
    """Conversations whose tokens, text and images mixed, are the same alone, and step by step without a cache."""
    settings = SETTINGS["mixed"]
    together = generate(model, processor, talks, settings, range(len(talks)))
    alone = [generate(model, processor, [talk], settings, [seed])[0] for seed, talk in enumerate(talks)]
    slow = [step_by_step(model, processor, talk, settings, seed)[0] for seed, talk in enumerate(talks)]
    return (
        sum(a.tokens == b.tokens for a, b in zip(together, alone, strict=True)),
        sum(a.tokens == b for a, b in zip(together, slow, strict=True)),
    )


def packed_difference(model, processor, talks) -> float:
    """Largest relative difference of the two losses' sums, rows packed to 400 tokens against one example a row."""
    answers = [{"type": "text", "text": "a red"}], [{"type": "image", "codes": list(range(16))}]
    examples = [
        encode(processor, kind, [*talk, {"role": "assistant", "content": list(answer)}])
        for kind, answer in zip(("ti2t", "ti2ti"), answers, strict=True)
        for talk in talks
    ]
    with torch.no_grad():
        whole, packed = (
            Objective(model, STAGES["3"])(collate(examples, processor.pad_id, processor.imgbos_id, pack_to))
            for pack_to in (None, 400)
        )
    pairs = [(float(getattr(whole, name)), float(getattr(packed, name))) for name in ("text", "image")]
    return max(abs(a - b) / abs(a) for a, b in pairs)


def _files(module: Path) -> list[Path]:
    """A base's module, and what it keeps beside it under a longer name (internvl_published.py)."""
    return sorted(module.parent.glob(f"{module.stem}*.py"))


def row(name: str) -> dict[str, object]:
    model, processor = pair.__wrapped__(Request(name))
    talks = conversations.__wrapped__()
    alone, slow = sampled_equal(model, processor, talks)
    module = importlib.import_module(BASES[name].partition(":")[0])
    return {
        "base": name,
        "n": len(talks),
        "logits_max_difference": logits_difference(model, processor, talks),
        "greedy_equal": greedy_equal(model, processor, talks),
        "batch_is_single": alone,
        "cache_is_uncached": slow,
        "packed_relative_difference": packed_difference(model, processor, talks),
        "wrapped_blocks": sorted({type(block).__name__ for block in model.blocks}),
        "module": module.__name__,
        "module_lines": sum(len(part.read_text("utf-8").splitlines()) for part in _files(Path(str(module.__file__)))),
    }


def markdown(rows: list[dict[str, object]]) -> str:
    lines = [
        "# Every base against its own class",
        "",
        "`python tests/model/equality_table.py reports/bases/equality.json reports/bases/equality.md` wrote this page:",
        "tiny models with random weights (seed 3), float32 on a CPU, the conversations of",
        "`tests/model/test_model_every_base.py`: none, one and two images, two turns.",
        "It shows that the code paths agree, not what published weights answer.",
        "",
        "| base | text logits, max abs difference | greedy tokens equal | batch = single | cache = uncached "
        "| packed / unpacked loss, max relative difference | blocks that FSDP wraps | module: lines |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        n = r["n"]
        lines.append(
            f"| {r['base']} | {r['logits_max_difference']:.1e} | {r['greedy_equal']}/{n} | {r['batch_is_single']}/{n} "
            f"| {r['cache_is_uncached']}/{n} | {r['packed_relative_difference']:.1e} "
            f"| {', '.join(r['wrapped_blocks'])} | {r['module']}: {r['module_lines']} |"
        )
    return "\n".join([*lines, "", "A module that two bases share is counted whole on both rows.", ""])


if __name__ == "__main__":
    found = [row(name) for name in BASES]
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
    Path(sys.argv[2]).write_text(markdown(found))
