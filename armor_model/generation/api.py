"""Generation API: `generate`, `stream` and `draw` turn conversations into answers of text, images, or both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from armor_model.base.errors import ArmorError, UserError
from armor_model.base.files import whole_file
from armor_model.base.jsons import JsonObject
from armor_model.generation.engine import Engine
from armor_model.generation.state import Request, Row
from armor_model.template import is_empty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from PIL.Image import Image

    from armor_model.generation.prefixes import PrefixCache
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor, Conversation

UNCONDITIONAL: Conversation = [{"role": "user", "content": ""}]
"""What guidance compares with: a request with an empty prompt, as in the training's condition dropout."""

DECODE_BATCH = 64
"""Images decoded at a time: bounds the memory of the image tokenizer's decoder."""


class TooLongError(UserError):
    """A conversation that the model's context does not hold."""


@dataclass(frozen=True)
class GenerationSettings:
    """How to decode. Validated when built."""

    max_new_tokens: int = 512
    """Most text tokens of an answer; an image counts as one (its <imgbos>) and is always finished."""
    temperature: float = 0.0
    """Of the text head; 0 takes the most likely token."""
    top_k: int = 0
    """Text tokens kept before sampling; 0 keeps all."""
    top_p: float = 1.0
    """Probability mass kept before sampling."""
    image_temperature: float = 1.0
    """Of the visual head; 0 takes the most likely code."""
    image_top_k: int = 0
    image_top_p: float = 1.0
    guidance: float = 1.0
    """Classifier-free guidance of the visual head: without + guidance * (with - without the prompt); 1 is off."""
    allow_images: bool = True
    """False masks <imgbos>, so that the answer is text; how often it would have won is counted."""
    max_images: int = 4
    """After this many images <imgbos> is masked."""
    force_image: bool = False
    """Begin the answer with <imgbos>."""
    stop_after_image: bool = False
    """End the answer after the first image."""
    parallel_draw: int = 0
    """Codes guessed at a time, for a few rows (armor_model.generation.static); 0 draws one by one: equal images."""
    free_imgend: bool = False
    """Let the visual head end an image early (it is then filled up with its last code, and counted)."""

    def __post_init__(self) -> None:
        wrong = {  # not x >= 0 rather than x < 0: a NaN is neither
            "max_new_tokens": self.max_new_tokens < 1,
            "temperature": not 0 <= self.temperature < math.inf,
            "image_temperature": not 0 <= self.image_temperature < math.inf,
            "top_k": self.top_k < 0,
            "image_top_k": self.image_top_k < 0,
            "top_p": not 0 < self.top_p <= 1,
            "image_top_p": not 0 < self.image_top_p <= 1,
            "guidance": not 0 <= self.guidance < math.inf,
            "max_images": self.max_images < 0,
            "parallel_draw": self.parallel_draw < 0,
        }
        for name, bad in wrong.items():
            if bad:
                raise UserError(f"{name} cannot be {getattr(self, name)}")
        if self.force_image and (not self.allow_images or self.max_images < 1):
            raise UserError("force_image needs allow_images and max_images of at least 1")

    @property
    def images(self) -> int:
        """Most images an answer can hold."""
        return self.max_images if self.allow_images else 0

    @property
    def guided(self) -> bool:
        """Whether guidance changes anything."""
        return self.guidance != 1 and self.images > 0


