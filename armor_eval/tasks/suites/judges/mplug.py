"""`--judge mplug`: DPG-Bench's own judge, mPLUG-large VQA, through modelscope (optional; not proven here).

modelscope's pipeline does what the official script relies on: the image squashed to 504x504, the question cut to 25
tokens, beam search of 5. Weights come from modelscope's hub on first use.
"""

from __future__ import annotations

from collections.abc import Sequence

from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.tasks.suites.judges import Reading, Shown
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject

MODEL = "iic/mplug_visual-question-answering_coco_large_en"


class MplugJudge:
    """One question at a time, in float32, as the official script asks."""

    def __init__(self, model: str, device: str | None) -> None:
        self._model, self._device, self._pipeline = model, device, None
        self.info = JudgeInfo(name=model.rpartition("/")[2], endpoint="local")
        self.settings: JsonObject = {"decoding": "modelscope's", "precision": "float32", "image": "504x504"}
        self.facts: JsonObject = {}

    def prepare(self, kind: str) -> None:
        if kind != "vqa_text":
            raise UserError("--judge mplug answers questions with a word", "this suite needs another judge")
        if self._pipeline is None:
            try:
                import modelscope
                from modelscope.pipelines import pipeline
                from modelscope.utils.constant import Tasks
            except ImportError as error:
                raise UserError(
                    f"--judge mplug needs modelscope ({error})",
                    "pip install 'modelscope[multi-modal]', or --judge hf:ID",
                ) from None
            self._pipeline = pipeline(Tasks.visual_question_answering, model=self._model, device=self._device or "gpu")
            self.facts = {"modelscope": modelscope.__version__}

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        raise UserError("--judge mplug gives no probabilities", "this suite needs --judge hf:ID")

    def replies(self, shown: Sequence[Shown], max_new_tokens: int) -> list[list[Reading] | Exception]:
        return [self._look(one) for one in shown]

    def _look(self, one: Shown) -> list[Reading] | Exception:
        assert self._pipeline is not None, "prepare() comes first"
        try:
            asked = [{"image": one.images[-1], "question": ask.text} for ask in one.asks]
            return [Reading(self._pipeline(question)["text"]) for question in asked]
        except (RuntimeError, ValueError, KeyError) as error:  # of this image: the others go on
            return error

    def close(self) -> None:
        self._pipeline = None


def load(rest: str, profile: Profile, *, device: str | None = None, **_: object) -> MplugJudge:
    return MplugJudge(rest or MODEL, device)
