"""Flat tables of runs: `results` (a row a number) and `items` (a row an item), as CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from armor_eval.export.record import Options, Record, text_of
from armor_eval.report.formats import inert
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
