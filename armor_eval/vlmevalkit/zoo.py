"""`--model vlmeval:NAME`: any entry of VLMEvalKit's zoo, through our journal and guards.

It is asked as VLMEvalKit asks it: by its own prompt for the data set where it has one, else by the data set's.
A wrapper builds its words inside the function that generates. It is run up to the call of its processor, which takes
them out: so they are VLMEvalKit's to the letter, without a copy of them here.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.models.base import Answer, Decoding, Question
from armor_eval.runs.provenance import packages
from armor_eval.runs.schema import ModelInfo, Profile
from armor_eval.vlmevalkit.importing import quiet_vlmeval
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.hashing import sha256_json
from armor_model.base.jsons import JsonObject
from armor_model.bases import named

if TYPE_CHECKING:
    from PIL import Image
    from vlmeval.vlm.base import BaseModel

FAILURES = ("Failed to obtain answer via API", "Failed to obtain answer")
"""What VLMEvalKit writes in the place of an answer that it did not get."""


class ZooModel:
    """One question at a time: these models know no batches."""

    def __init__(self, name: str) -> None:
        from armor_eval.vlmevalkit.importing import quiet_vlmeval

        with quiet_vlmeval():
            from vlmeval.config import supported_VLM

            if name not in supported_VLM:
                raise UserError(
                    f"VLMEvalKit's zoo has no {name!r}{did_you_mean(name, supported_VLM)}", "see vlmutil mlist all"
                )
            self._make = supported_VLM[name]
        self._model: BaseModel | None = None
        self._images = Path(tempfile.mkdtemp(prefix="armor-eval-zoo-"))
        self.protocol = f"vlmeval:{name}"
        version = packages().get("ms-vlmeval", "?")
        settings = getattr(self._make, "keywords", {})
        self.info = ModelInfo(
            spec=f"vlmeval:{name}", name=name, fingerprint=sha256_json(["vlmeval", version, name, settings])
        )

    def _load(self) -> BaseModel:
        if self._model is None:
            from armor_eval.vlmevalkit.importing import quiet_vlmeval

            with quiet_vlmeval():
                try:
                    self._model = self._make()
                except Exception as error:  # each zoo entry fails in its own way: missing packages, weights, a GPU
                    first = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                    raise UserError(f"VLMEvalKit cannot build {self.info.name}: {first}") from error
            if hasattr(self._model, "set_dump_image"):
                self._model.set_dump_image(lambda line: line["__pictures__"])
        return self._model

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """The zoo's models carry their own decoding settings; ours only name the run."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        import torch

        model = self._load()
        try:
            message = self._message(model, question)
            with torch.no_grad():
                text = model.generate(message=message, dataset=question.dataset)
        except Exception as error:  # a row's failure is the row's
            return Answer(error=" ".join(f"{type(error).__name__}: {error}".split())[:500])
        if not isinstance(text, str):
            return Answer(error=f"the model gave {type(text).__name__} instead of text")
        if any(text.startswith(said) for said in FAILURES):
            return Answer(error=text[:500])
        asked = "\n".join(m["value"] for m in message if m["type"] == "text")
        return Answer(text=text, extras={"vlmeval_prompt": asked})

    def _message(self, model: BaseModel, question: Question) -> list[dict[str, str]]:
        paths = [self._write(part) for part in question.parts if not isinstance(part, str)]
        line = {**question.fields, "__pictures__": paths}
        if hasattr(model, "use_custom_prompt") and model.use_custom_prompt(question.dataset):
            return model.build_prompt(line, dataset=question.dataset)
        message = dataset_prompt(question.dataset, line)
        if message is None:
            raise ValueError(f"VLMEvalKit knows no data set {question.dataset}")
        return message

    def _write(self, image: Image.Image | Path) -> str:
        if isinstance(image, Path):
            return str(image)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        path = self._images / f"{hashlib.sha256(buffer.getvalue()).hexdigest()[:32]}.png"
        if not path.exists():
            path.write_bytes(buffer.getvalue())
        return str(path)

    def close(self) -> None:
        self._model = None
        shutil.rmtree(self._images, ignore_errors=True)


def load(rest: str, profile: Profile) -> ZooModel:
    """Takes no options: an entry of the zoo carries its own."""
    if not rest:
        raise UserError("vlmeval: lacks a model", "expected vlmeval:NAME, see vlmutil mlist all")
    return ZooModel(rest)


def dataset_prompt(name: str | None, line: JsonObject) -> list[JsonObject] | None:
    """The data set's own prompt for a row, from an object without data; None for one that VLMEvalKit does not know."""
    from vlmeval.dataset import DATASET_CLASSES

    owner = next((c for c in DATASET_CLASSES if name in c.supported_datasets()), None)
    if owner is None:
        return None
    dataset = owner.__new__(owner)
    dataset.dataset_name, dataset.meta_only = name, False
    dataset.dump_image = lambda row: row["__pictures__"]
    return dataset.build_prompt(line)


# --- how VLMEvalKit asks a base model --------------------------------------------------------------------------------


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
