"""Mask2Former Swin-S, GenEval's detector, in two forms with the same weights: mmdet's own, and transformers'.

Shape legend: B images of one size, Q queries, C classes, h x w mask logits, N detections, H x W image pixels.

Both forms share the resizing (the mmdet 2.x way: uint8) and the post-processing, which drops the queries that cannot
pass the score threshold before their masks are enlarged. A score is class probability times mean mask probability, and
the latter is at most 1, so nothing that could pass is lost: results are bitwise mmdet's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.base.mmcv import load_checkpoint, prepare_mmcv, quiet_openmmlab
from armor_eval.tasks.geneval.detections import Instances
from armor_model.base.errors import UserError, reason_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SCALE = (1333, 800)
"""Longer and shorter side that an image is fitted into."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of RGB, 0..255."""
DIVISOR = 32
TOP = 100
"""(query, class) pairs that are looked at in an image."""
CONFIG = "mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"


@dataclass(frozen=True)
class Architecture:
    """Sizes; the defaults are the published model, 68.7 M parameters."""

    embed: int = 96
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    queries: int = 100
    encoder_layers: int = 6
    decoder_layers: int = 9
    classes: int = 80


def build_mmdet(architecture: Architecture = Architecture()) -> nn.Module:
    """mmdet's network from the configuration inside its wheel, without weights (and without fetching any)."""
    prepare_mmcv()
    with quiet_openmmlab():
        import mmdet
        import mmdet.models
        from mmdet.registry import MODELS
        from mmengine.config import Config
        from mmengine.registry import DefaultScope

        config = Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / CONFIG)
        model, sizes = config.model, architecture
        model.backbone.init_cfg = None
        model.backbone.update(embed_dims=sizes.embed, depths=sizes.depths, num_heads=sizes.heads)
        head = model.panoptic_head
        head.in_channels = [sizes.embed * 2**i for i in range(4)]
        head.num_queries = sizes.queries
        head.num_things_classes = model.panoptic_fusion_head.num_things_classes = sizes.classes
        head.loss_cls.class_weight = [1.0] * sizes.classes + [0.1]
        head.pixel_decoder.encoder.num_layers = sizes.encoder_layers
        head.transformer_decoder.num_layers = sizes.decoder_layers
        if DefaultScope.get_current_instance() is None:
            DefaultScope.get_instance("armor-eval", scope_name="mmdet")
        network = MODELS.build(model)
    network.cfg = config
    return network.eval()


def build_transformers(architecture: Architecture = Architecture()) -> nn.Module:
    """The same network as transformers' Mask2FormerForUniversalSegmentation, without weights."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=224,
        patch_size=4,
        embed_dim=architecture.embed,
        depths=list(architecture.depths),
        num_heads=list(architecture.heads),
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=architecture.classes,
        num_queries=architecture.queries,
        encoder_layers=architecture.encoder_layers,
        decoder_layers=architecture.decoder_layers + 1,  # it counts the prediction before the first layer
    )
    return Mask2FormerForUniversalSegmentation(config).eval()


# --- weights ---------------------------------------------------------------------------------------------------------

_TO_VERSION_3 = (
    (r"(pixel_decoder\.encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.0\.", r"\1.cross_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.self_attn."),
    (r"((?:pixel_decoder\.encoder|transformer_decoder)\.layers\.\d+)\.ffns\.0\.", r"\1.ffn."),
)
"""mmdet 2.x listed a layer's parts in the order they ran; 3.x names them."""


