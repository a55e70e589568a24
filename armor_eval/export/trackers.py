"""Experiment trackers, each through its own library and on this machine only: W&B offline, MLflow to a local folder."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType

from armor_eval.export.record import Options, Record, path_part
from armor_eval.export.tables import item_rows
from armor_model.base.errors import UserError

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
