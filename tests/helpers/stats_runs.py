"""Bundles of made-up 0/1 items, for the tests of the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from armor_eval.runs.schema import DataInfo, DeviceInfo, Item, JudgeInfo, ModelInfo, Run, ScorerInfo, Scores
from armor_eval.stats.composite import measure
from armor_eval.tasks.formulas import composites_for


def write_bundle(
    folder: Path, scores, benchmark="SEED", statuses=None, outputs=None, fingerprint="f", **fields
) -> Path:
    """A complete bundle of 0/1 items, one cluster each unless `clusters` is given."""
    clusters = fields.pop("clusters", None) or list(range(len(scores)))
    statuses = statuses or ["ok" if s is not None else "error" for s in scores]
    items = [
        Item(
            id=f"q{i}",
            cluster=str(clusters[i]),
            group=f"g{i % 3}",
            prompt=f"question {i}",
            prompt_sha256=f"{i:064x}",
            gold="A",
            output=(outputs or {}).get(i, "A" if s else "B"),
            score=s,
            status=statuses[i],
        )
        for i, s in enumerate(scores)
    ]
    run = Run(
        run_id=f"{folder.parent.name}-{folder.name}",
        kind="understanding",
        benchmark=benchmark,
        command=["x"],
        profile="shapes",
        status=fields.pop("status", "complete"),
        model=ModelInfo(spec="m", name="<b>model</b>", fingerprint=fingerprint),
        data=DataInfo(name=f"D-{benchmark}", sha256=fields.pop("data_sha256", "d"), items=len(items)),
        prompt_sha256=fields.pop("prompt_sha256", "p"),
        scorer=ScorerInfo(name="s", version="1", settings=fields.pop("settings", {})),
        judge=JudgeInfo(name="none", endpoint="none"),
        device=DeviceInfo(kind="cpu"),
        started="2026-01-01T00:00:00Z",
        decoding=fields.pop("decoding", {"temperature": 0.0, "seed": 0}),
        wall_seconds=fields.pop("wall_seconds", 1.0),
        peak_memory_bytes=fields.pop("peak_memory_bytes", 100),
        subset=fields.pop("subset", None),
        reservations=fields.pop("reservations", []),
    )
    counts = {s: statuses.count(s) for s in ("ok", "unparsed", "judge_failed", "error")}
    metrics = [measure(items, c) for c in composites_for(benchmark)]
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(run.model_dump_json())
    (folder / "items.jsonl").write_text("".join(it.model_dump_json() + "\n" for it in items))
    made = Scores(metrics=metrics, counts=counts, expected_items=len(items), withheld=fields.pop("withheld", None))
    (folder / "scores.json").write_text(made.model_dump_json())
    assert not fields
    return folder


def answers(n=2000, right=0.7, lost=0.0, gained=0.0, seed=0):
    """Base and candidate scores with exactly that share lost and gained."""
    base = (np.arange(n) < round(right * n)).astype(float)
    candidate = base.copy()
    candidate[: round(lost * n)] = 0
    candidate[n - round(gained * n) :] = 1
    order = np.random.default_rng(seed).permutation(n)
    return base[order].tolist(), candidate[order].tolist()
