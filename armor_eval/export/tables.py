"""Flat tables of runs: `results` (a row a number) and `items` (a row an item), as CSV or Parquet; and
experiment trackers."""

from __future__ import annotations

import csv
import importlib
import io
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType

from armor_eval.export.record import Options, Record, path_part, text_of
from armor_eval.report.formats import inert
from armor_model.base.errors import UserError
from armor_model.base.files import whole_file, write_file
from armor_model.base.jsons import JsonObject

NUMBERS = ("value", "ci95_low", "ci95_high", "score", "seconds", "min", "max")
COUNTS = ("n", "clusters")
"""Columns that are not words, in Parquet."""


def as_csv(records: Sequence[Record], out: Path, options: Options) -> list[Path]:
    """Write results.csv and items.csv; a text that a spreadsheet would run gets an apostrophe."""
    made = []
    for name, columns, rows in _tables(records, options):
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: inert(value) for key, value in row.items()} for row in rows)
        write_file(out / f"{name}.csv", text.getvalue(), sync=False)
        made.append(out / f"{name}.csv")
    return made


def as_parquet(records: Sequence[Record], out: Path, options: Options) -> list[Path]:
    """Write results.parquet and items.parquet, each column of one type in both."""
    import pyarrow as pa
    from pyarrow import parquet

    types: JsonObject = dict.fromkeys(NUMBERS, pa.float64()) | dict.fromkeys(COUNTS, pa.int64())
    types["primary"] = pa.bool_()
    made = []
    for name, columns, rows in _tables(records, options):
        schema = pa.schema([(column, types.get(column, pa.string())) for column in columns])
        with whole_file(out / f"{name}.parquet", sync=False) as draft:
            parquet.write_table(pa.Table.from_pylist(rows, schema=schema), draft)
        made.append(out / f"{name}.parquet")
    return made


def _tables(records: Sequence[Record], options: Options) -> Iterator[tuple[str, list[str], list[JsonObject]]]:
    """(name, columns, rows) of each table that has a row."""
    found = {"results": [row for record in records for row in result_rows(record)]}
    found["items"] = [row for record in records for row in item_rows(record)] if options.items else []
    yield from ((name, list(rows[0]), rows) for name, rows in found.items() if rows)


def result_rows(record: Record) -> Iterator[JsonObject]:
    """A row a number."""
    run = record.run
    protocol = {k.removeprefix("protocol_"): v for k, v in record.remarks.items() if k.startswith("protocol_")}
    for result in record.results:
        metric, (low, high), bounds = result.metric, result.metric.ci95 or (None, None), result.bounds
        yield {
            "run_id": run.run_id,
            "kind": run.kind,
            "benchmark": record.benchmark,
            "profile": run.profile,
            "model": record.model,
            "fingerprint": run.model.fingerprint,
            "baseline": record.remarks.get("baseline"),
            "metric": metric.name,
            "slug": result.slug,
            "primary": metric.primary,
            "value": result.value,
            "unit": metric.unit,
            "direction": metric.direction,
            "ci95_low": low,
            "ci95_high": high,
            "method": metric.method,
            "n": metric.n,
            "clusters": metric.clusters,
            "min": bounds[0] if bounds else None,
            "max": bounds[1] if bounds else None,
            "note": metric.note,
            "status": run.status,
            "protocol": ", ".join(f"{k} {v}" for k, v in protocol.items()),
            "reservations": "; ".join(record.reservations),
            "subset": record.remarks.get("subset"),
            "data": run.data.name,
            "data_sha256": run.data.sha256,
            "scorer": f"{run.scorer.name} {run.scorer.version}",
            "judge": run.judge.name,
            "git_commit": run.git_commit,
            "started": run.started,
            "command": record.command,
        }


