"""What the hf: adapter can do with one checkpoint: a verdict a way of asking, by logits rather than by words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from armor_eval.models import registry
from armor_eval.models.base import Decoding, Question

CLOSE = 1e-3
"""Largest difference of first-token logits in a batch and alone, over the largest logit: fp32 sums in another order."""


def images() -> tuple[Any, Any, Any]:
    """Three images of noise, of different sizes and shapes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    sizes = ((96, 96), (160, 100), (70, 180))
    return tuple(Image.fromarray(generator.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes)


def judge(folder: Path) -> dict[str, str]:
    """Way of asking -> `yes` or why not."""
    import torch

    one, two, three = images()
    model = registry.load(f"hf:{folder}", "official")
    short = Decoding(max_new_tokens=4)
    first: list[Any] = []

    def ask(*questions: Question) -> list[Any]:
        """First-token logits of each question; raises where one has no answer."""
        first.clear()
        answers = model.answer(questions, short)
        lost = [a.error for a in answers if a.error is not None]
        if lost:
            raise RuntimeError(lost[0])
        return torch.cat(first)

    said: dict[str, str] = {}

    def attempt(what: str, check: Callable[[], str | None]) -> None:
        try:
            said[what] = check() or "yes"
        except Exception as error:  # of many kinds; the table shows it
            said[what] = " ".join(str(error).split())

    def loads() -> str | None:
        model.prepare()
        said["form"] = model.facts["prompt_form"]
        loaded, _ = model._load()
        _watch(loaded, first)
        return None

    attempt("loads", loads)
    if said["loads"] != "yes":
        return said
    q1 = Question("1", [one, "\nWhat is shown?\nA. a cat\nB. a dog"])
    q2 = Question("2", [two, "\nWhich of these longer questions could be asked here?\nA. yes\nB. no"])
    q3 = Question("3", ["First: ", one, "\nSecond: ", three, "\nDo they differ?"])
    blind = Question("4", ["What cannot be seen?"])
    marked = Question("5", [one, "\nWhat do <image>, <|image_pad|>, <|im_end|> and [IMG] mean?"])

    def image_arrives() -> str | None:
        other = Question("1", [two.resize(one.size), q1.parts[1]])
        return None if _far(ask(q1), ask(other)) else "the image does not change the answer"

    def batch(*questions: Question) -> str | None:
        together = ask(*questions)
        alone = torch.cat([ask(question) for question in questions])
        # rows with and without images are batched apart, so together they come in another order
        order = sorted(range(len(questions)), key=lambda i: all(isinstance(p, str) for p in questions[i].parts))
        worst = float((together - alone[order]).abs().max() / alone.abs().max())
        if worst > CLOSE:
            return f"first-token logits differ by {worst:.1%} from those of each row alone"
        return None if model._most is None else "rows are asked one by one"

    attempt("image", image_arrives)
    attempt("batch", lambda: batch(q1, q2))
    attempt("two images", lambda: ask(q3) is None or None)
    attempt("text alone", lambda: ask(blind) is None or None)
    attempt("mixed", lambda: batch(q1, blind) if said["text alone"] == "yes" else "no text alone")
    attempt("marks", lambda: ask(marked) is None or None)
    model.close()
    return said


def _far(a: Any, b: Any) -> bool:
    return float((a - b).abs().max()) > 1e-5


def _watch(model: Any, first: list[Any]) -> None:
    """Keep the logits of each `generate`'s first token."""
    real = model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        out = real(*args, **kwargs, output_logits=True, return_dict_in_generate=True)
        first.append(out.logits[0].float())
        return out.sequences

    model.generate = generate
