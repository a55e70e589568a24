"""Pairwise verdicts: win rates of contestants, a judge's agreement with people, and its leaning to a position.

A verdict is A, B, Tie(A) or Tie(B): a tie names the one that it leans to. Every other string is no verdict: it is
counted and stands in no denominator. Pairs of one item (a question that several contestants answered) are not
independent, so that intervals resample items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from armor_eval.runs.schema import Item, Metric
from armor_eval.stats.composite import accuracy, measure

Ties = Literal["letter", "without", "loss", "half"]
"""How a tie counts: for the letter in its brackets (OpenING's headline), not at all, for neither, half for both."""
_LETTER = {"A": "A", "B": "B", "Tie(A)": "A", "Tie(B)": "B"}


@dataclass(frozen=True)
class Battle:
    """One verdict on two answers to one item."""

    item: str
    """What is resampled together."""
    a: str
    b: str
    """The contestants, in the order in which the judge saw them."""
    verdict: str


def letter(verdict: str) -> str | None:
    """A or B, ties going to the letter in their brackets; None for what is no verdict."""
    return _LETTER.get(verdict)


def points(battle: Battle, ties: Ties = "letter") -> tuple[float, float] | None:
    """What A and B get; None where the pair does not count."""
    side = letter(battle.verdict)
    if side is None:
        return None
    if battle.verdict.startswith("Tie") and ties != "letter":
        return {"without": None, "loss": (0.0, 0.0), "half": (0.5, 0.5)}[ties]
    return (1.0, 0.0) if side == "A" else (0.0, 1.0)


def win_rates(battles: Iterable[Battle], ties: Ties = "letter") -> dict[str, Metric]:
    """Percent of its matches that each contestant wins, with intervals over items."""
    matches: dict[str, list[Item]] = {}
    for at, battle in enumerate(battles):
        got = points(battle, ties)
        if got is None:
            continue
        for side, who, score in (("a", battle.a, got[0]), ("b", battle.b, got[1])):
            matches.setdefault(who, []).append(_item(f"{at}{side}", battle.item, score))
    return {who: measure(items, accuracy(who, primary=False)) for who, items in sorted(matches.items())}


def unknown(battles: Iterable[Battle]) -> dict[str, int]:
    """What stands where a verdict should: counted, never guessed."""
    return dict(Counter(battle.verdict for battle in battles if letter(battle.verdict) is None))


def says_first(battles: Sequence[Battle]) -> Metric | None:
    """Percent of verdicts for the answer that was shown first, each pair in one order: beside 50 it may be the answers'
    doing as well as the judge's. None where there is no verdict."""
    items = [
        _item(str(at), battle.item, float(side == "A"))
        for at, battle in enumerate(battles)
        if (side := letter(battle.verdict)) is not None
    ]
    return measure(items, accuracy("verdicts for the first answer", primary=False)) if items else None


@dataclass(frozen=True)
class Joined:
    """Two judges' verdicts on the same pairs."""

    agreement: Metric | None
    """Percent of pairs whose letter is one; None where no pair is in both."""
    table: dict[tuple[str, str], int]
    """(first judge's letter, second's) -> pairs. A judge's list of verdicts may be longer (OpenING's IntJudge: 4,303
    verdicts, 4,301 pairs that people judged too), so that sums over lists are no denominator."""
    missing: int
    """Pairs that only one of them judged, or judged by no verdict."""


def joined(first: Sequence[Battle], second: Sequence[Battle]) -> Joined:
    """The verdicts of two judges, joined by item and contestants, in whichever order each judge saw them."""
    by_key: list[dict[tuple[str, str, str], str]] = []
    for battles in (first, second):
        found: dict[tuple[str, str, str], str] = {}
        for battle in battles:
            side = letter(battle.verdict)
            low, high = sorted((battle.a, battle.b))
            if side is not None:
                winner = battle.a if side == "A" else battle.b
                found[battle.item, low, high] = "A" if winner == low else "B"
        by_key.append(found)
    ours, theirs = by_key
    both = [key for key in ours if key in theirs]
    table = Counter((ours[key], theirs[key]) for key in both)
    items = [_item("|".join(key), key[0], float(ours[key] == theirs[key])) for key in both]
    every = {(b.item, *sorted((b.a, b.b))) for b in (*first, *second)}
    agreement = measure(items, accuracy("agreement", primary=False)) if items else None
    return Joined(agreement, dict(table), len(every) - len(both))


@dataclass(frozen=True)
class PositionSwap:
    """Each pair judged in both orders, a tie being half a point for each: whom it leans to is no preference."""

    consistent: Metric | None
    """Percent of pairs that get the same points in both orders; a tie in one of them only is half the same."""
    says_first: Metric | None
    """Percent of the points that go to the answer that was shown first; 50 where the place does not matter."""
    failed: int
    """Pairs of which one order has no verdict, or was not asked."""


def position_swap(battles: Sequence[Battle]) -> PositionSwap:
    """What the same pairs in both orders show. ValueError where one order of a pair was judged twice."""
    orders: dict[tuple[str, str, str], dict[str, tuple[float, float] | None]] = {}
    for battle in battles:
        low, high = sorted((battle.a, battle.b))
        seen = orders.setdefault((battle.item, low, high), {})
        if battle.a in seen:
            raise ValueError(f"{battle.item}: {battle.a} before {battle.b} is judged twice")
        seen[battle.a] = points(battle, "half")
    same, first, failed = [], [], 0
    for (item, low, high), seen in orders.items():
        one, other = seen.get(low), seen.get(high)
        if one is None or other is None:
            failed += 1
            continue
        key = f"{item}|{low}|{high}"
        same.append(_item(key, item, 1.0 - abs(one[0] - other[1])))
        first += [_item(f"{key}|{at}", item, got[0]) for at, got in enumerate((one, other))]
    return PositionSwap(
        measure(same, accuracy("same winner in both orders", primary=False)) if same else None,
        measure(first, accuracy("verdicts for the first answer", primary=False)) if first else None,
        failed,
    )


def _item(id: str, cluster: str, score: float) -> Item:
    return Item(id=id, cluster=cluster, prompt="", prompt_sha256="", score=score, status="ok")
