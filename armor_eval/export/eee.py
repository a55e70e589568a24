"""Every Eval Ever 0.3.0: an aggregate JSON a run and a JSONL of its items, as `schemas/` in this folder says.

Source: https://github.com/evaleval/every_eval_ever (MIT, schemas/LICENSE.every_eval_ever).
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from armor_eval.export.record import Options, Record, Result, path_part, text_of, write_json, write_jsonl
from armor_eval.runs.schema import Item, decoding_of
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file, sha256_text
from armor_model.base.jsons import JsonObject

VERSION = "0.3.0"
RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")
UNITS = {"%": "percent", "score": "proportion", "share": "proportion"}


def export(records: Sequence[Record], out: Path, options: Options) -> list[Path]:
    """Write `data/BENCHMARK/ORGANIZATION/MODEL/UUID.json` and `UUID_samples.jsonl` of each run.

    Raises UserError where nobody said who measured: the format demands it, and a bundle cannot know.
    """
    if options.organization is None or options.relationship not in RELATIONSHIPS:
        said = f" (came: {options.relationship})" if options.relationship else ""
        raise UserError(
            f"eee states who measured, which a run cannot know{said}",
            f'say --org "NAME" --relationship {" | ".join(RELATIONSHIPS)}',
        )
    return [path for record in records for path in _write(record, out, options)]


def _write(record: Record, out: Path, options: Options) -> list[Path]:
    organization, name = record.model_id.split("/")
    folder = Path("data", path_part(record.benchmark), path_part(organization), path_part(name))
    # The format wants a version 4 uuid; from the run's id it is the same at every export.
    own = uuid.UUID(bytes=hashlib.sha256(record.run.run_id.encode()).digest()[:16], version=4)
    aggregate = _aggregate(record, options)
    made: list[Path] = []
    rows = [row for item in record.items if (row := _item(record, aggregate["evaluation_id"], item))]
    if options.items and rows and record.primary is not None:
        file = folder / f"{own}_samples.jsonl"
        made.append(write_jsonl(out / file, rows))
        aggregate["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": file.as_posix(),
            "hash_algorithm": "sha256",
            "checksum": sha256_file(out / file),
            "total_rows": len(rows),
        }
    return [*made, write_json(out / folder / f"{own}.json", aggregate)]


def _aggregate(record: Record, options: Options) -> JsonObject:
    run = record.run
    seconds = str(int(datetime.fromisoformat(run.started).timestamp()))
    library = {"scorer": f"{run.scorer.name} {run.scorer.version}", "git_commit": run.git_commit or "unknown"}
    return {
        "schema_version": VERSION,
        "evaluation_id": f"{record.benchmark}/{record.model_id}/{seconds}",
        "evaluation_timestamp": seconds,
        "retrieved_timestamp": str(int(time.time())),
        "source_metadata": {
            "source_type": "evaluation_run",
            "source_organization_name": options.organization,
            "evaluator_relationship": options.relationship,
        },
        "eval_library": {
            "name": "armor-eval",
            "version": run.packages.get("armor-eval", "unknown"),
            "additional_details": {**library, **record.remarks},
        },
        "model_info": _model(record),
        "evaluation_results": [_result(record, result) for result in record.results],
    }


def _model(record: Record) -> JsonObject:
    model = record.run.model
    served = model.spec.startswith("openai:")
    details = {
        "deployment_type": "externally_managed" if served else "self_deployed",
        "model_availability": "open_weights" if model.spec.startswith("hf:") else "unknown",
        "fingerprint": model.fingerprint,
    }
    return {"name": record.model, "id": record.model_id, "additional_details": details}


def _result(record: Record, result: Result) -> JsonObject:
    metric, run = result.metric, record.run
    config: JsonObject = {
        "lower_is_better": metric.direction == "lower",
        "metric_id": f"{path_part(run.benchmark).lower()}.{result.slug}",
        "metric_name": metric.name,
        "metric_unit": UNITS.get(metric.unit, metric.unit),
        "additional_details": {"primary": str(metric.primary).lower()},
    }
    if result.bounds is not None:
        low, high = result.bounds
        config |= {"score_type": "continuous", "min_score": "-Infinity" if low is None else low}
        config["max_score"] = "Infinity" if high is None else high
    if run.judge.endpoint == "openai-compatible":
        judge = {"model_info": {"name": run.judge.name, "id": f"unknown-org/{path_part(run.judge.name)}"}}
        judge["model_info"] |= {"additional_details": {"deployment_type": "unknown", "model_availability": "unknown"}}  # type: ignore[dict-item]
        # Bundles keep the hash of the judge's prompt, not the prompt.
        config["llm_scoring"] = {"judges": [judge], "input_prompt": f"sha256:{run.judge.prompt_sha256 or 'unknown'}"}
    details = {"clusters": str(metric.clusters), **record.remarks}
    if metric.note:
        details["note"] = metric.note
    if without := sum(item.score is None for item in record.items):
        details["items_without_a_score"] = str(without)
    uncertainty: JsonObject = {"num_samples": metric.n}
    if metric.ci95 is not None:
        low, high = metric.ci95
        span = {"lower": low, "upper": high, "confidence_level": 0.95, "method": metric.method or "unknown"}
        uncertainty["confidence_interval"] = span
    decoding = decoding_of(run)
    args = {name: decoding[name] for name in ("temperature", "top_p", "top_k") if decoding.get(name) is not None}
    if (tokens := decoding.get("max_new_tokens")) and tokens >= 1:
        args["max_tokens"] = tokens
    return {
        "evaluation_result_id": _result_id(record, result),
        "evaluation_name": record.benchmark,
        "source_data": {
            "dataset_name": run.data.name,
            "source_type": "other",
            "additional_details": {
                "sha256": run.data.sha256,
                "split": run.data.split or "unknown",
                "subset": record.remarks.get("subset", "none"),
            },
        },
        "metric_config": config,
        "score_details": {"score": result.value, "uncertainty": uncertainty, "details": details},
        "generation_config": {"generation_args": {**args, "execution_command": record.command}},
    }


def _result_id(record: Record, result: Result) -> str:
    return sha256_text(f"{record.run.run_id} {result.metric.name}")[:16]


def _item(record: Record, evaluation_id: str, item: Item) -> JsonObject | None:
    """A row of the primary number; None for an item without a score, which the format cannot state."""
    if item.score is None or record.primary is None:
        return None
    raw = [text for text in (item.output, *item.output_images) if text is not None]
    parsed = "" if item.parsed is None else text_of(item.parsed)
    # A mark out of ten is held against the reference's; elsewhere 1 is all that there is to get.
    reference_mark = item.extras.get("reference_score")
    full = reference_mark if isinstance(reference_mark, int | float) else 1.0
    details = {"status": item.status, "cluster": item.cluster, "group": item.group or "", "correct_from": str(full)}
    reference = [] if item.gold is None else [text_of(item.gold)]
    return {
        "schema_version": VERSION,
        "evaluation_id": evaluation_id,
        "model_id": record.model_id,
        "evaluation_name": record.benchmark,
        "evaluation_result_id": _result_id(record, record.primary),
        "sample_id": item.id,
        "sample_hash": sha256_text(item.prompt + "".join(reference)),
        "interaction_type": "single_turn",
        "input": {"raw": item.prompt, "reference": reference},
        "output": {"raw": raw},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": parsed,
                "extraction_method": "custom",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": item.score, "is_correct": item.score >= full},
        "performance": {"latency_ms": 1000 * item.seconds} if item.seconds else None,
        "metadata": {**details, "prompt_sha256": item.prompt_sha256},
    }
