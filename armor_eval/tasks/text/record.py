"""Results of lm-evaluation-harness as bundles: one a task, one item a document, each with its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from armor_eval.runs import provenance
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import DataInfo, Item, JudgeInfo, ModelInfo, Run, ScorerInfo, Scores, Subset
from armor_eval.stats.composite import measure
from armor_eval.tasks.formulas import composites_of
from armor_model.base.errors import RunFailed
from armor_model.base.hashing import sha256_json, sha256_text
from armor_model.base.jsons import JsonObject, JsonView


def write_bundles(results: JsonView, model: ModelInfo, out: Path, command: Sequence[str]) -> list[Path]:
    """A bundle OUT/TASK for each task with samples; returns their folders. RunFailed where nothing was measured."""
    samples: Mapping[str, list[JsonObject]] = results.get("samples") or {}
    if not any(samples.values()):
        raise RunFailed("lm-eval returned no samples: nothing is recorded")
    return [_write(task, rows, results, model, out / task, command) for task, rows in samples.items() if rows]


def _write(
    task: str, rows: list[JsonObject], results: JsonView, model: ModelInfo, folder: Path, command: Sequence[str]
) -> Path:
    config = results["configs"][task]
    numbers = _numbers(rows)
    names = list(dict.fromkeys(name for scores in numbers.values() for name in scores))
    items = [_item(id, [row for row in rows if row["doc_id"] == id], numbers[id], names) for id in numbers]
    run = _run(task, config, names, items, results, model, command)
    with Bundle.open(folder, run, anew=True) as bundle:
        for item in items:
            bundle.append(item)
        metrics = [measure(items, composite) for composite in composites_of(run)]
        lost = sum(item.score is None for item in items)
        if lost:
            metrics = [m.model_copy(update={"value": None, "ci95": None}) if m.primary else m for m in metrics]
        counts = {"ok": len(items) - lost, "error": lost}
        withheld = f"{lost} of {len(items)} documents have no score between 0 and 1 by {names[:1]}" if lost else None
        scores = Scores(metrics=metrics, counts=counts, expected_items=len(items), withheld=withheld)
        bundle.finish(items, scores)
    return folder


def _numbers(rows: Sequence[JsonView]) -> dict[object, dict[str, float]]:
    """Document -> `METRIC, FILTER` -> its number, in the task's order; what is no single number (a perplexity's pair)
    is left out."""
    found: dict[object, dict[str, float]] = {}
    for row in rows:
        scores = found.setdefault(row["doc_id"], {})
        for metric in row.get("metrics", ()):
            value = row.get(metric)
            if isinstance(value, int | float) and math.isfinite(value):
                name = metric if row["filter"] in (None, "none") else f"{metric}, {row['filter']}"
                scores[name] = float(value)
    return found


def _item(id: object, rows: Sequence[JsonView], numbers: dict[str, float], names: Sequence[str]) -> Item:
    first = rows[0]
    prompt = str(
        next(iter(first["arguments"].values()))["arg_0"]
        if isinstance(first["arguments"], dict)
        else first["arguments"][0][0]
    )
    score = numbers.get(names[0]) if names else None
    usable = score is not None and 0 <= score <= 1
    return Item(
        id=str(id),
        cluster=str(id),
        prompt=prompt,
        prompt_sha256=sha256_text(prompt),
        gold=str(first["target"]),
        output="\n".join(str(reply) for reply in first["filtered_resps"]),
        score=score if usable else None,
        status="ok" if usable else "error",
        reason=None if usable else "no single number between 0 and 1",
        extras={"numbers": numbers, "responses": [str(r)[:2000] for r in first["resps"]]},
    )


def _run(
    task: str,
    config: JsonView,
    names: Sequence[str],
    items: Sequence[Item],
    results: JsonView,
    model: ModelInfo,
    command: Sequence[str],
) -> Run:
    import lm_eval

    counts, fewshot = results["n-samples"][task], config.get("num_fewshot") or 0
    limited = counts["effective"] < counts["original"]
    subset = (
        Subset(
            rule="the first documents",
            limit=counts["effective"],
            seed=0,
            items=counts["effective"],
            of_items=counts["original"],
        )
        if limited
        else None
    )
    higher = (results.get("higher_is_better") or {}).get(task, {})
    template = "with chat template" if results.get("chat_template") else "without"
    return Run(
        run_id=sha256_json([task, model.fingerprint, provenance.now()])[:16],
        kind="text",
        benchmark=task,
        command=list(command),
        profile="official",
        status="running",
        subset=subset,
        model=model,
        data=DataInfo(
            name=task, sha256=sha256_json([[i.id, i.prompt, i.gold] for i in items]), items=counts["original"]
        ),
        protocol={"few-shot": str(fewshot), "chat template": template},
        prompt_sha256=sha256_json(
            [
                config.get(key) if isinstance(config.get(key), str | int | None) else "code"
                for key in ("doc_to_text", "doc_to_target", "description")
            ]
        ),
        scorer=ScorerInfo(
            name="lm-evaluation-harness",
            version=lm_eval.__version__,
            settings={"task version": str(results["versions"].get(task)), "metrics": list(names)},
        ),
        judge=JudgeInfo(name="none", endpoint="none"),
        decoding={"generation": config.get("generation_kwargs") or {}},
        packages=provenance.packages(),
        device=provenance.device(),
        git_commit=provenance.git_commit(),
        started=provenance.now(),
        extras={"metrics": {name: higher.get(name.split(", ")[0], True) for name in names}},
    )
