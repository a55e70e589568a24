"""Conversations to model inputs and back: the base's chat format and pixels for what is seen, codes for what was drawn.

A conversation is a list of {"role": "system"|"user"|"assistant", "content": str | [part, ...]}; a part is
{"type": "text", "text": str}, {"type": "image", "image": PIL | path}, {"type": "image", "tiles": Tensor} for an image
that `cut` has cut already, or, in an assistant turn, {"type": "image", "codes": LongTensor}. The last message's
"answer_prefix", if any, is what the answer to come is made to begin with; it is no part of the answer.

Legend: B conversations, T tokens, h w codes a side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.bases import find_base
from armor_model.images import open_image, to_images, to_pixels
from armor_model.template import DRAWN, Piece, TemplateTokenizer, parts_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from armor_model.vq import ImageTokenizer

Conversation = list[JsonObject]

IGNORE = -100
SAMPLES: tuple[Conversation, ...] = tuple(
    [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, texts, strict=False)]
    for texts in (
        ("What is it?", "Red."),
        (" two  spaces\n\nand lines ", "\n- one\n- two", "And now?", "\u4e00\u53ea\u732b, 42 km, na\u00efve"),
    )
)
"""What `check_template` compares."""
SAMPLE_SIZE = (32, 32)
"""Of the image before them."""
FILE = "processor_config.json"


@dataclass
class ProcessorSettings:
    """What a processor needs beside the tokenizer; saved as `processor_config.json`."""

    vocab_size: int
    """V: ids from V on are the new tokens (see ArmorConfig)."""
    codebook_size: int
    image_grid: int
    """Codes a side of a drawn image."""
    image_token: str = ""
    """Placeholder of one image feature; by default the base's."""
    image_token_id: int = 0
    image_seq_length: int = 256
    """Placeholders a tile."""
    image_size: int = 448
    """Pixels a side of a tile."""
    max_tiles: int = 12
    """Most tiles an image is cut into, the thumbnail not counted."""
    use_thumbnail: bool = True
    system_prompt: str = "none"
    """A name that the base knows (`internvl`, `none`), or a text of one's own."""
    pixels: JsonObject = field(default_factory=dict)
    """Of the base's own preprocessing, where it cuts no tiles."""
    base: str = "internvl"
    processor_class: str = "ArmorProcessor"


@dataclass
class Encoded:
    """One conversation as tokens; the labels at t are what the head must say at t, i.e. token t + 1, or -100."""

    ids: list[int] = field(default_factory=list)
    tiles: list[Tensor] = field(default_factory=list)
    """Each image to look at, as the base preprocesses it."""
    shown: list[int] = field(default_factory=list)
    """Placeholders of each of these images among the tokens."""
    heads: list[str] = field(default_factory=list)
    """For each token, the head that had to say it: `t` text, `v` visual, empty where it was given."""

    def add(self, ids: list[int], head: str = "") -> None:
        """Append tokens, and the head that has to say them."""
        self.ids += ids
        self.heads += [head] * len(ids)

    def labels(self, head: str) -> list[int]:
        """Next-token labels of one head (`t` or `v`)."""
        targets = [token if by == head else IGNORE for token, by in zip(self.ids, self.heads, strict=True)]
        return [*targets[1:], IGNORE]


class Segment(NamedTuple):
    """A piece of a conversation: a text, or an image part; `target` where the assistant said it, images it drew."""

    text: str
    image: JsonObject | None
    target: bool
    content: bool = False
    """Somebody's words, not the template's."""


