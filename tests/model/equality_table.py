"""The equality table by base: `python tests/model/equality_table.py OUT.json OUT.md` asks every base what
test_model_every_base.py asks, with the numbers kept. Tiny models with random weights, float32, one seed."""

import importlib
import json
import sys
from pathlib import Path

import torch
from test_model_every_base import SETTINGS, conversations, inputs_of, pair, theirs
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


UNMASKED, LOST, MISPLACED, SEEN = "padding unmasked", "an image token lost", "codes misplaced", "neighbours seen"
"""Bugs that are planted in our side, to see the columns' numbers move: what a zero is worth."""


def logits_difference(model, processor, talks, bug="") -> float:
    """Largest absolute difference of the text logits, real positions of one batch padded on the left."""
    batch = processor.encode(talks, add_generation_prompt=True)
    inputs, real = base_inputs(processor, batch), batch["attention_mask"].bool()
    inputs["position_ids"] = model.positions(batch["attention_mask"], batch["input_ids"])
    if "image_grid_thw" in inputs:  # these classes count positions of several axes themselves
        del inputs["position_ids"]
    ids, images, mask = batch["input_ids"], batch["pixel_values"], batch["attention_mask"]
    if bug == UNMASKED:
        mask = torch.ones_like(mask)
    with torch.no_grad():
        embeds = model.embed(ids, images)
        if bug == LOST:
            embeds[tuple((ids == model.config.image_token_id).nonzero()[0])] = 0
        hidden = model.backbone(embeds, mask, model.place(ids, images, mask))
        ours = model.text_logits(hidden)[..., :-1]
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


def sampled_equal(model, processor, talks) -> tuple[int, int, int]:
    """Conversations whose tokens, text and images mixed, are the same alone, and step by step without a cache; and
    those that would be if each drawn code stood one further than it does."""
    settings = SETTINGS["mixed"]
    together = generate(model, processor, talks, settings, range(len(talks)))
    alone = [generate(model, processor, [talk], settings, [seed])[0] for seed, talk in enumerate(talks)]
    slow = [step_by_step(model, processor, talk, settings, seed)[0] for seed, talk in enumerate(talks)]
    rotary = model.rotary
    stepping = lambda like, positions: like is model.new_embeddings or positions.shape[1] == 1  # noqa: E731
    model.rotary = lambda like, positions: rotary(like, positions + stepping(like, positions))
    try:
        off = generate(model, processor, talks, settings, range(len(talks)))
    finally:
        del model.rotary
    return (
        sum(a.tokens == b.tokens for a, b in zip(together, alone, strict=True)),
        sum(a.tokens == b for a, b in zip(together, slow, strict=True)),
        sum(a.tokens == b for a, b in zip(off, slow, strict=True)),
    )


def packed_difference(model, processor, talks, bug="") -> tuple[float, int, int]:
    """Largest relative difference of the two losses' sums, rows packed to 400 tokens against one example a row; and how
    many examples stand in how many rows."""
    answers = [{"type": "text", "text": "a red"}], [{"type": "image", "codes": list(range(16))}]
    examples = [
        encode(processor, kind, [*talk, {"role": "assistant", "content": list(answer)}])
        for kind, answer in zip(("ti2t", "ti2ti"), answers, strict=True)
        for talk in talks
    ]
    whole, packed = (collate(examples, processor.pad_id, processor.imgbos_id, pack_to) for pack_to in (None, 400))
    if bug == MISPLACED:
        is_code = packed.input_ids >= model.config.first_code_id
        packed.position_ids = packed.position_ids + is_code.cumsum(1) * is_code
    if bug == SEEN:
        length = packed.input_ids.shape[1]
        packed.attention_mask = torch.ones(len(packed.input_ids), 1, length, length).tril().bool()
    objective = Objective(model, STAGES["3"])
    with torch.no_grad():
        sums = [objective(batch) for batch in (whole, packed)]
    pairs = [[float(getattr(each, name)) for each in sums] for name in ("text", "image")]
    return max(abs(a - b) / abs(a) for a, b in pairs), len(examples), len(packed.input_ids)


def controls(model, processor, talks) -> dict[str, float]:
    """What the columns show with each bug planted: they can fail."""
    return {bug: logits_difference(model, processor, talks, bug) for bug in (UNMASKED, LOST)} | {
        bug: packed_difference(model, processor, talks, bug)[0] for bug in (MISPLACED, SEEN)
    }


def made(name: str):
    """The model, the processor and the conversations of test_model_every_base.py."""
    return *pair.__wrapped__(Request(name)), conversations.__wrapped__()


def row(name: str) -> dict[str, object]:
    model, processor, talks = made(name)
    alone, slow, off = sampled_equal(model, processor, talks)
    packed, examples, rows = packed_difference(model, processor, talks)
    module = importlib.import_module(BASES[name].partition(":")[0])
    return {
        "base": name,
        "n": len(talks),
        "logits_max_difference": logits_difference(model, processor, talks),
        "greedy_equal": greedy_equal(model, processor, talks),
        "batch_is_single": alone,
        "cache_is_uncached": slow,
        "packed_relative_difference": packed,
        "packed_examples": examples,
        "packed_rows": rows,
        "planted": controls(model, processor, talks) | {"steps misplaced": off},
        "wrapped_blocks": sorted({type(block).__name__ for block in model.blocks}),
        "module": module.__name__,
        "module_lines": len(Path(str(module.__file__)).read_text("utf-8").splitlines()),
    }


HEAD = (
    "base",
    "text logits, max abs difference",
    "greedy tokens equal",
    "batch = single",
    "cache = uncached",
    "packed / unpacked loss, max relative difference",
    "blocks that FSDP wraps",
    "module: lines",
)
PLANTED = (
    "base",
    "padding unmasked: text logits",
    "an image token lost: text logits",
    "codes counted by twos, in packed rows: loss",
    "neighbours in the row seen: loss",
    "every step one further: cache = uncached",
)


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    return [f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows)]


def markdown(rows: list[dict[str, object]]) -> str:
    cells = [
        (
            r["base"],
            f"{r['logits_max_difference']:.1e}",
            *(f"{r[name]}/{r['n']}" for name in ("greedy_equal", "batch_is_single", "cache_is_uncached")),
            f"{r['packed_relative_difference']:.1e} ({r['packed_examples']} in {r['packed_rows']} rows)",
            ", ".join(r["wrapped_blocks"]),
            f"{r['module']}: {r['module_lines']}",
        )
        for r in rows
    ]
    planted = [
        (
            r["base"],
            *(f"{r['planted'][bug]:.1e}" for bug in (UNMASKED, LOST, MISPLACED, SEEN)),
            f"{r['planted']['steps misplaced']}/{r['n']}",
        )
        for r in rows
    ]
    lines = [
        "# Every base against its own class",
        "",
        "`python tests/model/equality_table.py reports/bases/equality.json reports/bases/equality.md` wrote this page:",
        "tiny models with random weights (seed 3), float32 on a CPU, the conversations of",
        "`tests/model/test_model_every_base.py`: none, one and two images, two turns.",
        "It shows that the code paths agree, not what published weights answer.",
        "",
        *table(HEAD, cells),
        "",
        "A module that two bases share is counted whole on both rows.",
        "",
        "## The same numbers with a bug planted",
        "",
        "What the columns show when our side is wrong; `tests/model/test_model_equality.py` holds that they move:",
        "",
        *table(PLANTED, planted),
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    found = [row(name) for name in BASES]
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
    Path(sys.argv[2]).write_text(markdown(found))
