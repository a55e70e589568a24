"""How a question becomes the inputs of a transformers processor: by its chat template, or by its plain form.

A prompter is found once, by probing the processor with a small image and a text, before any weights are loaded.
"""

from __future__ import annotations

import copy
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from armor_eval.models.base import Part, Question
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.jsons import JsonObject, JsonView

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from transformers import BatchFeature, PretrainedConfig, ProcessorMixin

PROBE = "what follows a picture"
"""Text by which a chat template's words around an image are told."""
PROBE_SIDE = 224
"""Side of the probe's image in pixels: no processor refuses it as too small."""
MARK_BREAK = " "
"""What is put behind the first character of a mark that a question holds as text: `<image>` is shown as `< image>`."""

Parts: TypeAlias = "Sequence[Part | None]"
"""Of one question; None is an image that the text is rendered without."""
Render: TypeAlias = "Callable[[Sequence[Parts]], list[str]]"
"""Each question's parts -> the text that the processor reads."""


@dataclass(frozen=True)
class Prompter:
    """One way of asking, proven on the probe."""

    form: str
    """For a reader: `chat template`, `plain text, ...`."""
    processor: ProcessorMixin
    render: Render
    nested: bool
    """The processor takes a list of images a row; else one flat list."""
    marks: re.Pattern[str] | None
    """What in a question would be read as structure."""

    def encode(self, questions: Sequence[Question], options: JsonView = MappingProxyType({})) -> BatchFeature:
        """The processor's inputs [B, T] of several questions, all with images or all without. `options` go to the image
        processor; `double_first`: each question's first image is doubled in size."""
        rows = [[self.clean(part) for part in question.parts] for question in questions]
        images = [[part for part in parts if not isinstance(part, str)] for parts in rows]
        own = dict(options)
        if own.pop("double_first", False):
            images = [[doubled(row[0]), *row[1:]] if row else row for row in images]
        return _call(self.processor, self.render(rows), images, self.nested, own)

    def clean(self, part: Part) -> Part:
        """A part whose text cannot be read as the model's own marks: each is broken behind its first character."""
        if not isinstance(part, str) or self.marks is None:
            return part
        while (broken := self.marks.sub(lambda m: m[0][:1] + MARK_BREAK + m[0][1:], part)) != part:
            part = broken
        return part

    def marks_in(self, question: Question) -> list[str]:
        """The marks that the question's text holds, for the record."""
        texts = [part for part in question.parts if isinstance(part, str)]
        return sorted({m for text in texts for m in self.marks.findall(text)}) if self.marks is not None else []


def find_prompter(
    processor: ProcessorMixin, config: PretrainedConfig, name: str, wanted: str | None = None
) -> Prompter:
    """The first way of asking that the processor can follow. UserError, in one line, where it can follow none.

    Args:
        processor: of transformers' AutoProcessor.
        config: the model's configuration; its image token tells whether an image has arrived in the text.
        name: of the model, for errors.
        wanted: which of several named chat templates; None is the `default` one.
    """
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "image_processor", None) is None:
        raise UserError(
            f"hf:{name} cannot be asked about an image: its processor ({type(processor).__name__}) does not take both "
            "text and images"
        )
    template = chat_template(processor, wanted, name)
    marks = _marks(processor, template[1] if template else "")
    mark = _image_mark(processor)
    ids = _image_ids(processor, config)
    candidates = _templated(processor, *template, mark) if template else _plain(mark)
    probe = probe_question()
    reasons: list[str] = []
    for form, render, nested in candidates:
        prompter = Prompter(form, processor, render, nested, marks)
        try:
            text = render([probe.parts])[0]
            if PROBE not in text or re.search(r"""['"]type['"]\s*:""", text):
                raise ValueError("the template does not take the question in this form")
            inputs = prompter.encode([probe])
            seen = {int(token) for token in inputs["input_ids"].flatten()}
            if ids and not seen & ids:
                raise ValueError("no image token arrives in the text")
            return prompter
        except Exception as error:  # a processor refuses in its own way; the reasons are shown if none works
            reason = " ".join(f"{form}: {type(error).__name__}: {error}".split())
            reasons += [reason] if reason not in reasons else []
    raise UserError(f"hf:{name} cannot be asked about an image: {'; '.join(reasons)}")


