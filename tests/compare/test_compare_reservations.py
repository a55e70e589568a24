"""Reservations in the gate: printed in every output, and never compared in silence with a number without them."""

from __future__ import annotations

import pytest
from stats_runs import answers, write_bundle

from armor_eval.cli import main
from armor_eval.compare.gate import compare
from armor_eval.compare.policy import Policy
from armor_eval.runs.schema import Reservation, Subset

OTHER_FILE = Reservation(kind="data", text="the data file is not the published one")
UNREAD = Reservation(kind="unread", text="612 of 1,000 answers could not be read")
IGNORING = Policy(comparability={"ignore": ["reservations"]})


@pytest.mark.parametrize("side", ["base", "candidate", "both"])
def test_a_reservation_stands_in_every_output(pair, tmp_path, capsys, side):
    sides = {name: {"reservations": [OTHER_FILE] if side in (name, "both") else []} for name in ("base", "candidate")}
    a, b = pair(*answers(n=50), left=sides["base"], right=sides["candidate"])
    out = tmp_path / "out"
    code = main(["compare", str(a), str(b), "--out", str(out)])
    assert code == (0 if side == "both" else 4)
    said = f"{side}: {OTHER_FILE.text}"
    assert said in capsys.readouterr().out and said in (out / "compare.html").read_text()
    assert said in (out / "compare.md").read_text().replace("\\-", "-")
    assert OTHER_FILE.text in (out / "compare.json").read_text()
    junit = (out / "junit.xml").read_text()
    assert (said if side == "both" else "reservations differs") in junit


def test_conditions_forbid_a_number_unless_the_policy_ignores_them_aloud(pair):
    runs = pair(*answers(n=400), right={"reservations": [OTHER_FILE]})
    stopped = compare(*runs, Policy()).benchmarks[0]
    assert (stopped.verdict, stopped.metrics) == ("NOT COMPARABLE", [])
    assert stopped.reasons == ["reservations differs: none in base, data in candidate"]
    ignored = compare(*runs, IGNORING).benchmarks[0]
    assert ignored.verdict == "PASS" and ignored.reasons[0].startswith("ignored by the policy: reservations differs")


def test_answers_under_a_reservation_may_fail_but_never_pass(tmp_path):
    """A model that turned unreadable is worse, which the verdict must say; one that is as good is not known to be."""
    base, worse = answers(lost=0.2)
    a = write_bundle(tmp_path / "a", base)
    for name, scores, verdict in (("worse", worse, "REGRESSION"), ("same", base, "NOT COMPARABLE")):
        b = write_bundle(tmp_path / name, scores, reservations=[UNREAD], fingerprint=name)
        found = compare(a, b, Policy()).benchmarks[0]
        assert found.verdict == verdict and found.metrics
        assert any(c.reason == "reservations differ: none in base, unread in candidate" for c in found.checks)
    ignored = compare(a, b, IGNORING).benchmarks[0]
    assert ignored.verdict == "PASS" and "ignored by the policy: reservations differ" in ignored.reasons[0]


def test_equal_subsets_compare_and_say_so_once(tmp_path, capsys):
    part = Subset(rule="item", limit=50, seed=0, items=50, of_items=900)
    base, _ = answers(n=50)
    for side in ("base", "cand"):
        for bench in ("SEED", "MMMU"):
            write_bundle(tmp_path / side / bench, base, bench, subset=part)
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "cand")]) == 0
    assert capsys.readouterr().out.count("MMMU, SEED: both: subset of 50 of 900 items (50 x item, seed 0)") == 1


def test_a_reason_is_whole_and_names_only_what_differs(pair):
    long = "a detector of a name that no reader of forty characters would ever have seen the end of"
    one, two = ({"detector": {"name": long + end, "threshold": 0.3}} for end in ("", ", v2"))
    found = compare(*pair(*answers(n=50), left={"settings": one}, right={"settings": two}), Policy())
    expected = f"scorer.settings differs: detector.name: {long} in base, {long}, v2 in candidate"
    assert found.benchmarks[0].reasons == [expected]
