"""`make bench`: every perf test hands in its rows; at the end they stand in one table and in runs/bench.json.

What README and docs quote is kept in reports/bench/ (tests/packaging/test_figures.py): a ratio says in `size` of which
model or data it is true, in the words that the page uses; a module whose ratios share one declares it as SIZE.
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
    common = {"size": request.module.SIZE} if hasattr(request.module, "SIZE") else {}

    def add(name: str, value: float | None, unit: str, target: str | None = None, **more: object) -> None:
        row = {"name": name, "value": value, "unit": unit, "target": target, **common, **more}
        assert "size" in row or not unit.startswith("x"), f"{name}: a ratio of what size?"
        rows.append(row)

    return add


def pytest_terminal_summary(terminalreporter, config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("side by side, in one run")
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        value = "not measured" if row["value"] is None else f"{row['value']:.3g} {row['unit']}"
        value += f" for {row['size']}" if "size" in row else ""
        more = ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in row.items()
            if k not in ("name", "value", "unit", "target", "size")
        )
        target = f"(target {row['target']})" if row["target"] else ""
        terminalreporter.write_line(f"{row['name']:<{width}}  {value:<32} {target:<16} {more}".rstrip())
    out = Path(os.environ.get("ARMOR_BENCH_OUT", "runs")) / "bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    made = {"date": date.today().isoformat(), "cpus": os.cpu_count(), "torch": version("torch")}
    out.write_text(json.dumps({**made, "rows": rows}, indent=1) + "\n")
    terminalreporter.write_line(f"written to {out}")
