"""Added tokens of a tokenizer for which the embeddings have no row: left out of an ARMOR, and of its plain base."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def within(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer without its added tokens from id `vocab_size` on, and the names of these.

    Published tokenizers have some: InternVL3-1B-hf's `<video>` is 151674, its embeddings end at 151673. In a text such
    a name would be an id out of range to an engine that serves the base, and one of ARMOR's new tokens to us."""
    names = {str(token) for i, token in tokenizer.added_tokens_decoder.items() if i >= vocab_size}
    if not names:
        return tokenizer, []
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in Path(folder).glob("tokenizer*.json"):
            path.write_text(json.dumps(_without(json.loads(path.read_text("utf-8")), names)))
        kind = type(tokenizer)
        return kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True), sorted(names)


def _without(value: object, names: set[str]) -> object:
    """JSON without the strings, and the tokens' records, that are of these names."""

    def kept(inner: object) -> bool:
        name = inner.get("content") if isinstance(inner, dict) else inner
        return not isinstance(name, str) or name not in names

    if isinstance(value, dict):
        return {key: _without(inner, names) for key, inner in value.items() if kept(inner)}
    return [_without(inner, names) for inner in value if kept(inner)] if isinstance(value, list) else value
