"""Conversations to model inputs and back: InternVL's template and tiles for what is seen, codes for what was drawn.

A conversation is a list of {"role": "system"|"user"|"assistant", "content": str | [part, ...]}; a part is
{"type": "text", "text": str}, {"type": "image", "image": PIL | path}, {"type": "image", "tiles": Tensor} for a picture
that `cut` has cut already, or, in an assistant turn, {"type": "image", "codes": LongTensor}.

Legend: B conversations, T tokens, N tiles, h w codes a side.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.images import open_image, tiles, to_images, to_pixels

if TYPE_CHECKING:
    from armor_model.config import ArmorConfig
    from armor_model.vq import ImageTokenizer

Conversation = list[dict[str, Any]]

IGNORE = -100
FILE = "processor_config.json"
SYSTEM_PROMPTS = {
    "internvl": "你是书生·万象，英文名是InternVL，"
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
    "none": None,
}
"""InternVL2.5's official system prompt (its published scores use it), or none (as transformers' own template)."""


@dataclass
class ProcessorSettings:
    """What a processor needs beside the tokenizer; saved as `processor_config.json`."""

    vocab_size: int
    """V: ids from V on are the new tokens (see ArmorConfig)."""
    codebook_size: int
    image_grid: int
    """Codes a side of a drawn picture."""
    image_token: str = "<IMG_CONTEXT>"
    image_token_id: int = 0
    image_seq_length: int = 256
    """Placeholders a tile."""
    image_size: int = 448
    """Pixels a side of a tile."""
    max_tiles: int = 12
    """Most tiles a picture is cut into, the thumbnail not counted."""
    use_thumbnail: bool = True
    system_prompt: str = "none"
    """`internvl`, `none`, or a text of one's own."""
    processor_class: str = "ArmorProcessor"


@dataclass
class Encoded:
    """One conversation as tokens; the labels at t are what the head must say at t, i.e. token t + 1, or -100."""

    ids: list[int] = field(default_factory=list)
    tiles: list[Tensor] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    """For each token, the head that had to say it: `t` text, `v` visual, empty where it was given."""

    def add(self, ids: list[int], head: str = "") -> None:
        self.ids += ids
        self.heads += [head] * len(ids)

    def labels(self, head: str) -> list[int]:
        """Next-token labels of one head (`t` or `v`)."""
        said = [token if who == head else IGNORE for token, who in zip(self.ids, self.heads, strict=True)]
        return [*said[1:], IGNORE]


