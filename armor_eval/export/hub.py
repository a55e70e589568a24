"""Hugging Face: `.eval_results` entries of a model repository, and the model-index of a model card's front matter.

Both are written by huggingface_hub's own classes; nothing is uploaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.export.record import Options, Record, path_part
from armor_eval.report.doc import Doc, interval_text, value_text
from armor_eval.report.formats import markdown
from armor_eval.report.results import control_of
from armor_eval.runs.schema import RunKind
from armor_model.base.errors import UserError
from armor_model.base.files import write_file

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASKS: dict[RunKind, str] = {
    "understanding": "image-text-to-text",
    "geneval": "text-to-image",
    "suite": "text-to-image",
    "text": "text-generation",
}
"""Kind of run -> task of the Hub; any-to-any for what is none of these."""


def eval_results(records: Sequence[Record], out: Path, options: Options) -> list[Path]:
    """Write `MODEL/.eval_results/BENCHMARK.yaml` of each run.

    Such an entry stands on a public leaderboard, so that only whole runs of the published data without a reservation
    are written, and the user names the data set there. Raises UserError for any other run.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    homes = {bench.lower(): (dataset, task) for bench, dataset, task in options.datasets}
    made = []
    for record in records:
        run, primary = record.run, record.primary
        path = record.view.path
        if run.profile != "official":
            raise UserError(f"{path}: {record.benchmark} is no official benchmark", "hf takes none; try model-index")
        if record.reservations or primary is None or control_of(record.view):
            why = "; ".join(record.reservations) or ("it has no headline" if primary is None else "it is a baseline")
            raise UserError(f"{path} is not for a leaderboard: {why}", "hf takes whole runs of published data")
        if run.benchmark.lower() not in homes:
            hint = f"say --dataset {run.benchmark}=OWNER/NAME#TASK, as the data set's page names it"
            raise UserError(f"which data set of the Hub {run.benchmark} is, no run knows", hint)
        dataset, task = homes[run.benchmark.lower()]
        words = [f"armor-eval, {primary.metric.name}", f"95 % interval {interval_text(primary.metric)}"]
        words += [f"n {primary.metric.n}", *(f"{k} {v}" for k, v in record.remarks.items() if k.startswith("protocol"))]
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=task,
            value=primary.value,
            date=run.finished or run.started,
            notes="; ".join(words),
        )
        file = out / path_part(run.model.name) / ".eval_results" / f"{path_part(run.benchmark)}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, yaml_dump(eval_result_entries_to_yaml([entry])), sync=False)
        made.append(file)
    return made


def model_index(records: Sequence[Record], out: Path, options: Options) -> list[Path]:
    """Write `MODEL.md` a model: a card's front matter with the headlines, and the same as a table with reservations.

    Baselines (blind, constant) are left out: the Hub would show them as a second number of the model.
    """
    from huggingface_hub import ModelCardData

    models: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if control_of(record.view) is None and record.primary is not None:
            models.setdefault((record.run.model.name, record.run.model.fingerprint), []).append(record)
    if not models:
        raise UserError("none of these runs has a headline of a model's own", "baselines are not exported")
    names = [name for name, _ in models]
    made = []
    for (name, fingerprint), own in models.items():
        card = ModelCardData(model_name=name, eval_results=[_eval_result(record) for record in own])
        head = ["Benchmark", "Number", "Score", "95 % interval", "n", "To be read with"]
        doc = Doc("results", "Results", "Measured by armor-eval.", head, text_columns=2, wide=True)
        for record in own:
            metric = record.primary.metric  # type: ignore[union-attr]
            said = "; ".join(f"{k.removeprefix('protocol_')}: {v}" for k, v in _said(record).items()) or "-"
            doc.add([record.benchmark, metric.name, value_text(metric), interval_text(metric), str(metric.n), said])
        twin = f"-{fingerprint[:8]}" if names.count(name) > 1 else ""
        file = out / f"{path_part(name)}{twin}.md"
        write_file(file, f"---\n{card.to_yaml()}\n---\n\n{markdown(doc)}", sync=False)
        made.append(file)
    return made


def _said(record: Record) -> dict[str, str]:
    """The remarks a reader needs, without hashes and what is the rule."""
    return {k: v for k, v in record.remarks.items() if k not in ("run_id", "data_sha256", "status", "profile")}


def _eval_result(record: Record) -> EvalResult:
    from huggingface_hub import EvalResult

    run, result = record.run, record.primary
    assert result is not None
    metric = result.metric
    facts = {"ci95": list(metric.ci95) if metric.ci95 else None, "n": metric.n, "clusters": metric.clusters}
    # Results of equal task, data set, config, split and revision become one entry, with the first one's arguments:
    # what differs between two runs stands in the config and with the metric.
    protocol = ", ".join(f"{k.removeprefix('protocol_')} {v}" for k, v in _said(record).items() if "protocol" in k)
    return EvalResult(
        task_type=TASKS.get(run.kind, "any-to-any"),
        dataset_type=path_part(record.benchmark).lower(),
        dataset_name=record.benchmark,
        dataset_config=protocol or None,
        dataset_split=run.data.split,
        dataset_revision=run.data.sha256,
        metric_type=result.slug,
        metric_value=result.value,
        metric_name=f"{metric.name} ({metric.unit})",
        metric_args={**facts, "unit": metric.unit, **record.remarks},
    )
