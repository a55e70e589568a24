"""What a suite asks of a judge: one small protocol, the records that go in and out; and from `--judge` to a judge.

A judge implements what it can. An image that fails is that image's exception, never the batch's. Adding a kind of judge
is one line in JUDGES.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.jsons import JsonView

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedTokenizerBase

JUDGES: dict[str, tuple[str, str]] = {
    "hf": ("armor_eval.tasks.suites.judges.hf:load", "hf:ID[@REVISION]"),
    "openai": ("armor_eval.tasks.suites.judges.served:load", "openai:URL#NAME"),
    "replies": ("armor_eval.tasks.suites.judges.recorded:load", "replies:FILE"),
    "shapes-detector": ("armor_eval.shapes.editing:load_judge", "shapes-detector"),
    "armor": ("armor_eval.tasks.suites.judges.armor:load", "armor:FOLDER or armor:armor-nano"),
    "scene": ("armor_eval.tasks.suites.judges.scene:load", "scene (embedded world only)"),
    "mplug": ("armor_eval.tasks.suites.judges.mplug:load", "mplug"),
}
"""Word before the colon -> (module:function(rest, profile, **options) -> Judge, how it is typed)."""


def load_judge(spec: str, profile: Profile, **options: object) -> Judge:
    """The judge of a specification. UserError where it names none."""
    kind, _, rest = spec.partition(":")
    if kind not in JUDGES:
        shows = ", ".join(shows for _, shows in JUDGES.values())
        raise UserError(f"no judge {spec!r}{did_you_mean(kind, JUDGES)}", f"expected one of: {shows}")
    module, function = JUDGES[kind][0].split(":")
    judge: Judge = getattr(importlib.import_module(module), function)(rest, profile, **options)
    return judge


def spec_for(suite: Suite, asked: str | None, say: str) -> str:
    """The judge asked for, or the suite's default. UserError where there is none; `say`: how one is given."""
    if (spec := asked or suite.default_judge) is None:
        own = f"; its own judge is {suite.own_judge}" if suite.own_judge else ""
        raise UserError(f"{suite.name} needs a judge{own}", f"say {say} hf:ID, openai:URL#NAME or replies:FILE")
    return spec


@dataclass(frozen=True)
class Ask:
    """One probe as it is put to the judge."""

    probe: Probe
    text: str
    """The template, filled."""
    system: str | None = None


@dataclass(frozen=True)
class Shown:
    """One image with everything that is asked about it."""

    item: SuiteItem
    sample: int
    """From 0."""
    images: tuple[Image.Image, ...]
    """RGB; the item's source images first, the judged image last."""
    asks: tuple[Ask, ...]
    image_last: bool = False
    """The words come before the images."""


@dataclass(frozen=True)
class Reading:
    """What the judge made of one probe."""

    text: str
    """Its answer, raw; for probabilities the likeliest first token."""
    log_p: float | None = None
    """Natural logarithm (float64) of the first tokens' probability mass; -inf is 0. None where none was asked."""
    extras: JsonView = field(default_factory=dict)


class Judge(Protocol):
    """A model, a server, recorded replies, or a rule, that looks at images."""

    info: JudgeInfo
    settings: JsonView
    """Decoding, precision asked for, image size: all whose change would change a score. Known before it is loaded."""
    facts: JsonView
    """What loading showed (device, how prefixes are shared), for the record; filled by `prepare`."""

    def prepare(self, kind: str) -> None:
        """Load, and try what a kind needs. UserError where this judge cannot do it."""
        ...

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        """For each image a reading (with `log_p`) an ask, in order."""
        ...

    def replies(self, shown: Sequence[Shown], max_new_tokens: int) -> list[list[Reading] | Exception]:
        """For each image a reading (greedy text) an ask, in order."""
        ...

    def close(self) -> None: ...


class UnreadReply(ValueError):  # noqa: N818 - what the reply is
    """One line: a judge's reply that no rule reads. Its image has no score, and the headline is withheld."""


# --- first-token probabilities ---------------------------------------------------------------------------------------


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
