"""armor-nano's data: conversations of the shapes world, rendered, cut into codes and tokenised once, before training
starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.batches import Example
from trainer.encode import encode, to_messages
from trainer.nano_dialogues import sample_dialogue
from trainer.shapes.conversations import sample_conversation
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

DIALOGUE, DIALOGUE_TURNS = "dialogue", 5
"""A pool of its own: ti2t conversations of several questions about one picture."""


def to_pixels(scenes: list[Scene]) -> Tensor:
    """Pictures as the image tokenizer reads them: (N, 3, 32, 32) in [-1, 1]."""
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


def make_pool(processor: Any, codes: Codes, kind: str, count: int, seed: int) -> list[Example]:
    """`count` conversations of a kind as examples; equal for equal seeds."""
    rng = np.random.default_rng([seed, 12, sum(map(ord, kind))])
    if kind == DIALOGUE:
        records = [sample_dialogue(rng, DIALOGUE_TURNS, number=i) for i in range(count)]
    else:
        records = [sample_conversation(rng, kind, i) for i in range(count)]
    split = [_split(record) for record in records]
    codes.add(scene for _, drawn in split for scene in drawn)
    return [
        encode(processor, record["type"], to_messages(record, [render(s) for s in seen], [codes[s] for s in drawn]))
        for record, (seen, drawn) in zip(records, split, strict=True)
    ]


def _split(record: dict[str, Any]) -> tuple[list[Scene], list[Scene]]:
    """The scenes of the human turns and of the gpt turns."""
    scenes = iter(record["images"])
    sides: dict[str, list[Scene]] = {"human": [], "gpt": []}
    for turn in record["conversations"]:
        sides[turn["from"]] += [next(scenes) for _ in range(turn["value"].count("<image>"))]
    return sides["human"], sides["gpt"]


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


def warm_up_vision(model: Any, steps: int, seed: int, lr: float = 2e-3, batch_size: int = 64) -> float:
    """Teach ViT and projector to name each cell's content, through a throw-away linear layer; returns the last
    accuracy.

    Trained end to end only, shapes stayed at chance: colour explains most of the loss first (shared facts, trap 1).
    It stands in for the contrastive pre-training that InternViT has.
    """
    torch.manual_seed(seed)
    contents = EMPTY_TILE + 1
    probe = torch.nn.Linear(model.config.text_config.hidden_size, contents + CELLS)
    parts = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    for p in parts:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW([*parts, *probe.parameters()], lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=lr * 0.05)
    accuracy = 0.0
    for step in range(steps):
        rng = np.random.default_rng([seed, 13, step])
        scenes = [random_scene(rng) for _ in range(batch_size)]
        tiles_BC = torch.from_numpy(tile_indices(scenes))
        features_BTD = model.model.get_image_features(
            vision_pixels(scenes),
            vision_feature_layer=model.config.vision_feature_layer,
            vision_feature_select_strategy=model.config.vision_feature_select_strategy,
            return_dict=True,
        ).pooler_output.view(batch_size, -1, probe.in_features)
        side = round(features_BTD.shape[1] ** 0.5)
        cell_T = torch.tensor([(t // side * GRID // side) * GRID + t % side * GRID // side for t in range(side * side)])
        logits_BTS = probe(features_BTD)
        labels_BT = tiles_BC[:, cell_T]
        # The place too: named by content alone, equal things look equal wherever they are, and the frozen features
        # leave # "where is" and "left of" to the order of the tokens.
        places_BT = cell_T.expand(batch_size, -1)
        what_BTS, where_BTS = logits_BTS.split([contents, CELLS], dim=-1)
        loss = F.cross_entropy(what_BTS.flatten(0, 1), labels_BT.flatten())
        loss = loss + F.cross_entropy(where_BTS.flatten(0, 1), places_BT.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right_BT = (what_BTS.argmax(-1) == labels_BT) & (where_BTS.argmax(-1) == places_BT)
        accuracy = float(right_BT.float().mean())
    return accuracy


def vision_pixels(scenes: list[Scene]) -> Tensor:
    """Tiles (N, 3, 32, 32) as the model's ViT reads them: what the processor makes of the pictures."""
    from armor_model.images import IMAGENET_MEAN, IMAGENET_STD

    pixels = torch.from_numpy(render_batch(scenes)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
