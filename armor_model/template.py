"""What chat templates take and become: a message's content as checked parts, and the template's tokeniser. A
conversation is tokenised as one text, in which only the template's own marks are special tokens. And a word-level
tokenizer that knows a template, for the small models.

A mark that somebody typed (`<|im_end|>`, `<img>`, `<imgbos>`) is plain text, and a piece's tokens are those it has
behind the pieces before it: a vocabulary that marks word starts gives an answer other ids when it is tokenised alone.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none
from armor_model.bases import BASES, ChatFormat, find_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

NEW_TOKENS = ("<imgbos>", "<imgend>", "<imgpad>")
"""Names of ARMOR's own tokens, the codes `<code_0>` ... apart."""
DRAWN = "<imgbos>...<imgend>"
"""How a drawn image stands in a piece of the template."""


def is_empty(message: JsonObject) -> bool:
    """A message without an image, whose text is blank."""
    content = message.get("content")
    if isinstance(content, str | None):
        return not (content or "").strip()
    return all(part["type"] == "text" and not part["text"].strip() for part in parts_of(message))


def parts_of(message: JsonObject) -> list[JsonObject]:
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


# ---- tokens


class Piece(NamedTuple):
    """A stretch of a conversation's text."""

    text: str
    content: bool
    """Somebody's words, in which no mark counts; else the template's."""


class Token(NamedTuple):
    """One token of a conversation."""

    id: int | None
    """None where a drawn image stands."""
    piece: int
    """Index of the piece in which the token begins."""


def marks_of(chat: ChatFormat) -> list[str]:
    """The template's special tokens."""
    return list(dict.fromkeys([*chat.specials, chat.end, chat.image_token]))


@cache
def _known_tokens() -> re.Pattern[str]:
    marks = [mark for base in BASES for mark in marks_of(find_base(base).chat) if mark != "<image>"]  # records' own
    return re.compile("|".join(map(re.escape, dict.fromkeys([*marks, *NEW_TOKENS]))) + r"|<code_\d+>")


def template_tokens(text: str) -> list[str]:
    """Names of any base's template and image tokens, and of ARMOR's own, that a text holds, in order: what a record is
    counted by that holds some. Data are made for no base in particular."""
    return _known_tokens().findall(text)


class TemplateTokenizer:
    """A copy of a fast tokenizer that knows the template's marks under names which no text can hold."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
        """Raises UserError for a tokenizer without a tokenizer.json."""
        from tokenizers import AddedToken, Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(f"{type(tokenizer).__name__} is not a fast tokenizer", "give one with a tokenizer.json")
        ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in marks_of(chat)}
        ids = {mark: i for mark, i in ids.items() if i is not None and i != tokenizer.unk_token_id}
        self._core = Tokenizer.from_str(backend.to_str())
        self._core.no_padding()
        self._core.no_truncation()
        self._core.add_special_tokens(list(ids))  # also where the file calls them ordinary
        self._core.encode_special_tokens = True  # as text
        known, nonce = tokenizer.added_tokens_decoder, secrets.token_hex(8)
        self._aliases = {mark: f"\ue000{nonce}-{i}\ue001" for i, mark in enumerate([*ids, DRAWN])}
        self._reserved = set(ids.values())
        self._real: dict[int, int | None] = {}
        for mark, alias in self._aliases.items():
            real = ids.get(mark)
            flags = None if real is None else known.get(real)
            sides = {side: bool(getattr(flags, side, False)) for side in ("lstrip", "rstrip")}
            self._core.add_tokens([AddedToken(alias, normalized=False, special=False, **sides)])
            self._real[not_none(self._core.token_to_id(alias))] = real

    def encode(self, pieces: Sequence[Piece]) -> list[Token]:
        """The pieces' tokens, as of their texts in one string. Raises UserError for text that is no Unicode, or one of
        whose words is a mark in a vocabulary that does not split it."""
        texts, starts, at = [], [], 0
        for text, content in pieces:
            if not content:
                for mark, alias in self._aliases.items():
                    text = text.replace(mark, alias)
            starts.append(at)
            texts.append(text)
            at += len(text)
        whole = "".join(texts)
        try:
            whole.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                "text must be valid Unicode: it holds half a surrogate pair, or bytes that are not UTF-8"
            ) from error
        found = self._core.encode(whole, add_special_tokens=False)
        tokens = []
        for token, (start, _) in zip(found.ids, found.offsets, strict=True):
            if token in self._reserved:
                raise UserError(f"text must not hold the reserved token {self._core.id_to_token(token)}")
            # An empty piece begins where the next one does; the last of them holds the letter.
            piece = bisect_right(starts, min(start, at - 1)) - 1
            tokens.append(Token(self._real.get(token, token), piece))
        return tokens


# ---- words

TEMPLATE_WORDS = ["system", "user", "assistant", "\n"]


def build_word_tokenizer(
    words: Iterable[str], letters: str = "ABCD", base: str = "internvl"
) -> PreTrainedTokenizerFast:
    """A word-level tokenizer for the small models, in the form every Hugging Face tokenizer has: padding, the base's
    special tokens (first, so that the placeholder of an image has the small presets' id, 3), template, letters, words.

    Text is lower-cased, split at spaces and punctuation; a line break is a token. A capital of `letters` that stands
    alone as an option mark (`A.`, `(B)`, or at a line's end) keeps its case, since VLMEvalKit reads capitals.

    Args:
        words: the word list, lower-case; duplicates are dropped, order is kept.
        letters: option letters; each is a token of its own.
        base: whose chat template it has to know.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    chat = find_base(base).chat
    marks = [":"] if ":" in chat.turn else []
    entries = dict.fromkeys(["<pad>", *chat.specials, "<unk>", *TEMPLATE_WORDS, *marks, *letters, *words])
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(entries)}, unk_token="<unk>"))
    keep = [normalizers.Replace(Regex(rf"\b{x}\b(?=\s*([.):,]|$))"), f"\ue000{x.lower()}") for x in letters]
    restore = [normalizers.Replace(f"\ue000{x.lower()}", x) for x in letters]
    core.normalizer = normalizers.Sequence([*keep, normalizers.Lowercase(), *restore])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Split(Regex(r"[ \t\r]+"), "removed"),
            pre_tokenizers.Split(Regex(r"[^\w\s]"), "isolated"),
        ]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex("^"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r" ?\n ?"), "\n"),
            decoders.Replace(Regex(r" (?=[.,?!:;)'])|(?<=[(']) "), ""),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token=chat.end,
        unk_token="<unk>",
        additional_special_tokens=[token for token in chat.specials if token != chat.end],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1_000_000,
    )
