"""Bundles written by the schema, with seeded contents: what tables and page are tested on."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from armor_eval.runs.schema import (
    DataInfo,
    DeviceInfo,
    Item,
    JudgeInfo,
    Metric,
    ModelInfo,
    Point,
    Run,
    ScorerInfo,
    Scores,
    Subset,
    TrainingInfo,
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_run(
    run_id: str = "pope-a",
    *,
    kind: str = "understanding",
    benchmark: str = "POPE",
    profile: str = "official",
    model: str | ModelInfo = "InternVL2_5-8B",
    dataset: str = "POPE",
    judge: str = "none",
    status: str = "complete",
    items: int = 100,
    **changes: object,
) -> Run:
    if isinstance(model, str):
        model = ModelInfo(
            spec=f"vlmeval:{model}", name=model, fingerprint=sha(model), parameters=8_075_365_376, dtype="bf16"
        )
    fields = {
        "run_id": run_id,
        "kind": kind,
        "benchmark": benchmark,
        "command": ["armor-eval", kind, "--bench", benchmark],
        "profile": profile,
        "status": status,
        "model": model,
        "data": DataInfo(name=dataset, sha256=sha(dataset), items=items),
        "prompt_sha256": sha("prompt" + benchmark),
        "scorer": ScorerInfo(name="vlmeval.evaluate", version="0.0.20"),
        "judge": JudgeInfo(name=judge, endpoint="none" if judge == "none" else "openai-compatible"),
        "device": DeviceInfo(kind="cpu"),
        "started": "2026-11-21T00:00:00+00:00",
        "finished": "2026-11-21T00:10:00+00:00",
        "wall_seconds": 600.0,
        "cpu_seconds": 590.0,
        "peak_memory_bytes": 1 << 30,
    }
    return Run.model_validate({**fields, **changes})


def metric(
    name: str, value: float | None, ci95: tuple[float, float] | None, unit: str = "%", n: int = 100, **more: object
) -> Metric:
    return Metric(name=name, value=value, unit=unit, n=n, clusters=n, ci95=ci95, primary=True, **more)


def png_bytes(rng: np.random.Generator, size: int = 32) -> bytes:
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    x, y = (int(v) for v in rng.integers(2, size // 2, 2))
    colour = tuple(int(v) for v in rng.integers(0, 200, 3))
    draw.ellipse([x, y, x + size // 3, y + size // 3], fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def make_items(count: int, seed: int = 0, images: list[str] | None = None, words: int = 12) -> list[Item]:
    """Yes/no questions, three quarters right, every status once in a while."""
    rng = np.random.default_rng(seed)
    vocabulary = ["red", "circle", "left", "of", "the", "blue", "square", "is", "there", "above", "green", "cross"]
    made = []
    for i in range(count):
        roll = rng.random()
        status = "ok" if roll < 0.95 else ("unparsed" if roll < 0.97 else "judge_failed" if roll < 0.985 else "error")
        right = bool(rng.random() < 0.75)
        score = None if status in ("judge_failed", "error") else float(right and status == "ok")
        prompt = " ".join(rng.choice(vocabulary, words)) + f" number {i}?"
        made.append(
            Item(
                id=f"q{i:06d}",
                cluster=f"c{i // 3}",
                group="existence" if i % 2 else "colour",
                prompt=prompt,
                prompt_sha256=sha(prompt),
                images=[images[i % len(images)]] if images else [],
                gold="Yes",
                output="Yes" if right else "No, there is none.",
                parsed="Yes" if right else "No",
                score=score,
                status=status,
                reason=None if status == "ok" else f"{status} here",
                seconds=0.1,
            )
        )
    return made


def write_bundle(
    folder: Path,
    run: Run,
    metrics: list[Metric],
    items: list[Item] | None = None,
    images: dict[str, bytes] | None = None,
    series: list[Point] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    items = items or []
    counts: dict[str, int] = {}
    for item in items:
        counts[item.status] = counts.get(item.status, 0) + 1
    scores = Scores(metrics=metrics, counts=counts, expected_items=len(items))
    (folder / "items.jsonl").write_text("".join(i.model_dump_json() + "\n" for i in items))
    (folder / "scores.json").write_text(scores.model_dump_json())
    if series:
        (folder / "series.jsonl").write_text("".join(p.model_dump_json() + "\n" for p in series))
    for name, data in (images or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "run.json").write_text(run.model_dump_json())
    return folder


def images(count: int, seed: int = 0, size: int = 32) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    made = {}
    for _ in range(count):
        data = png_bytes(rng, size)
        made[f"images/{hashlib.sha256(data).hexdigest()[:32]}.png"] = data
    return made


def shapes_run(run_id: str, kind: str, benchmark: str, **changes: object) -> Run:
    changes.setdefault(
        "model", ModelInfo(spec="armor-nano", name="armor-nano", fingerprint=sha("nano"), parameters=980_000)
    )
    return make_run(run_id, kind=kind, benchmark=benchmark, profile="shapes", dataset=f"shapes_{benchmark}", **changes)


def a_training() -> TrainingInfo:
    return TrainingInfo(images_seen=204_800, tokens=6_000_000, device_days=0.004, optimizer_steps=1600)


def a_subset() -> Subset:
    return Subset(rule="image", limit=10, seed=0, items=30, of_items=9000)


def dump(value: object) -> str:
    return json.dumps(value)
