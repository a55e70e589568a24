"""ARMOR as VLMEvalKit sees it: one class, registered from outside as `ARMOR`. Imported only where vlmeval is loaded.

armor-eval vlmeval -- --model ARMOR --data MMBench_DEV_EN
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from vlmeval.vlm.base import BaseModel

from armor_eval.models import registry
from armor_eval.models.base import Decoding, Question
from armor_eval.tasks.understanding import images, prompts
from armor_eval.tasks.understanding.declare import Benchmark, benchmarks
from armor_eval.tasks.understanding.table import Row
from armor_model.base.optional import not_none

if TYPE_CHECKING:
    import pandas as pd


NAME = "ARMOR"


class ArmorVLM(BaseModel):
    """One question at a time, in the same words and tiles as `armor-eval understanding`."""

    INTERLEAVE = True

    def __init__(self, model_path: str | None = None, max_new_tokens: int = 4096, **_: object) -> None:
        super().__init__()
        self._adapter = registry.load(model_path, "official")
        self._decoding = Decoding(max_new_tokens=max_new_tokens)
        self._declared = {b.dataset: b for b in reversed(benchmarks().values())}

    def use_custom_prompt(self, dataset: str) -> bool:
        """Our declared words; another base than InternVL is asked in its own."""
        return self._adapter.protocol is None and dataset in self._declared

    def build_prompt(self, line: pd.Series, dataset: str | None = None) -> list[dict[str, str]]:
        """The declared prompt with the images where they belong, as files that VLMEvalKit has written."""
        benchmark = self._declared[not_none(dataset)]
        image_files = [Path(p) for p in self.dump_image(line, dataset)]
        fields = {str(k): v for k, v in dict(line).items() if isinstance(v, (list, str)) or v == v}
        text = prompts.question_text(benchmark.prompt, Row(str(line["index"]), line["index"], fields, None))
        pieces = prompts.parts(prompts.image_marks(text, len(image_files)), image_files)
        return [
            {"type": "text", "value": p} if isinstance(p, str) else {"type": "image", "value": str(p)} for p in pieces
        ]

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """The answer's text. A question that cannot be asked raises, so that it is never an answer."""
        benchmark: Benchmark | None = self._declared.get(dataset or "")
        pieces = [_opened(m["value"]) if m["type"] == "image" else m["value"] for m in message]
        image_files = sum(not isinstance(p, str) for p in pieces)
        tiles = prompts.tiles_each(benchmark.prompt, image_files) if benchmark else 6
        question = Question(
            "0", pieces, dataset, max_tiles=tiles, upscale_first=benchmark.prompt.upscale_first if benchmark else False
        )
        answer = self._adapter.answer([question], self._decoding)[0]
        if answer.error is not None:
            raise RuntimeError(answer.error)
        return answer.text


def _opened(file: str) -> Image.Image:
    """The pixels that `armor-eval understanding` shows; our model's own reader would lay transparency on white."""
    with Image.open(file) as image:
        return images.shown(image)


def register(model_path: str | None = None, max_new_tokens: int = 4096) -> None:
    """Add `ARMOR` to VLMEvalKit's zoo."""
    from vlmeval.config import supported_VLM

    supported_VLM[NAME] = partial(ArmorVLM, model_path=model_path, max_new_tokens=max_new_tokens)