class ArmorProcessor:
    """Turns conversations into batches, and drawn codes into images."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: ProcessorSettings, vq: ImageTokenizer | None = None
    ):
        self.tokenizer = tokenizer
        self.settings = settings
        self.vq = vq
        self.base = find_base(settings.base)
        settings.image_token = settings.image_token or self.base.chat.image_token
        known = tokenizer.convert_tokens_to_ids(settings.image_token)
        if known is None or known == tokenizer.unk_token_id:
            raise UserError(f"the tokenizer does not know {settings.image_token}")
        settings.image_token_id = known
        self._prefix = list(tokenizer("").input_ids)  # a beginning-of-sequence token, where the tokenizer adds one
        self._template = TemplateTokenizer(tokenizer, self.base.chat)
        self._end = tokenizer.convert_tokens_to_ids(self.base.chat.end)

    @classmethod
    def for_config(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        config: PretrainedConfig,
        vq: ImageTokenizer | None = None,
        text_only: bool = False,
        published: JsonObject | None = None,
        **settings: Any,
    ) -> ArmorProcessor:
        """A processor that fits a model's configuration.

        Args:
            tokenizer: of the original vocabulary.
            config: of the model.
            vq: the image tokenizer; by default an untrained one of the configuration's sizes.
            text_only: leave the image tokenizer out.
            published: the base's config.json and preprocessor_config.json.
            settings: override ProcessorSettings' fields.
        """
        from armor_model.vq import build_vq

        fits = {
            "base": config.base_name,
            "vocab_size": config.vocab_size,
            "codebook_size": config.codebook_size,
            "image_grid": config.image_grid,
            **find_base(config.base_name).processor_settings(config, published or {}),
        }
        if len(tokenizer) > config.vocab_size:
            raise UserError(f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {config.vocab_size}")
        if vq is None and not text_only:
            vq = build_vq(config)
        processor = cls(tokenizer, ProcessorSettings(**{**fits, **settings}), vq)
        if processor.settings.image_token_id != config.image_token_id:
            raise UserError(
                f"{processor.settings.image_token} is token {processor.settings.image_token_id} of the tokenizer, "
                f"but the model expects {config.image_token_id}"
            )
        return processor

    # ---- saving --------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer, settings and the image tokenizer (in `vq/`) into a checkpoint's folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        (folder / FILE).write_text(json.dumps(asdict(self.settings), indent=2, ensure_ascii=False) + "\n")
        if self.vq is not None:
            self.vq.save(folder / "vq")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ArmorProcessor:
        """Read what `save_pretrained` wrote. Raises UserError for a folder that is not an ARMOR checkpoint."""
        from armor_model.loading import load_processor

        return load_processor(folder)

    # ---- token ids -----------------------------------------------------------------------------------------

    @property
    def imgbos_id(self) -> int:
        return self.settings.vocab_size

    @property
    def imgend_id(self) -> int:
        return self.settings.vocab_size + 1

    @property
    def first_code_id(self) -> int:
        return self.settings.vocab_size + 3

    @property
    def codes_per_image(self) -> int:
        return self.settings.image_grid**2

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return sorted({i for i in (self._end, self.tokenizer.eos_token_id) if i is not None})

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.stop_ids[0]

    @property
    def system_prompt(self) -> str | None:
        chosen = self.settings.system_prompt
        return self.base.chat.system_prompts.get(chosen, chosen)

    # ---- images --------------------------------------------------------------------------------------------

    def cut(self, image: Image.Image | str | Path, max_tiles: int | None = None) -> Tensor:
        """An image to look at, as the base preprocesses it. Raises UserError where it cannot be read."""
        return self.base.preprocess(open_image(image), self.settings, max_tiles)

    @torch.no_grad()
    def image_codes(self, images: Sequence[Image.Image | str | Path | bytes]) -> Tensor:
        """Images to codes (B, h, w) on the CPU, through the image tokenizer."""
        vq, device = self._image_tokenizer()
        pixels = torch.stack([to_pixels(open_image(image, drawn=True), vq.image_size) for image in images])
        return vq.encode(pixels.to(device)).cpu()

    @torch.no_grad()
    def decode_codes(self, codes_BHW: Tensor) -> list[Image.Image]:
        """Codes (B, h, w) to images."""
        vq, device = self._image_tokenizer()
        return to_images(vq.decode(codes_BHW.to(device)))

    def _image_tokenizer(self) -> tuple[ImageTokenizer, torch.device]:
        if self.vq is None:
            raise UserError("this processor has no image tokenizer, so it cannot read or draw images as codes")
        return self.vq, next(self.vq.parameters()).device

    def decode_text(self, ids: list[int]) -> str:
        """Tokens of the original vocabulary to text, without special tokens."""
        return self.tokenizer.decode([i for i in ids if i < self.settings.vocab_size], skip_special_tokens=True).strip()

    # ---- encoding ------------------------------------------------------------------------------------------

    def render(self, conversation: Conversation, add_generation_prompt: bool = False) -> str:
        """The template's text, for prompt snapshots; an image is `<image>`, a drawn one `<imgbos>...<imgend>`."""
        segments = self._segments(conversation, add_generation_prompt)
        return "".join(
            text if image is None else "<imgbos>...<imgend>" if target else "<image>"
            for text, image, target, _ in segments
        )

    def _segments(self, conversation: Conversation, add_generation_prompt: bool) -> Iterator[Segment]:
        chat = self.base.chat
        if not conversation:
            raise UserError("a conversation needs at least one message")
        has_system = conversation[0].get("role") == "system"
        if not has_system and self.system_prompt:
            conversation = [{"role": "system", "content": self.system_prompt}, *conversation]
        if not self._prefix:
            yield Segment(chat.begin, None, False)
        for message in conversation:
            role = message.get("role")
            if role not in ("system", "user", "assistant"):
                raise UserError(f"a message's role is system, user or assistant, not {role!r}")
            target = role == "assistant"
            yield Segment(chat.turn.format(role=chat.roles.get(role, role)), None, False)
            parts, before = parts_of(message), chat.before_text
            for part, following in zip_longest(parts, parts[1:]):
                if part["type"] == "text":
                    if before:
                        yield Segment(before, None, target)  # what the model says begins with it
                        before = ""
                    yield Segment(part["text"], None, target, content=True)
                    continue
                before = ""
                yield Segment("", part, target)
                text = following.get("text", "") if following and following["type"] == "text" else None
                if not target and text is not None and not text.startswith(chat.after_image):
                    yield Segment(chat.after_image, None, False)
            yield Segment(chat.end, None, target)
            yield Segment(chat.after, None, False)
        if add_generation_prompt:
            begun = conversation[-1].get("answer_prefix", "")
            yield Segment(chat.turn.format(role=chat.roles.get("assistant", "assistant")) + begun, None, False)

    def encode_one(
        self, conversation: Conversation, add_generation_prompt: bool = False, max_tiles: int | None = None
    ) -> Encoded:
        """One conversation to tokens, tiles, and the head that has to say each token.

        Args:
            conversation: see the module's first lines.
            add_generation_prompt: end with the assistant's opening, for an answer to follow.
            max_tiles: override the setting for this conversation.
        """
        segments = list(self._segments(conversation, add_generation_prompt))
        out = Encoded(list(self._prefix), heads=[""] * len(self._prefix))
        pieces: list[Piece] = []
        lengths: list[int] = []
        for text, image, target, content in segments:
            if image is None or target:
                pieces.append(Piece(text if image is None else DRAWN, content))
                continue
            tiles = image["tiles"] if "tiles" in image else self.cut(image["image"], max_tiles)
            seen, runs = self.base.image_text(tiles, self.settings)
            out.tiles.append(tiles)
            out.shown.append(sum(runs))
            pieces.append(Piece(seen, False))
            lengths += runs
        left = iter(lengths)
        for token, piece in self._template.encode(pieces):
            _, image, target, _ = segments[piece]
            if token is None:
                out.add([self.imgbos_id], "t")
                out.add([self.first_code_id + k for k in self._codes_of(image or {})] + [self.imgend_id], "v")
            elif token == self.settings.image_token_id:  # thirteen tiles are 43,000 letters: only one is tokenised
                out.add([token] * next(left))
            else:
                out.add([token], "t" if target else "")
        return out

    def check_template(self) -> int:
        """Compare the ids of sample conversations with the plain tokenizer's of their whole text, marks included; the
        number of samples. Raises UserError where they differ: the model would read other ids than its base learned."""
        shown = self.base.preprocess(Image.new("RGB", SAMPLE_SIZE), self.settings, None)
        seen, runs = self.base.image_text(shown, self.settings)
        token, left = self.settings.image_token, iter(runs)
        image = re.sub(re.escape(token), lambda _: token * next(left), seen)
        for sample in SAMPLES:
            talk = [{"role": "user", "content": [{"type": "image", "tiles": shown}, *parts_of(sample[0])]}, *sample[1:]]
            whole = "".join(text if part is None else image for text, part, *_ in self._segments(talk, False))
            plain, ours = list(self.tokenizer(whole).input_ids), self.encode_one(talk).ids
            if plain != ours:
                at = next((i for i, pair in enumerate(zip_longest(plain, ours)) if pair[0] != pair[1]), 0)
                names = [self.tokenizer.convert_ids_to_tokens(ids[max(0, at - 2) : at + 3]) for ids in (plain, ours)]
                raise UserError(f"the tokenizer makes {names[0]} of a whole conversation, and {names[1]} in pieces")
        return len(SAMPLES)

    def _codes_of(self, part: JsonObject) -> list[int]:
        codes = part.get("codes")
        if codes is None:
            codes = self.image_codes([part["image"]])[0]
        flat = torch.as_tensor(codes).flatten().tolist()
        if len(flat) != self.codes_per_image:
            raise UserError(f"a drawn image has {self.codes_per_image} codes, not {len(flat)}")
        if min(flat) < 0 or max(flat) >= self.settings.codebook_size:
            raise UserError(f"image codes must lie in 0..{self.settings.codebook_size - 1}")
        return flat

    def collate(self, rows: list[Encoded], supervise: bool = False, padding_side: str = "left") -> JsonObject:
        """Encoded conversations to one batch: input_ids, attention_mask (B, T), pixel_values (a list of images, or
        None), and with `supervise` text_labels and image_labels (B, T)."""
        length = max(len(row.ids) for row in rows)

        def padded(sequence: list[int], fill: int) -> list[int]:
            pad = [fill] * (length - len(sequence))
            return pad + sequence if padding_side == "left" else sequence + pad

        tiles = [tile for row in rows for tile in row.tiles]
        batch: JsonObject = {
            "input_ids": torch.tensor([padded(row.ids, self.pad_id) for row in rows]),
            "attention_mask": torch.tensor([padded([1] * len(row.ids), 0) for row in rows]),
            "pixel_values": tiles or None,
        }
        if supervise:
            batch["text_labels"] = torch.tensor([padded(row.labels("t"), IGNORE) for row in rows])
            batch["image_labels"] = torch.tensor([padded(row.labels("v"), IGNORE) for row in rows])
        return batch

    def encode(
        self,
        conversations: list[Conversation],
        add_generation_prompt: bool = False,
        supervise: bool = False,
        max_tiles: int | None = None,
        padding_side: str | None = None,
    ) -> JsonObject:
        """Conversations to one batch (see `collate`). With `supervise`, every assistant turn is a target: its text, its
        `<imgbos>` and its `<|im_end|>` of the text head, its codes and `<imgend>` of the visual head."""
        rows = [self.encode_one(c, add_generation_prompt, max_tiles) for c in conversations]
        return self.collate(rows, supervise, padding_side or ("right" if supervise else "left"))
