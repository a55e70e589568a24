"""A tiny model and made-up examples for the training tests, and what several of them do."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from armor_model.bases import find_base
from armor_model.losses import IGNORE
from armor_model.processing import ProcessorSettings
from trainer.batches import Example
from trainer.loader import Mixture
from trainer.stages import STAGES, Stage


def tiny_model(heads: str = "switching", seed: int = 0, base: str = "internvl"):
    """The base's `tiny` preset with random weights."""
    from armor_model import new_model, preset

    torch.manual_seed(seed)
    model = new_model(preset("tiny" if base == "internvl" else f"tiny-{base}", heads=heads))
    model.init_new_parts("copy")
    return model


def example(config, kind: str, seed: int) -> Example:
    """A conversation of random tokens in the shape of its type: prompt, then text, picture or both."""
    g = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, n: int) -> list[int]:
        return torch.randint(low, high, (n,), generator=g).tolist()

    prompt = [1, *draw(8, config.vocab_size, int(torch.randint(3, 9, (1,), generator=g))), 2]
    pixels = None
    if kind == "ti2t":
        base = find_base(config.base_name)
        blank, settings = base.blank(config), ProcessorSettings(0, 0, 0, **base.processor_settings(config, {}))
        prompt = [4, *[config.image_token_id] * sum(base.image_text(blank, settings)[1]), 5, *prompt]
        pixels = [torch.randn(blank.shape, generator=g)]
    ids, heads = list(prompt), [""] * len(prompt)
    if kind in ("t2t", "ti2t", "t2ti"):
        words = draw(8, config.vocab_size, int(torch.randint(1, 6, (1,), generator=g)))
        ids += words
        heads += ["t"] * len(words)
    if kind in ("t2i", "t2ti"):
        codes = draw(config.first_code_id, config.first_code_id + config.codebook_size, config.codes_per_image)
        ids += [config.imgbos_id, *codes, config.imgend_id]
        heads += ["t", *["v"] * (len(codes) + 1)]
    ids.append(2)
    heads.append("t")

    def labels(head: str) -> torch.Tensor:
        said = [token if who == head else IGNORE for token, who in zip(ids, heads, strict=True)]
        return torch.tensor([*said[1:], IGNORE])

    span = (1, len(prompt) - 1) if kind == "t2i" else None
    return Example(kind, torch.tensor(ids), labels("t"), labels("v"), pixels, span)


def pools(config, each: int = 12) -> dict[str, list[Example]]:
    kinds = ("t2t", "ti2t", "t2i", "t2ti")
    return {kind: [example(config, kind, 100 * k + i) for i in range(each)] for k, kind in enumerate(kinds)}


def mixture(model, stage: str | Stage = "3", batch: int = 4, each: int = 12, seed: int = 5, **options) -> Mixture:
    """Batches of the types that a stage reads, `each` conversations of each."""
    kinds = (STAGES[stage] if isinstance(stage, str) else stage).mixture
    return Mixture(
        pools(model.config), dict.fromkeys((k for k in kinds if k != "refuse"), each), batch, seed, **options
    )


def assert_equal_trees(a, b) -> None:
    """Nested dicts and lists of tensors and numbers, bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
    if isinstance(a, dict | list | tuple):
        for x, y in zip(*((t.values() if isinstance(t, dict) else t) for t in (a, b)), strict=True):
            assert_equal_trees(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def python(*words: object, **environment: str) -> subprocess.Popen:
    """A Python of its own, one thread, both streams piped together."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
