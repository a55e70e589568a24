"""The training loop: one process or many (accelerate), resumable bit for bit, judged through callbacks that the
caller passes in.

Everything random is a function of (seed, step), so a checkpoint holds parameters, optimizers and counters, and no
position.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from trainer.batches import Batch, collate
from trainer.checkpoints import Checkpoints
from trainer.errors import TrainingError
from trainer.logs import RunLog, progress
from trainer.mixture import Mixture
from trainer.objective import Objective, count_labels, freeze
from trainer.optim import Optimization, Optimizers
from trainer.stages import Stage


@dataclass(frozen=True)
class LoopOptions:
    """Where a run writes, how often, and who watches."""

    out: Path | None = None
    """Directory of log and checkpoints; None keeps nothing (tests, experiments)."""
    save_every: int = 0
    """Steps between checkpoints; 0 writes one at the end only."""
    keep: int = 2
    """Checkpoints kept beside the best one."""
    log_every: int = 10
    """Steps that one log line averages over."""
    evaluate_every: int = 0
    """Steps between calls of `evaluate`; 0 never."""
    resume: bool = False
    """Go on from the last complete checkpoint in `out`, if there is one."""
    pack_to: int | None = None
    """Positions of a packed row; None pads each example on its own row."""
    tensorboard: bool = False
    bar: bool = True
    """Show a progress bar where stderr is a terminal."""
    evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None
    """Judge the model as it is: returns numbers for the log. The one called `score`, if there, decides which is
    best."""
    sample: Callable[[nn.Module, int], dict[str, Any]] | None = None
    """Draw samples: name -> PIL image, kept beside the log (the paper's Figure 6). Called with `evaluate`."""


@dataclass
class Cost:
    """What a run has used so far: Table 3's cost columns. Summed over resumes and processes."""

    images_seen: int = 0
    """Pictures to be drawn that losses were computed on."""
    tokens: int = 0
    """Positions that were no padding."""
    device_seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def device_days(self) -> float:
        return self.device_seconds / 86_400


@dataclass
class Outcome:
    steps: int
    cost: Cost
    losses: dict[str, float]
    """The last log line's means."""
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)


