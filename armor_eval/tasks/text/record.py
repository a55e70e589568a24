"""Results of lm-evaluation-harness as bundles: one a task, one item a document, each with its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from armor_eval.engine import Described, Outcome, Ready, Settings, Unit, evaluate
from armor_eval.engine.task import Progress
from armor_eval.models.base import Model, NotAsked
from armor_eval.profiles import OFFICIAL
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import DataInfo, Item, ModelInfo, ScorerInfo, Scores, Subset
from armor_eval.stats.composite import measure
from armor_eval.tasks.formulas import composites_of
from armor_model.base.errors import RunFailed
from armor_model.base.hashing import sha256_json, sha256_text
from armor_model.base.jsons import JsonObject, JsonView


def write_bundles(results: JsonView, model: ModelInfo, out: Path, command: Sequence[str]) -> list[Path]:
    """A bundle OUT/TASK for each task with samples; returns their folders. RunFailed where nothing was measured."""
    samples: Mapping[str, list[JsonObject]] = results.get("samples") or {}
    tasks = {name: TextTask(name, rows, results) for name, rows in samples.items() if rows}
    if not tasks:
        raise RunFailed("lm-eval returned no samples: nothing is recorded")
    settings = Settings(OFFICIAL, list(command))
    for name, task in tasks.items():  # anew: lm-eval has asked everything again
        evaluate(task, NotAsked(model), out / name, settings, anew=True)
    return [out / name for name in tasks]


class TextTask:
    """One task of lm-eval's results: everything is answered and scored already."""

    whole_batches = False

    def __init__(self, name: str, rows: Sequence[JsonObject], results: JsonView) -> None:
        self._name, self._results, self._config = name, results, results["configs"][name]
        numbers = _numbers(rows)
        self._metrics = list(dict.fromkeys(metric for scores in numbers.values() for metric in scores))
        by_id: dict[object, list[JsonObject]] = {}
        for row in rows:
            by_id.setdefault(row["doc_id"], []).append(row)
        self._items = {str(id): _item(id, by_id[id], scores, self._metrics) for id, scores in numbers.items()}

    def check(self, model: Model) -> None:
        """Any will do: none is asked."""

    def describe(self, model: ModelInfo) -> Described:
        import lm_eval

        name, config, results = self._name, self._config, self._results
        done, all = (results["n-samples"][name][which] for which in ("effective", "original"))
        subset = Subset(rule="the first documents", limit=done, seed=0, items=done, of_items=all)
        higher = (results.get("higher_is_better") or {}).get(name, {})
        words = (config.get(key) for key in ("doc_to_text", "doc_to_target", "description"))
        settings = {"task version": str(results["versions"].get(name)), "metrics": self._metrics}
        return Described(
            kind="text",
            benchmark=name,
            data=DataInfo(
                name=name, sha256=sha256_json([[i.id, i.prompt, i.gold] for i in self._items.values()]), items=all
            ),
            subset=subset if done < all else None,
            prompt_sha256=sha256_json([word if isinstance(word, str | int | None) else "code" for word in words]),
            scorer=ScorerInfo(name="lm-evaluation-harness", version=lm_eval.__version__, settings=settings),
            protocol={
                "few-shot": str(config.get("num_fewshot") or 0),
                "chat template": "with chat template" if results.get("chat_template") else "without",
            },
            extras={"metrics": {metric: higher.get(metric.split(", ")[0], True) for metric in self._metrics}},
            asks=False,
            decoded={"generation": config.get("generation_kwargs") or {}},
        )

    def units(self) -> Sequence[Unit]:
        return [Unit(item.id, item.cluster, gold=item.gold) for item in self._items.values()]

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Ready]:
        return [Ready(self._items[unit.id].output) for unit in units]

    def judge(self, units: Sequence[Unit], requests: object, outputs: object, bundle: Bundle) -> list[Item]:
        """Judged by lm-eval."""
        return [self._items[unit.id] for unit in units]

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items = [bundle.items[id] for id in self._items]
        metrics = [measure(items, composite) for composite in composites_of(bundle.run)]
        lost, withheld = sum(item.score is None for item in items), None
        if lost:
            withheld = f"{lost} of {len(items)} documents have no score between 0 and 1 by {self._metrics[:1]}"
            metrics = [m.model_copy(update={"value": None, "ci95": None}) if m.primary else m for m in metrics]
        counts = {"ok": len(items) - lost, "error": lost}
        return Outcome(items, Scores(metrics=metrics, counts=counts, expected_items=len(items), withheld=withheld))


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
