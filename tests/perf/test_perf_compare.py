"""Speed of the gate: two runs of SEED's size, 10,000 resamples, all numbers, in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from armor_eval.runs.journal import read_journal
from armor_eval.runs.schema import Scores
from armor_eval.stats.composite import measure
from armor_eval.tasks.formulas import composites_for

pytestmark = pytest.mark.perf

ITEMS = 14_232
CHILD = """
import json, sys, time
start = time.perf_counter()
from pathlib import Path
from armor_eval.compare.gate import compare
from armor_eval.compare.policy import Policy
from armor_model.base.devices import peak_resident_bytes
found = compare(Path(sys.argv[1]), Path(sys.argv[2]), Policy())
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time(), "verdict": found.verdict,
                  "megabytes": peak_resident_bytes() / 2**20}))
"""


def write(folder, scores, clusters, benchmark, extras):
    folder.mkdir()
    run = {
        "schema_version": 1,
        "run_id": folder.name,
        "kind": "understanding",
        "benchmark": benchmark,
        "command": [],
        "profile": "official",
        "status": "complete",
        "model": {"spec": "m", "name": "m", "fingerprint": folder.name},
        "data": {"name": "D", "sha256": "d", "items": ITEMS},
        "prompt_sha256": "p",
        "scorer": {"name": "s", "version": "1"},
        "judge": {"name": "n", "endpoint": "none"},
        "device": {"kind": "cpu"},
        "started": "2026-01-01T00:00:00Z",
    }
    (folder / "run.json").write_text(json.dumps(run))
    with (folder / "items.jsonl").open("w") as lines:
        for i, score in enumerate(scores):
            lines.write(
                json.dumps(
                    {
                        "id": str(i),
                        "cluster": str(clusters[i]),
                        "group": "random",
                        "prompt": "p" * 200,
                        "gold": "Yes",
                        "prompt_sha256": "0" * 64,
                        "output": "Yes",
                        "score": float(score),
                        "status": "ok",
                        "extras": extras(i, score),
                    }
                )
                + "\n"
            )
    items = list(read_journal(folder / "items.jsonl")[0].values())
    metrics = [measure(items, composite) for composite in composites_for(benchmark)]
    scores_file = Scores(metrics=metrics, counts={"ok": ITEMS}, expected_items=ITEMS)
    (folder / "scores.json").write_text(scores_file.model_dump_json())
    return folder


@pytest.mark.parametrize("bench", ["SEED", "POPE"])
def test_two_runs_of_14232_items(tmp_path, bench, bench_row):
    """SEED: one number over 14,232 items; POPE: four ratios over 1,423 clusters of ten."""
    rng = np.random.default_rng(0)
    base = rng.random(ITEMS) < 0.7
    candidate = np.where(rng.random(ITEMS) < 0.2, rng.random(ITEMS) < 0.68, base)
    clusters = np.arange(ITEMS) // (1 if bench == "SEED" else 10)

    def extras(i, score):
        answer = "Yes" if i % 2 else "No"
        return {} if bench == "SEED" else {"answer": answer, "extracted": answer if score else "Unknown"}

    a = write(tmp_path / "a", base, clusters, bench, extras)
    b = write(tmp_path / "b", candidate, clusters, bench, extras)
    made = subprocess.run([sys.executable, "-c", CHILD, str(a), str(b)], capture_output=True, text=True, check=True)
    found = json.loads(made.stdout)
    memory = {"mb": found["megabytes"]}
    bench_row(f"compare, 14,232 items, 10,000 resamples, {bench}", found["cpu"], "CPU-s", "< 3", **memory)
    assert found["cpu"] < 3.0 and found["megabytes"] < 500
