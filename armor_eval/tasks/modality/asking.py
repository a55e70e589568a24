"""Asks a model records of free requests: what the tasks of modality and of interleaved answers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.engine import Conversation, Unit
from armor_eval.engine.task import Request
from armor_eval.models.base import RespondsFreely
from armor_eval.models.drawing import is_blank
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import Item
from armor_eval.tasks.modality.layouts import IMAGE
from armor_eval.tasks.modality.records import Record, choose, conversation
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_text
from armor_model.base.images import BadImageError
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from armor_eval.models.base import Model


class AsksRecords:
    """Units, requests and the answer's part of items. `seed` chooses the subset and, where `drawn_from` does not, with
    a request's id seeds its images. `image` gives the PIL image of a name in a record's `images`."""

    whole_batches = False

    def __init__(
        self,
        records: list[Record],
        image: Callable[[str], object],
        *,
        limit: int | None,
        seed: int,
        drawn_from: int | None,
    ) -> None:
        self._all, self._image = records, image
        self._records, self._subset = choose(records, limit, seed, lambda record: record.kind)
        self._by_id = {record.id: record for record in self._records}
        self._seed = seed if drawn_from is None else drawn_from

    def check(self, model: Model) -> None:
        if not isinstance(model, RespondsFreely):
            raise UserError(f"{model.info.name} cannot answer with text and images", "see armor-eval list")

    def units(self) -> Sequence[Unit]:
        return [Unit(r.id, r.cluster or r.id, r.kind, r.wants) for r in self._records]

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Any]:
        return [self._request(unit) for unit in units]

    def _request(self, unit: Unit) -> Request | Exception:
        try:
            messages = conversation(self._by_id[unit.id], self._image)
        except (OSError, BadImageError) as error:
            return error
        return Conversation(unit.id, messages, int(sha256_text(f"{self._seed}:{unit.id}")[:8], 16))

    def _asked(self, unit: Unit, request: object, bundle: Bundle) -> JsonObject:
        """The fields of an item that say what was asked."""
        fields = unit.fields(self._by_id[unit.id].prompt, gold=unit.gold)
        if isinstance(request, Conversation):
            parts = [part for message in request.messages for part in message["content"]]
            fields["images"] = [bundle.add_image(part["image"]) for part in parts if part["type"] == "image"]
        return fields

    @staticmethod
    def _answered(output: Sequence[Any], bundle: Bundle) -> tuple[JsonObject, JsonObject]:
        """The fields of an item that say what came, and what its extras tell of it: how many images are of one single
        colour (`blank`), the text with a mark for each image where they do not all stand at its end (`answer`)."""
        images = [part for part in output if not isinstance(part, str)]
        text = " ".join(part for part in output if isinstance(part, str)).strip()
        marked = " ".join(part if isinstance(part, str) else IMAGE for part in output).strip()
        more: JsonObject = {"answer": marked} if images and marked != " ".join([text, *[IMAGE] * len(images)]) else {}
        if blank := sum(map(is_blank, images)):
            more["blank"] = blank
        return {"output": text or None, "output_images": [bundle.add_image(image) for image in images]}, more

    def _scored(self, bundle: Bundle) -> list[Item]:
        """The journaled items, in the records' order."""
        return [bundle.items[r.id] for r in self._records if r.id in bundle.items]
