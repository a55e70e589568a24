"""Four turns of a dialogue with a prefix cache, against answering each turn anew: equal tokens, CPU time side by side.

python -m pytest -m perf tests/perf/test_perf_turns.py -s
"""

import time

import numpy as np
import pytest
import torch
from PIL import Image

from armor_model import ArmorForConditionalGeneration, ArmorProcessor, build_word_tokenizer, generate, preset
from armor_model.generation import GenerationSettings, PrefixCache

pytestmark = pytest.mark.perf

TURNS, PAIRS = 4, 3
WORDS = "please draw a red circle left of a blue square and say what is there".split()  # noqa: SIM905
SIZE = "decoder of {:.0f} M parameters"


@pytest.fixture(scope="module")
def model():
    """256 wide, 8 blocks, random weights; tiles of 256 tokens as InternVL's, images of 64 codes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = build_word_tokenizer([*WORDS, *(f"word{i}" for i in range(200))])
    text = {"hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 1024, "max_position_embeddings": 8192}
    config = preset("armor-nano", len(tokenizer), text, image_grid=8)
    config.vision_config.image_size, config.image_seq_length = [256, 256], 256
    config.vq_config = {**config.vq_config, "image_size": 64}
    yield ArmorForConditionalGeneration(config).eval(), ArmorProcessor.for_config(tokenizer, config, max_tiles=2)
    torch.set_num_threads(threads)


def dialogue(seed, shown, drawn):
    """Each turn's conversation: `shown` images at the beginning, a `drawn` image in each answer of the history."""
    rng = np.random.default_rng(seed)

    def words(count):
        return {"type": "text", "text": " ".join(rng.choice(WORDS, count))}

    image = Image.fromarray(rng.integers(0, 256, (256, 512, 3), dtype=np.uint8))
    history, turns = [], []
    for turn in range(TURNS):
        seen = [{"type": "image", "image": image}] * shown if turn == 0 else []
        history = [*history, {"role": "user", "content": [*seen, words(30)]}]
        turns.append(history)
        codes = [{"type": "image", "codes": rng.integers(0, 128, 64).tolist()}] if drawn else []
        history = [*history, {"role": "assistant", "content": [words(30), *codes]}]
    return turns


CASES = {
    "about an image of 768 tokens": (1, False, GenerationSettings(max_new_tokens=30, allow_images=False)),
    "an image in each answer": (
        0,
        True,
        GenerationSettings(max_new_tokens=30, max_images=1, force_image=True, image_temperature=0),
    ),
}


@pytest.mark.parametrize(("case", "dialogues"), [(case, count) for case in CASES for count in (1, 4)])
def test_four_turns(model, bench_row, case, dialogues):
    shown, drawn, settings = CASES[case]
    turns = list(zip(*(dialogue(seed, shown, drawn) for seed in range(dialogues)), strict=True))

    def talk(prefixes):
        began = time.process_time()
        tokens = [
            [answer.tokens for answer in generate(*model, list(turn), settings, prefixes=prefixes)] for turn in turns
        ]
        return tokens, time.process_time() - began

    talk(None)
    ratios = []
    for pair in range(PAIRS):
        sides = {}
        for kept in (None, PrefixCache())[:: 1 if pair % 2 else -1]:
            sides[kept is None] = talk(kept)
        assert sides[True][0] == sides[False][0]
        ratios.append(sides[True][1] / sides[False][1])
    ratio = float(np.median(ratios))
    parameters = sum(p.numel() for p in model[0].decoder.parameters()) / 1e6
    bench_row(
        f"four turns, {case}, {dialogues} at a time, CPU-seconds against each turn anew",
        ratio,
        "x",
        ">= 2" if shown else None,
        size=SIZE.format(parameters),
        pairs=PAIRS,
        lowest=min(ratios),
        highest=max(ratios),
    )
