"""`tables` and `report` on 10 bundles of 14,000 items: under 10 s and 1 GB, in a process of their own.

CPU-seconds of one single-threaded process, start included: its wall time where nothing else runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.perf

MEASURED = """
import json, sys, time
from armor_eval.cli import main
from armor_model.base.devices import peak_resident_bytes
code = main(sys.argv[1:])
peak = peak_resident_bytes() / 2**20
print("\\nMEASURED " + json.dumps({"code": code, "seconds": time.process_time(), "mib": peak}))
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Path:
    from report_mocks import images, make_items, make_run, metric, write_bundle

    folder = tmp_path_factory.mktemp("ten")
    shown = images(300, size=256)
    items = make_items(14_000, images=list(shown), words=25)
    for k in range(10):
        changed = [i.model_copy(update={"output": f"{i.output} said by run {k}"}) for i in items]
        run = make_run(f"run-{k}", model=f"model-{k}", benchmark="SEED", dataset="SEEDBench_IMG", items=14_000)
        write_bundle(folder / f"b{k}", run, [metric("accuracy", 75.0 + k / 10, (74.0, 76.0))], changed, shown)
    return folder


def measured(*argv: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *argv], capture_output=True, text=True, timeout=300, check=True
    )
    return json.loads(done.stdout.rsplit("MEASURED ", 1)[1])


@pytest.mark.parametrize("command", ["tables", "report"])
def test_ten_bundles_of_fourteen_thousand_items(bundles: Path, tmp_path: Path, command: str, bench_row) -> None:
    out = tmp_path / ("page.html" if command == "report" else "tables")
    cost = measured(command, str(bundles), "--out", str(out))
    assert cost["code"] == 0
    bench_row(f"{command} on 10 bundles of 14,000 items", cost["seconds"], "CPU-s", "< 10", mib=cost["mib"])
    assert cost["seconds"] < 10
    assert cost["mib"] < 1024
    if command == "report":
        assert out.stat().st_size < 25_000_000
