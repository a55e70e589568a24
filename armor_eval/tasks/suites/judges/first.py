"""First-token probabilities: which tokens begin an answer, and how much mass they have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from armor_eval.tasks.suites.judges.base import Reading
from armor_model.base.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def first_ids(tokenizer: PreTrainedTokenizerBase, forms: Sequence[str], name: str) -> list[int]:
    """The distinct first tokens of an accept set, in order. UserError for a tokenizer that begins every text with one
    token: all probabilities would be of that one, near 0."""
    firsts = [tokenizer(form, add_special_tokens=False)["input_ids"][:1] for form in [*forms, "No"]]
    *own, other = firsts
    special = set(tokenizer.all_special_ids)
    if any(not first or first[0] in special or first == other for first in own):
        raise UserError(
            f"{name}: its tokenizer begins {forms[0]!r} with a token that is no part of it (BOS?)",
            "first-token probabilities would all be about 0: take another judge",
        )
    return list(dict.fromkeys(first[0] for first in own))


def reading_of(logits_V: torch.Tensor, ids: Sequence[int], text_of: Callable[[int], str]) -> Reading:
    """The probability mass of the tokens `ids` over the whole vocabulary [V], and the likeliest token of all.

    The softmax is float32, as in the official scripts (float64 is 2.2e-6 off their fixture, this 2.4e-7); what is made
    of its logarithms is float64, and does not underflow.
    """
    logs_V = logits_V.float().log_softmax(-1).double()
    log_p = float(logs_V[list(ids)].logsumexp(0))
    return Reading(text_of(int(logs_V.argmax())), min(log_p, 0.0) if math.isfinite(log_p) else -math.inf)
