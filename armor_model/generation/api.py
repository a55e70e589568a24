"""`generate` and `draw`: conversations in, answers of text and pictures out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from armor_model.base.errors import ArmorError, UserError
from armor_model.generation.engine import Engine
from armor_model.generation.rows import Request, Row
from armor_model.generation.settings import GenerationSettings, Response
from armor_model.processing import is_empty

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

    from armor_model.modeling import ArmorForConditionalGeneration
    from armor_model.processing import ArmorProcessor, Conversation

UNCONDITIONAL: list[dict] = [{"role": "user", "content": ""}]
"""What guidance compares with: a request with an empty prompt, as in the training's condition dropout."""

DECODE_BATCH = 64
"""Pictures decoded at a time: bounds the memory of the image tokenizer's decoder."""


def generate(
    model: ArmorForConditionalGeneration,
    processor: ArmorProcessor,
    conversations: list[Conversation],
    settings: GenerationSettings | None = None,
    seeds: list[int] | None = None,
    batch_size: int = 64,
    max_tiles: int | None = None,
    on_error: str = "raise",
    compile: bool | str = "auto",
) -> list[Response]:
    """Answer conversations in batches.

    Args:
        model: any device and type.
        processor: of the same checkpoint.
        conversations: each ends with the user's message (see armor_model.processing).
        settings: how to decode.
        seeds: one a conversation; by default 0, 1, 2, ... A row's answer depends on its own seed only.
        batch_size: most conversations under way at once; waiting ones take the places of finished ones.
        max_tiles: override the processor's setting.
        on_error: `raise` a UserError for a conversation that cannot be encoded, or `record` it in its Response.
        compile: True fuses the steps with torch.compile, which takes a minute or so for each process; `auto` does it
            on CUDA where the requests are many enough to pay for it.
    """
    found = dict(stream(model, processor, conversations, settings, seeds, batch_size, max_tiles, on_error, compile))
    return [found[i] for i in range(len(conversations))]


def stream(
    model: ArmorForConditionalGeneration,
    processor: ArmorProcessor,
    conversations: list[Conversation],
    settings: GenerationSettings | None = None,
    seeds: list[int] | None = None,
    batch_size: int = 64,
    max_tiles: int | None = None,
    on_error: str = "raise",
    compile: bool | str = "auto",
) -> Iterator[tuple[int, Response]]:
    """`generate`, giving each answer with its number as soon as it is finished (not in order): what a journal wants.

    Pictures that are finished together are decoded together, at most DECODE_BATCH at a time.
    """
    settings = settings or GenerationSettings()
    seeds = list(range(len(conversations))) if seeds is None else list(seeds)
    if len(seeds) != len(conversations):
        raise UserError(f"{len(conversations)} conversations need as many seeds, not {len(seeds)}")
    requests, places = [], []
    for i, conversation in enumerate(conversations):
        try:
            requests.append(_request(model, processor, conversation, settings, seeds[i], max_tiles))
            places.append(i)
        except ArmorError as error:
            if on_error == "raise":
                where = f"conversation {i + 1} of {len(conversations)}: " if len(conversations) > 1 else ""
                raise UserError(where + error.message, hint=error.hint) from error
            yield i, Response(stats={"seed": seeds[i]}, error=str(error))
    if not requests:
        return
    unconditional = processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids
    was_training = model.training
    model.eval()
    try:
        engine = Engine(model, settings, processor.stop_ids, unconditional, batch_size, compile=compile)
        pending: list[tuple[int, Response]] = []
        for number, row in engine.stream(requests):
            i = places[number]
            pending.append((i, _response(row, seeds[i])))
            if not engine.done or sum(len(r.codes) for _, r in pending) >= DECODE_BATCH:
                _render([response for _, response in pending], processor)
                yield from pending
                pending = []
    finally:
        model.train(was_training)


def draw(
    model: ArmorForConditionalGeneration,
    processor: ArmorProcessor,
    prompts: list[str],
    settings: GenerationSettings | None = None,
    seeds: list[int] | None = None,
    batch_size: int = 64,
    compile: bool | str = "auto",
) -> list[Image]:
    """One picture a prompt: the answer is made to begin with <imgbos> and ends with the picture."""
    settings = replace(
        settings or GenerationSettings(), allow_images=True, force_image=True, stop_after_image=True, max_images=1,
        max_new_tokens=1,
    )  # fmt: skip
    conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
    responses = generate(model, processor, conversations, settings, seeds, batch_size, compile=compile)
    return [response.images[0] for response in responses]


def _request(
    model: ArmorForConditionalGeneration,
    processor: ArmorProcessor,
    conversation: Conversation,
    settings: GenerationSettings,
    seed: int,
    max_tiles: int | None,
) -> Request:
    if not conversation or conversation[-1].get("role") != "user":
        raise UserError("a conversation to be answered ends with a user's message")
    if is_empty(conversation[-1]):
        raise UserError("the prompt is empty")
    row = processor.encode_one(conversation, add_generation_prompt=True, max_tiles=max_tiles)
    limit = model.config.text_config.max_position_embeddings
    needed = processor.codes_per_image + 2 if settings.force_image else 1
    if len(row.ids) + needed > limit:
        room = f"{limit} with the {needed} of the answer" if settings.force_image else f"{limit}"
        raise UserError(
            f"the conversation has {len(row.ids)} tokens, this model's context holds {room}",
            hint="shorten it, or begin a new conversation",
        )
    return Request(row.ids, row.tiles, seed)


def _response(row: Row, seed: int) -> Response:
    stats = {
        "seed": seed,
        "text_tokens": row.text_tokens,
        "imgbos": len(row.pictures),
        "imgbos_masked": row.imgbos_masked,
        "early_ends": row.early_ends,
        "adapter_steps": row.adapter_steps,
        "finish": row.finish,
    }
    return Response(codes=row.pictures, tokens=row.tokens, stats=stats)


def _render(responses: list[Response], processor: ArmorProcessor) -> None:
    """Tokens to parts; pictures of all answers are decoded together, off the loop."""
    side = processor.settings.image_grid
    codes = [picture for response in responses for picture in response.codes]
    pictures = []
    for first in range(0, len(codes), DECODE_BATCH):
        batch = torch.tensor(codes[first : first + DECODE_BATCH]).view(-1, side, side)
        pictures += processor.decode_codes(batch)
    remaining = iter(pictures)
    for response in responses:
        pending: list[int] = []
        for token in [*response.tokens, None]:
            if token == processor.imgend_id or token is None:
                text = processor.decode_text(pending)
                if text:
                    response.parts.append(text)
                pending = []
                if token is not None:
                    response.parts.append(next(remaining))
            elif token < processor.imgbos_id:
                pending.append(token)
