"""How far a judge can be trusted: agreement with recorded answers, kappa, a score corrected for its errors;
and pairwise verdicts.

The correction is Rogan and Gladen's (1978): true share = (seen + specificity - 1) / (sensitivity + specificity - 1),
with both rates from the answers that are known. Its interval is a percentile bootstrap over clusters, of the known
answers and of the run that is corrected. On the very answers that both rates came from it gives back their own share:
it says something new only of a run that holds more.

Legend: C clusters, S columns, R resamples.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from armor_eval.runs.schema import Item, Metric
from armor_eval.stats.composite import Composite, accuracy, measure, percent, ratio, tally_mean
from armor_eval.stats.intervals import bootstrap_sums, stream

RESAMPLES = 2000
UNDEFINED_ABOVE = 0.01
"""Share of resamples without a correction beyond which no interval is given."""
TRUE_YES, JUDGED_YES, BOTH_YES, ASKED = range(4)
"""Columns of a pair's sums."""


@dataclass(frozen=True)
class Pair:
    """One verdict of the judge beside the recorded one."""

    id: str
    cluster: str
    task: str
    judged: bool
    truth: bool


@dataclass(frozen=True)
class Agreement:
    """A judge against recorded answers, of one task or of all."""

    task: str
    pairs: int
    agreement: Metric
    kappa: Metric
    """Cohen's; undefined where judge and truth say one thing throughout."""
    sensitivity: float | None
    """Of what is right, the share that the judge calls right; None where nothing is."""
    specificity: float | None
    """Of what is wrong, the share that the judge calls wrong."""
    seen: float
    """Percent that the judge calls right, of the run that is corrected."""
    corrected: Metric


def agreement_of(
    pairs: Sequence[Pair], task: str, scored: Mapping[str, tuple[float, float]] | None = None, seed: int = 0
) -> Agreement:
    """Agreement of the pairs (at least one). `scored`: cluster -> (called right, n) of another run of the same judge,
    whose score is corrected; None: that of the pairs themselves."""
    items = [
        Item(
            id=p.id,
            cluster=p.cluster,
            prompt="",
            prompt_sha256="",
            score=float(p.judged == p.truth),
            status="ok",
            extras={"row": [p.truth, p.judged, p.truth and p.judged, 1]},
        )
        for p in pairs
    ]
    same = Composite("agreement", ("same", "n"), tally_mean, percent, proportion=True)
    kappa = Composite("kappa", ("truth", "judge", "both", "n"), _tally_rows, _kappa, "score", bounds=(-1.0, 1.0))
    sums_CS = kappa.cluster_sums(items).sums_CS
    truth, judged, both, n = sums_CS.sum(axis=0)
    target_CS = sums_CS[:, [JUDGED_YES, ASKED]] if scored is None else np.array(list(scored.values()), dtype=float)
    top, bottom = target_CS.sum(axis=0)
    return Agreement(
        task,
        len(pairs),
        measure(items, same),
        measure(items, kappa),
        both / truth if truth else None,
        1 - (judged - both) / (n - truth) if n > truth else None,
        100 * top / bottom,
        _corrected(sums_CS, target_CS, scored is None, seed),
    )


def _tally_rows(items: Sequence[Item]) -> dict[str, list[float]]:
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
    for item in items:
        table[item.cluster] = [a + b for a, b in zip(table[item.cluster], item.extras["row"], strict=True)]
    return table


def _kappa(sums: np.ndarray) -> np.ndarray:
    """(observed - expected agreement) / (1 - expected), of sums [..., 4]; nan where the expected one is 1."""
    n = sums[..., ASKED]
    truth, judged, both = (ratio(sums[..., k], n) for k in (TRUE_YES, JUDGED_YES, BOTH_YES))
    observed = 1 - truth - judged + 2 * both
    expected = truth * judged + (1 - truth) * (1 - judged)
    return ratio(observed - expected, 1 - expected)


