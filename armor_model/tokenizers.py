"""A word-level tokenizer for the small models, in the form every Hugging Face tokenizer has.

The chat template's special tokens come first, so that the placeholder of an image has the small presets' id (3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from armor_model.bases import find_base

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerFast

TEMPLATE_WORDS = ["system", "user", "assistant", "\n"]


def build_word_tokenizer(
    words: Iterable[str], letters: str = "ABCD", base: str = "internvl"
) -> PreTrainedTokenizerFast:
    """A fast tokenizer with one token a word: padding, the base's special tokens, template, letters and words.

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
