"""An ablation's evaluation as a task of the engine: answers and drawings of its arms, curves, metrics, verdicts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.ablations import judging
from armor_eval.ablations.arms import ArmResult, Bench
from armor_eval.ablations.base import Base
from armor_eval.ablations.plan import Plan
from armor_eval.engine import Described, Outcome, Ready, Settings, Unit, evaluate
from armor_eval.engine.task import Progress
from armor_eval.models.base import NotAsked
from armor_eval.profiles import EMBEDDED
from armor_eval.runs import provenance
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import (
    DataInfo,
    Item,
    Metric,
    ModelInfo,
    Point,
    RunKind,
    RunStatus,
    ScorerInfo,
    Scores,
    TrainingInfo,
)
from armor_model.base.files import write_file
from armor_model.base.hashing import sha256_json, sha256_text

if TYPE_CHECKING:
    pass


class Recorder:
    """A task whose outputs are there already. It collects while arms run and is measured at the end, since a finished
    arm is safe in a file of its own."""

    whole_batches = False

    def __init__(self, out: Path, kind: RunKind, plan: Plan, base: Base, bench: Bench, command: list[str]) -> None:
        self.out, self.plan, self.base = out, plan, base
        self.metrics: list[Metric] = []
        self.claims: dict[str, dict[str, str]] = {}
        self.verdict = ""
        """Sentences, a line each; the first says what was done."""
        self._kind, self._bench, self._command = kind, bench, command
        self._items: dict[str, Item] = {}
        self._points: list[Point] = []
        self._figures: list[tuple[str, str, Any]] = []
        self._cost = {"images": 0, "tokens": 0, "cpu": 0.0, "steps": 0}
        self._drawings: dict[str, Path] = {}
        self._began = time.monotonic()
        self._start = {"started": provenance.now(), "git_commit": provenance.git_commit()}

    def add_base(self, answers: Sequence[str], bench: Bench) -> None:
        """The base's own answers: what retention is a share of."""
        self._answers("base", answers, bench)

    def add_arm(self, result: ArmResult, bench: Bench, folder: Path) -> None:
        """Items of an arm's last judgement, its curves and its cost."""
        key = f"{result.name}/seed{result.seed}"
        seen: set[tuple[int, str]] = set()
        for step, name, value in result.curves:
            if (step, name) not in seen:
                self._points.append(Point(step=step, name=name, value=value, arm=key))
                seen.add((step, name))
        for stage in dict.fromkeys(j.stage for j in result.judgements):
            final = result.last(stage)
            label = key if len({j.stage for j in result.judgements}) == 1 else f"{key}/stage {stage}"
            self._answers(label, final.answers, bench)
            scores: list[float | None] = [float(good) for good in final.drawn] or [None] * len(bench.drawings)
            reasons = final.reasons or [""] * len(bench.drawings)
            for w, good, why, name in zip(bench.drawings, scores, reasons, final.images, strict=True):
                self._drawings[f"{label}/draw/{w.id}"] = folder / name
                self._add(
                    Item(
                        id=f"{label}/draw/{w.id}",
                        cluster=w.cluster,
                        group=label,
                        prompt=w.prompt,
                        prompt_sha256=sha256_text(w.prompt),
                        gold=w.prompt,
                        score=good,
                        reason=why or None,
                        status="ok",
                    )
                )
        self._cost["images"] += result.images_seen
        self._cost["tokens"] += result.tokens
        self._cost["cpu"] += result.cpu_seconds
        self._cost["steps"] += max(step for step, _, _ in result.curves)

    def _answers(self, label: str, answers: Sequence[str], bench: Bench) -> None:
        for q, said in zip(bench.questions, answers, strict=True):
            good = judging.right(said, q.gold)
            self._add(
                Item(
                    id=f"{label}/ask/{q.id}",
                    cluster=q.id,
                    group=label,
                    prompt=q.text,
                    prompt_sha256=sha256_text(q.text),
                    gold=q.gold,
                    output=said,
                    parsed=said.strip().lower(),
                    score=float(good),
                    status="ok",
                )
            )

    def _add(self, item: Item) -> None:
        self._items[item.id] = item

    def add_figure(self, name: str, title: str, figure: object) -> None:
        self._figures.append((name, title, figure))

    def check(self, model: object) -> None:
        """Any will do: none is asked."""

    def describe(self, model: ModelInfo) -> Described:
        plan, bench = self.plan, self._bench
        fields = plan.model_dump(mode="json")
        return Described(
            kind=self._kind,
            benchmark=self._kind,
            data=DataInfo(name=f"{EMBEDDED}-world", sha256=sha256_json(fields), items=len(self._items)),
            subset=None,
            prompt_sha256=sha256_json([q.text for q in bench.questions] + [w.prompt for w in bench.drawings]),
            scorer=ScorerInfo(
                name="GenEval's rules and exact answers" if bench.reader else "losses only",
                version="2",
                settings=bench.reader.settings if bench.reader else {},
            ),
            seeds={f"arm {i}": s for i, s in enumerate(plan.seeds)},
            extras={"plan": fields, "base": self.base.source},
            asks=False,
            decoded={"answers": "greedy, 6 tokens", "image_temperature": judging.DRAW_TEMPERATURE},
            spent={"cpu_seconds": self._cost["cpu"], "wall_seconds": time.monotonic() - self._began},
        )

    def units(self) -> Sequence[Unit]:
        return [Unit(item.id, item.cluster, item.group, item.gold) for item in self._items.values()]

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Ready]:
        """The file of each drawing, the text of each answer."""
        return [Ready(self._drawings.get(unit.id, self._items[unit.id].output)) for unit in units]

    def judge(self, units: Sequence[Unit], requests: object, outputs: object, bundle: Bundle) -> list[Item]:
        """Judged when they were made; what is drawn is stored."""
        from PIL import Image

        stored = []
        for item in (self._items[unit.id] for unit in units):
            if item.id in self._drawings:
                with Image.open(self._drawings[item.id]) as image:
                    item = item.model_copy(update={"output_images": [bundle.add_image(image)]})
            stored.append(item)
        return stored

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        from trainer import devices

        figures = [{"path": bundle.add_image(p), "title": title, "name": name} for name, title, p in self._figures]
        write_file(bundle.path / "series.jsonl", "".join(p.model_dump_json() + "\n" for p in self._points))
        training = TrainingInfo(
            images_seen=self._cost["images"],
            tokens=self._cost["tokens"],
            device_days=self._cost["cpu"] / 86_400,
            optimizer_steps=self._cost["steps"],
        )
        update = {
            **self._start,
            "training": training,
            "device": bundle.run.device.model_copy(update={"processes": devices.start().num_processes}),
            "extras": {**bundle.run.extras, "claims": self.claims, "verdict": self.verdict, "figures": figures},
        }
        items = [bundle.items[id] for id in self._items]
        scores = Scores(metrics=self.metrics, counts={"ok": len(items)}, expected_items=len(items))
        return Outcome(items, scores, update=update)

    def measure(self) -> RunStatus:
        """The bundle, through the engine, by one process; an earlier one of the same folder is replaced, its arms are
        not trained again."""
        parameters = sum(p.numel() for p in self.base.model.parameters())
        built_on = self.base.processor.base.name
        name = "armor-nano" if built_on == "internvl" else f"armor-nano-{built_on}"
        info = ModelInfo(
            spec=self.plan.base, name=f"{name} (ablation)", fingerprint=self.base.fingerprint, parameters=parameters
        )
        finished = evaluate(self, NotAsked(info), self.out, Settings(EMBEDDED, self._command), anew=True)
        assert finished is not None  # one process
        return finished.run.status


def accuracy_metric(name: str, right: Sequence[Sequence[bool]], clusters: Sequence[str]) -> Metric:
    """Share that is right over seeds x prompts; the interval resamples prompts, which all seeds share."""
    from armor_eval.stats.composite import accuracy, measure

    items = [
        Item(id=f"{s}/{c}", cluster=c, prompt="", prompt_sha256="", score=float(good), status="ok")
        for s, row in enumerate(right)
        for c, good in zip(clusters, row, strict=True)
    ]
    return measure(items, accuracy(name, primary=False))
