"""The gate: comparability first, verdicts by rule, every output from one record, every bad input one line."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from armor_eval.cli import main
from armor_eval.compare import junit, markdown
from armor_eval.compare.gate import compare
from armor_eval.compare.planning import SIZES
from armor_eval.compare.policy import EXAMPLE, Policy, load_policy
from armor_eval.errors import UserError
from armor_eval.runs.schema import DataInfo, DeviceInfo, Item, JudgeInfo, ModelInfo, Run, ScorerInfo, Scores
from armor_eval.stats.composite import composites_for, formula_names, measure
from armor_eval.understanding.declare import benchmarks


def write_bundle(
    folder: Path, scores, benchmark="SEED", statuses=None, outputs=None, fingerprint="f", **fields
) -> Path:
    """A complete bundle of 0/1 items, one cluster each unless `clusters` is given."""
    clusters = fields.pop("clusters", None) or list(range(len(scores)))
    statuses = statuses or ["ok" if s is not None else "error" for s in scores]
    items = [
        Item(
            id=f"q{i}", cluster=str(clusters[i]), group=f"g{i % 3}", prompt=f"question {i}", prompt_sha256=f"{i:064x}",
            gold="A", output=(outputs or {}).get(i, "A" if s else "B"), score=s, status=statuses[i],
        )
        for i, s in enumerate(scores)
    ]  # fmt: skip
    run = Run(
        run_id=f"{folder.parent.name}-{folder.name}", kind="understanding", benchmark=benchmark, command=["x"],
        profile="shapes", status=fields.pop("status", "complete"),
        model=ModelInfo(spec="m", name="<b>model</b>", fingerprint=fingerprint),
        data=DataInfo(name=f"D-{benchmark}", sha256=fields.pop("data_sha256", "d"), items=len(items)),
        prompt_sha256=fields.pop("prompt_sha256", "p"), scorer=ScorerInfo(name="s", version="1"),
        judge=JudgeInfo(name="none", endpoint="none"), device=DeviceInfo(kind="cpu"), started="2026-01-01T00:00:00Z",
        decoding=fields.pop("decoding", {"temperature": 0.0, "seed": 0}), wall_seconds=fields.pop("wall_seconds", 1.0),
        peak_memory_bytes=fields.pop("peak_memory_bytes", 100),
    )  # fmt: skip
    counts = {s: statuses.count(s) for s in ("ok", "unparsed", "judge_failed", "error")}
    metrics = [measure(items, c) for c in composites_for(benchmark)]
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(run.model_dump_json())
    (folder / "items.jsonl").write_text("".join(it.model_dump_json() + "\n" for it in items))
    made = Scores(metrics=metrics, counts=counts, expected_items=len(items), withheld=fields.pop("withheld", None))
    (folder / "scores.json").write_text(made.model_dump_json())
    assert not fields
    return folder


def answers(n=2000, right=0.7, lost=0.0, gained=0.0, seed=0):
    """Base and candidate scores with exactly that share lost and gained."""
    base = (np.arange(n) < round(right * n)).astype(float)
    candidate = base.copy()
    candidate[: round(lost * n)] = 0
    candidate[n - round(gained * n) :] = 1
    order = np.random.default_rng(seed).permutation(n)
    return base[order].tolist(), candidate[order].tolist()


@pytest.fixture
def pair(tmp_path):
    def make(base, candidate, left=None, right=None):
        a = write_bundle(tmp_path / "base", base, **(left or {}))
        b = write_bundle(tmp_path / "candidate", candidate, **{"fingerprint": "g", **(right or {})})
        return a, b

    return make


@pytest.mark.parametrize(
    ("lost", "gained", "verdict", "code"),
    [
        (0.05, 0.0, "REGRESSION", 1),
        (0.001, 0.001, "PASS", 0),
        (0.0, 0.05, "PASS", 0),
        (0.05, 0.045, "INCONCLUSIVE", 0),
        (0.012, 0.003, "INCONCLUSIVE", 0),  # the drop is below the tolerance, its lower bound is not
    ],
)
def test_verdicts(pair, lost, gained, verdict, code):
    found = compare(*pair(*answers(lost=lost, gained=gained)), Policy())
    row = found.benchmarks[0].primary
    assert (found.verdict, found.exit_code) == (verdict, code), row
    assert row.mde is not None and row.reason
    if verdict == "INCONCLUSIVE":
        assert row.decided_at > 2000 and "would decide" in row.reason


def test_strict_makes_inconclusive_exit_5(pair):
    assert compare(*pair(*answers(lost=0.05, gained=0.045)), Policy(), strict=True).exit_code == 5


def test_an_identical_rerun_passes_at_any_size_but_only_for_the_same_model(tmp_path):
    a = write_bundle(tmp_path / "a", [1.0, 0.0] * 10)
    b = write_bundle(tmp_path / "b", [1.0, 0.0] * 10)
    other = write_bundle(tmp_path / "c", [1.0, 0.0] * 10, fingerprint="other")
    spoken = write_bundle(tmp_path / "d", [1.0, 0.0] * 10, outputs={0: "said otherwise"})
    assert compare(a, b, Policy()).verdict == "PASS"
    assert compare(a, other, Policy()).verdict == "INCONCLUSIVE"
    assert compare(a, spoken, Policy()).verdict == "INCONCLUSIVE"


def test_tolerance_is_per_metric_and_in_its_unit(pair):
    runs = pair(*answers(lost=0.03))
    assert compare(*runs, Policy()).verdict == "REGRESSION"
    assert compare(*runs, Policy(tolerance={"%": 5.0})).verdict == "PASS"
    assert compare(*runs, Policy(tolerance={"%": 5.0, "SEED": 1.0})).verdict == "REGRESSION"
    assert compare(*runs, Policy(tolerance={"SEED": 1.0, "SEED/accuracy": 5.0})).verdict == "PASS"


def test_holm_over_the_primaries_of_a_folder(tmp_path):
    """A drop that is significant alone is not among ten benchmarks, nine of which show nothing."""
    base, candidate = answers(n=600, lost=0.015)
    for bench in ("SEED", "MMMU", "MMVet", "MMB", "modality"):
        write_bundle(tmp_path / "base" / bench, base, bench)
        write_bundle(tmp_path / "cand" / bench, candidate if bench == "SEED" else base, bench, fingerprint="g")
    alone = compare(tmp_path / "base" / "SEED", tmp_path / "cand" / "SEED", Policy())
    both = compare(tmp_path / "base", tmp_path / "cand", Policy())
    row = next(b for b in both.benchmarks if b.benchmark == "SEED").primary
    assert alone.verdict == "REGRESSION" and row.p_holm == pytest.approx(5 * row.p)
    assert all(m.verdict is None for b in both.benchmarks for m in b.metrics if not m.primary)


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ({"data_sha256": "other"}, "data.sha256 differs"),
        ({"prompt_sha256": "other"}, "prompt_sha256 differs"),
        ({"decoding": {"temperature": 1.0, "seed": 0}}, "decoding differs: temperature: 0.0 in base, 1.0 in candidate"),
    ],
)
def test_what_differs_is_named_and_no_number_is_computed(pair, right, words):
    found = compare(*pair(*answers(n=50), right=right), Policy())
    assert (found.verdict, found.exit_code) == ("NOT COMPARABLE", 4)
    assert words in found.benchmarks[0].reasons[0] and not found.benchmarks[0].metrics


def test_another_seed_is_comparable_and_a_field_can_be_ignored_aloud(pair):
    runs = pair(*answers(n=50), right={"decoding": {"temperature": 0.0, "seed": 7}, "data_sha256": "other"})
    found = compare(*runs, Policy(comparability={"ignore": ["data.sha256"]}))
    assert found.benchmarks[0].metrics and "ignored by the policy: data.sha256" in found.benchmarks[0].reasons[0]


def test_different_items_are_not_comparable(pair):
    found = compare(*pair([1.0] * 10, [1.0] * 9), Policy())
    assert found.exit_code == 4 and "1 are in the base only, the first is 'q9'" in found.benchmarks[0].reasons[0]


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ({"status": "running"}, "still being written"),
        ({"status": "partial"}, "is partial"),
        ({"withheld": "judge down"}, "withheld: judge down"),
    ],
)
def test_unfinished_runs_are_incomplete(pair, right, words):
    found = compare(*pair(*answers(n=50), right=right), Policy())
    assert found.exit_code == 3 and words in found.benchmarks[0].reasons[0]


def test_repeated_lines_and_an_empty_side_are_incomplete(pair):
    a, b = pair(*answers(n=50))
    lines = (b / "items.jsonl").read_text()
    (b / "items.jsonl").write_text(lines + lines.split("\n")[0] + "\n")
    assert "1 lines that are torn, repeated" in compare(a, b, Policy()).benchmarks[0].reasons[0]
    (b / "items.jsonl").write_text("")
    found = compare(a, b, Policy())
    assert found.exit_code == 3 and "holds no items" in found.benchmarks[0].reasons[0]


def test_all_ties_and_a_single_cluster(tmp_path):
    for name, fingerprint in (("a", "f"), ("b", "g")):
        write_bundle(tmp_path / name, [1.0] * 1000, fingerprint=fingerprint)
        write_bundle(tmp_path / f"one-{name}", [1.0, 0.0] * 5, clusters=["same"] * 10, fingerprint=fingerprint)
    tied = compare(tmp_path / "a", tmp_path / "b", Policy())
    assert tied.verdict == "PASS" and tied.benchmarks[0].primary.ci95[0] < 0
    one = compare(tmp_path / "one-a", tmp_path / "one-b", Policy()).benchmarks[0].primary
    assert one.verdict == "INCONCLUSIVE" and one.ci95 is None and "fewer than two clusters" in one.reason


def test_errors_judge_failures_and_unreadable_answers_fail_by_rule(pair):
    base, candidate = answers(n=1000)
    errors = [None if i < 5 else s for i, s in enumerate(candidate)]
    a, b = pair(base, errors)
    found = compare(a, b, Policy()).benchmarks[0]
    assert found.verdict == "INCOMPLETE" and found.unmeasured == 5 and found.items == 995
    assert compare(a, b, Policy(limits={"errors": 0.01})).benchmarks[0].checks[0].verdict == "PASS"


def test_a_rise_of_unreadable_answers_is_a_regression(pair):
    scores = [0.0] * 100 + [1.0] * 900
    found = compare(*pair(scores, scores, right={"statuses": ["unparsed"] * 30 + ["ok"] * 970}), Policy())
    assert found.exit_code == 1 and "0.00% -> 3.00%" in found.benchmarks[0].checks[2].reason


def test_cost_is_gated_by_ratio_when_asked(pair):
    runs = pair(*answers(lost=0.0), right={"wall_seconds": 3.0})
    assert compare(*runs, Policy()).verdict == "PASS"
    slow = compare(*runs, Policy(cost={"seconds_ratio": 2.0, "memory_ratio": 1.5}))
    assert slow.verdict == "REGRESSION" and "3.00 x the base" in slow.benchmarks[0].checks[3].reason


def test_a_benchmark_missing_in_the_candidate_is_incomplete_and_a_new_one_is_noted(tmp_path):
    base, candidate = answers(n=400)
    for bench in ("SEED", "MMMU"):
        write_bundle(tmp_path / "base" / bench, base, bench)
    for bench in ("SEED", "MMVet"):
        write_bundle(tmp_path / "cand" / bench, candidate, bench)
    found = compare(tmp_path / "base", tmp_path / "cand", Policy())
    assert found.exit_code == 3 and "MMVet (shapes) is new" in found.notes[0]


def test_control_runs_beside_the_real_one_are_left_out(tmp_path):
    base, _ = answers(n=100)
    for side in ("base", "cand"):
        write_bundle(tmp_path / side / "SEED", base)
        write_bundle(tmp_path / side / "SEED-constant", base[::-1])
    assert len(compare(tmp_path / "base", tmp_path / "cand", Policy()).benchmarks) == 1


def test_a_split_that_shares_a_formula_is_compared_by_it(tmp_path):
    base, candidate = answers(n=400, lost=0.05)
    runs = [write_bundle(tmp_path / str(k), x, "MMB_TEST", fingerprint=str(k)) for k, x in enumerate((base, candidate))]
    found = compare(*runs, Policy(tolerance={"MMB_TEST": 1.0})).benchmarks[0]
    assert found.primary.name == "circular accuracy" and found.verdict == "REGRESSION"


def test_a_significant_drop_that_holm_takes_back_says_so(tmp_path):
    base, candidate = answers(n=400, lost=0.015)
    for bench in ("SEED", "MMMU", "MMVet", "MMB"):
        write_bundle(tmp_path / "base" / bench, base, bench)
        write_bundle(tmp_path / "cand" / bench, candidate if bench == "SEED" else base, bench, fingerprint="g")
    found = compare(tmp_path / "base", tmp_path / "cand", Policy())
    row = next(b for b in found.benchmarks if b.benchmark == "SEED").primary
    assert row.ci95[1] < 0 and row.verdict == "INCONCLUSIVE"
    assert row.decided_at is None and "after Holm" in row.reason


# --- retention ---------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """Folders of SEED and MMMU runs: a reference, a base that keeps most of it, a candidate that keeps less."""

    def make(**fields):
        wanted = {"reference": (0.0, 1), "base": (0.02, 2), "candidate": (0.06, 3)}
        for side, (lost, seed) in wanted.items():
            for bench in ("SEED", "MMMU"):
                kept = np.array(answers(n=2000)[0])
                right = np.flatnonzero(kept)
                rng = np.random.default_rng([seed, len(bench)])
                kept[rng.choice(right, round(lost * len(right)), replace=False)] = 0
                write_bundle(tmp_path / side / bench, kept.tolist(), bench, fingerprint=side, **fields.get(side, {}))
        return [tmp_path / side for side in ("base", "candidate", "reference")]

    return make


def test_retention_gates_with_the_others(three):
    base, candidate, reference = three()
    found = compare(base, candidate, Policy(), reference=reference)
    result = found.benchmarks[-1]
    row = result.primary
    assert result.benchmark == "retention" and (round(row.base, 6), round(row.candidate, 6)) == (98.0, 94.0)
    assert row.delta == pytest.approx(-4.0) and row.ci95[0] < -4 < row.ci95[1] < 0
    assert result.verdict == "REGRESSION" and row.p_holm >= row.p and row.clusters == 4000
    assert [m.name for m in result.metrics] == ["mean kept", "MMMU kept", "SEED kept"]
    assert all(m.verdict is None for m in result.metrics[1:])
    assert compare(base, candidate, Policy(tolerance={"retention": 9.0}), reference=reference).benchmarks[
        -1
    ].verdict == "PASS"  # fmt: skip


def test_retention_of_the_base_itself_is_what_the_candidate_keeps(three):
    base, candidate, _ = three()
    row = compare(base, candidate, Policy(), reference=base).benchmarks[-1].primary
    assert row.base == pytest.approx(100.0) and row.candidate < 100


def test_retention_needs_every_benchmark_asked_alike(three, tmp_path, capsys):
    base, candidate, reference = three(reference={"prompt_sha256": "other"})
    odd = compare(base, candidate, Policy(), reference=reference).benchmarks[-1]
    assert odd.verdict == "NOT COMPARABLE" and "in reference" in odd.reasons[0]
    part = compare(base, candidate, Policy(), reference=base / "SEED").benchmarks[-1]
    assert part.verdict == "INCOMPLETE" and part.reasons == ["the reference has no run of MMMU (shapes)"]
    nothing = write_bundle(tmp_path / "zero" / "SEED", [0.0] * 2000, fingerprint="z")
    zero = compare(base / "SEED", candidate / "SEED", Policy(), reference=nothing).benchmarks[-1]
    assert zero.verdict == "NOT COMPARABLE" and "nothing can be kept of it" in zero.reasons[0]
    out = tmp_path / "out"
    assert main(["compare", str(base), str(candidate), "--reference", str(base), "--out", str(out)]) == 1
    assert "retention: mean kept" in capsys.readouterr().out
    assert 'classname="retention (shapes)"' in (out / "junit.xml").read_text()
    assert main(["compare", str(base), str(candidate), "--reference", "nowhere"]) == 2


# --- outputs ---------------------------------------------------------------------------------------------------------

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
    assert len(markdown.render(found).encode()) < 1_000_000
    monkeypatch.setattr(markdown, "LIMIT_BYTES", 2_500)
    short = markdown.render(found)
    assert len(short.encode()) <= 2_500 and short.startswith("## REGRESSION")


def test_junit_marks_inconclusive_as_skipped_and_strict_as_failed(pair):
    runs = pair(*answers(lost=0.05, gained=0.045))
    for strict, tag in ((False, "skipped"), (True, "failures")):
        suite = ElementTree.fromstring(junit.render(compare(*runs, Policy(), strict=strict))).find("testsuite")
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
    path.write_text(EXAMPLE)
    assert load_policy(path).tolerance_of("MME", "perception", "points") == Policy().tolerance_of("x", "y", "points")


def _edit(folder: Path, change) -> None:
    """Rewrite the items of a bundle, as JSON that may hold NaN."""
    path = folder / "items.jsonl"
    items = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def _one_cluster(items):
    return [{**item, "cluster": "same"} for item in items]


@pytest.mark.parametrize(
    ("name", "on_base", "on_candidate", "code", "words"),
    [
        ("different items", None, lambda x: [*x[:-1], {**x[-1], "id": "other"}], 4, "items differ: 1 are in the base"),
        ("duplicates", None, lambda x: [*x, x[0]], 3, "1 lines that are torn, repeated or no valid item"),
        ("one side empty", None, lambda x: [], 3, "the candidate run holds no items"),
        ("all ties", None, lambda x: x, 0, "0 items lost, 0 gained of 600; no cluster changed|McNemar, exact"),
        ("a single cluster", _one_cluster, _one_cluster, 0, "n/a: fewer than two clusters"),
        ("NaN", None, lambda x: [{**x[0], "score": float("nan")}, *x[1:]], 3, "1 lines that are torn, repeated"),
        ("no score at all", None, lambda x: [{**i, "score": None, "status": "error"} for i in x], 3, "no item has a"),
        ("other groups", None, lambda x: [{**x[0], "group": "odd"}, *x[1:]], 4, "item 'q0' differs in group"),
    ],
)
def test_bad_input_has_its_line_and_exit_code(pair, capsys, name, on_base, on_candidate, code, words):
    base, _ = answers(n=600)
    a, b = pair(base, base)
    if on_base:
        _edit(a, on_base)
    _edit(b, on_candidate)
    assert main(["compare", str(a), str(b)]) == code, name
    shown = capsys.readouterr()
    assert any(word in line for line in shown.out.splitlines() for word in words.split("|")), shown.out
    assert "Traceback" not in shown.out + shown.err


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
    assert main(["power", "--bench", name, "--drop", "2" if name != "geneval" else ".02", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["clusters"] >= 24 and plan["needed"] > 1 and plan["detectable"] > 0


def test_sizes_repeat_nothing_that_benchmarks_declares():
    for name, declared in benchmarks().items():
        if name in SIZES and declared.shares is None and declared.official.rows is not None:
            assert SIZES[name][0] == declared.official.rows, name


def test_a_foreign_folder_is_refused():
    with pytest.raises(UserError, match="no such run"):
        compare(Path("/nonexistent/a"), Path("/nonexistent/b"), Policy())