class Loop:
    """One stage's run. `run()` returns when all steps are done or raises TrainingError."""

    def __init__(
        self, model: nn.Module, stage: Stage, mixture: Mixture, how: Optimization, options: LoopOptions | None = None
    ) -> None:
        if mixture.batch_size != how.batch_size:
            raise ValueError(f"the mixture's batches hold {mixture.batch_size}, the optimization says {how.batch_size}")
        self.model, self.stage, self.mixture, self.how = model, stage, mixture, how
        self.options = options or LoopOptions()
        self.trained = freeze(model, stage)
        self.accelerator = Accelerator(
            mixed_precision="bf16" if how.precision == "bf16" else "no", cpu=not torch.cuda.is_available()
        )
        world = self.accelerator.num_processes
        if how.batch_size % (how.accumulate * world):
            raise ValueError(f"batch_size {how.batch_size} does not split over {world} processes x {how.accumulate}")
        if how.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.objective = self.accelerator.prepare(Objective(model, stage, every_part=world > 1))
        self.optimizers = Optimizers(self._named_parameters(), how)
        self.cost, self.step = Cost(), 0
        self.main = self.accelerator.is_main_process
        self.checkpoints = None
        if self.options.out is not None:
            self.checkpoints = Checkpoints(self.options.out / "checkpoints", self.options.keep)

    def run(self) -> Outcome:
        options, how = self.options, self.how
        log = RunLog(options.out if self.main else None, options.tensorboard)
        if options.resume:
            self._resume(log)
        elif self.checkpoints is not None and self.checkpoints.steps():
            raise TrainingError(f"{options.out} already holds a run; resume it or choose another directory")
        bar = progress(how.steps, self.step, f"stage {self.stage.name}", options.bar and self.main)
        outcome = Outcome(self.step, self.cost, {})
        window = _Window()
        self.model.train()
        try:
            while self.step < how.steps:
                self._one_step(window)
                bar.update(1)
                done = self.step == how.steps
                if self.step % options.log_every == 0 or done:
                    outcome.losses = window.means(self.accelerator)
                    bar.set_postfix(
                        {k.removeprefix("loss/"): f"{v:.3f}" for k, v in outcome.losses.items() if "loss" in k}
                    )
                    log.write(self.step, outcome.losses)
                    window = _Window()
                if options.evaluate_every and (self.step % options.evaluate_every == 0 or done):
                    outcome.evaluations.append((self.step, self._evaluate(log)))
                if (options.save_every and self.step % options.save_every == 0) or done:
                    self._save()
                    if (
                        outcome.evaluations
                        and outcome.evaluations[-1][0] == self.step
                        and self.main
                        and self.checkpoints
                    ):
                        score = outcome.evaluations[-1][1].get("score")
                        if score is not None:
                            self.checkpoints.mark_best(self.step, score)
        finally:
            bar.close()
            log.close()
        outcome.steps = self.step
        return outcome

    def _one_step(self, window: _Window) -> None:
        how, world, rank = self.how, self.accelerator.num_processes, self.accelerator.process_index
        started, cpu_started = time.perf_counter(), time.process_time()
        examples = self.mixture.batch(self.step)
        config = self.model.config
        micro = []
        for i in range(how.accumulate):
            mine = examples[i * world + rank :: how.accumulate * world]
            micro.append(collate(mine, self._pad_id(), config.imgbos_id, self.options.pack_to))
        # The mean is over all supervised positions of the step, wherever they are computed: that makes two processes,
        # or two micro-batches, the same as one with the double batch.
        local = torch.tensor([count_labels(b) for b in micro], dtype=torch.float64, device=self.accelerator.device)
        totals = self.accelerator.reduce(local.sum(dim=0), "sum").tolist()
        share = self.optimizers.set_step(self.step)
        self.optimizers.zero_grad()
        for i, batch in enumerate(micro):
            batch = batch.to(self.accelerator.device)
            sync = nullcontext() if i == how.accumulate - 1 else self.accelerator.no_sync(self.objective)
            with sync, self.accelerator.autocast():
                sums = self.objective(batch)
                loss = self.stage.alpha * sums.text / max(1.0, totals[0])
                loss = loss + self.stage.beta * sums.image / max(1.0, totals[1])
                if loss.requires_grad:
                    self.accelerator.backward(loss * world)  # DDP and FSDP average over processes; this is a sum
            window.add(sums, batch, share)
        self._check_finite(sums)
        if how.clip:
            window.norm = float(self.accelerator.clip_grad_norm_(self._parameters(), how.clip))
            if not math.isfinite(window.norm):
                raise TrainingError(f"the gradient of step {self.step} is {window.norm}; {self._where_to_go_back()}")
        self.optimizers.step()
        self.step += 1
        self._count(micro, time.perf_counter() - started, time.process_time() - cpu_started, window)

    def _count(self, micro: list[Batch], wall: float, cpu: float, window: _Window) -> None:
        world = self.accelerator.num_processes
        numbers = torch.tensor(
            [sum(b.images for b in micro), sum(b.tokens for b in micro), cpu],
            dtype=torch.float64,
            device=self.accelerator.device,
        )
        images, tokens, cpu = self.accelerator.reduce(numbers, "sum").tolist()
        self.cost.images_seen += int(images)
        self.cost.tokens += int(tokens)
        self.cost.cpu_seconds += cpu
        self.cost.device_seconds += wall * world
        window.tokens += int(tokens)
        window.seconds += wall

    def _check_finite(self, sums: Any) -> None:
        for name, value in zip(("text", "image"), sums, strict=True):
            if not torch.isfinite(value).all():
                raise TrainingError(
                    f"the {name} loss of step {self.step} is {float(value)}; {self._where_to_go_back()}"
                )

    def _where_to_go_back(self) -> str:
        steps = self.checkpoints.steps() if self.checkpoints is not None else []
        return f"the last checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint to go back to"

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in self.objective.named_parameters() if p.requires_grad]

    def _parameters(self) -> list[nn.Parameter]:
        return [p for _, p in self._named_parameters()]

    def _pad_id(self) -> int:
        pad = self.model.config.text_config.pad_token_id
        return 0 if pad is None else int(pad)

    def _evaluate(self, log: RunLog) -> dict[str, float]:
        numbers: dict[str, float] = {}
        if self.main:  # one process judges; the others wait at the next collective
            self.model.eval()
            with torch.no_grad():
                if self.options.evaluate is not None:
                    numbers = self.options.evaluate(self.model, self.step)
                    log.write(self.step, {f"eval/{k}": v for k, v in numbers.items()})
                if self.options.sample is not None:
                    for name, picture in self.options.sample(self.model, self.step).items():
                        log.image(self.step, name, picture)
            self.model.train()
        return numbers

    # --- checkpoints

    def identity(self) -> dict[str, Any]:
        """What a resume must find unchanged: a checkpoint of another run is refused, not continued."""
        return {
            "stage": json.loads(json.dumps(asdict(self.stage))),
            "optimization": json.loads(json.dumps(asdict(self.how))),
            "seed": self.mixture.seed,
            "mixture": dict(self.mixture.counts),
            "trained": self.trained,
            "shapes": [list(p.shape) for n, p in self.model.named_parameters() if p.requires_grad],
            "processes": self.accelerator.num_processes,
        }

    def trained_parameters(self) -> dict[str, torch.Tensor]:
        """The trained parameters in full, under the model's own names (gathered where they are sharded)."""
        state = self.accelerator.get_state_dict(self.objective)
        return {name: state[f"model.{name}"] for name in self.trained}

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        trained = self.trained_parameters()
        if self.main:
            rng = {"torch": torch.get_rng_state()}
            state = {"step": self.step, "cost": asdict(self.cost), "run": self.identity()}
            self.checkpoints.save(self.step, trained, {"optimizers": self.optimizers.state_dict(), "rng": rng}, state)
        self.accelerator.wait_for_everyone()

    def _resume(self, log: RunLog) -> None:
        steps = self.checkpoints.steps() if self.checkpoints is not None else []
        if not steps:
            log.forget_after(-1)
            return
        trained, saved, state = self.checkpoints.load(steps[-1])
        here = self.identity()
        different = [key for key in here if state["run"].get(key) != here[key]]
        if different:
            raise TrainingError(
                f"{self.checkpoints.path(steps[-1])} belongs to another run: {', '.join(different)} differ; "
                "resume with the same settings or choose another directory"
            )
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in trained.items():
                parameters[name].copy_(value)
        self.optimizers.load_state_dict(saved["optimizers"])
        torch.set_rng_state(saved["rng"]["torch"])
        self.step, self.cost = int(state["step"]), Cost(**state["cost"])
        log.forget_after(self.step)


class _Window:
    """What one log line averages over."""

    def __init__(self) -> None:
        self.text = self.image = 0.0
        self.text_count = self.image_count = 0
        self.tokens, self.seconds, self.norm, self.share = 0, 0.0, 0.0, 0.0

    def add(self, sums: Any, batch: Batch, share: float) -> None:
        text, image = count_labels(batch)
        self.text += float(sums.text.detach())
        self.image += float(sums.image.detach())
        self.text_count += text
        self.image_count += image
        self.share = share

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        numbers = torch.tensor(
            [self.text, self.image, self.text_count, self.image_count], dtype=torch.float64, device=accelerator.device
        )
        text, image, text_count, image_count = accelerator.reduce(numbers, "sum").tolist()
        values = {}
        if text_count and text:
            values["loss/text"] = text / text_count
        if image_count and image:
            values["loss/image"] = image / image_count
        values["gradient_norm"] = self.norm
        values["lr_share"] = self.share
        values["tokens_per_second"] = self.tokens / max(self.seconds, 1e-9)
        values["memory_bytes"] = peak_memory(accelerator.device)
        return values


def peak_memory(device: torch.device) -> int:
    """Peak bytes so far: of the accelerator where there is one, else resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
