"""A judge that looks at free answers: what grading them one by one and comparing them in pairs have in common."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar

from armor_eval.runs.bundle import Bundle
from armor_eval.runs.comparable import reservations_of
from armor_eval.runs.schema import ModelInfo, Profile, Reservation
from armor_eval.tasks.interleaved.answers import Answer, Answers
from armor_eval.tasks.modality.layouts import IMAGE
from armor_eval.tasks.modality.records import image_in
from armor_eval.tasks.suites.judges import Judge, Reading, Shown
from armor_model.base.errors import RunFailed, one_line
from armor_model.base.hashing import sha256_json
from armor_model.base.images import BadImageError

if TYPE_CHECKING:
    from PIL import Image

    from armor_eval.models.base import Model

Key = TypeVar("Key", bound=Hashable)
Reply = list[Reading] | Exception
Opened = tuple[list["Image.Image"], list["Image.Image"]]
"""The images of a question, and of its answer."""
CARRIED = ("data", "subset", "blind", "blank", "failed", "decoding")
"""Kinds of reservations on a run of answers that its grades have too."""
UNKNOWN = (
    "whether the judge looks at place, length or author was not measured (armor-eval judge calibrate, --calibration)"
)


class Looks:
    """A judge, and what is known of it: None where nobody looked (armor_eval.tasks.interleaved.honesty).

    A reply that failed is asked for again when a run is resumed.
    """

    whole_batches = False

    model: ModelInfo
    """Who gave the answers that are looked at."""
    profile: Profile

    def __init__(self, judge: Judge, reservations: Sequence[Reservation] | None) -> None:
        self._judge, self._known, self._ready = judge, reservations, False

    def check(self, model: Model) -> None:
        """Any answers can be looked at."""

    def begin(self, bundle: Bundle, model: Model) -> None:
        """Failed looks are open again: the answers are here, only the judge is asked."""
        bundle.forget(id for id, item in bundle.items.items() if item.status == "judge_failed")

    def _replies(self, shown: Mapping[Key, Shown], room: int, bundle: Bundle) -> dict[Key, Reply]:
        """The judge's, by key. RunFailed where it fails on all of the first."""
        if not self._ready:
            self._judge.prepare("rubric")
            self._ready = True
        replies = dict(zip(shown, self._judge.replies(list(shown.values()), room), strict=True)) if shown else {}
        failed = [reply for reply in replies.values() if isinstance(reply, Exception)]
        if len(failed) > 1 and len(failed) == len(replies) and not bundle.items:
            raise RunFailed(f"the judge failed on the first {len(failed)} answers: {one_line(str(failed[0]))[:200]}")
        return replies

    def _reservations(self, models: Sequence[ModelInfo]) -> list[Reservation]:
        """What is known of the judge, and that it looks at answers of its own."""
        own = [model.name for model in models if _is(self._judge, model)]
        text = f"the judge looks at its own answers: {', '.join(own)}"
        return [*(self._known or ()), *([Reservation(kind="judge", text=text)] if own else [])]

    def _notes(self) -> list[str]:
        return [UNKNOWN] if self._known is None else []


def _is(judge: Judge, model: ModelInfo) -> bool:
    """Whether the judge gave the answers, by its name or by its weights."""
    version = judge.info.version
    return judge.info.name == model.name or bool(version and model.fingerprint.startswith(version))


def opened(source: Answers, answer: Answer) -> Opened | Exception:
    """An answer's images; the exception where one cannot be read, or the model gave no answer."""
    if answer.failed is not None:
        return RuntimeError(f"the model gave no answer: {answer.failed}")
    try:
        given, drawn = image_in(source.given), image_in(source.root)
        return [given(name) for name in answer.given], [drawn(name) for name in answer.image]
    except (OSError, BadImageError) as error:
        return error


def parts(source: Answers, answer: Answer) -> list[str | Image.Image] | Exception:
    """The answer as the model gave it: texts and images in their order."""
    found = opened(source, answer)
    if isinstance(found, Exception):
        return found
    texts, images = [text.strip() for text in (answer.answer or "").split(IMAGE)], found[1]
    return [part for pair in zip_longest(texts, images, fillvalue="") for part in pair if part != ""]


def carried(source: Answers) -> list[Reservation]:
    """What the answers of a run are reserved by, and so their grades."""
    return [] if source.run is None else [r for r in reservations_of(source.run) if r.kind in CARRIED]


def questions_of(rows: Sequence[Answer]) -> str:
    """sha256 of what was asked."""
    return sha256_json([[one.id, one.question] for one in rows])


def reason_of(reply: Reply | None) -> str:
    """Why a look came to nothing."""
    return one_line(f"unread: {reply[0].text}" if isinstance(reply, list) else f"judge: {reply}")[:300]
