"""Losses (1)-(3) of the paper at the asked positions only, with logits that never exist all at once.

Shapes: N supervised positions, D model width, V rows of a head. A plain cross-entropy over (B*T, V) keeps logits, their
log-softmax and their gradient: at V = 92,553 and 4,096 positions 4.5 GB in fp32, three quarters of them for positions
that no loss asks about. Here positions are gathered first, and logits are made, used and dropped in chunks; both
gradients are finished in the forward pass, so nothing of size N x V is kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Label of a position that a head is not asked about."""

CHUNK_ELEMENTS = 1 << 24
"""Logits alive at once (64 MiB in fp32): large enough to keep matmuls busy, small against any head."""


class _ChunkedHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND: Tensor, labels_N: Tensor, rows: int, *weights: Tensor) -> tuple[Tensor, Tensor]:
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
                    if grads[i] is not None and grads[i].dtype == kind:
                        grads[i].addmm_(slope.t(), part)
                    elif grads[i] is not None:
                        grads[i] += slope.t() @ part
                    at += w.shape[0]
        ctx.save_for_backward(grad_hidden, *grads)
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx, upstream: Tensor, _: Tensor) -> tuple:
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
