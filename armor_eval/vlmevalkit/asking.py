"""How VLMEvalKit asks a base model: in the data set's words, or in those of the model's own wrapper.

A wrapper builds its words inside the function that generates. It is run up to the call of its processor, which takes
them out: so they are VLMEvalKit's to the letter, without a copy of them here.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

from armor_eval.models.base import Question
from armor_eval.vlmevalkit.importing import quiet_vlmeval
from armor_eval.vlmevalkit.zoo import dataset_prompt
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.bases import named

WRAPPERS = {
    "qwen2_5_vl": None,
    "qwen3_vl": None,
    "smolvlm": "vlmeval.vlm.smolvlm:SmolVLM",
    "idefics3": "vlmeval.vlm.idefics:IDEFICS2",  # by which its zoo runs Idefics3 too
}
"""Base -> wrapper whose words it is asked in; None: the data set's (the zoo says `use_custom_prompt=False`)."""
_TURN = re.compile(r"(?:<\|im_start\|>)?User:(.*)<end_of_utterance>\nAssistant:(.*)", re.DOTALL)


class _Asked(Exception):  # noqa: N818 - not an error: the way out of a wrapper that would go on to generate
    """Holds the words."""


def protocol_of(base: str) -> str | None:
    """Name of the words for a base; None where they are ours (InternVL's)."""
    return f"vlmeval:{base}" if base in WRAPPERS else None


def in_own_words(question: Question, base: str) -> Question:
    """The question as VLMEvalKit asks this base; unchanged where it knows no such data set. Without the data set's row
    its parts are the data set's words already: VLMEvalKit asks itself. Raises UserError where it cannot be asked so."""
    try:
        return _asked(question, base)
    except Exception as error:  # each data set and wrapper fails in its own way; a row's failure is the row's
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"VLMEvalKit cannot ask {base} this question: {reason}") from error


def _asked(question: Question, base: str) -> Question:
    images = [part for part in question.parts if not isinstance(part, str)]
    message: list[JsonObject] | None
    kind = _wrapper(base)
    if question.fields:
        message = dataset_prompt(question.dataset, {**question.fields, "__pictures__": images})
    else:
        message = [{"type": "text" if isinstance(part, str) else "image", "value": part} for part in question.parts]
    if message is None:
        return question
    parts, prefix = [part["value"] for part in message], ""
    if kind is not None:
        parts, prefix = _wrapped(kind, message, question.dataset)
    return replace(question, parts=parts, answer_prefix=prefix, upscale_first=False)


@cache
def _wrapper(base: str) -> object:
    """The wrapper's class, or None; its package turns gradients off when it is imported, which is undone here."""
    with quiet_vlmeval():
        return named(path) if (path := WRAPPERS[base]) else None


def _wrapped(kind: Any, message: list[JsonObject], dataset: str | None) -> tuple[list[object], str]:
    """Text and images of the user's turn, and what the answer begins with."""
    from PIL import Image

    def processor(text: str, **_: object) -> None:
        raise _Asked(text)

    wrapper = kind.__new__(kind)  # without weights, which __init__ would load
    wrapper.processor = processor
    blank = Image.new("RGB", (1, 1))  # the wrapper opens and copies what it is given: the images stay ours
    try:
        wrapper.generate_inner([{**m, "value": blank} if m["type"] == "image" else m for m in message], dataset)
    except _Asked as asked:
        turn = _TURN.fullmatch(str(asked))
        if turn is None:
            raise ValueError(f"{kind.__name__} asks in another form: {str(asked)[:80]!r}") from None
        images = [m["value"] for m in message if m["type"] == "image"]
        pieces = turn[1].split("<image>", len(images))
        mixed = [part for pair in zip(pieces, [*images, ""], strict=True) for part in pair]
        mixed = [part for part in mixed if not isinstance(part, str) or part]
        if isinstance(mixed[0], str):  # the chat template puts the space there
            mixed[0] = mixed[0].removeprefix(" ")
        return mixed, turn[2]
    raise ValueError(f"{kind.__name__} asked nothing")
