"""Parallel drawing is lossless: the probability of every whole image on models small enough to list them all, and
20,000 images of armor-nano, half of them drawn one code at a time with other random numbers.

python -m pytest -m slow tests/model/test_model_parallel.py
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch

from armor_model import GenerationSettings

ONE_IMAGE = GenerationSettings(
    max_new_tokens=1, max_images=1, force_image=True, stop_after_image=True, image_temperature=1.0
)
PROMPT = [{"role": "user", "content": "draw a red circle"}]
CELLS = 4
"""Codes of an enumerable model's image."""


def drawn(talker, settings, count, batch_size, first_seed=0, prompts=(PROMPT,)):
    """The images of so many requests in their order, and the passes that they took."""
    from armor_model.generation.api import UNCONDITIONAL
    from armor_model.generation.engine import Engine
    from armor_model.generation.state import Request

    model, processor = talker
    asked = [processor.encode_one(prompt, add_generation_prompt=True).ids for prompt in prompts]
    without = processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids
    engine = Engine(model, settings, processor.stop_ids, without, batch_size=batch_size, static=False)
    requests = [Request(asked[i % len(asked)], [], first_seed + i) for i in range(count)]
    return [tuple(row.images[0]) for row in engine.run(requests)], engine.passes


@torch.inference_mode()
def conditionals(talker, codes, guidance):
    """P(next code | codes so far) for every beginning of an image: by plain passes, without caches or windows."""
    from armor_model.generation.api import UNCONDITIONAL

    model, processor = talker
    c, found = model.config, {}
    for length in range(CELLS):
        for known in itertools.product(range(codes), repeat=length):
            logits = []
            for talk in (PROMPT, UNCONDITIONAL):
                ids = processor.encode_one(talk, add_generation_prompt=True).ids
                ids = torch.tensor([[*ids, c.imgbos_id, *(c.first_code_id + code for code in known)]])
                visual = model.visual_hidden(model.backbone(model.embed(ids)))
                logits.append(model.visual_logits(visual[0, -1])[2:].float())
            with_it, without = logits
            guided = with_it if guidance == 1 else without + guidance * (with_it - without)
            found[known] = guided.softmax(-1).double() / guided.softmax(-1).double().sum()
    return found


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("codes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_image_keeps_its_probability(make_model, codes, guidance, monkeypatch):
    """To 1e-9, with no sampling error. What is drawn depends on the random numbers only by which side of the
    thresholds of some beginning they lie on; so the thresholds of all beginnings cut the cube of random numbers into
    boxes (270 with two codes, 21,945 with three) inside which the image is one and the same. It is drawn once in each,
    and the boxes' volumes add up to each image's probability, which must be the product of its conditionals."""
    from armor_model.generation import engine

    model, processor = make_model(codebook_size=codes, image_grid=2)
    talker = model.double(), processor
    known = conditionals(talker, codes, guidance)
    edges = []
    for length in range(CELLS):
        cuts = [known[begin].cumsum(0)[:-1] for begin in itertools.product(range(codes), repeat=length)]
        edges.append([0.0, *sorted(torch.cat(cuts).tolist()), 1.0])
    boxes = list(itertools.product(*(list(itertools.pairwise(edge)) for edge in edges)))
    assert len(boxes) == {2: 270, 3: 21_945}[codes]
    middles = [[(low + high) / 2 for low, high in box] for box in boxes]
    monkeypatch.setattr(engine, "uniforms", lambda seed, count: [0.5, *middles[seed], *[0.5] * count])
    expected = {}
    for image in itertools.product(range(codes), repeat=CELLS):
        parts = [known[image[:i]][image[i]] for i in range(CELLS)]
        expected[image] = float(torch.stack(parts).prod())
    settings = replace(ONE_IMAGE, guidance=guidance)
    for window, batch_size in ((0, 64), (2, 7), (9, 64)):
        images, passes = drawn(talker, replace(settings, parallel_draw=window), len(boxes), batch_size)
        volume: Counter[tuple[int, ...]] = Counter()
        for image, box in zip(images, boxes, strict=True):
            volume[image] += float(torch.tensor([high - low for low, high in box], dtype=torch.float64).prod())
        assert volume.keys() <= expected.keys() and passes > 0
        assert max(abs(volume[image] - p) for image, p in expected.items()) < 1e-9, window


def same_distribution(one: Counter, other: Counter) -> tuple[float, float, int]:
    """(p-value, smallest Cohen's w found with power 0.9 at alpha 0.001, degrees of freedom) of a chi-square test that
    two samples come from one distribution; values seen fewer than 20 times together are one value."""
    from scipy.stats import chi2, chi2_contingency, ncx2

    pooled = one + other
    rare = {value for value, n in pooled.items() if n < 20}
    table = [[sample[v] for v in pooled if v not in rare] for sample in (one, other)]
    if rare:
        table = [[*row, sum(sample[v] for v in rare)] for row, sample in zip(table, (one, other), strict=True)]
    result = chi2_contingency(table)
    n, limit = sum(map(sum, table)), chi2.isf(0.001, result.dof)
    w = next(w / 1000 for w in range(1, 1000) if ncx2.sf(limit, result.dof, n * (w / 1000) ** 2) >= 0.9)
    return float(result.pvalue), w, int(result.dof)


@pytest.mark.slow
def test_chi_square_over_20_000_images_of_armor_nano(capsys):
    """10,000 images drawn in parallel against 10,000 drawn one code at a time with other random numbers: the last
    code, which depends on all before it, the pair in the middle, and how many different codes. As a control the same
    test must find a temperature of 1.1 in place of 1."""
    from armor_model import bundled, load

    talker = load(bundled("armor-nano"))
    prompts = [[{"role": "user", "content": "draw two blue squares and a green cross"}]]
    plain, half = ONE_IMAGE, 10_000
    parallel, passes = drawn(talker, replace(plain, parallel_draw=6), half, 64, 0, prompts)
    one_by_one, one_each = drawn(talker, plain, half, 64, 1_000_000, prompts)
    warmer, _ = drawn(talker, replace(plain, image_temperature=1.1), half, 64, 2_000_000, prompts)
    assert passes < one_each
    statistics = {
        "last code": lambda image: image[-1],
        "middle pair": lambda image: image[7:9],
        "different codes": lambda image: len(set(image)),
    }
    lines, control = [], []
    for name, of in statistics.items():
        reference = Counter(map(of, one_by_one))
        p, w, freedom = same_distribution(Counter(map(of, parallel)), reference)
        control.append(same_distribution(Counter(map(of, warmer)), reference)[0])
        lines.append(
            f"{name}: p {p:.3f}, {freedom} degrees of freedom, power .9 for w >= {w:.3f}; control {control[-1]:.2g}"
        )
        assert p > 0.001, lines
        assert w < 0.1
    assert min(control) < 0.001, lines
    with capsys.disabled():
        print("", *lines, sep="\n")
