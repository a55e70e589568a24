"""How VLMEvalKit asks a base model: in the data set's words, or in those of the model's own wrapper.

A wrapper builds its words inside the function that generates. It is run up to the call of its processor, which takes
them out: so they are VLMEvalKit's to the letter, without a copy of them here.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from armor_eval.models.base import Question
from armor_eval.vlmevalkit.zoo import dataset_prompt
from armor_model.bases import named

WRAPPERS = {"qwen2_5_vl": None, "qwen3_vl": None, "smolvlm": "vlmeval.vlm.smolvlm:SmolVLM"}
"""Base -> wrapper whose words it is asked in; None: the data set's (the zoo says `use_custom_prompt=False`)."""
_TURN = re.compile(r"<\|im_start\|>User:(.*)<end_of_utterance>\nAssistant:(.*)", re.DOTALL)


class _Asked(Exception):  # noqa: N818 - not an error: the way out of a wrapper that would go on to generate
    def __init__(self, text: str, images: list[Any]) -> None:
        super().__init__(text)
        self.text, self.images = text, images


def protocol_of(base: str) -> str | None:
    """Name of the words for a base; None where they are ours (InternVL's)."""
    return f"vlmeval:{base}" if base in WRAPPERS else None


def in_own_words(question: Question, base: str) -> Question:
    """The question as VLMEvalKit asks this base; unchanged where it knows no such data set. Without the data set's row
    its parts are the data set's words already: VLMEvalKit asks itself."""
    pictures = [part for part in question.parts if not isinstance(part, str)]
    message: list[dict[str, Any]] | None
    if question.fields:
        message = dataset_prompt(question.dataset, {**question.fields, "__pictures__": pictures})
    else:
        message = [{"type": "text" if isinstance(part, str) else "image", "value": part} for part in question.parts]
    if message is None:
        return question
    parts, prefix = [part["value"] for part in message], ""
    if WRAPPERS[base] is not None:
        parts, prefix = _wrapped(named(str(WRAPPERS[base])), message, question.dataset)
    return replace(question, parts=parts, answer_prefix=prefix, upscale_first=False)


def _wrapped(kind: Any, message: list[dict[str, Any]], dataset: str | None) -> tuple[list[Any], str]:
    """Text and pictures of the user's turn, and what the answer begins with."""

    def processor(text: str, images: list[Any], **_: Any) -> None:
        raise _Asked(text, images)

    wrapper = kind.__new__(kind)  # without weights, which __init__ would load
    wrapper.processor = processor
    try:
        wrapper.generate_inner(message, dataset)
    except _Asked as asked:
        turn = _TURN.fullmatch(asked.text)
        if turn is None:
            raise ValueError(f"{kind.__name__} asks in another form: {asked.text[:80]!r}") from None
        pieces, images = turn[1].split("<image>"), asked.images
        mixed = [piece for pair in zip(pieces, [*images, ""], strict=True) for piece in pair if piece != ""]
        if isinstance(mixed[0], str):  # the chat template puts the space there
            mixed[0] = mixed[0].removeprefix(" ")
        return mixed, turn[2]
    raise ValueError(f"{kind.__name__} asked nothing")
