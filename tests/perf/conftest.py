"""`make bench`: every perf test hands in its rows; at the end they stand in one table and in runs/bench.json.

What README and docs quote is kept in reports/bench/ (tests/packaging/test_figures.py): a row that they quote says in
`size` of which model or data it is true, in the words that the page uses.
"""

import json
import os
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest

ROWS = pytest.StashKey[list[dict]]()
Row = Callable[..., None]


@pytest.fixture
def bench_row(request) -> Row:
    """Call it with a name, what was measured, its unit and the target (`>= 5`, `< 3`, or None for information)."""
    rows = request.config.stash.setdefault(ROWS, [])

    def add(name: str, value: float | None, unit: str, target: str | None = None, **more: object) -> None:
        rows.append({"name": name, "value": value, "unit": unit, "target": target, **more})

    return add


def pytest_terminal_summary(terminalreporter, config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("side by side, in one run")
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        value = "not measured" if row["value"] is None else f"{row['value']:.3g} {row['unit']}"
        more = ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in row.items()
            if k not in ("name", "value", "unit", "target")
        )
        target = f"(target {row['target']})" if row["target"] else ""
        terminalreporter.write_line(f"{row['name']:<{width}}  {value:<16} {target:<16} {more}".rstrip())
    out = Path(os.environ.get("ARMOR_BENCH_OUT", "runs")) / "bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    made = {"date": date.today().isoformat(), "cpus": os.cpu_count(), "torch": version("torch")}
    out.write_text(json.dumps({**made, "rows": rows}, indent=1) + "\n")
    terminalreporter.write_line(f"written to {out}")
