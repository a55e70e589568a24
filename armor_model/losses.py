"""Losses (1)-(3) of the paper at the asked positions only, with logits that never exist all at once.

Shapes: B rows, T positions, N supervised positions, D model width, V rows of a head.
A plain cross-entropy over (B*T, V) keeps logits, their log-softmax and their gradient: at V = 92,553 and 4,096
positions 4.5 GB in fp32, three quarters of them for positions that no loss asks about. Here positions are gathered
first, and logits are made, used and dropped in chunks; both gradients are finished in the forward pass, so nothing of
size N x V is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

    from armor_model.modeling import ArmorModel

IGNORE = -100
"""Label of a position that a head is not asked about."""

CHUNK_ELEMENTS = 1 << 24
"""Logits alive at once (64 MiB in fp32): large enough to keep matmuls busy, small against any head."""


class _ChunkedHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden_ND: Tensor, labels_N: Tensor, rows: int, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        count, width = hidden_ND.shape[0], sum(w.shape[0] for w in weights)
        need_hidden = ctx.needs_input_grad[0]
        need_weight = [ctx.needs_input_grad[3 + i] for i in range(len(weights))]
        grad_hidden = torch.empty_like(hidden_ND) if need_hidden else None
        grads = [torch.zeros_like(w) if need else None for w, need in zip(weights, need_weight, strict=True)]
        losses_N = hidden_ND.new_empty(count, dtype=torch.float32)
        kind = _compute_type(hidden_ND)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            typed = [w.to(kind) for w in weights]
            for start in range(0, count, rows):
                part = hidden_ND[start : start + rows].to(kind)
                labels = labels_N[start : start + rows]
                logits = part.new_empty((part.shape[0], width), dtype=torch.float32)
                at = 0
                for w in typed:
                    out = logits[:, at : at + w.shape[0]]
                    if kind == torch.float32:
                        torch.mm(part, w.t(), out=out)
                    else:
                        out.copy_(part @ w.t())
                    at += w.shape[0]
                picked = logits.gather(1, labels[:, None]).squeeze(1)
                normaliser = torch.logsumexp(logits, dim=1)
                losses_N[start : start + rows] = normaliser - picked
                if not (need_hidden or any(need_weight)):
                    continue
                # d loss / d logits = softmax - onehot, in place: the logits are not needed any more.
                logits.sub_(normaliser[:, None]).exp_()
                logits.scatter_add_(1, labels[:, None], logits.new_full((part.shape[0], 1), -1.0))
                logits = logits.to(kind)
                at = 0
                for i, w in enumerate(typed):
                    slope = logits[:, at : at + w.shape[0]]
                    if grad_hidden is not None:
                        if i == 0:
                            grad_hidden[start : start + rows] = slope @ w
                        else:
                            grad_hidden[start : start + rows] += slope @ w
                    if (grad := grads[i]) is not None:
                        if grad.dtype == kind:
                            grad.addmm_(slope.t(), part)
                        else:
                            grad += slope.t() @ part
                    at += w.shape[0]
        ctx.save_for_backward(grad_hidden, *grads)
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: FunctionCtx, upstream: Tensor, _: Tensor) -> tuple:
        grad_hidden, *grads = ctx.saved_tensors
        # In place: these buffers belong to this node alone, and a copy of a head's gradient would double its memory.
        return (
            None if grad_hidden is None else grad_hidden.mul_(upstream),
            None,
            None,
            *(None if g is None else g.mul_(upstream) for g in grads),
        )


def _compute_type(hidden: Tensor) -> torch.dtype:
    """Under autocast its type, as for any other linear layer; a custom function is not cast by itself."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def head_losses(
    hidden_ND: Tensor, labels_N: Tensor, weights: list[Tensor], chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a bias-free head in nats: the sum, to go backward from, and each position's, detached.

    hidden_ND: the head's input at the supervised positions. labels_N: row indices into the heads' rows,
    stacked in order.
    weights: the head's matrices (rows, D), several where one head is kept in pieces (InternVL's rows and <imgbos>).
    The gradient is computed in the forward pass, once: a second backward through the same node is an error.
    """
    if hidden_ND.shape[0] == 0:
        return hidden_ND.new_zeros((), dtype=torch.float32), hidden_ND.new_zeros(0, dtype=torch.float32)
    width = sum(w.shape[0] for w in weights)
    if hidden_ND.shape[0] * width <= chunk_elements // 4:
        # Small enough that one plain matmul is the fastest way (armor-nano).
        stacked = weights[0] if len(weights) == 1 else torch.cat(weights)
        scores_NV = F.log_softmax((hidden_ND @ stacked.t()).float(), dim=1)
        return F.nll_loss(scores_NV, labels_N, reduction="sum"), -scores_NV.detach().gather(1, labels_N[:, None])[:, 0]
    rows = max(1, min(hidden_ND.shape[0], chunk_elements // width))
    return _ChunkedHeadLoss.apply(hidden_ND, labels_N, rows, *weights)


def supervised(hidden_BTD: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The positions that have a label: hidden (N, D) and labels (N,)."""
    asked_BT = labels_BT != IGNORE
    return hidden_BTD[asked_BT], labels_BT[asked_BT]