def to_version_3(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmdet 2.x parameter names as 3.x writes them; 3.x names pass unchanged."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in _TO_VERSION_3:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


_SWIN = "model.pixel_level_module.encoder"
_PIXEL = "model.pixel_level_module.decoder"
_QUERY = "model.transformer_module"
_MLP = f"{_QUERY}.decoder.mask_predictor.mask_embedder."
_TO_TRANSFORMERS = (
    (r"backbone\.patch_embed\.projection", f"{_SWIN}.swin.embeddings.patch_embeddings.projection"),
    (r"backbone\.patch_embed\.norm", f"{_SWIN}.swin.embeddings.norm"),
    (r"backbone\.stages\.", f"{_SWIN}.swin.encoder.layers."),
    (r"\.attn\.w_msa\.relative_position_bias_table", ".attention.relative_position_bias.relative_position_bias_table"),
    (r"\.attn\.w_msa\.proj\.", ".attention.o_proj."),
    (r"(blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"(blocks\.\d+)\.ffn\.layers\.0\.0\.", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.ffn\.layers\.1\.", r"\1.mlp.fc2."),
    (r"panoptic_head\.pixel_decoder\.level_encoding\.weight", f"{_PIXEL}.level_embed"),
    (r"panoptic_head\.pixel_decoder\.input_convs\.(\d+)\.conv\.", rf"{_PIXEL}.input_projections.\1.0."),
    (r"panoptic_head\.pixel_decoder\.input_convs\.(\d+)\.gn\.", rf"{_PIXEL}.input_projections.\1.1."),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.conv\.", f"{_PIXEL}.adapter_1.0."),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.gn\.", f"{_PIXEL}.adapter_1.1."),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.conv\.", f"{_PIXEL}.layer_1.0."),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.gn\.", f"{_PIXEL}.layer_1.1."),
    (r"panoptic_head\.pixel_decoder\.mask_feature\.", f"{_PIXEL}.mask_projection."),
    (r"panoptic_head\.pixel_decoder\.encoder\.", f"{_PIXEL}.encoder."),
    (r"(decoder\.encoder\.layers\.\d+)\.norms\.0\.", r"\1.self_attn_layer_norm."),
    (r"(decoder\.encoder\.layers\.\d+)\.norms\.1\.", r"\1.final_layer_norm."),
    (r"panoptic_head\.transformer_decoder\.post_norm\.", f"{_QUERY}.decoder.layernorm."),
    (r"panoptic_head\.transformer_decoder\.", f"{_QUERY}.decoder."),
    (r"(module\.decoder\.layers\.\d+)\.norms\.0\.", r"\1.cross_attn_layer_norm."),
    (r"(module\.decoder\.layers\.\d+)\.norms\.1\.", r"\1.self_attn_layer_norm."),
    (r"(module\.decoder\.layers\.\d+)\.norms\.2\.", r"\1.final_layer_norm."),
    (r"\.cross_attn\.attn\.", ".cross_attn."),
    (r"\.self_attn\.attn\.", ".self_attn."),
    (r"\.ffn\.layers\.0\.0\.", ".fc1."),
    (r"\.ffn\.layers\.1\.", ".fc2."),
    (r"panoptic_head\.query_embed\.", f"{_QUERY}.queries_embedder."),
    (r"panoptic_head\.query_feat\.", f"{_QUERY}.queries_features."),
    (r"panoptic_head\.level_embed\.", f"{_QUERY}.level_embed."),
    (r"panoptic_head\.cls_embed\.", "class_predictor."),
)


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmdet's (2.x or 3.x) parameters under transformers' names and in its layouts."""
    import torch

    converted = {}
    for old, value in to_version_3(state).items():
        if old.endswith("relative_position_index"):
            continue  # derived from the window size
        name = re.sub(r"backbone\.norm(\d)\.", lambda m: f"{_SWIN}.hidden_states_norms.stage{int(m[1]) + 1}.", old)
        # the mask MLP is Linear, ReLU, Linear, ReLU, Linear: layers 0, 2, 4
        name = re.sub(r"panoptic_head\.mask_embed\.(\d)\.", lambda m: f"{_MLP}{int(m[1]) // 2}.0.", name)
        for pattern, replacement in _TO_TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        if ".attn.w_msa.qkv." in name:
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                converted[name.replace(".attn.w_msa.qkv.", f".attention.{part}_proj.")] = chunk.clone()
        elif ".self_attn.in_proj_" in name:
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                converted[name.replace(".in_proj_", f".{part}_proj.")] = chunk.clone()
        elif ".downsample." in name:
            # mmdet unfolds a 2x2 block channel-major, rows first; transformers stacks the four pixels, columns first
            blocks = value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
            converted[name] = blocks.transpose(-1, -2).flatten(-2).contiguous()
        else:
            converted[name] = value
    assert all(isinstance(value, torch.Tensor) for value in converted.values())
    return converted


_UNUSED = {"criterion.empty_weight", f"{_SWIN}.swin.layernorm.weight", f"{_SWIN}.swin.layernorm.bias"}
"""transformers' parameters that inference never reads."""


