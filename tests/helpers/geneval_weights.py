"""Stand-ins for GenEval's published weights: the same parts, filled at random."""

from pathlib import Path

from armor_eval.tasks.geneval import mask2former as M
from armor_eval.tasks.geneval.colors import ClipColors
from armor_eval.tasks.geneval.prompts import Vocabulary


def write_mask2former(path: Path, sure: float = 1.0) -> dict:
    """68.7 M random parameters under mmdet 2's names, the class head's times `sure`; the state as it was written."""
    import torch

    torch.manual_seed(0)
    network = M.build_mmdet()
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 68.74
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "sampling_offsets" not in name:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
            if "cls_embed" in name:
                parameter *= sure
    old = {}
    for name, value in network.state_dict().items():
        if "pixel_decoder.encoder.layers" in name:
            name = name.replace(".self_attn.", ".attentions.0.").replace(".ffn.", ".ffns.0.")
        if "transformer_decoder.layers" in name:
            name = name.replace(".cross_attn.", ".attentions.0.").replace(".self_attn.", ".attentions.1.")
            name = name.replace(".ffn.", ".ffns.0.")
        old[name] = value
    torch.save({"state_dict": old, "meta": {}}, path)
    return old


def small_clip(vocabulary: Vocabulary) -> ClipColors:
    """A CLIP of a few thousand parameters, QuickGELU."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    import open_clip
    import torch

    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "patch_size": 8, "image_size": 32, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CLIP(16, vision, text, quick_gelu=True)
    parts = (model, open_clip.get_tokenizer("ViT-L-14"), open_clip.image_transform(32, is_train=False))
    return ClipColors(vocabulary, {}, "cpu", lambda: parts, batch=3)