@dataclass
class Response:
    """One answer: texts and images, in order."""

    parts: list[str | Image] = field(default_factory=list)
    codes: list[list[int]] = field(default_factory=list)
    """The codes of each image, row by row."""
    tokens: list[int] = field(default_factory=list)
    """Every token, the closing one included."""
    stats: JsonObject = field(default_factory=dict)
    """`seed`, `text_tokens`, `imgbos` (images begun), `imgbos_masked` (times it would have won but was not allowed),
    `early_ends`, `adapter_steps` (positions that the adapter computed), `finish` (`stop`, `length` or `image`)."""
    error: str | None = None
    """Why there is no answer, where the caller asked for errors to be recorded."""

    @property
    def text(self) -> str:
        """The texts, joined by line breaks."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[Image]:
        """The images, in order."""
        return [part for part in self.parts if not isinstance(part, str)]

    def save_parts(self, folder: Path, stem: str) -> list[dict[str, str]]:
        """Write the images as `<stem>-<n>.png`; returns the parts in order, images by their path."""
        saved: list[dict[str, str]] = []
        for n, part in enumerate(self.parts):
            if isinstance(part, str):
                saved.append({"type": "text", "text": part})
            else:
                path = folder / f"{stem}-{n}.png"
                with whole_file(path) as draft:
                    part.save(draft)
                saved.append({"type": "image", "image": str(path)})
        return saved

    def message(self) -> JsonObject:
        """The answer as an assistant message, images with their codes, to go on with the conversation."""
        codes = iter(self.codes)
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": part, "codes": next(codes)}
            for part in self.parts
        ]
        return {"role": "assistant", "content": content}


def generate(
    model: ArmorModel,
    processor: ArmorProcessor,
    conversations: list[Conversation],
    settings: GenerationSettings | None = None,
    seeds: list[int] | None = None,
    batch_size: int = 64,
    max_tiles: int | None = None,
    on_error: str = "raise",
    compile: bool | str = "auto",
    prefixes: PrefixCache | None = None,
) -> list[Response]:
    """Answer conversations in batches.

    Args:
        model: any device and type.
        processor: of the same checkpoint.
        conversations: each ends with the user's message (see armor_model.processing).
        settings: how to decode.
        seeds: one a conversation; by default 0, 1, 2, ... A row's answer depends on its own seed only.
        batch_size: most conversations under way at once; waiting ones take the rows of finished ones.
        max_tiles: override the processor's setting.
        on_error: `raise` a UserError for a conversation that cannot be encoded, or `record` it in its Response.
        compile: True fuses the steps with torch.compile, which takes a minute or so for each process; `auto` does it
            on CUDA where the requests are many enough to pay for it.
        prefixes: of this model. Conversations that go on from one call to the next, or share their beginning within
            one, then compute what they share once.
    """
    how = settings, seeds, batch_size, max_tiles, on_error, compile, prefixes
    answers = dict(stream(model, processor, conversations, *how))
    return [answers[i] for i in range(len(conversations))]


def stream(
    model: ArmorModel,
    processor: ArmorProcessor,
    conversations: list[Conversation],
    settings: GenerationSettings | None = None,
    seeds: list[int] | None = None,
    batch_size: int = 64,
    max_tiles: int | None = None,
    on_error: str = "raise",
    compile: bool | str = "auto",
    prefixes: PrefixCache | None = None,
) -> Iterator[tuple[int, Response]]:
    """`generate`, giving each answer with its number as soon as it is finished (not in order): what a journal wants.

    Images that are finished together are decoded together, at most DECODE_BATCH at a time.
    """
    settings = settings or GenerationSettings()
    seeds = list(range(len(conversations))) if seeds is None else list(seeds)
    if len(seeds) != len(conversations):
        raise UserError(f"{len(conversations)} conversations need as many seeds, not {len(seeds)}")
    requests: list[Request] = []
    numbers: list[int] = []
    for i, conversation in enumerate(conversations):
        try:
            requests.append(encode(model, processor, conversation, settings, seeds[i], max_tiles))
            numbers.append(i)
        except ArmorError as error:
            if on_error == "raise":
                where = f"conversation {i + 1} of {len(conversations)}: " if len(conversations) > 1 else ""
                raise UserError(where + error.message, hint=error.hint) from error
            yield i, Response(stats={"seed": seeds[i]}, error=str(error))
    groups = iter([requests] if requests else [])
    how = settings, batch_size, compile, prefixes
    for number, response in serve(model, processor, lambda _: next(groups, None), *how):
        yield numbers[number], response


def serve(
    model: ArmorModel,
    processor: ArmorProcessor,
    source: Callable[[bool], list[Request] | None],
    settings: GenerationSettings,
    batch_size: int = 64,
    compile: bool | str = "auto",
    prefixes: PrefixCache | None = None,
) -> Iterator[tuple[int, Response]]:
    """Answer encoded requests that are still coming: one engine, its caches and captured steps, for all of them.

    `source` as for `Engine.feed`; requests are numbered in the order in which they come.
    """
    unconditional = processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids
    was_training = model.training
    model.eval()
    try:
        stops = processor.stop_ids
        engine = Engine(model, settings, stops, unconditional, batch_size, compile=compile, prefixes=prefixes)
        pending: list[tuple[int, Response]] = []
        for number, row in engine.feed(source):
            pending.append((number, response_of(row)))
            if not engine.done or sum(len(r.codes) for _, r in pending) >= DECODE_BATCH:
                render([response for _, response in pending], processor)
                yield from pending
                pending = []
    finally:
        model.train(was_training)


def draw(
    model: ArmorModel,
    processor: ArmorProcessor,
    prompts: list[str],
    settings: GenerationSettings | None = None,
    seeds: list[int] | None = None,
    batch_size: int = 64,
    compile: bool | str = "auto",
) -> list[Image]:
    """One image a prompt: the answer is made to begin with <imgbos> and ends with the image."""
    settings = replace(
        settings or GenerationSettings(),
        allow_images=True,
        force_image=True,
        stop_after_image=True,
        max_images=1,
        max_new_tokens=1,
    )
    conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
    responses = generate(model, processor, conversations, settings, seeds, batch_size, compile=compile)
    return [response.images[0] for response in responses]


def encode(
    model: ArmorModel,
    processor: ArmorProcessor,
    conversation: Conversation,
    settings: GenerationSettings,
    seed: int,
    max_tiles: int | None = None,
) -> Request:
    """A conversation as token ids and pixels, all that is to be done before the model; fit for a thread of its own.
    UserError where it cannot be answered."""
    if not conversation or conversation[-1].get("role") != "user":
        raise UserError("a conversation to be answered ends with a user's message")
    if is_empty(conversation[-1]):
        raise UserError("the prompt is empty")
    row = processor.encode_one(conversation, add_generation_prompt=True, max_tiles=max_tiles)
    limit = model.config.text_config.max_position_embeddings
    needed = processor.codes_per_image + 2 if settings.force_image else 1
    if len(row.ids) + needed > limit:
        room = f"{limit} with the {needed} of the answer" if settings.force_image else f"{limit}"
        raise TooLongError(
            f"the conversation has {len(row.ids)} tokens, this model's context holds {room}",
            hint="shorten it, or begin a new conversation",
        )
    return Request(row.ids, row.tiles, seed, shown=row.shown)


def response_of(row: Row) -> Response:
    """A finished row's tokens, codes and counts; `render` gives it its parts."""
    stats = {
        "seed": row.seed,
        "text_tokens": row.text_tokens,
        "imgbos": len(row.images),
        "imgbos_masked": row.imgbos_masked,
        "early_ends": row.early_ends,
        "adapter_steps": row.adapter_steps,
        "finish": row.finish,
    }
    return Response(codes=row.images, tokens=row.tokens, stats=stats)


def render(responses: list[Response], processor: ArmorProcessor) -> None:
    """Tokens to parts; images of all answers are decoded together, off the loop."""
    side = processor.settings.image_grid
    codes = [image for response in responses for image in response.codes]
    images: list[Image] = []
    for first in range(0, len(codes), DECODE_BATCH):
        batch = torch.tensor(codes[first : first + DECODE_BATCH]).view(-1, side, side)
        images += processor.decode_codes(batch)
    remaining = iter(images)
    for response in responses:
        pending: list[int] = []
        for token in [*response.tokens, None]:
            if token is None or token == processor.imgend_id:
                if text := processor.decode_text(pending):
                    response.parts.append(text)
                pending = []
                if token is not None:
                    response.parts.append(next(remaining))
            elif token < processor.imgbos_id:
                pending.append(token)