def load_weights(network: nn.Module, state: Mapping[str, Tensor], form: str, where: str) -> None:
    """Fill the network; every parameter must be there and fit, else the file is of another architecture."""
    converted = to_transformers(state) if form == "transformers" else to_version_3(state)
    own = network.state_dict()
    derived = {name for name in own if name.endswith("relative_position_index")} | _UNUSED
    missing = [name for name in own if name not in converted and name not in derived]
    wrong = [name for name in own if name in converted and converted[name].shape != own[name].shape]
    if missing or wrong:
        first = (missing or wrong)[0]
        raise UserError(
            f"{where} is not Mask2Former Swin-S, COCO instance: "
            f"{len(missing)} parameters missing, {len(wrong)} of another shape, e.g. {first}"
        )
    network.load_state_dict({k: v for k, v in converted.items() if k in own}, strict=False)


def read_state(path: Path) -> dict[str, object]:
    """The parameters in an mmdet checkpoint file or a safetensors file."""
    import pickle

    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file: {error}") from None
    prepare_mmcv()
    try:
        checkpoint = load_checkpoint(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint with weights_only: {reason_of(error)}") from None
    return checkpoint.get("state_dict", checkpoint)


# --- images in, detections out -------------------------------------------------------------------------------------


def resize(images: Sequence[np.ndarray]) -> np.ndarray:
    """RGB uint8 images of one size -> [B, H, W, 3] of the network's."""
    import mmcv

    return np.stack([mmcv.imrescale(np.ascontiguousarray(i), SCALE, interpolation="bilinear") for i in images])


def normalise(resized: np.ndarray, device: torch.device | str) -> Tensor:
    """RGB uint8 [B, H, W, 3] -> normalised, padded pixels [B, 3, H', W']."""
    import torch

    height, width = resized.shape[1:3]
    pixels = torch.from_numpy(resized).to(device).permute(0, 3, 1, 2).float()
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=device).view(1, 3, 1, 1)
    pixels = (pixels - mean) / std
    pad = (0, -width % DIVISOR, 0, -height % DIVISOR)
    return torch.nn.functional.pad(pixels, pad)


def forward(network: nn.Module, form: str, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits [B, Q, C + 1] and mask logits [B, Q, h, w] of the last layer."""
    import torch

    with torch.inference_mode():
        if form == "transformers":
            output = network(pixel_values=pixels)
            return output.class_queries_logits, output.masks_queries_logits
        from mmdet.structures import DetDataSample

        shape = tuple(pixels.shape[-2:])
        sample = DetDataSample(metainfo={"batch_input_shape": shape, "img_shape": shape})
        classes, masks = network.panoptic_head(network.extract_feat(pixels), [sample] * len(pixels))
        return classes[-1], masks[-1]


def detections_of(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    size: tuple[int, int],
    above: float,
) -> Instances:
    """One image's detections whose score is strictly above `above`, by falling score.

    class_logits [Q, C + 1], mask_logits [Q, h, w]; `size` is the image's own (height, width). Each step is mmdet's,
    on the queries that can pass only: enlarge to the padded input, cut the padding, resize to the image.
    """
    import torch
    import torch.nn.functional as F

    with torch.inference_mode():
        probabilities = class_logits.softmax(-1)[:, :-1]
        classes = probabilities.shape[1]
        top, indices = probabilities.flatten().topk(min(TOP, probabilities.numel()), sorted=False)
        possible = top > above
        top, indices = top[possible], indices[possible]
        labels = indices % classes
        queries, query_of = torch.unique(indices // classes, return_inverse=True)
        if len(queries) == 0:
            return Instances.nothing(size)
        logits = F.interpolate(mask_logits[queries][None], size=padded, mode="bilinear", align_corners=False)[0]
        logits = logits[:, : resized[0], : resized[1]]
        logits = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        masks = logits > 0
        inside = masks.float()
        mean = (logits.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
        scores = top * mean[query_of]
        kept = scores > above
        order = scores[kept].argsort(descending=True, stable=True)
        picked = query_of[kept][order]
        boxes = _boxes(masks)[picked]
        arrays = (labels[kept][order], scores[kept][order], boxes, masks[picked])
        return Instances(*(array.cpu().numpy() for array in arrays))


def _boxes(masks: Tensor) -> Tensor:
    """x1, y1, x2, y2 around each mask, the far edges exclusive; zeros for an empty one. [N, H, W] -> [N, 4]."""
    import torch

    rows, columns = masks.any(2), masks.any(1)
    boxes = []
    for line in (columns, rows):
        length = line.shape[1]
        first = line.int().argmax(1)
        last = length - line.flip(1).int().argmax(1)
        boxes.append((first, last))
    (x1, x2), (y1, y2) = boxes
    found = torch.stack([x1, y1, x2, y2], 1).float()
    return found * masks.flatten(1).any(1)[:, None]
