"""Training wordings by parts: many sentences for one wish, so that the wish is learned and not its twenty sentences.

`could you please` + `paint` + `an image of` + `{x}` + `for me` + `?`. Sentences that come near a held-out wording, its
words but for one, are left out: those stay sentences that training never contains.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from trainer.shapes import interleaved
from trainer.shapes.language import DESCRIBE_AND_REDRAW_HELD_OUT, DESCRIBE_IMAGE_HELD_OUT
from trainer.shapes.requests import DRAW_HELD_OUT, MIXED_HELD_OUT, TELL_ONLY_HELD_OUT

APART = 2
"""Least number of words in which a sentence differs from each held-out one, in all."""
HELD_OUT = (
    *(*DRAW_HELD_OUT, *MIXED_HELD_OUT, *TELL_ONLY_HELD_OUT, *DESCRIBE_IMAGE_HELD_OUT, *DESCRIBE_AND_REDRAW_HELD_OUT),
    *(*interleaved.SINGLE, *interleaved.FRAMES, *interleaved.STORY),
)
"""Wordings of the frozen benchmarks."""

ASKING = ("", "please ", "can you ", "could you ", "can you please ", "i want you to ", "now ")
DRAWING = (
    *(f"{verb} " for verb in ("draw", "paint", "create", "generate", "show me")),
    *(
        f"{verb} {image} {of} "
        for verb in ("draw", "paint", "make", "create", "generate", "show me")
        for image in ("a picture", "an image", "a photo")
        for of in ("of", "with")
    ),
)
WISHING = tuple(f"i {want} {image} of " for want in ("want", "want to see") for image in ("a picture", "an image"))
NO_TEXT = ("without text", "without a word", "do not say anything", "do not describe it", "do not tell me about it")
TELLING = ("tell me about {x}", "tell me something about {x}", "describe {x}", "say something about {x}")
ASKING_WHAT = ("tell me what {x} is", "say what {x} is")
NO_IMAGE = (
    *("without a picture", "without an image", "only with text", "only in text", "do not draw", "do not draw it"),
    *("do not paint it", "do not show me a picture", "do not show me an image", "do not make a picture"),
    *("do not make an image of it", "i do not want an image"),
)
TOO = (
    *("draw it", "draw it too", "also draw it", "paint it", "paint it too", "also paint it", "show me a picture of it"),
    *("show me an image of it", "make a picture of it", "make an image of it", "also make an image of it"),
    *("generate a picture of it", "create an image of it too", "draw a picture of it for me", "draw it for me"),
)
SAYING = (
    *(
        "describe it",
        "describe it too",
        "also describe it",
        "say what it is",
        "also say what it is",
        "tell me about it",
    ),
    *("tell me about it too", "also tell me about it", "say something about it", "tell me what it is"),
)
WITH_TEXT = ("with text", "and text about it", "with text about it")


def _asked(parts: Iterable[str]) -> str:
    """A sentence with its mark: a question where it asks for something as one."""
    text = "".join(parts)
    return text + ("?" if text.startswith(("can you", "could you")) else ".")


def _draw() -> list[str]:
    plain = [_asked(p) for p in product(ASKING, DRAWING, ["{x}"], ("", " for me"))]
    plain += [_asked((wish, "{x}")) for wish in WISHING]
    behind = [_asked((do, "{x}", ", ", no)) for do in DRAWING for no in NO_TEXT]
    before = [_asked((no, ", ", ask, do, "{x}")) for no in NO_TEXT for ask in ("", "please ") for do in DRAWING]
    only = [_asked((ask, "only ", do, "{x}")) for ask in ("", "please ", "i want you to ") for do in DRAWING]
    return [*plain, *behind, *before, *only]


def _tell() -> list[str]:
    told = (*TELLING, *ASKING_WHAT)
    plain = [_asked(p) for p in product(ASKING, told, ("", " for me"))]
    behind = [_asked((ask, tell, ", ", no)) for ask in ASKING for tell in told for no in NO_IMAGE]
    before = [_asked((no, ", ", ask, tell)) for no in NO_IMAGE for ask in ASKING[:3] for tell in told]
    only = [_asked((ask, "only ", tell)) for ask in ASKING[:3] for tell in told]
    return [*plain, *behind, *before, *only]


def _tell_and_draw() -> list[str]:
    told = (*TELLING, *ASKING_WHAT)
    plain = [_asked((ask, tell, " and ", too)) for ask in ASKING for tell in told for too in TOO]
    not_only = [_asked(("do not only ", tell, ", ", too)) for tell in told for too in TOO]
    return [*plain, *not_only]


def _show_and_say() -> list[str]:
    plain = [_asked((ask, do, "{x} and ", say)) for ask in ASKING for do in DRAWING for say in SAYING]
    not_only = [_asked(("do not only ", do, "{x}, ", say)) for do in DRAWING for say in SAYING]
    also = [_asked((ask, do, "{x} ", text)) for ask in ASKING for do in DRAWING for text in WITH_TEXT]
    return [*plain, *not_only, *also]


def bare(wording: str) -> list[str]:
    """A wording's words, marks dropped."""
    return re.findall(r"[a-z]+|\{\w+\}", wording)


def apart(wordings: Sequence[str], held_out: Sequence[str] = HELD_OUT) -> list[str]:
    """The wordings that differ from each held-out one in APART words or more, order aside."""
    known = {
        word: at for at, word in enumerate(dict.fromkeys(w for each in (*wordings, *held_out) for w in bare(each)))
    }

    def counts(sentences: Sequence[str]) -> np.ndarray:
        table = np.zeros((len(sentences), len(known)), np.int16)
        for row, sentence in enumerate(sentences):
            for word in bare(sentence):
                table[row, known[word]] += 1
        return table

    ours, nearest = counts(wordings), np.full(len(wordings), np.iinfo(np.int16).max)
    for theirs in counts(held_out):
        nearest = np.minimum(nearest, np.abs(ours - theirs).sum(1))
    return [wording for wording, differs in zip(wordings, nearest, strict=True) if differs >= APART]


@lru_cache(maxsize=1)
def wordings() -> dict[str, list[str]]:
    """Sentences by wish: `draw` (an image only), `tell` (text only), `tell_and_draw` and `show_and_say` (both)."""
    made = {"draw": _draw(), "tell": _tell(), "tell_and_draw": _tell_and_draw(), "show_and_say": _show_and_say()}
    return {wish: apart(list(dict.fromkeys(each))) for wish, each in made.items()}
