"""Pairwise verdicts: OpenING's published agreement from its counts, ties, orders, unknown winners, clusters."""

import json

import numpy as np
import pytest
from paths import SHARED

from armor_eval.stats.pairwise import Battle, joined, letter, points, position_swap, unknown, win_rates

PUBLISHED = {
    # judge: (pairs, people A and judge A, A B, B A, B B, agreement); OpenING's committed verdicts at 56b663b
    "IntJudge": (4301, 1882, 388, 368, 1663, 0.8242),
    "GPT": (4302, 1893, 378, 866, 1165, 0.7108),
}


def battles_of(counts, per_item: int = 2) -> tuple[list[Battle], list[Battle]]:
    """Verdicts of two judges that make a 2 x 2 table, two pairs an item."""
    people, judge = [], []
    for letters, n in zip(("AA", "AB", "BA", "BB"), counts, strict=True):
        for _ in range(n):
            at = len(people)
            pair = (f"item{at // per_item}", f"x{at}", f"y{at}")
            people.append(Battle(*pair, letters[0]))
            judge.append(Battle(*pair, letters[1]))
    return people, judge


@pytest.mark.parametrize("name", PUBLISHED)
def test_openings_published_agreement_comes_out_of_its_counts(name):
    pairs, *counts, agreement = PUBLISHED[name]
    found = joined(*battles_of(counts))
    assert found.agreement.n == pairs and round(found.agreement.value / 100, 4) == agreement
    assert [found.table[tuple(letters)] for letters in ("AA", "AB", "BA", "BB")] == counts and found.missing == 0
    assert found.agreement.clusters == (pairs + 1) // 2


@pytest.mark.skipif(not (SHARED / "records" / "opening_counts.json").is_file(), reason="../shared is not here")
def test_the_counts_are_those_of_the_record_whose_verdict_lists_are_longer_than_its_tables():
    record = json.loads((SHARED / "records" / "opening_counts.json").read_text())
    for name, (pairs, *counts, agreement) in PUBLISHED.items():
        judge = record["judges"][name]
        keys = ("people_A_judge_A", "people_A_judge_B", "people_B_judge_A", "people_B_judge_B")
        assert [judge[k] for k in keys] == counts and sum(counts) == pairs and judge["agreement"] == agreement
        assert sum(judge["winner_strings"].values()) == pairs + 2, "all verdicts, also of pairs that are not joined"
    wins = record["people_wins"]
    battles = [
        Battle(f"{won}{lost}{i}", won, lost, "A")
        for won, row in wins.items()
        for lost, n in row.items()
        for i in range(n)
    ]
    assert {who: round(m.value / 100, 3) for who, m in win_rates(battles).items()} == record["people_win_rates"]


def test_a_tie_goes_where_the_rule_says():
    tie = Battle("i", "x", "y", "Tie(B)")
    assert [points(tie, rule) for rule in ("letter", "without", "loss", "half")] == [(0, 1), None, (0, 0), (0.5, 0.5)]
    assert points(Battle("i", "x", "y", "A"), "half") == (1, 0)


@pytest.mark.parametrize("verdict", ["Tie ()", "Tie", "a", "", "C", "AB", "Tie(C)", "A or B"])
def test_what_is_no_verdict_counts_nowhere(verdict):
    known = [Battle("i", "x", "y", "A"), Battle("j", "x", "y", "B")]
    odd = Battle("k", "x", "y", verdict)
    assert letter(verdict) is None and unknown([*known, odd]) == {verdict: 1}
    assert win_rates([*known, odd])["x"].n == win_rates(known)["x"].n == 2
    assert position_swap([odd, Battle("k", "y", "x", "A")]).failed == 1


def worlds(count: int = 60):
    """Random battles of three contestants on items, both orders judged."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        names = ("p", "q", "r")
        yield (
            [
                Battle(f"i{i}", *pair, ("A", "B", "Tie(A)", "Tie(B)", "?")[int(rng.integers(5))])
                for i in range(6)
                for a, b in (("p", "q"), ("q", "r"))
                for pair in ((a, b), (b, a))
            ],
            names,
        )


def test_wins_are_shared_out_whatever_the_world():
    for battles, _ in worlds():
        known = [b for b in battles if letter(b.verdict)]
        for rule, whole in (("letter", 1.0), ("half", 1.0)):
            assert all(sum(points(b, rule)) == whole for b in known)
        rates = win_rates(known)
        total = sum(m.value / 100 * m.n for m in rates.values())
        assert total == pytest.approx(len(known)) and sum(m.n for m in rates.values()) == 2 * len(known)
        assert all(m.clusters <= 6 for m in rates.values()), "items are resampled, not pairs"


def test_swapping_names_and_letters_changes_no_winner():
    flip = {"A": "B", "B": "A", "Tie(A)": "Tie(B)", "Tie(B)": "Tie(A)"}
    for battles, _ in worlds():
        turned = [Battle(b.item, b.b, b.a, flip.get(b.verdict, b.verdict)) for b in battles]
        assert {k: m.value for k, m in win_rates(battles).items()} == {k: m.value for k, m in win_rates(turned).items()}
        one, other = position_swap(battles), position_swap(turned)
        assert one.failed == other.failed and (one.consistent is None) == (other.consistent is None)
        assert one.consistent is None or one.consistent.value == other.consistent.value
        if one.says_first is not None:
            assert one.says_first.value == pytest.approx(100 - other.says_first.value)


def test_a_judge_that_looks_at_the_place_only_is_seen_and_one_that_does_not_is_not():
    pairs = [(f"i{i}", *order) for i in range(20) for order in (("x", "y"), ("y", "x"))]
    always_first = position_swap([Battle(*pair, "A") for pair in pairs])
    assert (always_first.consistent.value, always_first.says_first.value) == (0, 100)
    fair = position_swap([Battle(*pair, "A" if pair[1] == "x" else "B") for pair in pairs])
    assert (fair.consistent.value, fair.says_first.value) == (100, 50)
    with pytest.raises(ValueError, match="twice"):
        position_swap([Battle("i", "x", "y", "A")] * 2)


def test_a_tie_prefers_no_place_and_contradicts_nothing():
    """Both orders tied, whoever is leant to: the same, half a point for each. A win in one order of a pair that is tied
    in the other: half the same, and a quarter more than half of the points for the first answer."""
    for leant in ("Tie(A)", "Tie(B)"):
        tied = position_swap([Battle("i", "x", "y", "Tie(A)"), Battle("i", "y", "x", leant)])
        assert (tied.consistent.value, tied.says_first.value) == (100, 50)
    half = position_swap([Battle("i", "x", "y", "A"), Battle("i", "y", "x", "Tie(B)")])
    assert (half.consistent.value, half.says_first.value) == (50, 75)


def test_pairs_are_joined_whichever_order_each_judge_saw_and_missing_ones_are_counted():
    people = [Battle("i", "x", "y", "A"), Battle("j", "x", "y", "B"), Battle("k", "x", "y", "A")]
    judge = [Battle("i", "y", "x", "B"), Battle("j", "y", "x", "B"), Battle("k", "x", "y", "Tie ()")]
    found = joined(people, judge)
    assert (found.agreement.value, found.agreement.n, found.missing) == (50, 2, 1)
    assert joined(people, []).agreement is None
