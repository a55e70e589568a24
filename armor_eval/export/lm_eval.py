"""lm-evaluation-harness / lmms-eval results JSON: `MODEL/results_TIME.json` and `samples_TASK_TIME.jsonl`.

Source: lm-eval 0.4, docs/interface.md and its EvaluationTracker. Our intervals are no standard errors (they are
asymmetric and clustered), so `*_stderr` is "N/A" and the interval stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from armor_eval.export.record import Options, Record, Result, path_part, text_of, write_json, write_jsonl
from armor_eval.runs.schema import Item
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject


def export(records: Sequence[Record], out: Path, options: Options) -> list[Path]:
    """Write one results file a run: two runs of one task would stand on one key."""
    return [path for record in records for path in _write(record, out, options.items)]


def _write(record: Record, out: Path, with_items: bool) -> list[Path]:
    run, task = record.run, path_part(record.benchmark)
    sanitized = record.model_id.replace("/", "__")
    time = datetime.fromisoformat(run.started).astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
    folder = out / sanitized
    # Runs that started in one second would replace one another.
    name = f"{time}-{path_part(run.run_id)}"
    numbers: JsonObject = {"alias": task}
    for result in record.results:
        numbers[f"{result.slug},none"] = _unit(result, result.value)
        numbers[f"{result.slug}_stderr,none"] = "N/A"
        ci95 = result.metric.ci95
        numbers[f"{result.slug}_ci95,none"] = [_unit(result, end) for end in ci95] if ci95 else "N/A"
    scored = record.primary.metric.n if record.primary else 0
    start = datetime.fromisoformat(run.started).timestamp()
    results = {
        "results": {task: numbers},
        "group_subtasks": {task: []},
        "configs": {
            task: {
                "task": task,
                "dataset_path": run.data.name,
                "test_split": run.data.split,
                "metadata": {"version": run.scorer.version, **record.remarks},
            }
        },
        "versions": {task: run.scorer.version},
        "n-shot": {task: 0},
        "higher_is_better": {task: {r.slug: r.metric.direction == "higher" for r in record.results}},
        "n-samples": {task: {"original": run.subset.of_items if run.subset else run.data.items, "effective": scored}},
        "config": {
            "model": run.model.spec,
            "model_args": "",
            "batch_size": None,
            "device": run.device.kind,
            "limit": run.subset.limit if run.subset else None,
            "gen_kwargs": run.decoding,
        },
        "git_hash": run.git_commit,
        "date": start,
        "start_time": start,
        "end_time": start + run.wall_seconds,
        "total_evaluation_time_seconds": str(run.wall_seconds),
        "model_source": run.model.spec.partition(":")[0],
        "model_name": record.model_id,
        "model_name_sanitized": sanitized,
        "task_hashes": {task: run.data.sha256},
        "armor_eval": record.remarks,
    }
    made = [write_json(folder / f"results_{name}.json", results)]
    if with_items and record.items:
        rows = [_sample(record, place, item) for place, item in enumerate(record.items)]
        file = folder / f"samples_{task}_{name}.jsonl"
        made.append(write_jsonl(file, rows))
    return made


def _unit(result: Result, value: float) -> float:
    """Percent as a proportion, as lm-eval has it; points and marks as they are."""
    return value / 100 if result.metric.unit == "%" else value


def _sample(record: Record, place: int, item: Item) -> JsonObject:
    target = "" if item.gold is None else text_of(item.gold)
    name = record.primary.slug if record.primary else "score"
    return {
        "doc_id": place,
        "doc": {"id": item.id, "group": item.group, "cluster": item.cluster, "status": item.status},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": item.prompt}},
        "resps": [[item.output or ""]],
        "filtered_resps": ["" if item.parsed is None else text_of(item.parsed)],
        "filter": "none",
        "metrics": [name],
        name: item.score,
        "doc_hash": sha256_text(item.id),
        "prompt_hash": item.prompt_sha256,
        "target_hash": sha256_text(target),
    }
