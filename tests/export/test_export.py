"""Exported runs: read by the formats' own schemas and readers, and never without what must be read with a number."""

import csv
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from paths import ROOT
from report_mocks import a_subset, make_items, make_run, metric, shapes_run, write_bundle

from armor_eval.cli import main
from armor_eval.export.record import build, slug
from armor_eval.report.loading import RunView, load_runs
from armor_eval.runs.schema import Metric, Reservation

BASELINES = ROOT / "reports" / "baselines" / "armor-nano"
SCHEMAS = ROOT / "armor_eval" / "export" / "schemas"
HELD = [Reservation(kind="judge", text="judged by another model than the suite's own")]
EEE = ["--org", "A laboratory", "--relationship", "third_party"]
LOCAL = ["eee", "model-index", "inspect", "lm-eval", "csv", "parquet"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A bundle of each kind that has scores, each with a reservation and a protocol label."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("understanding", "geneval", "suite", "text", "modality"):
        extras = {"metrics": {"accuracy": True}} if kind == "text" else {}
        run = make_run(
            f"run-{kind}",
            kind=kind,
            benchmark=f"{kind}-bench",
            protocol={"thinking": "strip-all"},
            reservations=HELD,
            extras=extras,
        )
        numbers = [metric("accuracy", 75.0, (70.0, 80.0), bounds=(0.0, 100.0)), _second("F1, our reading", 12.0)]
        write_bundle(folder / kind, run, numbers, make_items(120, seed=3))
    return folder


def _second(name: str, value: float) -> Metric:
    return Metric(name=name, value=value, unit="%", n=30, clusters=10, bounds=(0.0, None))


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.rglob(pattern))


@pytest.mark.parametrize("target", LOCAL)
def test_reservation_and_protocol_stand_in_every_file_of_numbers(target: str, runs: Path, tmp_path: Path) -> None:
    assert main(["export", str(runs), "--to", target, "--out", str(tmp_path / "o"), *EEE, "--no-items"]) == 0
    written = [path for path in (tmp_path / "o").rglob("*") if path.is_file()]
    assert len(written) == {"model-index": 1, "csv": 1, "parquet": 1}.get(target, 5)
    for path in written:
        if target == "parquet":
            from pyarrow import parquet

            text = str(parquet.read_table(path).to_pylist())
        else:
            text = path.read_text()
        assert HELD[0].text in " ".join(text.split()) and "strip-all" in text, path


@pytest.mark.parametrize("source", ["committed", "made"])
def test_every_eval_ever_accepts_runs_and_items(source: str, runs: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    given = [BASELINES / name for name in ("MME-P-shapes", "LLaVABench-shapes")] if source == "committed" else [runs]
    assert main(["export", *map(str, given), "--to", "eee", "--out", str(tmp_path), *EEE]) == 0
    check, check_item = (
        jsonschema.Draft7Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))
        for name in ("eval", "instance_level_eval")
    )
    aggregates = files(tmp_path, "*.json")
    assert len(aggregates) == len(load_runs(given))
    for path in aggregates:
        record = json.loads(path.read_text())
        assert not [error.message for error in check.iter_errors(record)]
        detail = record["detailed_evaluation_results"]
        rows = [json.loads(line) for line in (tmp_path / detail["file_path"]).read_text().splitlines()]
        assert not [error.message for row in rows for error in check_item.iter_errors(row)]
        assert len(rows) == detail["total_rows"]
        keys = {result["evaluation_result_id"] for result in record["evaluation_results"]}
        assert {row["evaluation_result_id"] for row in rows} <= keys


def test_an_item_without_a_score_is_left_out_and_counted(runs: Path, tmp_path: Path) -> None:
    run = runs / "understanding"
    items = [json.loads(line) for line in (run / "items.jsonl").read_text().splitlines()]
    lost = sum(item["score"] is None for item in items)
    assert lost > 0
    assert main(["export", str(run), "--to", "eee", "--out", str(tmp_path), *EEE]) == 0
    rows = files(tmp_path, "*_samples.jsonl")[0].read_text().splitlines()
    record = json.loads(files(tmp_path, "*.json")[0].read_text())
    assert len(rows) == len(items) - lost
    details = record["evaluation_results"][0]["score_details"]["details"]
    assert details["items_without_a_score"] == str(lost)
    sample = hashlib.sha256(files(tmp_path, "*_samples.jsonl")[0].read_bytes()).hexdigest()
    assert record["detailed_evaluation_results"]["checksum"] == sample


