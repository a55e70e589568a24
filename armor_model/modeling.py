"""ARMOR's model: a multimodal base model with an adapter on the visual branch and a second head.

    embeddings -> decoder blocks (untouched) -> hidden -+-> norm -> text head: V original rows, <imgbos> apart
                                                        +-> adapter -> norm -> visual head: <imgend>, <imgpad>, codes

Text never passes the adapter, so the original vocabulary's logits are the base's own. Source: the paper's Figure 3.

Legend: B batch, T tokens, S cached slots, D width, V original vocabulary, K codes, N supervised positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from armor_model.base.runtime import prepare_torchvision

prepare_torchvision()  # before transformers' model classes, which import torchvision

from transformers import AutoModelForImageTextToText, PreTrainedModel  # noqa: E402
from transformers import initialization as init  # noqa: E402
from transformers.masking_utils import create_causal_mask  # noqa: E402
from transformers.models.internvl.modeling_internvl import InternVLForConditionalGeneration  # noqa: E402
from transformers.utils import ModelOutput  # noqa: E402

from armor_model.base.errors import UserError, reason_of  # noqa: E402
from armor_model.bases import BaseModel, find_base, named  # noqa: E402
from armor_model.config import ArmorConfig, ArmorFields, config_class  # noqa: E402
from armor_model.loading import check_checkpoint  # noqa: E402
from armor_model.losses import asked, summed_losses  # noqa: E402


@dataclass
class ArmorOutput(ModelOutput):
    """Losses of one batch; each is a mean over the positions its head was asked about, None where it was not asked."""

    loss: Tensor | None = None
    """alpha * text_loss + beta * image_loss (equation 3)."""
    text_loss: Tensor | None = None
    """Equation 1 over its number of tokens."""
    image_loss: Tensor | None = None
    """Equation 2 over its number of tokens; of the single head, over the whole vocabulary."""
    image_loss_image_tokens: Tensor | None = None
    """Image loss with the softmax taken over the K + 2 image tokens only: comparable between the two kinds of heads."""
    text_tokens: int | None = None
    """Positions that the text head was asked about."""
    image_tokens: int | None = None
    """Positions that the visual head was asked about."""


class ArmorModel(PreTrainedModel):
    """The paper's model without its base: new embeddings, adapter, two heads with forward switching (or one).

    The first parent of ARMOR's model for each base; the second is transformers' class, which gives `model` and
    `lm_head`.
    """

    config: ArmorFields
    model: PreTrainedModel
    lm_head: nn.Linear
    _tied_weights_keys = None

    def __init__(self, config: ArmorFields):
        super().__init__(config)
        self.base: BaseModel = find_base(config.base_name)
        decoder = self.decoder
        layer_class, norm_class = type(decoder.layers[0]), type(decoder.norm)
        D, K = config.text_config.hidden_size, config.codebook_size
        self.new_embeddings = nn.Parameter(torch.empty(config.num_new_tokens, D))
        # A config of its own: decoder layers look themselves up by index in layer_types, and in a cache of their own.
        adapter_config = deepcopy(config.text_config)
        adapter_config.num_hidden_layers = config.num_adapter_layers
        if hasattr(adapter_config, "layer_types"):
            adapter_config.layer_types = ["full_attention"] * config.num_adapter_layers
        self.adapter = nn.ModuleList(layer_class(adapter_config, i) for i in range(config.num_adapter_layers))
        self.adapter_norm = norm_class(D, eps=config.text_config.rms_norm_eps)
        if config.heads == "switching":
            # A matmul of its own: a row added to lm_head would change its kernel's rounding.
            self.imgbos_head = nn.Linear(D, 1, bias=False)
            self.visual_head = nn.Linear(D, K + 2, bias=False)
        else:
            self.single_head = nn.Linear(D, config.vocab_size + config.num_new_tokens, bias=False)
        self._is_hf_initialized = False  # the parent's post_init has marked this module as done
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.new_embeddings, std=self.config.text_config.initializer_range)

    @property
    def decoder(self) -> PreTrainedModel:
        """The text decoder: `embed_tokens`, `layers`, `norm`, `rotary_emb`."""
        return self.base.decoder(self.model)

    @property
    def blocks(self) -> list[nn.Module]:
        """Transformer blocks of vision tower, decoder and adapter: what sharding wraps one by one."""
        return [*self.base.vision_blocks(self.model), *self.decoder.layers, *self.adapter]

    @classmethod
    def from_base(cls, base: PreTrainedModel, adapter_init: str = "copy", **settings: Any) -> Self:
        """An ARMOR around a base model in memory, with its weights, and new parts initialised at random.

        Args:
            base: transformers' model with its head; its tensors are copied.
            adapter_init: `copy` the last decoder blocks, or `random`.
            settings: of ArmorFields, e.g. `codebook_size=128, image_grid=4, num_adapter_layers=2, heads="single"`.
        """
        known = base.config.to_dict()
        for drop in ("model_type", "architectures", "transformers_version", "tie_word_embeddings"):
            known.pop(drop, None)
        model = cls(cls.config_class(**{**known, **settings}))
        model = model.to(base.dtype)
        state = {**base.state_dict(), "lm_head.weight": base.lm_head.weight}
        unexpected = model.load_state_dict(state, strict=False).unexpected_keys
        if unexpected:
            raise UserError(f"the base holds a weight that ARMOR has no place for: {unexpected[0]}")
        model.init_new_parts(adapter_init)
        return model.to(base.device)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *args: object, **kwargs: Any) -> Any:
        """transformers' `from_pretrained` (with `dtype`, `device_map`, ...), from safetensors only; each weight is
        accounted for. Raises UserError for a folder that is not an ARMOR checkpoint, or a damaged one."""
        folder = check_checkpoint(folder)
        wants_info = kwargs.pop("output_loading_info", False)
        # a mis-shaped weight is let through, to be named below
        kwargs.update(use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True)
        try:
            loaded: Any = super().from_pretrained(str(folder), *args, **kwargs)
        except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, StrictDataclassError) as error:
            raise UserError(f"the checkpoint in {folder} cannot be loaded: {reason_of(error)}") from error
        model, info = loaded
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info.get(problem):
                name = sorted(str(key) for key in info[problem])[0]
                raise UserError(f"the checkpoint in {folder} does not fit: {problem.replace('_', ' ')}, first {name}")
        for name, weight in model.named_parameters():  # 17 GB/s on one core
            if not weight.is_meta and not all(bound.isfinite() for bound in torch.aminmax(weight)):
                raise UserError(f"the checkpoint in {folder}: {name} holds NaN or infinity", "take an earlier one")
        return (model, info) if wants_info else model

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        """transformers' `save_pretrained`, with tensors under their module names: InternVL's legacy prefixes, which it
        would restore, fit only half of an ARMOR."""
        super().save_pretrained(str(folder), **{"save_original_format": False, **kwargs})

    @torch.no_grad()
    def init_new_parts(self, adapter_init: str = "copy") -> None:
        """Initialise what the base lacks from what it has: the adapter (`copy` of the last blocks, or `random`), its
        norm (a copy of the final norm) and, in the single-head arm, the head's original rows."""
        if adapter_init not in ("copy", "random"):
            raise UserError(f"adapter_init must be copy or random, not {adapter_init!r}")
        decoder = self.decoder
        self.adapter_norm.load_state_dict(decoder.norm.state_dict())
        if adapter_init == "copy" and len(self.adapter):
            if len(self.adapter) > len(decoder.layers):
                raise UserError(f"cannot copy {len(self.adapter)} blocks from a decoder of {len(decoder.layers)}")
            for new, old in zip(self.adapter, decoder.layers[-len(self.adapter) :], strict=True):
                new.load_state_dict(old.state_dict())
        if self.config.heads == "single":
            self.single_head.weight[: self.config.vocab_size] = self.lm_head.weight

    # ---- parts ---------------------------------------------------------------------------------------------

    @property
    def part_modules(self) -> dict[str, list[nn.Module | nn.Parameter]]:
        """The parts that the training stages name. Every parameter is in exactly one."""
        decoder, switching = self.decoder, self.config.heads == "switching"
        return {
            "vision": [self.get_submodule(path) for path in self.base.vision_paths],
            "projector": [self.get_submodule(path) for path in self.base.projector_paths],
            "embeddings": [decoder.embed_tokens],
            "decoder": [decoder.layers, decoder.norm],
            "new_embeddings": [self.new_embeddings],
            "adapter": [self.adapter, self.adapter_norm],
            "text_head": [self.lm_head],
            "imgbos_row": [self.imgbos_head] if switching else [],
            "visual_head": [self.visual_head if switching else self.single_head],
        }

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by part (see `part_modules`); the single head counts as `visual_head`, its lm_head is not used."""
        return {
            name: [p for m in modules for p in ([m] if isinstance(m, nn.Parameter) else m.parameters())]
            for name, modules in self.part_modules.items()
        }

    # ---- the forward pass, in the pieces that training and generation share --------------------------------

    def embed(self, input_ids: Tensor, images: Sequence[Tensor] | None = None) -> Tensor:
        """Token ids (B, T) of the whole vocabulary, and preprocessed images for the placeholders in reading order, to
        embeddings (B, T, D), with more columns for a base's deepstack. The vision tower sees a tensor once that stands
        in several places."""
        V = self.config.vocab_size
        is_new = input_ids >= V
        old_BTD = self.decoder.embed_tokens(input_ids.clamp(max=V - 1))
        new_BTD = F.embedding((input_ids - V).clamp(min=0), self.new_embeddings)
        embeds_BTD = torch.where(is_new[..., None], new_BTD.to(old_BTD.dtype), old_BTD)
        if not images:
            return embeds_BTD
        each = {id(image): image for image in images}
        seen = self.base.image_features(self.model, [image.to(embeds_BTD.device) for image in each.values()])
        by_image = dict(zip(each, seen, strict=True))
        features_PF = torch.cat([by_image[id(image)] for image in images]).to(embeds_BTD.dtype)
        mask_BT1 = (input_ids == self.config.image_token_id)[..., None]
        if (count := int(mask_BT1.sum())) != len(features_PF):
            raise ValueError(f"{count} image placeholders do not take features of shape {tuple(features_PF.shape)}")
        if extra := features_PF.shape[-1] - embeds_BTD.shape[-1]:
            embeds_BTD = F.pad(embeds_BTD, (0, extra))
        return embeds_BTD.masked_scatter(mask_BT1, features_PF)

    def place(
        self,
        input_ids: Tensor,
        images: Sequence[Tensor] | None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor | None:
        """Position ids with the images' own: (B, T, 1 + A) where the base places images, else `position_ids` as they
        are, None for the plain count."""
        if not images:
            return position_ids
        counts_BT = self.positions(attention_mask, input_ids) if position_ids is None else position_ids
        placed = self.base.place(counts_BT, input_ids, images, self.config.image_token_id)
        return position_ids if placed is None else placed

    def rotary(self, like: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the decoder's rotary embedding for position ids (B, T) or (B, T, 1 + A), on the device
        and of the type of `like`."""
        return self.decoder.rotary_emb(like, self.base.positions(position_ids))

    def positions(self, attention_mask: Tensor | None, like_BT: Tensor) -> Tensor:
        """Position ids (B, T): a count of the real tokens before, so that padding on either side changes nothing."""
        if attention_mask is not None and attention_mask.ndim == 2:
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return torch.arange(like_BT.shape[1], device=like_BT.device)[None].expand(like_BT.shape[0], -1)

    def _blocks(
        self,
        layers: nn.ModuleList,
        hidden_BTD: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: object,
        rotary: tuple[Tensor, Tensor] | None,
        deep: Sequence[Tensor] = (),
    ) -> Tensor:
        counts = given = position_ids
        if given is not None and given.ndim == 3:
            counts = given = given[..., 0]
        mask = attention_mask
        if position_ids is None:
            counts = position_ids = self.positions(attention_mask, hidden_BTD)
        if cache is None and (mask is None or mask.ndim != 4):
            mask = create_causal_mask(
                config=self.config.text_config,
                inputs_embeds=hidden_BTD,
                attention_mask=attention_mask,
                past_key_values=None,
                position_ids=given if attention_mask is None else None,
            )
        rotary = rotary or self.rotary(hidden_BTD, position_ids)
        for i, layer in enumerate(layers):
            hidden_BTD = layer(
                hidden_BTD,
                attention_mask=mask,
                position_ids=counts,
                position_embeddings=rotary,
                past_key_values=cache,
                use_cache=cache is not None,
            )
            if i < len(deep):
                hidden_BTD = hidden_BTD + deep[i]
        return hidden_BTD

    def backbone(
        self,
        embeds_BTD: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: object = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The text decoder's blocks, and nothing after them: hidden states (B, T, D) before the final norm.

        Args:
            embeds_BTD: from `embed`.
            attention_mask: (B, T) of real tokens, or 4-dimensional as the attention kernel wants it, or None.
            position_ids: (B, T), or (B, T, 1 + A) of `place`; by default counted from the mask.
            cache: anything with transformers' `update(keys, values, layer_index)`; then the mask is 4-dimensional or
                None, which says that every token may see every cached one before it.
            rotary: cosines and sines of the positions, where the caller has them already.
        """
        hidden_BTD, *deep = embeds_BTD.split(self.config.text_config.hidden_size, dim=-1)
        return self._blocks(self.decoder.layers, hidden_BTD, attention_mask, position_ids, cache, rotary, deep)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) before the final norm to logits (..., V + 1); the last column is <imgbos>."""
        normed = self.decoder.norm(hidden)
        return torch.cat([self.lm_head(normed), self.imgbos_head(normed)], dim=-1)

    def visual_hidden(
        self,
        hidden_BTD: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: object = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The adapter: hidden states before the final norm (B, T, D) to the visual branch's (B, T, D), before its norm.
        Arguments as `backbone`'s."""
        return self._blocks(self.adapter, hidden_BTD, attention_mask, position_ids, cache, rotary)

    def visual_logits(self, visual: Tensor) -> Tensor:
        """The adapter's output (..., D) to logits: (..., K + 2), where column j is token V + 1 + j; of the single head
        (..., V + K + 3), where column j is token j."""
        normed = self.adapter_norm(visual)
        return self.visual_head(normed) if self.config.heads == "switching" else self.single_head(normed)

    # ---- losses --------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Sequence[Tensor] | None = None,
        text_labels: Tensor | None = None,
        image_labels: Tensor | None = None,
        alpha: float = 1.0,
        beta: float = 1.0,
        position_ids: Tensor | None = None,
    ) -> ArmorOutput:
        """Losses (1)-(3) of the paper. A head is computed only at the positions it is asked about, and not at all when
        its weight is zero or nobody asks; the adapter only runs over rows that the visual head is asked about.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T) of real tokens, or 4-dimensional for packed rows, or None.
            pixel_values: each image of all rows as the processor cuts it, in reading order.
            text_labels: (B, T); at t the token that the text head must say there, i.e. the NEXT one; -100: not asked.
            image_labels: (B, T); likewise for the visual head (a code or <imgend>, as token ids).
            alpha: weight of the text loss.
            beta: weight of the image loss.
            position_ids: (B, T), for packed rows.
        """
        position_ids = self.place(input_ids, pixel_values, attention_mask, position_ids)
        hidden_BTD = self.backbone(self.embed(input_ids, pixel_values), attention_mask, position_ids)
        text_BT = asked(text_labels, alpha, 0, self.config.imgbos_id, "text")
        image_BT = asked(image_labels, beta, self.config.imgend_id, self.config.last_id, "image")
        out = ArmorOutput()
        if text_BT is None and image_BT is None:
            return out
        sums = summed_losses(self, hidden_BTD, text_BT, image_BT, attention_mask, position_ids, renormalise=True)
        weighted = []
        if sums.text_each is not None:
            out.text_tokens = len(sums.text_each)
            out.text_loss = sums.text / out.text_tokens
            weighted.append(alpha * out.text_loss)
        if sums.image_each is not None and sums.image_renormalised is not None:
            out.image_tokens = len(sums.image_each)
            out.image_loss = sums.image / out.image_tokens
            out.image_loss_image_tokens = sums.image_renormalised / out.image_tokens
            weighted.append(beta * out.image_loss)
        out.loss = sum(weighted[1:], weighted[0])
        return out


class ArmorForConditionalGeneration(ArmorModel, InternVLForConditionalGeneration):
    """ARMOR on InternVL."""

    config_class = ArmorConfig
    config: ArmorConfig


AutoModelForImageTextToText.register(ArmorConfig, ArmorForConditionalGeneration, exist_ok=True)


@cache
def model_class(base_name: str) -> type[ArmorModel]:
    """ARMOR's class on a base, known to transformers' AutoModelForImageTextToText. Raises UserError for an unknown
    base."""
    if base_name == "internvl":
        return ArmorForConditionalGeneration
    parent, config = named(find_base(base_name).model_class), config_class(base_name)
    fields = {"__module__": __name__, "__annotations__": {"config": config}, "config_class": config}
    made = type(f"Armor{parent.__name__}", (ArmorModel, parent), fields)
    AutoModelForImageTextToText.register(config, made, exist_ok=True)
    return made
