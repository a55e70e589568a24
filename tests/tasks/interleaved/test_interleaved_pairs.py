"""Pairs judged in both orders: worked win rates, a judge that prefers a place, replies that are no verdict."""

import json
from pathlib import Path

import pytest

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.interleaved.pairs import verdict_of


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", "A"),
        (" b.\n", "B"),
        ("**A**", "A"),
        ("Tie(A)", "Tie(A)"),
        ("Tie (b)", "Tie(B)"),
        ("<think>B is worse</think>A", "A"),
        ("Tie", None),
        ("Tie ()", None),
        ("Both A and B", None),
        ("An answer", None),
        ("", None),
    ],
)
def test_a_verdict_is_one_of_four_or_none(reply, verdict):
    assert verdict_of(reply) == verdict


def run(folder: Path, verdicts: dict[str, tuple[str, str]], code: int = 0):
    """`verdicts`: question -> what the judge says with our answer first, and with it second."""
    for name in ("ours", "theirs"):
        lines = [{"id": id, "question": f"question {id}", "answer": f"{name} {id}", "image": ""} for id in verdicts]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    replies = [
        {"item": f"{id}/{order}", "probe": "winner", "reply": reply, "judge": "someone"}
        for id, both in verdicts.items()
        for order, reply in zip(("first", "second"), both, strict=True)
    ]
    (folder / "replies.jsonl").write_text("\n".join(map(json.dumps, replies)))
    argv = ["judge", "pairs", "--answers", str(folder / "ours.jsonl"), "--against", str(folder / "theirs.jsonl")]
    assert main([*argv, "--judge", f"replies:{folder / 'replies.jsonl'}", "--out", str(folder / "run")]) == code
    found, items, scores = read_bundle(folder / "run")
    return found, items, {metric.name: metric.value for metric in scores.metrics}


def test_wins_by_hand(tmp_path, capsys):
    """q1 won in both orders (1, 1), q2 lost in both (0, 0), q3 won by the place alone (1, 0), q4 tied (.5, .5):
    4 of 8 points. The same winner in q1, q2 and q4 (Tie(A), then Tie(B): ours both times): 3 of 4. Of 8 verdicts the
    first answer gets q1's first, q2's second, both of q3, q4's first: 5."""
    verdicts = {"q1": ("A", "B"), "q2": ("B", "A"), "q3": ("A", "A"), "q4": ("Tie(A)", "Tie(B)")}
    found, items, values = run(tmp_path, verdicts)
    assert values == {"wins": 50.0, "same winner in both orders": 75.0, "verdicts for the first answer": 62.5}
    assert found.benchmark == "armor-pairwise-v1" and found.extras["against"] == "theirs" and len(items) == 8
    assert found.reservations == [] and "ours against theirs" in capsys.readouterr().out


@pytest.mark.parametrize(("by_place", "wins", "told"), [(16, None, "90.0 %"), (9, 77.5, "72.5 %")])
def test_a_judge_that_prefers_a_place_is_a_reservation_and_withheld_where_places_decide(
    tmp_path, capsys, by_place, wins, told
):
    """Of 20 pairs 16 are won by the place: the wins are withheld. With 9 they stand, under a reservation."""
    verdicts = {f"q{i}": ("A", "A") if i < by_place else ("A", "B") for i in range(20)}
    found, _, values = run(tmp_path, verdicts, code=0 if wins else 1)
    assert values["wins"] == wins and values["same winner in both orders"] == pytest.approx(100 - 5 * by_place)
    assert found.status == ("complete" if wins else "partial")
    assert {r.kind for r in found.reservations} == {"judge"} and told in found.reservations[0].text
    shown = capsys.readouterr().out
    assert "prefers a place" in shown and ("contradicts itself: 20.0 %" in shown) == (wins is None)


def test_ties_stand_whoever_they_lean_to(tmp_path):
    found, _, values = run(tmp_path, {f"q{i}": ("Tie(A)", "Tie(A)") for i in range(20)})
    assert values == {"wins": 50, "same winner in both orders": 100, "verdicts for the first answer": 50}
    assert found.reservations == []


def test_no_verdict_withholds_the_wins_and_the_first_says_why(tmp_path):
    found, items, values = run(tmp_path, {"q1": ("A", "B"), "q2": ("A or B", "A")}, code=1)
    assert values["wins"] is None and found.status == "partial"
    assert found.status_reason == "1 of 4 looks have no verdict; the first, q2/first: unread: A or B"
    assert [i.status for i in items].count("judge_failed") == 1


def test_other_questions_are_refused(tmp_path, capsys):
    run(tmp_path, {"q1": ("A", "B")})
    line = {"id": "q1", "question": "another", "answer": "x", "image": ""}
    for text, says in ((line, "another one"), ({**line, "id": "z"}, "no question is in both")):
        (tmp_path / "theirs.jsonl").write_text(json.dumps(text))
        argv = [
            "judge",
            "pairs",
            "--answers",
            str(tmp_path / "ours.jsonl"),
            "--against",
            str(tmp_path / "theirs.jsonl"),
        ]
        assert main([*argv, "--judge", f"replies:{tmp_path / 'replies.jsonl'}"]) == 2
        assert says in capsys.readouterr().err


def verdicts(folder: Path, name: str, winners: list[str | None]) -> Path:
    """A file in OpenING's layout: two models, one pair a question."""
    rows = [
        {
            "data_id": f"{at}",
            "model_A": {"id": "x", "name": "Ink"},
            "model_B": {"id": "y", "name": "Quill"},
            "winner": w,
        }
        for at, w in enumerate(winners)
    ]
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def test_winners_of_recorded_verdicts_by_hand(tmp_path, capsys):
    """Of five verdicts Ink has A and Tie(A), Quill B and B; the fifth is none. By letter 2 of 4, ties as halves 1.5 of
    4. People say A, A, B, A, B: on the four that both judged, three letters are one (the last of them is not)."""
    judge = verdicts(tmp_path, "judge.json", ["A", "Tie(A)", "B", "B", "Tie ()"])
    people = verdicts(tmp_path, "people.json", ["A", "A", "B", "A", "B"])
    argv = ["judge", "winners", str(judge), "--against", str(people)]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    values = {metric["name"]: metric["value"] for metric in found["metrics"]}
    assert values == {"Ink": 50, "Quill": 50, "verdicts for the first answer": 50, "agreement": 75}
    assert found["no_verdict"] == {"Tie ()": 1} and found["missing"] == 1
    assert main([*argv, "--ties", "half"]) == 0
    shown = capsys.readouterr().out
    assert "37.5 %" in shown and "no verdict: 1 x 'Tie ()'" in shown and "1 pairs are not judged by both" in shown


def test_mistakes_in_a_file_of_verdicts_are_one_line(tmp_path, capsys):
    nothing = verdicts(tmp_path, "n.json", [None, "maybe"])
    (tmp_path / "bad.json").write_text('[{"data_id": 1}]')
    some, other = verdicts(tmp_path, "s.json", ["A"]), verdicts(tmp_path, "o.json", ["A"])
    other.write_text(other.read_text().replace("Quill", "Pen"))
    for argv, says in (
        ([str(nothing)], "no verdict that counts"),
        ([str(tmp_path / "bad.json")], "model_A"),
        ([str(some), "--against", str(other)], "no pair in common"),
        ([str(some), "--ties", "lots"], "rule of ties"),
        ([str(tmp_path / "none.json")], "cannot read"),
    ):
        assert main(["judge", "winners", *argv]) == 2
        assert says in capsys.readouterr().err