def test_eee_wants_to_know_who_measured(runs: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(runs), "--to", "eee", "--out", str(tmp_path), "--org", "Us"]) == 2
    assert "--relationship first_party | third_party" in capsys.readouterr().err


def test_bounds_are_those_of_the_composite_also_for_runs_of_before_they_were_recorded() -> None:
    names = {
        "MME-shapes": (0.0, 2800.0),
        "MME-P-shapes": (0.0, 2000.0),
        "LLaVABench-shapes": (0.0, None),
        "geneval-shapes": (0.0, 1.0),
        "MMB-shapes": (0.0, 100.0),
    }

    def before(view: RunView) -> RunView:
        metrics = [metric.model_copy(update={"bounds": None}) for metric in view.scores.metrics]
        return replace(view, scores=view.scores.model_copy(update={"metrics": metrics}))

    for record in build(list(map(before, load_runs([BASELINES / name for name in names])))):
        assert record.primary.metric.bounds is None
        assert record.primary.bounds == names[record.view.path.name]


def test_inspect_logs_have_the_fields_that_its_reader_wants(runs: Path, tmp_path: Path) -> None:
    run = BASELINES / "MMMU-shapes"
    assert main(["export", str(run), str(runs / "understanding"), "--to", "inspect", "--out", str(tmp_path)]) == 0
    for path in files(tmp_path, "*.json"):
        log = json.loads(path.read_text())
        assert path.stem.count("_") == 2 and log["version"] == 2 and log["status"] == "success"
        scorers = {score["name"] for score in log["results"]["scores"]}
        for sample in log["samples"]:
            assert set(sample) >= {"id", "epoch", "input", "target"}
            assert set(sample.get("scores", {})) <= scorers
            assert ("scores" in sample) != ("error" in sample)


@pytest.mark.slow
def test_inspect_reads_every_committed_run(tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="pip install inspect_ai (in an environment of its own)")
    assert main(["export", str(BASELINES), "--to", "inspect", "--out", str(tmp_path)]) == 0
    read = [log.read_eval_log(one) for one in log.list_eval_logs(str(tmp_path))]
    assert len(read) == len(load_runs([BASELINES]))
    for one, view in zip(
        sorted(read, key=lambda r: r.eval.run_id),
        sorted(load_runs([BASELINES]), key=lambda v: v.run.run_id),
        strict=True,
    ):
        assert len(one.samples) == len(view.items())
        assert log.read_eval_log(one.location, header_only=True).results.scores[0].metrics


def test_a_leaderboard_entry_is_read_back_by_the_hubs_own_parser(tmp_path: Path) -> None:
    import yaml
    from huggingface_hub import parse_eval_result_entries
    from huggingface_hub.utils import yaml_dump  # noqa: F401 - the writer's

    folder = write_bundle(tmp_path / "r", make_run(benchmark="MMMU"), [metric("accuracy", 56.0, (52.0, 60.0))])
    arguments = ["export", str(folder), "--to", "hf", "--out", str(tmp_path / "o")]
    assert main([*arguments, "--dataset", "MMMU=MMMU/MMMU#validation"]) == 0
    (file,) = files(tmp_path / "o", "*.yaml")
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("MMMU/MMMU", "validation", 56.0)
    assert "52.0 to 60.0" in entry.notes and entry.verify_token is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"profile": "shapes"}, "no official benchmark"),
        ({"subset": a_subset()}, "subset of 30 of 9000"),
        ({"reservations": HELD}, "another model"),
        ({"extras": {"blind": True}}, "blind"),
        ({}, "say --dataset POPE=OWNER/NAME#TASK"),
    ],
)
def test_what_is_not_for_a_leaderboard_is_refused(changes: dict, said: str, tmp_path: Path, capsys) -> None:
    folder = write_bundle(tmp_path / "r", make_run(**changes), [metric("F1", 85.0, (80.0, 90.0))])
    assert main(["export", str(folder), "--to", "hf", "--out", str(tmp_path / "o")]) == 2
    assert said in capsys.readouterr().err
    assert not files(tmp_path / "o", "*.yaml")


