"""The understanding model that every arm starts from, its image tokenizer, and the conversations all arms read."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from armor_eval.ablations.plan import Plan
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_folder

log = logging.getLogger(__name__)

VALIDATION_SEED = 90_000
"""Added to the data seed for held-back conversations: no arm is trained on them."""


@dataclass
class Base:
    """A loaded understanding model and what belongs to it. `model` is never trained: arms take copies."""

    model: Any
    processor: Any
    fingerprint: str
    source: str
    """Where it comes from, for the record."""
    cpu_seconds: float = 0.0
    """What training it cost; 0 where it was there."""

    @cached_property
    def codes(self) -> Any:
        from trainer.shapes.data import Codes

        return Codes(self.processor.vq)

    def pool(self, kind: str, count: int, seed: int) -> list[Any]:
        """Tokenised conversations of the shapes world, equal for equal seeds."""
        from trainer.shapes.data import make_pool

        return make_pool(self.processor, self.codes, kind, count, seed, version=1)

    def shards(self, plan: Plan, kinds: tuple[str, ...]) -> tuple[dict[str, Any], list[Any]]:
        """(pools to train on, examples held back) of tokenised folders; the last of each type are held back.

        Raises UserError where a type is missing or too small.
        """
        from torch.utils.data import Subset

        from armor_model.base.errors import ArmorError
        from trainer.data.shards import Shards

        try:
            found = Shards([Path(folder) for folder in plan.data], self.processor).pools()
        except ArmorError as error:
            raise UserError(str(error), "data = folders that armor-train tokenize wrote for this base") from error
        pools, held = {}, []
        for kind in kinds:
            size = len(found.get(kind, ()))
            if size <= plan.validation:
                raise UserError(f"the data holds {size} {kind}, expected more than the {plan.validation} to hold back")
            pools[kind] = Subset(found[kind], range(size - plan.validation))
            held += [found[kind][i] for i in range(size - plan.validation, size)]
        return pools, held

    def descriptions(self, count: int, seed: int) -> list[Any]:
        """ti2t conversations that only describe pictures, as the paper's ShareGPT4V does.

        The world's own ti2t conversations are the base's training data: on them it could not forget.
        """
        import numpy as np

        from trainer.data.records import encode, to_messages
        from trainer.shapes.language import DESCRIBE_PICTURE, caption
        from trainer.shapes.world import pick, render, sample_scene

        rng = np.random.default_rng([seed, 73])
        made = []
        for i in range(count):
            scene = sample_scene(rng)
            turns = [
                {"from": "human", "value": f"<image>\n{pick(rng, DESCRIBE_PICTURE)}"},
                {"from": "gpt", "value": caption(scene, rng)},
            ]
            record = {"id": f"describe-{i}", "type": "ti2t", "conversations": turns}
            made.append(encode(self.processor, "ti2t", to_messages(record, [render(scene)], [])))
        return made


def get_base(plan: Plan, work: Path, *, random_backbone: bool = False, say: Any = log.info) -> Base:
    """Load or train the plan's base. A trained one is kept in `work` and found there again; what it will cost is said
    before, and a training that was killed goes on. Raises UserError."""
    import time

    from armor_model import bundled, load
    from armor_model.base.errors import ArmorError
    from trainer import devices

    if random_backbone:
        return _untrained(plan, work)
    if plan.base == "bundled":
        try:
            folder = Path(bundled("armor-nano"))
            model, processor = load(folder)
            return Base(model, processor, sha256_folder(folder), "bundled armor-nano")
        except ArmorError as error:
            log.warning("no bundled checkpoint (%s): a short base is trained instead", error)
    elif plan.base != "train":
        try:
            model, processor = load(Path(plan.base))
        except ArmorError as error:
            raise UserError(
                f"base {plan.base!r}: {error}", "expected `train`, `bundled` or a checkpoint folder"
            ) from error
        return Base(model, processor, sha256_folder(Path(plan.base)), plan.base)
    folder = work / "base"
    cost = 0.0
    if not (folder / "config.json").is_file():
        if devices.start().num_processes > 1:
            raise UserError("a base is trained in one process", "start one process first, or give --base FOLDER")
        say(_base_budget(plan))
        start = time.process_time()
        _train_base(plan, folder)
        cost = time.process_time() - start
    model, processor = load(folder)
    return Base(model, processor, sha256_folder(folder), f"base stage of the recipe x {plan.base_share:g}", cost)


def _base_budget(plan: Plan) -> str:
    import json

    from armor_model import bundled

    costs = json.loads((Path(bundled("armor-nano")) / "training.json").read_text(encoding="utf-8"))["cost"]
    seconds = sum(c["cpu_seconds"] for c in costs if c["name"] in ("vqgan", "vision", "data", "base"))
    return (
        f"the base is trained first: about {seconds * plan.base_share / 60:.1f} CPU-minutes, as the bundled one took; "
        "--base bundled or --base FOLDER starts from one that is there"
    )


def _train_base(plan: Plan, folder: Path) -> None:
    from trainer.checkpoints import save_model
    from trainer.shapes.recipe import default_recipe, scaled, train_nano

    recipe = default_recipe(0)
    recipe = replace(recipe, stages=tuple(s for s in recipe.stages if s.stage == "base"))
    if plan.base_share < 1:
        recipe = scaled(recipe, plan.base_share)
    outcome = train_nano(recipe, folder.with_name("base-training"))
    save_model(outcome.model, outcome.processor, folder)


def _untrained(plan: Plan, work: Path) -> Base:
    """The random-backbone twin: the same image tokenizer in front of a model that has learned nothing."""
    import torch

    from trainer.shapes.recipe import build, default_recipe

    trained = get_base(plan, work)
    torch.manual_seed(1)
    model, _ = build(default_recipe(1))
    return Base(model, trained.processor, "random-backbone-seed-1", "untrained backbone, trained image tokenizer")


def new_arm(base: Base, heads: str, init: str, seed: int) -> Any:
    """A model to train: the base's weights, new parts drawn from `seed`, equal in both kinds of heads.

    The single head's original rows are the text head's, its further rows the switching arm's <imgbos> and visual rows,
    and adapter and embeddings are the same tensors: before the first step both arms give every image token the same
    relative probability, so what differs afterwards is not the draw.
    """
    import torch

    from armor_model import ArmorConfig, ArmorForConditionalGeneration

    def fresh(kind: str) -> Any:
        fields = {k: v for k, v in base.model.config.to_dict().items() if k not in ("model_type", "architectures")}
        fields.pop("transformers_version", None)
        config = ArmorConfig(**{**fields, "heads": kind})
        torch.manual_seed(seed)
        return ArmorForConditionalGeneration(config).to(next(base.model.parameters()).dtype)

    switching = fresh("switching")
    old = {n: p for n, p in base.model.state_dict().items() if not n.startswith(_NEW_PARTS)}
    missing = [n for n in switching.load_state_dict(old, strict=False).missing_keys if not n.startswith(_NEW_PARTS)]
    if missing:
        raise UserError(f"the base lacks {missing[0]}")
    switching.init_new_parts(init)
    if heads == "switching":
        return switching
    single = fresh("single")
    single.load_state_dict(switching.state_dict(), strict=False)
    with torch.no_grad():
        V = single.config.vocab_size
        single.single_head.weight[:V] = switching.lm_head.weight
        single.single_head.weight[V] = switching.imgbos_head.weight[0]
        single.single_head.weight[V + 1 :] = switching.visual_head.weight
    return single


_NEW_PARTS = ("new_embeddings", "adapter", "imgbos_head", "visual_head", "single_head")
