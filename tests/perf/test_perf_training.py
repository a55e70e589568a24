"""Heads and losses at supervised positions only, against plain full logits of both heads: time, peak memory, same
gradients.

The issue's size: vocabulary 92,553, width 1024, 4,096 positions of which a quarter are supervised.
"""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F

from armor_model.losses import IGNORE, head_losses, supervised

pytestmark = pytest.mark.perf

V, D, T, K = 92_553, 1024, 4_096, 8_192
SIZE = "width 1,024, 92,553 words"
STAGE = {  # name: (text positions, image positions, trained: rows of the text head, the <imgbos> row, the visual head)
    "1": (T // 4, 0, (True, True, False)),
    "2": (0, T // 4, (False, False, True)),
    "3": (T // 8, T // 8, (True, True, True)),
}


def make(stage: str):
    g = torch.Generator().manual_seed(0)
    text, image, trained = STAGE[stage]
    hidden = torch.randn(T, D, generator=g)
    heads = [torch.randn(rows, D, generator=g).mul_(0.02) for rows in (V, 1, K + 2)]
    order = torch.randperm(T, generator=g)
    labels_text, labels_image = torch.full((T,), IGNORE), torch.full((T,), IGNORE)
    labels_text[order[:text]] = torch.randint(0, V + 1, (text,), generator=g)
    labels_image[order[text : text + image]] = torch.randint(0, K + 2, (image,), generator=g)
    hidden.requires_grad_(True)
    for head, on in zip(heads, trained, strict=True):
        head.requires_grad_(on)
    return hidden, heads, labels_text, labels_image


def plain(hidden, heads, labels_text, labels_image):
    """What transformers' models do: logits of every position, then a masked cross-entropy; here for both heads."""
    text = F.cross_entropy(hidden @ torch.cat(heads[:2]).t(), labels_text, reduction="sum", ignore_index=IGNORE)
    image = F.cross_entropy(hidden @ heads[2].t(), labels_image, reduction="sum", ignore_index=IGNORE)
    return text + image


def ours(hidden, heads, labels_text, labels_image):
    total = hidden.new_zeros(())
    for labels, weights in ((labels_text, heads[:2]), (labels_image, heads[2:])):
        asked, wanted = supervised(hidden, labels)
        total = total + head_losses(asked, wanted, list(weights))[0]
    return total


def measured(function, parts) -> tuple[float, int, float, list]:
    """Loss, peak bytes allocated beyond weights and their gradients, CPU-seconds, gradients.

    One pass for all of it: the profiler sees some hundred operations in half a minute, so it costs nothing, and a
    second pass of the plain way would double the bench.
    """
    from torch.profiler import ProfilerActivity, profile

    tensors = [parts[0], *parts[1]]
    for t in tensors:
        t.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        started = time.process_time()
        loss = function(*parts)
        loss.backward()
        seconds = time.process_time() - started
    kept = sum(t.grad.numel() * 4 for t in tensors[1:] if t.grad is not None)
    peak = peak_bytes(record) - kept
    gradients = [t.grad for t in tensors]
    return float(loss.detach()), peak, seconds, gradients


def peak_bytes(record) -> int:
    """Largest sum of live allocations during the profile, from the profiler's own memory events in order of time."""
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("stage", list(STAGE))
def test_head_and_loss_where_supervised(stage, bench_row):
    torch.set_num_threads(1)
    parts = make(stage)
    slow = measured(plain, parts)
    fast = measured(ours, parts)
    assert fast[0] == pytest.approx(slow[0], rel=1e-5)
    for ours_, theirs in zip(fast[3], slow[3], strict=True):
        if theirs is None or not theirs.any():
            assert ours_ is None or not ours_.any()
        else:
            assert float((ours_ - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))
    time_ratio, memory_ratio = slow[2] / fast[2], slow[1] / max(1, fast[1])
    bench_row(f"head and loss, stage {stage}: CPU time", time_ratio, "x", ">= 3", plain_s=slow[2], ours_s=fast[2])
    peaks = {"plain_mib": slow[1] / 2**20, "ours_mib": fast[1] / 2**20}
    bench_row(f"head and loss, stage {stage}: peak memory", memory_ratio, "x less", ">= 3", **peaks)
    assert time_ratio >= 3
    assert memory_ratio >= 3
