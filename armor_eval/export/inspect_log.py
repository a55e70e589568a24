"""inspect EvalLog version 2 as plain JSON, which `inspect view`, `read_eval_log` and `inspect log convert` read.

Source: inspect_ai 0.3.285 (MIT), its log model; only fields that older readers have too are written.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from armor_eval.export.record import Options, Record, path_part, text_of, write_json
from armor_eval.report.loading import inside
from armor_eval.runs.schema import Item, Metric
from armor_model.base.jsons import JsonObject

STATUS = {"complete": "success", "partial": "cancelled", "failed": "error", "running": "started"}
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def export(records: Sequence[Record], out: Path, options: Options) -> list[Path]:
    """Write one `TIME_TASK_ID.json` a run: inspect reads task and id from the name."""
    made = []
    for record in records:
        # `_` separates the parts of the name, so none may be inside one.
        time = datetime.fromisoformat(record.run.started).astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%S+00-00")
        task, own = path_part(record.benchmark), path_part(record.run.run_id)
        made.append(write_json(out / f"{time}_{task}_{own}.json", _log(record, options.items)))
    return made


def _log(record: Record, with_items: bool) -> JsonObject:
    run, counts = record.run, record.view.scores.counts if record.view.scores else {}
    scored = counts.get("ok", 0) + counts.get("unparsed", 0)
    samples = [_sample(record, item) for item in record.items] if with_items else []
    log: JsonObject = {
        "version": 2,
        "status": STATUS[run.status],
        "eval": {
            "created": datetime.fromisoformat(run.started).astimezone(UTC).isoformat(),
            "task": record.benchmark,
            "task_id": run.run_id,
            "run_id": run.run_id,
            "dataset": {"name": run.data.name, "samples": run.data.items},
            "model": record.model_id,
            "config": {},
            "metadata": {**record.remarks, "run": run.model_dump(mode="json")},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "stats": {"started_at": run.started, "completed_at": run.finished or run.started},  # both: readers of headers
        "results": {
            "total_samples": sum(counts.values()),
            "completed_samples": scored,
            "scores": [
                {
                    "name": r.metric.name,
                    "scorer": r.metric.name,
                    "scored_samples": scored,
                    "unscored_samples": sum(counts.values()) - scored,
                    "metrics": {r.slug: {"name": r.slug, "value": r.value, "metadata": _about(record, r.metric)}},
                }
                for r in record.results
            ],
        },
    }
    if run.status == "failed":
        log["error"] = {"message": run.status_reason or "failed", "traceback": "", "traceback_ansi": ""}
    if samples:
        log["samples"] = samples
    return log


def _about(record: Record, metric: Metric) -> JsonObject:
    facts: JsonObject = metric.model_dump(
        mode="json", include={"unit", "ci95", "n", "clusters", "method", "note", "primary"}
    )
    return facts | record.remarks


def _sample(record: Record, item: Item) -> JsonObject:
    asked = [{"type": "text", "text": item.prompt}, *_images(record, item.images)]
    answered = [{"type": "text", "text": item.output or ""}, *_images(record, item.output_images)]
    sample: JsonObject = {
        "id": item.id,
        "epoch": 1,
        "input": item.prompt if len(asked) == 1 else [{"role": "user", "content": asked}],
        "target": "" if item.gold is None else text_of(item.gold),
        "output": {
            "model": record.model_id,
            "choices": [{"message": {"role": "assistant", "content": answered}, "stop_reason": "stop"}],
        },
        "metadata": {
            "cluster": item.cluster,
            "group": item.group,
            "status": item.status,
            "reason": item.reason,
            "prompt_sha256": item.prompt_sha256,
        },
    }
    if item.score is not None and record.primary is not None:
        answer = None if item.parsed is None else text_of(item.parsed)
        sample["scores"] = {record.primary.metric.name: {"value": item.score, "answer": answer}}
    elif item.score is None:
        why = item.reason or item.status
        sample["error"] = {"message": why, "traceback": "", "traceback_ansi": ""}
    return sample


def _images(record: Record, names: Sequence[str]) -> list[dict[str, str]]:
    """Images that lie in the bundle, as data addresses: a path outside of the log shows nothing."""
    made = []
    for name in names:
        path = inside(record.view.path, name)
        if path is not None and (mime := MIME.get(path.suffix.lower())):
            data = base64.b64encode(path.read_bytes()).decode()
            made.append({"type": "image", "image": f"data:{mime};base64,{data}"})
    return made
