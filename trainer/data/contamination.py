"""Contamination screen: captions that a benchmark's prompts contain, exactly or nearly, by overlap of word n-grams.

armor-eval geneval prompts > geneval.jsonl
armor-train build-data --tars data --prompts geneval.jsonl --out built
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Literal

from armor_model.base.errors import UserError
from armor_model.base.parsing import json_of

WORDS = 3
"""Of an n-gram. Longer ones, as for web pages (13), find nothing in prompts of five words."""
Degree = Literal["exact", "near"]


class Prompts:
    """A benchmark's prompts, to be looked for in captions."""

    def __init__(self, prompts: list[str], near: float = 0.6) -> None:
        """near: from which Jaccard index of the word trigrams on a caption counts as near."""
        self.near = near
        self._grams: list[frozenset[tuple[str, ...]]] = []
        self._with: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._exact: dict[tuple[str, ...], str] = {}
        self._texts: list[str] = []
        for text in prompts:
            key = _words(text)
            if not key or key in self._exact:
                continue
            self._exact[key] = text
            grams = _grams(key)
            for gram in grams:
                self._with[gram].append(len(self._texts))
            self._grams.append(grams)
            self._texts.append(text)

    def __len__(self) -> int:
        """Different prompts."""
        return len(self._texts)

    def find(self, caption: str) -> tuple[Degree, str] | None:
        """How a caption repeats a prompt, and which: `exact` but for case, accents of style and punctuation, or
        `near`."""
        key = _words(caption)
        if key in self._exact:
            return "exact", self._exact[key]
        grams = _grams(key)
        shared = Counter(number for gram in grams for number in self._with.get(gram, ()))
        best = max(((n / len(grams | self._grams[i]), -i) for i, n in shared.items()), default=(0.0, 0))
        return ("near", self._texts[-best[1]]) if shared and best[0] >= self.near else None


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


def _grams(words: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    """Its trigrams; a shorter text is one gram."""
    return frozenset(words[i : i + WORDS] for i in range(max(1, len(words) - WORDS + 1)))


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file: one a line, or JSON lines with a `prompt` or `question`. Raises UserError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompts of {path}: {error}") from error
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            try:
                row = json_of(line)
            except ValueError as error:
                raise UserError(f"{path}: line {number} is no JSON object") from error
            line = row.get("prompt", row.get("question"))
            if not isinstance(line, str):
                raise UserError(f"{path}: line {number} has no prompt")
        prompts.append(line)
    if not prompts:
        raise UserError(f"{path} holds no prompts")
    return prompts
