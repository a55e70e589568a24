"""`--model vlmeval:NAME`: any entry of VLMEvalKit's zoo, through our journal and guards.

It is asked as VLMEvalKit asks it: by its own prompt for the data set where it has one, else by the data set's.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.models.base import Answer, Decoding, Question
from armor_eval.runs.provenance import packages
from armor_eval.runs.schema import ModelInfo, Profile
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.hashing import sha256_json
from armor_model.base.jsons import JsonObject

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
    """The data set's own prompt for a row, from a data set object without data; None for a data set that VLMEvalKit
    does not know."""
    from vlmeval.dataset import DATASET_CLASSES

    owner = next((c for c in DATASET_CLASSES if name in c.supported_datasets()), None)
    if owner is None:
        return None
    dataset = owner.__new__(owner)
    dataset.dataset_name, dataset.meta_only = name, False
    dataset.dump_image = lambda row: row["__pictures__"]
    return dataset.build_prompt(line)
