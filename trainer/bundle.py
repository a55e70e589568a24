"""The run bundle of a training (`kind: training`): run.json with its cost, series.jsonl with its curves, scores.json
with its last losses. The harness's tables read training cost from it (the paper's Table 3), by the trained model's
fingerprint.

The format is the harness's own (armor_eval.runs, imported when a record is written and nothing else of it).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_folder, sha256_json
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.hub import name_of

if TYPE_CHECKING:
    from armor_eval.runs.bundle import Bundle
    from armor_eval.runs.schema import Run, TrainingInfo
    from trainer.loop import Cost


class Training:
    """The record of one training, from its start (status `running`) to the trained model's fingerprint (`complete`)."""

    def __init__(self, bundle: Bundle | None, before: TrainingInfo | None) -> None:
        self._bundle, self._before = bundle, before

    @classmethod
    def open(
        cls,
        out: Path | None,
        *,
        name: str,
        profile: str,
        command: Sequence[str],
        settings: JsonView,
        start: Path | None,
        data: tuple[str, str, int],
        seed: int,
        processes: int = 1,
        resume: bool = False,
    ) -> Self:
        """Write run.json into `out`, in place of an earlier record there; None records nothing (not the main process).

        Args:
            name: what was trained, e.g. `stage 2`.
            profile: `official` or `shapes`.
            command: the command line.
            settings: the configuration tree as used.
            start: checkpoint folder that the training starts from; its own training's cost counts as well.
            data: name, sha256 and number of conversations.
            resume: an earlier record of the same training goes on: wall time and CPU time add up.
        """
        if out is None:
            return cls(None, None)
        from armor_eval.runs import provenance
        from armor_eval.runs.bundle import Bundle
        from armor_eval.runs.schema import DataInfo, JudgeInfo, ModelInfo, Run, ScorerInfo

        fingerprint = "" if start is None else sha256_folder(start)
        run = Run(
            run_id=f"training-{int(time.time())}-{sha256_json([name, settings])[:8]}",
            kind="training",
            benchmark=name,
            command=list(command),
            profile=profile,
            status="running",
            model=ModelInfo(spec=str(settings.get("model", name)), name=name, fingerprint=fingerprint),
            data=DataInfo(name=data[0], sha256=data[1], items=data[2]),
            prompt_sha256=sha256_json({}),
            seeds={"training": seed},
            scorer=ScorerInfo(name="mean cross-entropy at the asked positions, equations (1)-(3)", version="1"),
            judge=JudgeInfo(name="none", endpoint="none"),
            packages=provenance.packages(),
            device=provenance.device(processes),
            git_commit=provenance.git_commit(),
            started=provenance.now(),
            extras={"config": dict(settings)},
        )
        earlier = _record(out)
        if resume and earlier is not None and earlier.status != "complete":
            spent = ("run_id", "started", "wall_seconds", "cpu_seconds", "peak_memory_bytes")
            run = run.model_copy(update={field: getattr(earlier, field) for field in spent})
        before = None if start is None else _record(start.parent)
        known = before if before is not None and before.model.fingerprint == fingerprint else None
        return cls(Bundle.open(out, run, anew=True), known.training if known else None)

    def finish(
        self, model: Path, steps: int, cost: Cost, losses: Mapping[str, float], logs: Iterable[Path] = ()
    ) -> None:
        """Write curves, last losses and cost: this training's, and with it what its start had cost already.

        `logs`: log.jsonl of each stage in their order; steps count on from one to the next.
        """
        if self._bundle is None:
            return
        from armor_eval.runs.schema import Metric, Point, Scores, TrainingInfo

        def summed(field: str, value: float) -> float:
            return value + (getattr(self._before, field) if self._before is not None else 0)

        own = TrainingInfo(
            images_seen=cost.images_seen, tokens=cost.tokens, device_days=cost.device_days, optimizer_steps=steps
        )
        sums: JsonObject = {field: summed(field, value) for field, value in own.model_dump().items()}
        training = TrainingInfo(**sums)
        points, done = [], 0
        for log in logs:
            last = 0
            for line in log.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                last = record.pop("step")
                points += [Point(step=done + last, name=name, value=value) for name, value in record.items()]
            done += last
        (self._bundle.path / "series.jsonl").write_text("".join(p.model_dump_json() + "\n" for p in points))
        metrics = [
            Metric(name=name, value=value, unit="nats", direction="lower", n=steps, clusters=steps)
            for name, value in losses.items()
            if name.startswith("loss/")
        ]
        trained = {"fingerprint": sha256_folder(model), "name": name_of(model)}
        extras = {**self._bundle.run.extras, "this_training": own.model_dump(), "model": str(model)}
        self._bundle.update(model={**self._bundle.run.model.model_dump(), **trained}, training=training, extras=extras)
        self._bundle.finish([], Scores(metrics=metrics, counts={}, expected_items=0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bundle is not None:
            self._bundle.__exit__(kind, error, traceback)


def _record(folder: Path) -> Run | None:
    """The training record in a folder, None where there is none that can be read."""
    from armor_eval.runs.bundle import read_head

    try:
        run, _ = read_head(folder)
    except UserError:
        return None
    return run if run.kind == "training" else None