def chat_template(processor: ProcessorMixin, wanted: str | None, name: str) -> tuple[str, str] | None:
    """(whose it is, the Jinja template) of the processor or else of its tokenizer; None where neither has one."""
    for owner, holder in (("", processor), ("tokenizer's ", getattr(processor, "tokenizer", None))):
        template = getattr(holder, "chat_template", None)
        if isinstance(template, dict) and template:
            key = wanted or "default"
            if key not in template and len(template) > 1:
                raise unknown_name(f"chat template of hf:{name} (--model-args chat_template=NAME)", key, template)
            template = template.get(key) or next(iter(template.values()))
        if template:
            return owner, template
    return None


def _templated(
    processor: ProcessorMixin, owner: str, template: str, mark: str | None
) -> list[tuple[str, Render, bool]]:
    """A message's content as parts; else, for a template that wants one string, with the image's mark in the text."""

    def fill(contents: Sequence[object]) -> list[str]:
        conversations = [[{"role": "user", "content": content}] for content in contents]
        return processor.apply_chat_template(
            conversations, chat_template=template, add_generation_prompt=True, tokenize=False
        )

    def by_parts(rows: Sequence[Parts]) -> list[str]:
        return fill(
            [[{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in row] for row in rows]
        )

    def spaced(rows: Sequence[Parts]) -> list[str]:
        return by_parts([_without_breaks(row) for row in rows] if breaks() else rows)

    def breaks() -> bool:
        """The template itself ends an image with a line break, as InternVL's and LLaVA's do and Qwen's does not."""
        if "is" not in known:
            known["is"] = by_parts([[None, PROBE]])[0].split(PROBE)[0].endswith("\n")
        return known["is"]

    known: dict[str, bool] = {}
    forms: list[tuple[str, Render, bool]] = [(f"{owner}chat template", spaced, nested) for nested in (True, False)]
    if mark is not None:
        one = f"{owner}chat template, as one string"
        forms += [(one, lambda rows: fill(_in_text(rows, mark)), nested) for nested in (True, False)]
    return forms


def _plain(mark: str | None) -> list[tuple[str, Render, bool]]:
    """Without a template: the text alone, where the processor places the image itself; else the image's mark in it."""
    ways: dict[str, Render] = {"the processor places the image": _text_alone}
    if mark is not None:
        ways[f"{mark} in it"] = lambda rows: _in_text(rows, mark)
    return [
        (f"no chat template: plain text, {way}", render, nested)
        for way, render in ways.items()
        for nested in (True, False)
    ]


def _text_alone(rows: Sequence[Parts]) -> list[str]:
    return ["".join(p for p in _without_breaks(row) if isinstance(p, str)) for row in rows]


def _in_text(rows: Sequence[Parts], mark: str) -> list[str]:
    return ["".join(p if isinstance(p, str) else mark for p in row) for row in rows]


def _without_breaks(parts: Parts) -> Parts:
    """The parts without the line break that a text behind an image begins with."""
    out: list[Part | None] = []
    for part in parts:
        behind_image = bool(out) and not isinstance(out[-1], str)
        out.append(part.removeprefix("\n") if isinstance(part, str) and behind_image else part)
    return out


def doubled(image: Image.Image | Path) -> Image.Image:
    """An image, or image file, at twice its width and height, as VLMEvalKit's InternVL shows MMMU's first image."""
    from PIL import Image

    opened = image if isinstance(image, Image.Image) else Image.open(image).convert("RGB")
    return opened.resize((opened.width * 2, opened.height * 2), Image.Resampling.BILINEAR)


def _call(
    processor: ProcessorMixin,
    texts: list[str],
    images: list[list[Image.Image | Path]],
    nested: bool,
    image_options: JsonView,
) -> BatchFeature:
    """The processor's inputs. A template that writes the BOS token gets no second one (as `apply_chat_template`)."""
    bos = processor.tokenizer.bos_token
    options: JsonObject = {"add_special_tokens": False} if bos and texts[0].startswith(bos) else {}
    if "mm_token_type_ids" in processor.model_input_names and not getattr(processor, "return_mm_token_type_ids", True):
        options["return_mm_token_type_ids"] = True  # Cosmos3-Edge needs what its processor leaves out
    if any(images):
        options |= {"images": images if nested else [image for row in images for image in row], **image_options}
    return processor(text=texts, padding=True, return_tensors="pt", **options)


def probe_question(image: bool = True) -> Question:
    """A small image and a line of text, or the text alone."""
    from PIL import Image

    images = [Image.linear_gradient("L").resize((PROBE_SIDE, PROBE_SIDE)).convert("RGB")] if image else []
    return Question("probe", [*images, "\n" + PROBE])


def _image_mark(processor: ProcessorMixin) -> str | None:
    """What stands for an image in a text."""
    for holder in (processor, processor.tokenizer):
        mark = getattr(holder, "image_token", None)
        mark = getattr(mark, "content", mark)  # an AddedToken
        if isinstance(mark, str) and mark:
            return mark
    return "<image>" if "<image>" in processor.tokenizer.get_vocab() else None


def _image_ids(processor: ProcessorMixin, config: PretrainedConfig) -> set[int]:
    """Ids of the tokens that an image becomes; empty for a model that has none (GIT reads pixels beside the text)."""
    named = [getattr(config, name, None) for name in ("image_token_id", "image_token_index")]
    named += [getattr(processor, name, None) for name in ("image_token_id", "image_ids", "image_token_ids")]
    ids = {i for value in named for i in (value if isinstance(value, (list, tuple)) else [value])}
    return {i for i in ids if isinstance(i, int)}


def _marks(processor: ProcessorMixin, template: str) -> re.Pattern[str] | None:
    """The tokenizer's special tokens, those that the template writes, and the processor's own names for images."""
    tokens = {
        t.content for t in processor.tokenizer.added_tokens_decoder.values() if t.special or t.content in template
    }
    named = [value for key, value in vars(processor).items() if key.endswith("token")]
    tokens |= {getattr(value, "content", value) for value in named if value}
    marks = [re.escape(t) for t in tokens if isinstance(t, str) and len(t) > 1 and not t[1].isspace()]
    return re.compile("|".join(sorted(marks, key=len, reverse=True))) if marks else None


# --- processors for several threads ----------------------------------------------------------------------------------


log = logging.getLogger(__name__)


class Copies:
    """One prompter, and as many copies of it as threads were ever at work at once."""

    def __init__(self, first: Prompter) -> None:
        self._idle, self._change = [first], threading.Condition()
        self._waited = False
        """Whether a thread had to wait since a copy was made: only then another one is worth its time and memory."""
        self._copyable = True

    @contextmanager
    def lent(self) -> Iterator[Prompter]:
        """A prompter that no other thread uses."""
        with self._change:
            while not self._idle:
                self._waited = True
                self._change.wait()
            one = self._idle.pop()
        try:
            yield one
        finally:
            with self._change:
                self._idle.append(one)
                if self._waited and self._copyable:
                    self._copy(one)
                self._waited = False
                self._change.notify_all()

    def _copy(self, resting: Prompter) -> None:
        try:
            self._idle.append(replace(resting, processor=copy.deepcopy(resting.processor)))
        except Exception as error:  # code from the hub may hold what cannot be copied: threads then take turns
            log.debug("a processor cannot be copied: %s", error)
            self._copyable = False