def item_rows(record: Record) -> Iterator[JsonObject]:
    """A row an item."""
    reservations = "; ".join(record.reservations)
    for item in record.items:
        yield {
            "run_id": record.run.run_id,
            "benchmark": record.benchmark,
            "model": record.model,
            "id": item.id,
            "cluster": item.cluster,
            "group": item.group,
            "prompt": item.prompt,
            "gold": None if item.gold is None else text_of(item.gold),
            "output": item.output,
            "parsed": None if item.parsed is None else text_of(item.parsed),
            "score": item.score,
            "status": item.status,
            "reason": item.reason,
            "seconds": item.seconds,
            "output_images": " ".join(item.output_images),
            "prompt_sha256": item.prompt_sha256,
            "reservations": reservations,
        }


# --- trackers, each through its own library and on this machine only: W&B offline, MLflow to a local folder ----------


PARAMETER = 6000
"""Characters that MLflow takes as a parameter's value."""


def wandb(records: Sequence[Record], out: Path, options: Options) -> list[Path]:
    """Write a run of W&B's offline mode a run of ours under OUT/wandb; `wandb sync` sends them."""
    library = _library("wandb", "wandb")
    made = []
    for record in records:
        tracked = library.init(
            project=options.project,
            name=f"{record.benchmark}, {record.model}",
            id=path_part(record.run.run_id),
            dir=str(out),
            config={**record.run.model_dump(mode="json"), "remarks": record.remarks},
            mode="offline",
            reinit="finish_previous",
            tags=[record.run.kind, record.run.profile],
            notes="; ".join(record.reservations) or None,
            settings=library.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )
        for name, value in _numbers(record).items():
            tracked.summary[name] = value
        tracked.summary.update({f"about/{name}": value for name, value in record.remarks.items()})
        if options.items and record.items:
            rows = list(item_rows(record))
            data = [list(row.values()) for row in rows]
            tracked.log({"items": library.Table(columns=list(rows[0]), data=data, allow_mixed_types=True)})
        made.append(Path(tracked.dir).parent)
        tracked.finish()
    return made


def mlflow(records: Sequence[Record], out: Path, options: Options) -> list[Path]:
    """Write an MLflow run a run of ours under OUT/mlruns (`mlflow ui --backend-store-uri OUT/mlruns` shows them)."""
    # MLflow 3 takes a folder as its store only where this is said; a database would need the whole server package.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    tracking = _library("mlflow.tracking", "mlflow")
    store = out / "mlruns"
    client = tracking.MlflowClient(tracking_uri=store.absolute().as_uri())
    known = client.get_experiment_by_name(options.project)
    experiment = known.experiment_id if known else client.create_experiment(options.project)
    made = []
    for record in records:
        run = record.run
        start = int(1000 * datetime.fromisoformat(run.started).timestamp())
        own = client.create_run(
            experiment, start_time=start, run_name=f"{record.benchmark}, {record.model}", tags=record.remarks
        ).info.run_id
        settings = {"benchmark": record.benchmark, "model": run.model.spec, "fingerprint": run.model.fingerprint}
        settings |= {"scorer": f"{run.scorer.name} {run.scorer.version}", "judge": run.judge.name}
        settings |= {"command": record.command, **{f"decoding.{k}": v for k, v in run.decoding.items()}}
        for name, value in settings.items():
            client.log_param(own, name, str(value)[:PARAMETER])
        for name, number in _numbers(record).items():
            client.log_metric(own, name, number, timestamp=start)
        for file in ("run.json", "scores.json", *(["items.jsonl"] if options.items else [])):
            if (record.view.path / file).is_file():
                client.log_artifact(own, str(record.view.path / file))
        client.set_terminated(own, "FINISHED" if run.status == "complete" else "KILLED")
        made.append(store / experiment / own)
    return made


def _numbers(record: Record) -> dict[str, float]:
    """`BENCHMARK/slug` and the ends of its interval: names that both trackers take."""
    numbers: dict[str, float] = {}
    for result in record.results:
        name = f"{path_part(record.run.benchmark)}/{result.slug}"
        numbers[name] = result.value
        if result.metric.ci95 is not None:
            numbers[f"{name}.ci95_low"], numbers[f"{name}.ci95_high"] = result.metric.ci95
    return numbers


def _library(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{package} is not installed ({error})", f"pip install {package}") from error
