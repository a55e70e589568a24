"""Base of the adapters that draw: batches, the culprit alone again, images that are none, the record of settings;
and sampling."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from armor_eval.models.base import Decoding
from armor_eval.runs.schema import ModelInfo
from armor_model.base.errors import ArmorError, UserError
from armor_model.base.hashing import sha256_folder, sha256_text
from armor_model.base.jsons import JsonObject
from armor_model.hub import fetch

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from armor_eval.models.base import Decoding
    from armor_eval.runs.schema import ModelInfo

T = TypeVar("T")

log = logging.getLogger(__name__)

SAMPLING = ("image_temperature", "image_top_k", "image_top_p")
"""Fields of Decoding about the sampling of image codes."""
IMAGE_OPTIONS = ("guidance", *SAMPLING)
"""Fields of Decoding that are about images."""


def locate(kind: str, rest: str, dtype: str | None = None, leave: Sequence[str] = ()) -> tuple[Path, ModelInfo]:
    """The folder of `KIND:ID[@REVISION]` or `KIND:FOLDER` without the files that `leave` names, and the record of the
    model in it. UserError where there is none."""
    if not rest:
        raise UserError(f"{kind}: names no model", hint=f"expected {kind}:OWNER/NAME or {kind}:FOLDER")
    folder = fetch(rest, f"{kind} model", None, leave)
    if Path(rest).expanduser().is_dir():
        name, commit, fingerprint = folder.name, None, sha256_folder(folder)
    else:
        id, commit = rest.partition("@")[0], folder.name
        name, fingerprint = Path(id).name, sha256_text(f"{kind}:{id}@{commit}")
    info = ModelInfo(spec=f"{kind}:{rest}", name=name, fingerprint=fingerprint, dtype=dtype, revision=commit)
    return folder, info


class NotDrawnError(Exception):
    """The model gave no image that may be scored; one line on why."""


class DrawingModel(ABC):
    """An adapter that draws; it says in `_draw` how a batch is drawn, and in `_own` what it draws with."""

    info: ModelInfo
    honours: frozenset[str] = frozenset()
    """Those of IMAGE_OPTIONS that have an effect; the others are refused before anything is drawn."""
    asked: Mapping[str, object] = {}
    """Options of the model that a user gave (`--model-args`, `--dtype`): a run is only continued under the same."""
    alone: bool = False
    """Images are drawn one at a time, because the model cannot seed the rows of a batch apart."""

    def settings(self, decoding: Decoding) -> JsonObject:
        """What the model draws with, its own defaults too. UserError where it cannot honour an option of `decoding`."""
        self._refuse(decoding)
        return {**({"asked": dict(self.asked)} if self.asked else {}), **self._own(decoding)}

    def _refuse(self, decoding: Decoding) -> None:
        unset = Decoding()
        for name in IMAGE_OPTIONS:
            value = getattr(decoding, name)
            if value != getattr(unset, name) and name not in self.honours:
                knows = ", ".join(_flag(n) for n in IMAGE_OPTIONS if n in self.honours)
                raise UserError(
                    f"{self.info.name} cannot honour {_flag(name)} {value:g}",
                    f"of these options it knows {knows}" if knows else "leave it out",
                )

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        """One image a prompt and seed. Where a batch fails its prompts are drawn one by one: only the culprit is lost.
        What stops the whole run (a mistake of the user's, a server that is down) passes."""
        self._refuse(decoding)
        self._load()
        if self.alone and len(prompts) > 1:
            return [self.draw([p], [s], decoding)[0] for p, s in zip(prompts, seeds, strict=True)]
        return one_by_one(lambda p, s: self._draw(p, s, decoding), prompts, seeds)

    def _load(self) -> object:
        """The model in memory, loaded on first use; a failure is of the run, not of a prompt."""
        return None  # what holds no weights has nothing to load

    @abstractmethod
    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        """A batch, in order; NotDrawnError stands where an image may not be scored."""

    @abstractmethod
    def _own(self, decoding: Decoding) -> JsonObject:
        """What stands in run.json; `guidance` is the one in force, None where the model has none."""


def one_by_one(batch: Callable[..., Sequence[T]], *columns: Sequence[object]) -> list[T | Exception]:
    """`batch(*columns)`; where it raises, its rows one by one, an exception standing for the row that it is of; where
    memory runs out, its halves.

    An error of our own passes: the run cannot go on (a wrong key, an endpoint that is gone).
    """
    rows = len(columns[0])
    try:
        results: list[T | Exception] = list(batch(*columns))
        if len(results) != rows:
            raise RuntimeError(f"{len(results)} outputs for {rows} requests")
        return results
    except (ArmorError, CancelledError):  # of the run, not of a row
        raise
    except Exception as error:
        if rows == 1:
            return [error]
        if out_of_memory(error):
            log.warning("a batch of %d is too much for the memory: its halves are asked (--batch-size)", rows)
            middle = rows // 2
            halves = [[column[:middle] for column in columns], [column[middle:] for column in columns]]
            return [result for half in halves for result in one_by_one(batch, *half)]
        log.warning("a batch of %d failed (%s); its requests are asked one by one", rows, one_line(error))
        return [one_by_one(batch, *([value] for value in row))[0] for row in zip(*columns, strict=True)]


def out_of_memory(error: Exception) -> bool:
    """Whether a device had no memory left."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def one_line(error: Exception, longest: int = 300) -> str:
    """An exception's type and message without line breaks, cut."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:longest]


def image_from(values_HWC: np.ndarray) -> Image.Image | NotDrawnError:
    """An image of RGB values 0 to 255, cut off (not rounded) to whole ones; NotDrawnError where one is not finite."""
    from PIL import Image

    if not np.isfinite(values_HWC).all():
        share = 1 - np.isfinite(values_HWC).mean()
        return NotDrawnError(f"{share:.0%} of the image's values are not finite (NaN): another --dtype may help")
    return Image.fromarray(values_HWC.clip(0, 255).astype(np.uint8))


def is_blank(image: Image.Image) -> bool:
    """Whether all pixels have one single colour: what is left of an image that was censored or not drawn."""
    return all(low == high for low, high in cast("tuple[tuple[int, int], ...]", image.convert("RGB").getextrema()))


def device_of(device: str | None) -> str:
    """The device asked for, or the one there is."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# --- sampling with a generator a row, as logits processors: an image and an answer hang on their seed ----------------
# Shape legend: B answers or images, 2B rows (conditional, then unconditional), V vocabulary.


def row_seed(name: str, base: int) -> int:
    """A seed for one item, equal wherever and whenever it is asked."""
    return int.from_bytes(hashlib.sha256(f"{base}:{name}".encode()).digest()[:4], "big")


class RowSampling:
    """Sampled text: [B, V] in; out [B, V] that is finite at the drawn token alone, to be argmax-ed.

    transformers' own sampling has one generator for the whole process: an answer would hang on its batch, and batches
    that begin alike draw alike.
    """

    def __init__(self, seeds: Sequence[int], decoding: Decoding) -> None:
        import torch

        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.temperature, self.top_k, self.top_p = decoding.temperature, decoding.top_k, decoding.top_p

    def __call__(self, input_ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        import torch

        logits_BV = kept(scores.float() / self.temperature, self.top_k, self.top_p)
        upto_BV = logits_BV.softmax(-1).double().cumsum(-1)
        uniform_B1 = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in self.generators])
        drawn_B1 = torch.searchsorted(upto_BV, uniform_B1.to(upto_BV.device) * upto_BV[:, -1:], right=True)
        drawn_B1 = drawn_B1.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(logits_BV, float("-inf")).scatter(-1, drawn_B1, 0.0)


class GuidedSampling:
    """Classifier-free guidance, then sampling by Gumbel noise: [2B, V] in, [B, V] out, to be argmax-ed.

    Adding Gumbel noise and taking the maximum draws from the softmax exactly; transformers' own sampling has one
    generator for the whole process, so that an image would hang on its batch.
    """

    def __init__(self, seeds: Sequence[int], guidance: float, decoding: Decoding) -> None:
        import torch

        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.guidance, self.temperature = guidance, decoding.image_temperature
        self.top_k, self.top_p = decoding.image_top_k, decoding.image_top_p

    def __call__(self, input_ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        import torch

        conditional_BV, unconditional_BV = scores.float().chunk(2)
        logits_BV = unconditional_BV + self.guidance * (conditional_BV - unconditional_BV)
        if self.temperature == 0:
            return logits_BV
        logits_BV = kept(logits_BV / self.temperature, self.top_k, self.top_p)
        uniform_BV = torch.stack(
            [torch.rand(logits_BV.shape[-1], generator=g, dtype=torch.float64) for g in self.generators]
        )
        gumbel_BV = -torch.log(-torch.log(uniform_BV.clamp(1e-300, 1 - 1e-16)))
        return logits_BV + gumbel_BV.to(logits_BV)


def kept(logits_BV: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """The logits with those outside of top-k (0: all are kept) and of top-p at minus infinity."""
    if top_k:
        least_B1 = logits_BV.topk(min(top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    if top_p < 1:
        falling_BV, order_BV = logits_BV.softmax(-1).sort(descending=True)
        before_BV = falling_BV.cumsum(-1) - falling_BV  # the likeliest one always stays
        beyond_BV = (before_BV >= top_p).scatter(-1, order_BV, before_BV >= top_p)
        logits_BV = logits_BV.masked_fill(beyond_BV, float("-inf"))
    return logits_BV
