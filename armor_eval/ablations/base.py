"""The understanding model that every arm starts from, with its image tokenizer, and the arms' own copies of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.ablations.plan import Plan
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_folder
from armor_model.base.jsons import JsonObject
from armor_model.bases import BASES

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor
    from trainer.batches import Example

log = logging.getLogger(__name__)


@dataclass
class Base:
    """A loaded understanding model and what belongs to it. `model` is never trained: arms take copies."""

    model: ArmorModel
    processor: ArmorProcessor
    fingerprint: str
    source: str
    """Where it comes from, for the record."""
    cpu_seconds: float = 0.0
    """What training it cost; 0 where it was there."""

    def shards(self, plan: Plan, kinds: tuple[str, ...]) -> tuple[JsonObject, list[Example]]:
        """(pools to train on, examples held back) of tokenised folders; the last of each type are held back.

        Raises UserError where a type is missing or too small.
        """
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
            pools[kind] = found[kind].first(size - plan.validation)
            held += [found[kind][i] for i in range(size - plan.validation, size)]
        return pools, held


def get_base(plan: Plan, work: Path, *, random_backbone: bool = False, say: Callable[[str], None] = log.info) -> Base:
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
    elif plan.base != "train" and plan.base not in BASES:
        try:
            model, processor = load(Path(plan.base))
        except ArmorError as error:
            raise UserError(
                f"base {plan.base!r}: {error}",
                f"expected `train`, `bundled`, a checkpoint folder, or a base to train on: {', '.join(BASES)}",
            ) from error
        return Base(model, processor, sha256_folder(Path(plan.base)), plan.base)
    folder = work / "base"
    cost = 0.0
    if not (folder / "config.json").is_file():
        if devices.start().num_processes > 1:
            raise UserError("a base is trained in one process", "start one process first, or give --base FOLDER")
        say(
            f"the base is trained first: about {plan.world.base_seconds(plan.base_share) / 60:.1f} CPU-minutes, as the "
            "bundled one took; --base bundled or --base FOLDER starts from one that is there"
        )
        start = time.process_time()
        plan.world.train_base(plan.base_share, folder, plan.base if plan.base in BASES else "internvl")
        cost = time.process_time() - start
    model, processor = load(folder)
    return Base(model, processor, sha256_folder(folder), f"base stage of the recipe x {plan.base_share:g}", cost)


def _untrained(plan: Plan, work: Path) -> Base:
    """The random-backbone twin: the same image tokenizer in front of a model that has learned nothing."""
    processor = get_base(plan, work).processor
    model = plan.world.untrained_model(1, processor.base.name)
    return Base(model, processor, "random-backbone-seed-1", "untrained backbone, trained image tokenizer")


def new_arm(base: Base, heads: str, init: str, seed: int) -> ArmorModel:
    """A model to train: the base's weights, new parts drawn from `seed`, equal in both kinds of heads.

    The single head's original rows are the text head's, its further rows the switching arm's <imgbos> and visual rows,
    and adapter and embeddings are the same tensors: before the first step both arms give every image token the same
    relative probability, so what differs afterwards is not the draw.
    """
    import torch

    from armor_model import new_model
    from armor_model.config import make_config

    def fresh(kind: str) -> ArmorModel:
        fields = {k: v for k, v in base.model.config.to_dict().items() if k != "architectures"}
        fields.pop("transformers_version", None)
        config = make_config({**fields, "heads": kind})
        torch.manual_seed(seed)
        return new_model(config).to(next(base.model.parameters()).dtype)

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