class ArmorProcessor:
    """Turns conversations into batches, and drawn codes into pictures."""

    def __init__(self, tokenizer: Any, settings: ProcessorSettings, vq: ImageTokenizer | None = None):
        self.tokenizer = tokenizer
        self.settings = settings
        self.vq = vq
        known = tokenizer.convert_tokens_to_ids(settings.image_token)
        if known is None or known == tokenizer.unk_token_id:
            raise UserError(f"the tokenizer does not know {settings.image_token}")
        settings.image_token_id = known
        self._prefix = list(tokenizer("").input_ids)  # a beginning-of-sequence token, where the tokenizer adds one
        self._end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    @classmethod
    def for_config(
        cls,
        tokenizer: Any,
        config: ArmorConfig,
        vq: ImageTokenizer | None = None,
        text_only: bool = False,
        **settings: Any,
    ) -> ArmorProcessor:
        """A processor that fits a model's configuration.

        Args:
            tokenizer: of the original vocabulary.
            config: of the model.
            vq: the image tokenizer; by default an untrained one of the configuration's sizes.
            text_only: leave the image tokenizer out.
            settings: override ProcessorSettings' fields.
        """
        from armor_model.vq import build_vq

        size = config.vision_config.image_size[0]
        fits = {
            "vocab_size": config.vocab_size,
            "codebook_size": config.codebook_size,
            "image_grid": config.image_grid,
            "image_seq_length": config.image_seq_length,
            "image_size": size,
            "max_tiles": 12 if size >= 224 else 1,
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
        return SYSTEM_PROMPTS.get(chosen, chosen)

    # ---- pictures ------------------------------------------------------------------------------------------

    def cut(self, image: Image.Image | str | Path, max_tiles: int | None = None) -> Tensor:
        """A picture to look at as its tiles (N, 3, H, W). Raises UserError where it cannot be read."""
        s = self.settings
        return tiles(open_image(image), s.image_size, max_tiles or s.max_tiles, s.use_thumbnail)

    @torch.no_grad()
    def image_codes(self, images: list[Image.Image | str | Path]) -> Tensor:
        """Pictures to codes (B, h, w) on the CPU, through the image tokenizer."""
        if self.vq is None:
            raise UserError("this processor has no image tokenizer, so it cannot read or draw pictures as codes")
        device = next(self.vq.parameters()).device
        pixels = torch.stack([to_pixels(open_image(image), self.vq.image_size) for image in images])
        return self.vq.encode(pixels.to(device)).cpu()

    @torch.no_grad()
    def decode_codes(self, codes_BHW: Tensor) -> list[Image.Image]:
        """Codes (B, h, w) to pictures."""
        if self.vq is None:
            raise UserError("this processor has no image tokenizer, so it cannot read or draw pictures as codes")
        device = next(self.vq.parameters()).device
        return to_images(self.vq.decode(codes_BHW.to(device)))

    def decode_text(self, ids: list[int]) -> str:
        """Tokens of the original vocabulary to text, without special tokens."""
        return self.tokenizer.decode([i for i in ids if i < self.settings.vocab_size], skip_special_tokens=True).strip()

    # ---- encoding ------------------------------------------------------------------------------------------

    def render(self, conversation: Conversation, add_generation_prompt: bool = False) -> str:
        """The template's text, for prompt snapshots; a picture is `<image>`, a drawn one `<imgbos>...<imgend>`."""
        out = []
        for text, part, _ in self._segments(conversation, add_generation_prompt):
            out.append(text if part is None else "<imgbos>...<imgend>" if _is_drawn(part) else "<image>")
        return "".join(out)

    def _segments(self, conversation: Conversation, add_generation_prompt: bool):
        """(text, None, said) and ("", picture part, said) in order; `said`: the assistant said it."""
        if not conversation:
            raise UserError("a conversation needs at least one message")
        has_system = conversation[0].get("role") == "system"
        if not has_system and self.system_prompt:
            conversation = [{"role": "system", "content": self.system_prompt}, *conversation]
        for message in conversation:
            role = message.get("role")
            if role not in ("system", "user", "assistant"):
                raise UserError(f"a message's role is system, user or assistant, not {role!r}")
            said = role == "assistant"
            yield f"<|im_start|>{role}\n", None, False
            parts = _parts(message)
            for i, part in enumerate(parts):
                if part["type"] == "text":
                    yield part["text"], None, said
                    continue
                yield "", {**part, "drawn": said}, said
                after = parts[i + 1]["text"] if i + 1 < len(parts) and parts[i + 1]["type"] == "text" else None
                if not said and after is not None and not after.startswith("\n"):
                    yield "\n", None, False
            yield "<|im_end|>", None, said
            yield "\n", None, False
        if add_generation_prompt:
            yield "<|im_start|>assistant\n", None, False

    def encode_one(
        self, conversation: Conversation, add_generation_prompt: bool = False, max_tiles: int | None = None
    ) -> Encoded:
        """One conversation to tokens, tiles, and who said what.

        Args:
            conversation: see the module's first lines.
            add_generation_prompt: end with the assistant's opening, for an answer to follow.
            max_tiles: override the setting for this conversation.
        """
        out, pending = Encoded(), ""
        out.add(self._prefix)
        for text, part, said in self._segments(conversation, add_generation_prompt):
            if self.settings.image_token in text:
                raise UserError(f"text must not hold the reserved token {self.settings.image_token}")
            if part is None and not said:
                pending += text
                continue
            if part is not None and not _is_drawn(part):
                cut = part["tiles"] if "tiles" in part else self.cut(part["image"], max_tiles)
                out.tiles.append(cut)
                pending += "<img>" + self.settings.image_token * (len(cut) * self.settings.image_seq_length) + "</img>"
                continue
            out.add(self._tokens(pending))
            pending = ""
            if part is None:
                out.add(self._tokens(text), "t")
            else:
                out.add([self.imgbos_id], "t")
                out.add([self.first_code_id + k for k in self._codes_of(part)] + [self.imgend_id], "v")
        out.add(self._tokens(pending))
        return out

    def _tokens(self, text: str) -> list[int]:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError("text must be valid Unicode: it holds half a surrogate pair, or bytes that are not UTF-8")
        ids = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        if ids and max(ids) >= self.settings.vocab_size:
            raise UserError(f"text must not hold the reserved token {self.tokenizer.convert_ids_to_tokens(max(ids))}")
        return ids

    def _codes_of(self, part: dict[str, Any]) -> list[int]:
        codes = part.get("codes")
        if codes is None:
            codes = self.image_codes([part["image"]])[0]
        flat = torch.as_tensor(codes).flatten().tolist()
        if len(flat) != self.codes_per_image:
            raise UserError(f"a drawn picture has {self.codes_per_image} codes, not {len(flat)}")
        if min(flat) < 0 or max(flat) >= self.settings.codebook_size:
            raise UserError(f"image codes must lie in 0..{self.settings.codebook_size - 1}")
        return flat

    def collate(
        self, rows: list[Encoded], supervise: bool = False, padding_side: str = "left"
    ) -> dict[str, Tensor | None]:
        """Encoded conversations to one batch: input_ids, attention_mask (B, T), pixel_values (N, 3, H, W) or None, and
        with `supervise` text_labels and image_labels (B, T)."""
        length = max(len(row.ids) for row in rows)

        def padded(sequence: list[int], fill: int) -> list[int]:
            pad = [fill] * (length - len(sequence))
            return pad + sequence if padding_side == "left" else sequence + pad

        cut = [tile for row in rows for tile in row.tiles]
        batch: dict[str, Tensor | None] = {
            "input_ids": torch.tensor([padded(row.ids, self.pad_id) for row in rows]),
            "attention_mask": torch.tensor([padded([1] * len(row.ids), 0) for row in rows]),
            "pixel_values": torch.cat(cut) if cut else None,
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
    ) -> dict[str, Tensor | None]:
        """Conversations to one batch (see `collate`). With `supervise`, every assistant turn is a target: its text, its
        `<imgbos>` and its `<|im_end|>` of the text head, its codes and `<imgend>` of the visual head."""
        rows = [self.encode_one(c, add_generation_prompt, max_tiles) for c in conversations]
        return self.collate(rows, supervise, padding_side or ("right" if supervise else "left"))


def is_empty(message: dict[str, Any]) -> bool:
    """A message without a picture, whose text is blank."""
    content = message.get("content")
    if isinstance(content, str | None):
        return not (content or "").strip()
    return all(part["type"] == "text" and not part["text"].strip() for part in _parts(message))


def _is_drawn(part: dict[str, Any]) -> bool:
    return part["drawn"]


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message's content as checked parts."""
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        raise UserError(f"a message's content is a text or a list of parts, not {type(content).__name__}")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        ok = (kind == "text" and isinstance(part.get("text"), str)) or (
            kind == "image" and ("image" in part or ("codes" if message["role"] == "assistant" else "tiles") in part)
        )
        if not ok:
            raise UserError(
                'a part is {"type": "text", "text": ...} or {"type": "image", "image": ...}', hint=f"got {part!r:.80}"
            )
    return [p for p in content if p["type"] != "text" or p["text"]]
