"""Screens for captioned images, as declared rules that report what each one dropped.

The paper says that LAION-nolang-aesthetics and text-to-image-2M were "screened" and prints no rule; these are ours,
each with its reason, each switchable. An image whose metadata lacks a field passes that rule, and is counted as
unjudged. One of them, against contamination: captions that a benchmark's prompts contain, exactly or nearly, by overlap
of word n-grams.

armor-eval geneval prompts > geneval.jsonl
armor-train build-data --tars data --prompts geneval.jsonl --out built
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of
from trainer.data.records import IMAGE, Tally

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


# ---- the rules


@dataclass
class Pair:
    """One captioned image on its way in."""

    key: str
    caption: str
    image: bytes
    """The encoded file."""
    extension: str
    width: int
    height: int
    meta: JsonObject = field(default_factory=dict)
    """The source's own fields, names in lower case."""

    def number(self, *names: str) -> float | None:
        """The first of these metadata fields that holds a number."""
        for name in names:
            value = self.meta.get(name)
            # JSON can spell NaN, infinity and numbers that no float holds: none of them is a score.
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
                return float(value)
        return None


Verdict = bool | None
"""Keep, drop, or None: the metadata cannot tell."""


@dataclass(frozen=True)
class Rule:
    name: str
    why: str
    keep: Callable[[Pair], Verdict]


@dataclass(frozen=True)
class ScreenSettings:
    min_side: int = 256
    """Pixels of the shorter side; 0 turns the rule off. 256 is the drawn size: smaller would be blown up."""
    max_aspect: float = 2.0
    """Longest to shortest side; the centre crop would cut away more than half of anything longer."""
    min_aesthetic: float = 5.0
    """LAION's aesthetic score; 0 off."""
    min_words: int = 3
    max_words: int = 77
    """Caption length in words."""
    min_latin: float = 0.8
    """Share of a caption's letters that are Latin: LAION-nolang holds captions of undetected language; 0 off."""
    max_unsafe: float = 0.1
    """LAION's punsafe; 1 leaves its flag alone to judge."""
    drop_duplicates: bool = True
    """Same image bytes or same caption as one already kept."""


def image_digest(pair: Pair) -> str:
    """Of the encoded image."""
    return f"i{hashlib.blake2b(pair.image, digest_size=12).hexdigest()}"


def caption_digest(pair: Pair) -> str:
    """Of the caption, but for case and spaces."""
    words = " ".join(pair.caption.lower().split())
    return f"c{hashlib.blake2b(words.encode(), digest_size=12).hexdigest()}"


def rules(settings: ScreenSettings, prompts: Prompts | None = None) -> list[Rule]:
    """The rules in the order they are asked; the first that says drop is the one counted. prompts: whose captions are
    dropped."""
    seen: set[str] = set()

    def fresh(pair: Pair) -> Verdict:
        digests = {image_digest(pair), caption_digest(pair)}
        if not seen.isdisjoint(digests):
            return False
        seen.update(digests)
        return True

    def clean(degree: Degree) -> Callable[[Pair], Verdict]:
        return lambda pair: (prompts.find(pair.caption) or ("",))[0] != degree if prompts else True

    s = settings
    active = [
        Rule("resolution", f"shorter side under {s.min_side} px", lambda p: min(p.width, p.height) >= s.min_side),
        Rule(
            "aspect",
            f"longer side over {s.max_aspect:g} times the shorter",
            lambda p: max(p.width, p.height) <= s.max_aspect * min(p.width, p.height),
        ),
        Rule(
            "image_mark", f"{IMAGE} in the caption: it would stand for one more image", lambda p: IMAGE not in p.caption
        ),
        Rule(
            "caption_length",
            f"not {s.min_words} to {s.max_words} words",
            lambda p: s.min_words <= len(p.caption.split()) <= s.max_words,
        ),
        Rule("language", f"under {s.min_latin:.0%} Latin letters", lambda p: latin_share(p.caption) >= s.min_latin),
        Rule("aesthetic", f"aesthetic score under {s.min_aesthetic:g}", lambda p: _at_least(p, s.min_aesthetic)),
        Rule("unsafe", f"flagged, or unsafe probability over {s.max_unsafe:g}", lambda p: _safe(p, s.max_unsafe)),
    ]
    if prompts is not None:
        for degree in get_args(Degree):
            active.append(Rule(f"contaminated_{degree}", f"{degree} repetition of a prompt", clean(degree)))
    if s.drop_duplicates:
        # Last: only what is kept is remembered.
        active.append(Rule("duplicate", "image or caption seen before", fresh))
    return active


def screen(pair: Pair, active: list[Rule], tally: Tally) -> bool:
    """Whether a pair passes; counts the rule that dropped it, and the rules that could not judge it."""
    tally.read += 1
    for rule in active:
        verdict = rule.keep(pair)
        if verdict is None:
            tally.unknown[rule.name] += 1
        elif not verdict:
            tally.drop(rule.name, f"{pair.key}: {rule.why}")
            return False
    tally.kept += 1
    return True


def latin_share(text: str) -> float:
    """Share of Latin letters among all letters; 0 for a text without letters."""
    letters = [c for c in text if c.isalpha()]
    return sum(c.isascii() or "\u00c0" <= c <= "\u024f" for c in letters) / len(letters) if letters else 0.0


def _at_least(pair: Pair, limit: float) -> Verdict:
    score = pair.number("aesthetic", "aesthetic_score")
    return None if score is None else score >= limit


def _safe(pair: Pair, limit: float) -> Verdict:
    flag, probability = pair.meta.get("nsfw"), pair.number("punsafe")
    word = "" if flag is None else str(flag).strip().upper()
    if probability is not None and probability > limit:
        return False
    if word:  # one that is not known counts as unsafe
        return word in ("UNLIKELY", "FALSE", "0", "SAFE")
    return None if probability is None else True
