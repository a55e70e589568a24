"""armor-nano's data: conversations of the shapes world, rendered, cut into codes and tokenised once, before training
starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from armor_model.base.seeds import sub_seed
from trainer.batches import Example
from trainer.data.records import encode, sides, to_messages
from trainer.shapes.conversations import sample_conversation
from trainer.shapes.lessons import LESSONS, orderly_request, sample_lesson
from trainer.shapes.world import (
    CELLS,
    COLOR_NAMES,
    EMPTY_TILE,
    GRID,
    SHAPES,
    Scene,
    arrange,
    is_held_out,
    render,
    render_batch,
    sample_scene,
    tile_indices,
)

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor


def to_pixels(scenes: list[Scene]) -> Tensor:
    """Images as the image tokenizer reads them: (N, 3, 32, 32) in [-1, 1]."""
    return torch.from_numpy(render_batch(scenes)).permute(0, 3, 1, 2).float() / 127.5 - 1


def vq_batches(seed: int, batch_size: int) -> Any:
    """Pixels of random training scenes, a function of the step."""

    def pixels(step: int) -> Tensor:
        rng = np.random.default_rng([seed, 11, step])
        return to_pixels([sample_scene(rng) for _ in range(batch_size)])

    return pixels


class Codes:
    """Codes of scenes, each tokenised once."""

    def __init__(self, vq: Any) -> None:
        self.vq = vq
        self._known: dict[Scene, Tensor] = {}

    @torch.no_grad()
    def add(self, scenes: Iterable[Scene]) -> None:
        new = [scene for scene in dict.fromkeys(scenes) if scene not in self._known]
        for start in range(0, len(new), 512):
            part = new[start : start + 512]
            for scene, codes in zip(part, self.vq.encode(to_pixels(part)).flatten(1), strict=True):
                self._known[scene] = codes.clone()

    def __getitem__(self, scene: Scene) -> Tensor:
        return self._known[scene]


def make_pool(
    processor: ArmorProcessor, codes: Codes, kind: str, count: int, seed: int, version: int = 2
) -> list[Example]:
    """`count` conversations of a type or lesson as examples; equal for equal seeds. `version`: NanoRecipe's."""
    rng = np.random.default_rng([seed, 12, sum(map(ord, kind)) if version == 1 else sub_seed(kind)])
    if kind in LESSONS:
        records = [sample_lesson(rng, kind, i) for i in range(count)]
    else:
        records = [sample_conversation(rng, kind, i, orderly_request) for i in range(count)]
    split = [sides(record) for record in records]
    codes.add(scene for _, drawn in split for scene in drawn)
    return [
        encode(processor, record["type"], to_messages(record, [render(s) for s in seen], [codes[s] for s in drawn]))
        for record, (seen, drawn) in zip(records, split, strict=True)
    ]


def random_scene(rng: np.random.Generator) -> Scene:
    """Any contents in 1 to 4 cells, evenly spread over tiles: what the vision warm-up reads."""
    while True:
        contents = [
            (COLOR_NAMES[int(rng.integers(len(COLOR_NAMES)))], SHAPES[int(rng.integers(len(SHAPES)))])
            for _ in range(int(rng.integers(1, CELLS + 1)))
        ]
        scene = arrange(rng, contents)
        if not is_held_out(scene):
            return scene


def warm_up_vision(
    model: ArmorModel,
    processor: ArmorProcessor,
    steps: int,
    seed: int,
    lr: float = 2e-3,
    batch_size: int = 64,
    sharpness: float = 6.0,
    on_step: Callable[[int], None] | None = None,
) -> float:
    """Align vision tower and projector with the words for what a cell shows: colour, shape, row and column; returns the
    last accuracy.

    Each image token is scored against the input embeddings of the words by direction, as contrastive pre-training
    does
    for InternViT; so a question's word finds its cell by a plain product. The words stay as they are. Trained end to
    end only, shapes stayed at chance: colour explains most of the loss first.
    """
    words_VD = model.decoder.embed_tokens.weight.detach()
    length = words_VD.norm(dim=-1).mean()
    groups = [
        F.normalize(words_VD[[processor.tokenizer.encode(w, add_special_tokens=False)[0] for w in words]], dim=-1)
        for words in ((*COLOR_NAMES, "nothing"), (*SHAPES, "nothing"), ("top", "bottom"), ("left", "right"))
    ]
    of = model.parts()
    parts = [*of["vision"], *of["projector"]]
    for p in parts:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(parts, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=lr * 0.05)
    accuracy = 0.0
    for step in range(steps):
        rng = np.random.default_rng([seed, 13, step])
        scenes = [random_scene(rng) for _ in range(batch_size)]
        features_BTD = image_tokens(model, [processor.cut(Image.fromarray(each)) for each in render_batch(scenes)])
        loss = 0.1 * (features_BTD.norm(dim=-1) / (2 * length) - 1).square().mean()  # as long as words, about
        right_BT = torch.ones(features_BTD.shape[:2], dtype=torch.bool)
        for words_WD, labels_BT in zip(groups, token_labels(scenes, features_BTD.shape[1]), strict=True):
            logits_BTW = features_BTD @ words_WD.t() * sharpness / length
            loss = loss + F.cross_entropy(logits_BTW.flatten(0, 1), labels_BT.flatten())
            right_BT &= logits_BTW.argmax(-1) == labels_BT
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        accuracy = float(right_BT.float().mean())
        if on_step is not None:
            on_step(step + 1)
    return accuracy


def image_tokens(model: ArmorModel, images: list[Tensor]) -> Tensor:
    """What the decoder's input gets of each image: (B, tokens, D)."""
    features_BTF = torch.stack(list(model.base.image_features(model.model, images)))
    return features_BTF[..., : model.config.text_config.hidden_size]


def token_labels(scenes: list[Scene], tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colour, shape, row and column of the cell that each token lies in, (B, tokens) each; past the names means
    nothing."""
    side = round(tokens**0.5)
    cells = torch.tensor([(t // side * GRID // side) * GRID + t % side * GRID // side for t in range(tokens)])
    tiles = torch.from_numpy(tile_indices(scenes))[:, cells]
    empty = tiles == EMPTY_TILE
    places = cells.expand(len(scenes), -1)
    color = torch.where(empty, len(COLOR_NAMES), tiles // len(SHAPES))
    shape = torch.where(empty, len(SHAPES), tiles % len(SHAPES))
    return color, shape, places // GRID, places % GRID