def test_a_model_card_holds_the_models_own_headlines_and_no_baseline(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    given = ROOT / "reports" / "runs"
    assert main(["export", str(given), "--to", "model-index", "--out", str(tmp_path)]) == 0
    (file,) = files(tmp_path, "*.md")
    results = ModelCard.load(file).data.eval_results
    own = {
        v.run.benchmark: v.primary.value
        for v in load_runs([given])
        if v.primary and not v.path.name.endswith(("-blind", "-constant"))
    }
    assert {r.dataset_name: r.metric_value for r in results} == {f"{k} (shapes)": v for k, v in own.items()}


def test_two_protocols_of_one_benchmark_are_two_entries(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    for name in ("strip", "keep"):
        run = make_run(name, protocol={"thinking": name})
        write_bundle(tmp_path / "r" / name, run, [metric("F1", 85.0, (80.0, 90.0))])
    assert main(["export", str(tmp_path / "r"), "--to", "model-index", "--out", str(tmp_path / "o")]) == 0
    card = ModelCard.load(files(tmp_path / "o", "*.md")[0]).data.to_dict()
    assert len(card["model-index"][0]["results"]) == 2


def test_csv_and_parquet_hold_the_same_rows_and_no_formula(tmp_path: Path) -> None:
    from pyarrow import parquet

    items = make_items(5)
    items[0] = items[0].model_copy(update={"output": "=HYPERLINK(1)"})
    run = shapes_run("r", "understanding", "POPE")
    folder = write_bundle(tmp_path / "r", run, [metric("F1", 85.5, (80.0, 90.0)), _second("F1, our reading", 3)], items)
    for target in ("csv", "parquet"):
        assert main(["export", str(folder), "--to", target, "--out", str(tmp_path / target)]) == 0
    for name in ("results", "items"):
        flat = list(csv.DictReader((tmp_path / "csv" / f"{name}.csv").open()))
        typed = parquet.read_table(tmp_path / "parquet" / f"{name}.parquet").to_pylist()
        assert len(flat) == len(typed) == {"results": 2, "items": 5}[name]
        for a, b in zip(flat, typed, strict=True):
            assert {k: v.removeprefix("'") for k, v in a.items()} == {
                k: "" if v is None else str(v) for k, v in b.items()
            }
    assert (
        "\n=" not in (tmp_path / "csv" / "items.csv").read_text()
        and ",=" not in (tmp_path / "csv" / "items.csv").read_text()
    )


def test_lm_eval_gets_proportions_and_no_invented_standard_error(tmp_path: Path) -> None:
    assert main(["export", str(BASELINES / "MMB-shapes"), "--to", "lm-eval", "--out", str(tmp_path)]) == 0
    (file,) = files(tmp_path, "results_*.json")
    results = json.loads(file.read_text())
    (view,) = load_runs([BASELINES / "MMB-shapes"])
    numbers = results["results"]["MMB-shapes"]
    assert numbers["circular_accuracy,none"] == pytest.approx(view.primary.value / 100)
    assert numbers["circular_accuracy_stderr,none"] == "N/A"
    assert file.parent.name == "unknown-org__armor-nano"
    assert len(files(tmp_path, "samples_*.jsonl")[0].read_text().splitlines()) == len(view.items())


@pytest.mark.parametrize("target", LOCAL)
def test_an_unfinished_run_is_refused_unless_asked_for_and_then_marked(target: str, tmp_path: Path, capsys) -> None:
    run = make_run(status="partial", status_reason="40 items are missing")
    folder = write_bundle(tmp_path / "r", run, [metric("F1", 85.0, (80.0, 90.0))], make_items(20))
    arguments = ["export", str(folder), "--to", target, "--out", str(tmp_path / "o"), *EEE, "--no-items"]
    assert main(arguments) == 2
    assert "is partial (40 items are missing)" in capsys.readouterr().err
    assert main([*arguments, "--partial"]) == 0
    (file,) = [path for path in (tmp_path / "o").rglob("*") if path.is_file()]
    assert b"40 items are missing" in file.read_bytes().replace(b"\n         ", b"")


def test_withheld_headlines_and_edited_runs_are_refused(tmp_path: Path, capsys) -> None:
    withheld = metric("F1", None, None, note="12 of 100 without a verdict")
    folder = write_bundle(tmp_path / "a", make_run("a"), [withheld], make_items(3))
    assert main(["export", str(folder), "--to", "csv", "--out", str(tmp_path / "o")]) == 2
    assert "12 of 100 without a verdict" in capsys.readouterr().err
    from armor_eval.runs.journal import write_run

    folder = write_bundle(tmp_path / "b", make_run("b"), [metric("F1", 85.0, (80.0, 90.0))], make_items(3))
    write_run(folder, make_run("b"), seal=True)
    scores = folder / "scores.json"
    scores.write_text(scores.read_text().replace("85.0", "95.0"))
    assert main(["export", str(folder), "--to", "csv", "--out", str(tmp_path / "o"), "--partial"]) == 2
    assert "was changed after it was measured (scores.json)" in capsys.readouterr().err


def test_a_run_and_its_archived_copy_are_one(tmp_path: Path, capsys) -> None:
    run, numbers = make_run(), [metric("F1", 85.0, (80.0, 90.0))]
    copy = write_bundle(tmp_path / "a", run, numbers, [])
    (copy / "items.jsonl").unlink()
    write_bundle(tmp_path / "b", run, numbers, make_items(4))
    assert [len(record.items) for record in build(load_runs([tmp_path]), partial=True)] == [4]
    write_bundle(tmp_path / "c", run, [metric("F1", 86.0, (80.0, 90.0))], make_items(4))
    assert main(["export", str(tmp_path), "--to", "csv", "--out", str(tmp_path / "o"), "--partial"]) == 2
    assert "one run with two results" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_absent_is_named_with_its_command(name: str, runs: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.tracking", None)
    assert main(["export", str(runs), "--to", name, "--out", str(tmp_path)]) == 2
    assert f"pip install {name}" in capsys.readouterr().err


@pytest.mark.slow
def test_mlflow_reads_its_runs_back(runs: Path, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="pip install mlflow")
    assert main(["export", str(runs), "--to", "mlflow", "--out", str(tmp_path)]) == 0
    client = tracking.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("armor-eval")
    found = client.search_runs([experiment.experiment_id])
    assert len(found) == 5
    for run in found:
        bench = run.data.params["benchmark"]
        assert run.data.metrics[f"{bench}/accuracy"] == 75.0 and run.data.metrics[f"{bench}/accuracy.ci95_low"] == 70.0
        assert run.data.tags["reservations"] == HELD[0].text


@pytest.mark.slow
def test_wandb_writes_an_offline_run_each(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="pip install wandb")
    assert main(["export", str(runs), "--to", "wandb", "--out", str(tmp_path)]) == 0
    written = files(tmp_path, "*.wandb")
    assert len(written) == 5
    assert all(HELD[0].text.encode() in path.read_bytes() for path in written)


def test_untrusted_names_stay_inside_of_the_folder(tmp_path: Path) -> None:
    run = make_run("../../r", benchmark="../../POPE", model="../../../etc/x")
    folder = write_bundle(tmp_path / "r", run, [metric("F1", 85.0, (80.0, 90.0))], make_items(3))
    before = set(tmp_path.parent.iterdir())
    for target in ("eee", "inspect", "lm-eval", "model-index"):
        out = tmp_path / "o" / target
        assert main(["export", str(folder), "--to", target, "--out", str(out), *EEE]) == 0
        assert files(out, "*.*")
    assert set(tmp_path.parent.iterdir()) == before and {p.name for p in tmp_path.iterdir()} == {"r", "o"}


@pytest.mark.parametrize("target", LOCAL)
def test_a_strange_record_is_no_crash(target: str, tmp_path: Path) -> None:
    items = make_items(3)
    items[0] = items[0].model_copy(update={"extras": {"reference_score": "much"}})
    number = metric("score", 0.5, (0.4, 0.6), unit="score")
    write_bundle(tmp_path / "r", make_run(kind="suite", benchmark="s", extras={"suite": 7}), [number], items)
    assert main(["export", str(tmp_path / "r"), "--to", target, "--out", str(tmp_path / "o"), *EEE]) == 0


def test_slugs_hold_nothing_that_a_tracker_refuses() -> None:
    assert [slug(n) for n in ("F1, our reading", "model's own mark", "%")] == [
        "F1_our_reading",
        "model_s_own_mark",
        "metric",
    ]


def test_json_says_what_was_written(runs: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(runs / "suite"), "--to", "csv", "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(f).name for f in told["files"]] == ["results.csv", "items.csv"]
    assert told["runs"][0]["remarks"]["reservations"] == HELD[0].text