def rogan_gladen(sums: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Corrected percent, 0..100, of sums [..., 4] of known answers and sums [..., 2] (called right, n) of a run; nan
    where a rate is undefined, or the judge does no better than chance (sensitivity + specificity <= 1)."""
    wrong = sums[..., ASKED] - sums[..., TRUE_YES]
    sensitivity = ratio(sums[..., BOTH_YES], sums[..., TRUE_YES])
    false_yes = ratio(sums[..., JUDGED_YES] - sums[..., BOTH_YES], wrong)
    youden = sensitivity - false_yes
    seen = ratio(target[..., 0], target[..., 1])
    share = ratio(seen - false_yes, np.where(youden > 1e-12, youden, np.nan))
    corrected: np.ndarray = 100.0 * np.clip(share, 0.0, 1.0)
    return corrected


def _corrected(sums_CS: np.ndarray, target_CS: np.ndarray, own: bool, seed: int) -> Metric:
    value = float(rogan_gladen(sums_CS.sum(axis=0), target_CS.sum(axis=0)))
    common = {"name": "corrected score", "unit": "%", "n": int(target_CS[:, 1].sum()), "clusters": len(target_CS)}
    if not math.isfinite(value):
        why = "sensitivity + specificity is not above 1, or one of them has no answers"
        return Metric(value=None, note=f"undefined: {why}", **common)
    known_RS = bootstrap_sums(sums_CS, RESAMPLES, stream(seed, "known"))
    target_RS = known_RS[:, [JUDGED_YES, ASKED]] if own else bootstrap_sums(target_CS, RESAMPLES, stream(seed, "run"))
    values_R = rogan_gladen(known_RS, target_RS)
    lost = int(np.count_nonzero(~np.isfinite(values_R)))
    if min(len(sums_CS), len(target_CS)) < 2 or lost > UNDEFINED_ABOVE * RESAMPLES:
        return Metric(value=value, note=f"n/a: undefined in {lost} of {RESAMPLES} resamples", **common)
    low, high = np.nanquantile(values_R, (0.025, 0.975))
    how = f"Rogan-Gladen; percentile cluster bootstrap, {RESAMPLES} resamples, seed {seed}"
    return Metric(value=value, ci95=(min(low, value), max(high, value)), method=how, **common)


# --- pairwise verdicts: win rates, a judge's agreement with people, and its leaning to a position --------------------
# A verdict is A, B, Tie(A) or Tie(B): a tie names the one that it leans to. Every other string is no verdict: it is
# counted and stands in no denominator. Pairs of one item (a question that several contestants answered) are not
# independent, so that intervals resample items.


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
    """Each pair judged in both orders."""

    consistent: Metric | None
    """Percent of pairs whose winner is one in both orders."""
    says_first: Metric | None
    """Percent of verdicts for the answer that was shown first; 50 where the place does not matter."""
    failed: int
    """Pairs of which one order has no verdict, or was not asked."""
    winners: dict[tuple[str, str, str], str | None]
    """(item, contestants in order of name) -> the winner; None where the two orders disagree, which is a tie."""


def position_swap(battles: Sequence[Battle]) -> PositionSwap:
    """What the same pairs in both orders show. ValueError where one order of a pair was judged twice."""
    orders: dict[tuple[str, str, str], dict[str, str | None]] = {}
    for battle in battles:
        low, high = sorted((battle.a, battle.b))
        seen = orders.setdefault((battle.item, low, high), {})
        if battle.a in seen:
            raise ValueError(f"{battle.item}: {battle.a} before {battle.b} is judged twice")
        seen[battle.a] = letter(battle.verdict)
    same, first, winners = [], [], {}
    failed = 0
    for (item, low, high), seen in orders.items():
        letters = [seen.get(low), seen.get(high)]
        if None in letters:
            failed += 1
            continue
        won = [low if letters[0] == "A" else high, high if letters[1] == "A" else low]
        key = f"{item}|{low}|{high}"
        same.append(_item(key, item, float(won[0] == won[1])))
        first += [_item(f"{key}|{at}", item, float(said == "A")) for at, said in enumerate(letters)]
        winners[item, low, high] = won[0] if won[0] == won[1] else None
    return PositionSwap(
        measure(same, accuracy("same winner in both orders", primary=False)) if same else None,
        measure(first, accuracy("verdicts for the first answer", primary=False)) if first else None,
        failed,
        winners,
    )


def _item(id: str, cluster: str, score: float) -> Item:
    return Item(id=id, cluster=cluster, prompt="", prompt_sha256="", score=score, status="ok")
