"""Lossless parallel drawing: speculative Jacobi decoding with coupled draws.

Several codes are guessed, one pass computes what would be drawn after each guessed prefix - with the very random
numbers that one-by-one drawing uses there -, and the codes up to the first that differs from its guess, that one
included, are exactly those of one-by-one drawing. The rest are the next guesses. Training-free; fewer steps for a few
rows, more arithmetic in each: not for throughput.

Method: Song et al. 2021 (arXiv 2002.03629), Teng et al. 2024 (arXiv 2410.01699); ours keeps one number a position, so
that not the distribution alone but every image stays.

Legend: n rows, m conditional rows, W guessed codes, D width, K choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.generation.state import Batch, attention
from armor_model.generation.static import choose, code_logits, guide, roles

if TYPE_CHECKING:
    from armor_model.generation.api import GenerationSettings
    from armor_model.modeling import ArmorModel


def draw_parallel(model: ArmorModel, s: GenerationSettings, batch: Batch, steps: int, side: int) -> tuple[Tensor, int]:
    """`steps` codes for every conditional row (m, steps), and the passes that they took; advances the batch's slot.

    `side`: codes in a line of the image; what lies above is the first guess.
    """
    rows, n, device = batch.rows, len(batch.rows), batch.device
    cond, uncond, fed = roles(rows, s.guided)
    cond_m, uncond_m, fed_n = (torch.tensor(indices, device=device) for indices in (cond, uncond, fed))
    u_ms = batch.uniforms([rows[i] for i in cond], steps)
    low, first, done, passes = min(row.start for row in rows), batch.slot, 0, 0
    masks, positions = attention(model, rows, first, first + steps, low)
    rotary = model.rotary(model.new_embeddings, positions)
    drawn_mS = torch.tensor([rows[i].codes for i in cond], device=device)
    token_m = torch.tensor([rows[i].token for i in cond], device=device)
    guess_mW = torch.empty(len(cond), 0, dtype=torch.long, device=device)
    while done < steps:
        width = min(s.parallel_draw, steps - done)
        while guess_mW.shape[1] < width - 1:
            known_mS = torch.cat([drawn_mS, guess_mW], 1)
            above = known_mS[:, -side] if known_mS.shape[1] >= side else known_mS[:, -1]
            guess_mW = torch.cat([guess_mW, above[:, None]], 1)
        ids_mW = torch.cat([token_m[:, None], guess_mW[:, : width - 1] + model.config.first_code_id], 1)
        now, slot = slice(done, done + width), first + done
        mask = None if masks is None else masks[:, :, now, : slot + width - low]
        now_rotary = (rotary[0][:, now], rotary[1][:, now])
        batch.cache.at(n, slot, slot + width, low)
        batch.adapter_cache.at(n, slot, slot + width, low)
        hidden_nWD = model.backbone(model.embed(ids_mW[fed_n]), mask, positions[:, now], batch.cache, now_rotary)
        visual_nWD = model.visual_hidden(hidden_nWD, mask, positions[:, now], batch.adapter_cache, now_rotary)
        logits_nWK = code_logits(model, visual_nWD)
        logits_mWK = guide(logits_nWK, cond_m, uncond_m, s.guidance) if s.guided else logits_nWK
        codes_mW = choose(
            logits_mWK.flatten(0, 1), u_ms[:, now].flatten(), s.image_temperature, s.image_top_k, s.image_top_p
        ).view(len(cond), width)
        agreed = (codes_mW[:, : width - 1] == guess_mW[:, : width - 1]).long().cumprod(1).sum(1)
        right = int(agreed.min()) + 1
        drawn_mS = torch.cat([drawn_mS, codes_mW[:, :right]], 1)
        token_m = codes_mW[:, right - 1] + model.config.first_code_id
        guess_mW = codes_mW[:, right:]
        done, passes = done + right, passes + 1
    batch.slot += steps
    return drawn_mS[:, -steps:], passes