class Sums(NamedTuple):
    """Summed losses of one batch in nats; the caller divides by counts over all processes, not by its own."""

    text: Tensor
    """Equation (1), before it is divided."""
    image: Tensor
    """Equation (2), before it is divided; of the single head, over its whole vocabulary."""
    text_each: Tensor | None
    """(N,) of every supervised position in reading order, detached; None where the head is not asked."""
    image_each: Tensor | None
    """Likewise of the visual head."""
    image_renormalised: Tensor | None = None
    """The image loss with the softmax over the K + 2 image tokens only, detached; where it was asked for."""


def summed_losses(
    model: ArmorModel,
    hidden_BTD: Tensor,
    text_BT: Tensor | None,
    image_BT: Tensor | None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    every_part: bool = False,
    renormalise: bool = False,
) -> Sums:
    """Both heads' losses behind the decoder. The adapter only runs over rows that the visual head is asked about.

    Args:
        hidden_BTD: the decoder's output, before its final norm.
        text_BT: label of each position, the token that the text head must say there, or IGNORE; None leaves the head
            out.
        image_BT: likewise of the visual head (a code or <imgend>, as token ids).
        attention_mask: of the batch, for the adapter.
        position_ids: of packed rows.
        every_part: run each head asked for also where no position is asked about, at weight zero: DDP and FSDP wait for
            every trained part.
        renormalise: compute `image_renormalised` as well.
    """
    nothing = hidden_BTD.new_zeros(())

    def visual(labels_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The visual branch's output (N, D) and labels (N,) at the supervised positions; the branch at weight zero."""
        rows_B = (labels_BT != IGNORE).any(dim=1)
        if every_part and not rows_B.any():
            rows_B[0] = True
        if not rows_B.any():
            return hidden_BTD.new_zeros(0, hidden_BTD.shape[2]), labels_BT.new_zeros(0), nothing
        kept: list[Tensor | None] = [hidden_BTD, attention_mask, position_ids, labels_BT]
        if not rows_B.all():
            kept = [one if one is None or len(one) == 1 else one[rows_B] for one in kept]
        visual_BTD = model.visual_hidden(*kept[:3])
        visual_ND, labels_N = supervised(visual_BTD, kept[3])
        unasked = 0 * model.visual_logits(visual_BTD[:1, :1]).sum() if every_part else nothing
        return model.adapter_norm(visual_ND), labels_N, unasked

    if model.config.heads == "single":
        return _single(model, text_BT, image_BT, visual, renormalise)
    text, text_each, image, image_each = nothing, None, nothing, None
    if text_BT is not None:
        normed_ND, labels_N = supervised(hidden_BTD, text_BT)
        normed_ND = model.decoder.norm(normed_ND)
        text, text_each = head_losses(normed_ND, labels_N, [model.lm_head.weight, model.imgbos_head.weight])
        if every_part:
            text = text + 0 * model.text_logits(hidden_BTD[:1, :1]).sum()
    if image_BT is not None:
        visual_ND, labels_N, unasked = visual(image_BT)
        image, image_each = head_losses(visual_ND, labels_N - model.config.imgend_id, [model.visual_head.weight])
        image = image + unasked
    return Sums(text, image, text_each, image_each, image.detach() if renormalise else None)


def _single(
    model: ArmorModel,
    text_BT: Tensor | None,
    image_BT: Tensor | None,
    visual: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    renormalise: bool,
) -> Sums:
    """The ablation's Normal arm: every position through adapter and one head over V + 3 + K tokens."""
    given = text_BT if text_BT is not None else image_BT
    none_BT = torch.full_like(given, IGNORE)
    labels_text = none_BT if text_BT is None else text_BT
    either_BT = torch.where(labels_text != IGNORE, labels_text, none_BT if image_BT is None else image_BT)
    visual_ND, labels_N, unasked = visual(either_BT)
    is_text_N = (labels_text != IGNORE)[either_BT != IGNORE]
    head, first = model.single_head.weight, model.config.imgend_id
    text, text_each = head_losses(visual_ND[is_text_N], labels_N[is_text_N], [head])
    image_ND, codes_N = visual_ND[~is_text_N], labels_N[~is_text_N]
    image, image_each = head_losses(image_ND, codes_N, [head])
    inside = head_losses(image_ND.detach(), codes_N - first, [head.detach()[first:]])[0] if renormalise else None
    return Sums(
        text + unasked, image, None if text_BT is None else text_each, None if image_BT is None else image_each, inside
    )


def asked(labels_BT: Tensor | None, weight: float, first: int, last: int, head: str) -> Tensor | None:
    """The labels, checked to be the head's tokens; None where the head need not run."""
    if labels_BT is None or not weight or not bool((labels_BT != IGNORE).any()):
        return None
    labels_N = labels_BT[labels_BT != IGNORE]
    low, high = int(labels_N.min()), int(labels_N.max())
    if low < first or high > last:
        raise UserError(f"token {low if low < first else high} is not one of the {head} head's ({first} to {last})")
    return labels_BT
