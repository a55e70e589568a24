"""The gate's outputs, all from one record; every bad input one line; baselines and planning."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from paths import ROOT
from stats_runs import answers

from armor_eval.cli import main
from armor_eval.compare import formats
from armor_eval.compare.formats import junit_xml, markdown
from armor_eval.compare.gate import compare
from armor_eval.compare.policy import SIZES, Policy, example, load_policy
from armor_eval.tasks.formulas import JUDGED_ANSWERS, composites_for, formula_names
from armor_eval.tasks.suites.declare import suites
from armor_eval.tasks.understanding.declare import benchmarks
from armor_model.base.errors import UserError

HOSTILE = "</script><img src=x onerror=alert(1)> | `code` \x00\x1b[31m ]]> \ud800 **bold** [a](http://x)"


@pytest.fixture
def hostile(pair):
    base, candidate = answers(lost=0.05)
    flipped = [i for i, (a, b) in enumerate(zip(base, candidate, strict=True)) if a != b]
    a, b = pair(base, candidate)
    lines = (b / "items.jsonl").read_text().splitlines()
    for i in flipped[:10]:
        record = json.loads(lines[i])
        record["output"] = HOSTILE
        lines[i] = json.dumps(record)
    (b / "items.jsonl").write_text("\n".join(lines) + "\n")
    return a, b


def test_all_outputs_of_hostile_answers(hostile, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", *map(str, hostile), "--out", str(out)]) == 1
    assert capsys.readouterr().out.startswith("REGRESSION")
    record = json.loads((out / "compare.json").read_text())
    assert record["verdict"] == "REGRESSION" and len(record["benchmarks"][0]["flips"]) == 100
    suite = ElementTree.fromstring((out / "junit.xml").read_text()).find("testsuite")
    assert (suite.get("failures"), suite.get("errors")) == ("1", "0")
    text = (out / "compare.md").read_text()
    assert text.startswith("## REGRESSION") and "<img" not in text and "\x1b" not in text
    page = (out / "compare.html").read_text()
    assert "REGRESSION" in page and "<img src=x" not in page and "http://x" not in page and "<b>model" not in page


def test_markdown_stays_below_the_limit_of_a_step_summary(pair, monkeypatch):
    found = compare(*pair(*answers(lost=0.05)), Policy())
    assert len(markdown(found).encode()) < 1_000_000
    monkeypatch.setattr(formats, "LIMIT_BYTES", 2_500)
    short = markdown(found)
    assert len(short.encode()) <= 2_500 and short.startswith("## REGRESSION")


def test_junit_marks_inconclusive_as_skipped_and_strict_as_failed(pair):
    runs = pair(*answers(lost=0.05, gained=0.045))
    for strict, tag in ((False, "skipped"), (True, "failures")):
        suite = ElementTree.fromstring(junit_xml(compare(*runs, Policy(), strict=strict))).find("testsuite")
        assert suite.get(tag) == "1"


# --- the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tolerence]\n", "unknown key tolerence (did you mean tolerance?)"),
        ("[limits]\nerorrs = 1\n", "unknown key limits.erorrs (did you mean errors?)"),
        ("[tolerance]\nMBB = 1\n", "unknown 'MBB' (did you mean MMB?)"),
        ('[tolerance]\n"POPE/F2" = 1\n', "POPE has no metric 'F2' (did you mean F1?)"),
        ("[tolerance]\nMMB = -1\n", "tolerance.MMB"),
        ("tolerance = nan\n", "tolerance"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_bad_policy_is_one_line_and_exit_2(pair, tmp_path, capsys, text, words):
    policy = tmp_path / "policy.toml"
    policy.write_text(text)
    a, b = pair([1.0] * 5, [1.0] * 5)
    assert main(["compare", str(a), str(b), "--policy", str(policy)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_example_policy_is_the_default(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(example())
    assert load_policy(path).tolerance_of("MME", "perception", "points") == Policy().tolerance_of("x", "y", "points")
    assert 0 < load_policy(path).tolerance_of("armor-rubric-v1", "mean", "grade") < 5 / 50, "of a scale from 0 to 5"


def _edit(folder: Path, change) -> None:
    """Rewrite the items of a bundle, as JSON that may hold NaN."""
    path = folder / "items.jsonl"
    items = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def _unscored(items, status):
    return [{**items[0], "score": None, "status": status}, *items[1:]]


def _one_cluster(items):
    return [{**item, "cluster": "same"} for item in items]


@pytest.mark.parametrize(
    ("name", "on_base", "on_candidate", "code", "words"),
    [
        ("different items", None, lambda x: [*x[:-1], {**x[-1], "id": "other"}], 4, "items differ: 1 are in the base"),
        ("duplicates", None, lambda x: [*x, x[0]], 3, "1 lines that are torn, repeated or no valid item"),
        ("both cut", lambda x: x[:300], lambda x: x[:300], 3, "holds 300 items, its scores are of 600"),
        ("one side empty", None, lambda x: [], 3, "the candidate run holds no items"),
        ("ok without a score", None, lambda x: _unscored(x, "ok"), 3, "answered and have no score, the first is 'q0'"),
        ("unread without a score", lambda x: _unscored(x, "unparsed"), None, 3, "the base run has 1 items that are"),
        ("all ties", None, lambda x: x, 0, "0 items lost, 0 gained of 600; no cluster changed|McNemar, exact"),
        ("a single cluster", _one_cluster, _one_cluster, 0, "n/a: fewer than two clusters"),
        ("NaN", None, lambda x: [{**x[0], "score": float("nan")}, *x[1:]], 3, "1 lines that are torn, repeated"),
        (
            "no score at all",
            None,
            lambda x: [{**i, "score": None, "status": "error"} for i in x],
            3,
            "600 ok, the items",
        ),
        ("other groups", None, lambda x: [{**x[0], "group": "odd"}, *x[1:]], 4, "item 'q0' differs in group"),
    ],
)
def test_bad_input_has_its_line_and_exit_code(pair, capsys, name, on_base, on_candidate, code, words):
    base, _ = answers(n=600)
    a, b = pair(base, base)
    if on_base:
        _edit(a, on_base)
    if on_candidate:
        _edit(b, on_candidate)
    assert main(["compare", str(a), str(b)]) == code, name
    shown = capsys.readouterr()
    assert any(word in line for line in shown.out.splitlines() for word in words.split("|")), shown.out
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("bench", "change", "words"),
    [
        ("SEED", lambda s: s["metrics"][0].update(value=99.0), "accuracy is 99 there, 70 from the items"),
        ("SEED", lambda s: s["metrics"][0].update(value=70.0000001), "accuracy is 70.0000001 there, 70 from the items"),
        (
            "SEED",
            lambda s: s["metrics"][0].update(value=None, ci95=None),
            "accuracy is None there, 70.0 from the items",
        ),
        ("SEED", lambda s: s["metrics"].clear(), "it has no accuracy"),
        ("SEED", lambda s: s["counts"].update(ok=599, unparsed=1), "it counts 599 ok, the items are 600"),
        ("MMB", lambda s: s["metrics"][0].update(value=1.0), "circular accuracy is 1 there"),
        ("modality", lambda s: s["metrics"][0].update(value=1.0), "accuracy is 1 there"),
    ],
)
def test_a_headline_that_its_items_do_not_give_is_refused(pair, tmp_path, capsys, bench, change, words):
    base, _ = answers(n=600)
    runs = [str(path) for path in pair(base, base, {"benchmark": bench}, {"benchmark": bench})]
    assert main(["compare", *runs]) == 0
    for side, name in enumerate(("base", "candidate")):
        file = Path(runs[side]) / "scores.json"
        whole, scores = file.read_text(), json.loads(file.read_text())
        change(scores)
        file.write_text(json.dumps(scores))
        capsys.readouterr()
        assert main(["compare", *runs]) == 3
        said = capsys.readouterr().out
        assert f"the {name} run's scores.json is not of its items: {words}" in " ".join(said.split())
        assert main(["baseline", "save", "x", runs[side], "--baselines", str(tmp_path / "r")]) == 2
        file.write_text(whole)


def test_a_bundle_still_being_written_is_told_from_its_head_alone(pair, capsys):
    a, b = pair(*answers(n=50), right={"status": "running"})
    (b / "items.jsonl").unlink()
    (b / "scores.json").unlink()
    assert main(["compare", str(a), str(b)]) == 3
    assert "the candidate run is still being written" in capsys.readouterr().out


def test_usage_errors(pair, tmp_path, capsys):
    a, b = pair([1.0] * 5, [1.0] * 5)
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["nothing", str(b)], "no such run or baseline: nothing"),
        ([str(a), str(tmp_path / "empty")], "holds no run"),
        ([str(a)], "Missing argument"),
    ):
        assert main(["compare", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error


def test_only_a_regression_exits_1(pair, tmp_path, capsys, monkeypatch):
    a, b = map(str, pair(*answers(lost=0.05)))
    (tmp_path / "file").touch()
    assert main(["compare", a, b]) == 1
    capsys.readouterr()
    for options in (["--out", str(tmp_path / "file")], ["--junit", "/proc/x.xml"], ["--markdown", str(tmp_path)]):
        assert main(["compare", a, b, *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"armor-eval: cannot use {options[1]}: ") and error.count("\n") == 1
    assert main(["baseline", "save", "x", a, "--baselines", str(tmp_path / "file")]) == 2
    monkeypatch.setattr("armor_eval.compare.gate.compare", lambda *_: 1 // 0)
    assert main(["compare", a, b]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["80", "40"])
def test_numbers_and_verdicts_are_never_cut(pair, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["compare", *map(str, pair(*answers(lost=0.05)))]) == 1
    row = capsys.readouterr().out.splitlines()[2]
    assert row.startswith("SEED ") and row.rstrip().endswith("REGRESSION")
    assert "\u2026" not in row and row.count("[") == row.count("]") == 1


def test_baseline_round_trip(pair, tmp_path, capsys):
    root = str(tmp_path / "baselines")
    long = {0: "x" * 5000}
    a, b = pair(*answers(n=1000, lost=0.05), left={"outputs": long})
    assert main(["baseline", "save", "nano", str(a), "--baselines", root]) == 0
    assert main(["baseline", "save", "nano", str(a), "--baselines", root]) == 2
    assert main(["baseline", "save", "nano", str(a), "--baselines", root, "--force"]) == 0
    assert main(["baseline", "save", "../x", str(a), "--baselines", root]) == 2
    assert main(["baseline", "list", "--baselines", root]) == 0
    assert main(["baseline", "show", "nano", "--baselines", root]) == 0
    assert "SEED" in capsys.readouterr().out
    size = sum(f.stat().st_size for f in (tmp_path / "baselines").rglob("*") if f.is_file())
    assert size < 250 * 1000
    assert main(["compare", "nano", str(b), "--baselines", root, "--out", str(tmp_path / "out")]) == 1
    assert main(["compare", "nano", str(a), "--baselines", root]) == 0  # the cut answer is told by its hash
    assert "policy.toml" in json.loads((tmp_path / "out" / "compare.json").read_text())["policy"]


def test_an_unfinished_run_is_no_baseline(pair, tmp_path, capsys):
    a, _ = pair([1.0] * 5, [1.0] * 5, left={"status": "partial"})
    assert main(["baseline", "save", "x", str(a), "--baselines", str(tmp_path / "r")]) == 2
    assert "only complete runs" in capsys.readouterr().err


def test_a_run_that_lost_items_is_no_baseline(pair, tmp_path, capsys):
    a, _ = pair([1.0] * 20, [1.0] * 20)
    _edit(a, lambda items: items[:10])
    assert main(["baseline", "save", "x", str(a), "--baselines", str(tmp_path / "r")]) == 2
    assert "holds 10 items, its scores are of 20" in capsys.readouterr().err


def test_power_speaks_in_items(pair, capsys):
    assert main(["power", "--bench", "MMB", "--drop", "2"]) == 0
    out = capsys.readouterr().out
    assert "2,440 groups" in out and "80 % power" in out
    a, b = pair(*answers(lost=0.05, gained=0.04))
    assert main(["power", "--bench", "SEED", "--drop", "1", "--runs", str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == pytest.approx(0.0867, abs=1e-3)  # 180 less 20 - sqrt(180)
    for bad in (["--bench", "MBM"], ["--bench", "MMB", "--drop", "500"]):
        assert main(["power", *bad]) == 2


@pytest.mark.parametrize("name", [*formula_names()])
def test_power_has_a_size_for_every_benchmark(name, capsys):
    suite = suites().get(name)
    own_file = suite.prompts is None if suite is not None else name in JUDGED_ANSWERS
    if own_file:  # of any size
        assert main(["power", "--bench", name, "--drop", ".02"]) == 2
        return
    [primary] = [c for c in composites_for(name) if c.primary]
    assert main(["power", "--bench", name, "--drop", ".02" if primary.unit == "score" else "2", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["clusters"] >= 24 and plan["needed"] > 1 and plan["detectable"] > 0


def test_sizes_repeat_nothing_that_benchmarks_declares():
    for name, declared in benchmarks().items():
        if name in SIZES and declared.shares is None and declared.official.rows is not None:
            assert SIZES[name][0] == declared.official.rows, name


def test_a_foreign_folder_is_refused():
    with pytest.raises(UserError, match="no such run"):
        compare(Path("/nonexistent/a"), Path("/nonexistent/b"), Policy())


def test_the_example_workflow_measures_what_make_regress_measures():
    root = ROOT
    _, _, recipe = (root / "Makefile").read_text().partition("\nregress:")
    texts = recipe.partition("\n\n")[0], (root / "docs/ci/regression.yml").read_text()
    made = [re.findall(r"armor-eval (understanding --bench \w+|geneval|modality) --out", text) for text in texts]
    assert made[0] == made[1] and len(made[0]) == 2
