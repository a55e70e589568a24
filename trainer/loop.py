"""The training loop: one process or many (accelerate), resumable bit for bit, judged through callbacks that the
caller passes in.

Everything random is a function of (seed, step), so a checkpoint holds parameters, optimizers and counters, and no
position.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from armor_model.base.errors import Preempted, RunFailed, UserError
from armor_model.base.interrupts import StopRequest
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none
from armor_model.convert.shards import Source
from trainer import devices
from trainer.batches import Batch
from trainer.checkpoints import Checkpoints, differences, identity, longer
from trainer.config import LoopOptions, Optimization
from trainer.loader import DataLoader, Images, Mixture
from trainer.logs import COST, HEADS, LossMeter, RunLog, open_trackers, progress
from trainer.objective import Objective, Sums, count_labels, freeze, recompute_blocks
from trainer.optim import Average, Optimizers
from trainer.plan import TARGET_MFU, Flops, duration, make_plan, peak_flops
from trainer.stages import Stage

log = logging.getLogger(__name__)


@dataclass
class Cost:
    """What a run has used so far: Table 3's cost columns. Summed over resumes and processes."""

    images_seen: int = 0
    """Images to be drawn that losses were computed on."""
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
    images: Images = field(default_factory=Images)
    """How reading images to look at went, since the last resume and in this process."""


class Loop:
    """One stage's run. `run()` returns when all steps are done or raises RunFailed."""

    def __init__(
        self,
        model: nn.Module,
        stage: Stage,
        mixture: Mixture,
        how: Optimization,
        options: LoopOptions | None = None,
        weights: Source | None = None,
    ) -> None:
        """weights: of a model that has none yet (devices.empty_model), read once it is sharded."""
        if mixture.batch_size != how.batch_size:
            raise ValueError(f"the mixture's batches hold {mixture.batch_size}, the optimization says {how.batch_size}")
        self.model, self.stage, self.mixture, self.how = model, stage, mixture, how
        self.options = options or LoopOptions()
        self.trained = freeze(model, stage)
        self.accelerator = devices.start(how.accumulate)
        if self.options.out is not None:
            devices.check_shared(self.accelerator, self.options.out)
        world = self.accelerator.num_processes
        if how.batch_size % (how.accumulate * world):
            raise UserError(f"batch_size {how.batch_size} does not split over {world} processes x {how.accumulate}")
        if how.gradient_checkpointing:
            recompute_blocks(model)
        self.shapes = {n: list(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        marks = {n: mark(n, weights.read(n) if weights else p) for n, p in model.named_parameters()}
        self.frozen = fingerprint(marks[n] for n, p in model.named_parameters() if not p.requires_grad)
        self.data = mixture.contents()
        self._check_processes(fingerprint(marks.values()))
        shards = devices.shards_of(world, self.options.replicas) if self.options.shard else 1
        self.plan = make_plan(model, stage, mixture, how, self.options.given, world, shards)
        self.flops, self.peak = Flops(model, stage), peak_flops(self.accelerator.device, self.options.peak_tflops)
        if how.compile:
            for block in model.blocks:
                block.compile(dynamic=True)
        objective = Objective(model, stage, every_part=world > 1, sharded=self.options.shard)
        if self.options.shard:
            self.objective = devices.shard(objective, self.accelerator, how.precision, self.options.replicas)
            if weights is not None:
                devices.fill(model, weights)
        else:
            self.objective = self.accelerator.prepare(objective)
        self.optimizers = Optimizers(self.objective.named_parameters(), how)
        self.average = Average(model, self.trained, how.ema)
        self.cost, self.step, self.begun = Cost(), 0, False
        self.stop = StopRequest()
        self.main = self.accelerator.is_main_process
        self.checkpoints = None
        if self.options.out is not None:
            self.checkpoints = Checkpoints(self.options.out / "checkpoints", self.options.keep)

    def run(self) -> Outcome:
        """Train from where `begin` left it. Raises RunFailed, and Preempted behind a step."""
        options, how = self.options, self.how
        self.begin()
        run = {"name": f"stage {self.stage.name}", **asdict(self.how), "mixture": str(self.mixture.counts)}
        trackers = open_trackers(options.track, options.out, run) if self.main else []
        journal = RunLog(options.out if self.main else None, options.tensorboard, trackers)
        losses = journal.forget_after(self.step or -1)  # all, of a run that was killed before its first checkpoint
        if self.main:
            for line in [*self.plan.lines(), *([f"goes on behind step {self.step:,}"] if self.step else [])]:
                log.info("%s", line)
        bar = progress(how.steps, self.step, f"stage {self.stage.name}", options.bar and self.main)
        outcome = Outcome(self.step, self.cost, losses)
        meter, loader = LossMeter(), self._data_loader()
        self.model.train()
        with ExitStack() as ends:
            for part in (journal, bar, loader):
                ends.callback(part.close)
            ends.enter_context(self.stop)
            while self.step < how.steps:
                preempted = self._one_step(loader, meter)
                if self.peak and meter.steps == 1 and self.step - outcome.steps == 1 and self.main:
                    self._say_estimate(meter.flops)
                bar.update(1)
                done = self.step == how.steps
                if self.step % options.log_every == 0 or done:
                    outcome.losses = meter.means(self.accelerator, self.peak)
                    bar.set_postfix(
                        {n: f"{outcome.losses[f'loss/{n}']:.3f}" for n in HEADS if f"loss/{n}" in outcome.losses}
                    )
                    cost = {**asdict(self.cost), "device_days": self.cost.device_days}
                    journal.write(self.step, outcome.losses | {f"{COST}{k}": v for k, v in cost.items()})
                    if self.main and bar.disable:
                        self._say(outcome.losses, meter.seconds / meter.steps)
                    meter = LossMeter()
                if options.on_step is not None:
                    options.on_step(self.step, outcome.losses)
                judged = bool(options.evaluate_every) and (self.step % options.evaluate_every == 0 or done)
                every = options.sample_every or options.evaluate_every
                drawn = options.sample is not None and bool(every) and (self.step % every == 0 or done)
                if judged or drawn:
                    numbers = self._watch(journal, judged, drawn)
                    if judged:
                        outcome.evaluations.append((self.step, numbers))
                if (options.save_every and self.step % options.save_every == 0) or done:
                    journal.check()  # else a folder that was removed would come back, without its log
                    self._save(outcome.evaluations[-1][1].get("score") if judged else None)
                elif preempted:
                    self._save(None)
                if preempted and not done:
                    raise Preempted(
                        f"stopped by a signal behind step {self.step:,} of {how.steps:,}; {self._where_to_go_back()}"
                    )
        outcome.steps, outcome.images = self.step, loader.images
        return outcome

    def _say(self, losses: dict[str, float], seconds: float) -> None:
        """A log line of the last steps, where no bar is seen."""
        names = ("loss/text", "loss/image", "gradient_norm", "mfu")
        told = " ".join(f"{name.removeprefix('loss/')} {losses[name]:.3f}" for name in names if name in losses)
        left = duration(seconds * (self.how.steps - self.step))
        speed = losses["tokens_per_second"]
        log.info("step %d of %d: %s, %d tokens/s, %s left", self.step, self.how.steps, told, speed, left)

    def _say_estimate(self, flops: float) -> None:
        """The whole run's time by the first step's operations in a process, before times are measured."""
        peak = not_none(self.peak)
        time_left = duration(flops * (self.how.steps - self.step) / (TARGET_MFU * peak))
        log.info(
            "estimated, not measured: %s at an MFU of %.2f of %.0f TFLOP/s a device", time_left, TARGET_MFU, peak / 1e12
        )

    def _check_processes(self, weights: str) -> None:
        """Every process has the same weights and reads the same data. Raises RunFailed in all where one has not."""
        facts = {"weights": weights, "data": hashlib.sha256(repr(self.data).encode()).hexdigest()[:16]}
        devices.agree(self.accelerator, facts, "they would train a mixture; give all of them the same files")

    def _data_loader(self) -> DataLoader:
        rank_of = self.accelerator.process_index, self.accelerator.num_processes
        token_ids = self.model.config.text_config.pad_token_id or 0, self.model.config.imgbos_id
        options, workers = self.options, self.options.workers
        if workers is None:
            workers = 4 if self.accelerator.device.type == "cuda" else 0
        read = options.pack_to, workers, options.ahead, options.bad_images
        return DataLoader(self.mixture, self.how, rank_of, token_ids, *read)

    def _one_step(self, loader: DataLoader, meter: LossMeter) -> bool:
        """One optimizer step; whether a signal asked any process to end behind it."""
        how, world = self.how, self.accelerator.num_processes
        started, cpu_started = time.perf_counter(), time.process_time()
        micro = loader.micro_batches(self.step)
        # The mean is over all supervised positions of the step, wherever they are computed: that makes two processes,
        # or two micro-batches, the same as one with the double batch.
        local = torch.tensor([count_labels(b) for b in micro], dtype=torch.float64, device=self.accelerator.device)
        totals = self.accelerator.reduce(local.sum(dim=0), "sum").tolist()
        share = self.optimizers.set_step(self.step)
        self.optimizers.zero_grad()
        for i, batch in enumerate(micro):
            batch = batch.to(self.accelerator.device)
            sync = nullcontext() if i == how.accumulate - 1 else self.accelerator.no_sync(self.objective)
            with sync:
                with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=how.precision == "bf16"):
                    sums = self.objective(batch)
                    loss = self.stage.alpha * sums.text / max(1.0, totals[0])
                    loss = loss + self.stage.beta * sums.image / max(1.0, totals[1])
                self._check_finite(sums)
                if loss.requires_grad:
                    self.accelerator.backward(loss * world)  # DDP and FSDP average over processes; this is a sum
            meter.add(sums, batch, share)
        meter.gradient_norm = float(self.accelerator.clip_grad_norm_(self._learning(), how.clip or math.inf))
        if not math.isfinite(meter.gradient_norm):
            raise RunFailed(f"the gradient of step {self.step} is {meter.gradient_norm}; {self._where_to_go_back()}")
        self.optimizers.step()
        self.average.update()
        self.step += 1
        return self._count(micro, time.perf_counter() - started, time.process_time() - cpu_started, meter)

    def _count(self, micro: list[Batch], wall: float, cpu: float, meter: LossMeter) -> bool:
        world = self.accelerator.num_processes
        each = [(b.images, b.tokens, self.flops.of(b)) for b in micro]
        sums = [*map(sum, zip(*each, strict=True)), cpu, bool(self.stop.name)]
        numbers = torch.tensor(sums, dtype=torch.float64, device=self.accelerator.device)
        images, tokens, flops, cpu, stop = self.accelerator.reduce(numbers, "sum").tolist()
        self.cost.images_seen += int(images)
        self.cost.tokens += int(tokens)
        self.cost.cpu_seconds += cpu
        self.cost.device_seconds += wall * world
        meter.tokens += int(tokens)
        meter.flops += flops / world
        meter.seconds += wall
        meter.steps += 1
        return stop > 0

    def _check_finite(self, sums: Sums) -> None:
        for name, value in (("text", sums.text), ("image", sums.image)):
            if not torch.isfinite(value).all():
                raise RunFailed(
                    f"the {name} loss of step {self.step} is {float(value.detach())}; {self._where_to_go_back()}"
                )

    def _where_to_go_back(self) -> str:
        steps = self.checkpoints.steps() if self.checkpoints is not None else []
        return f"the last checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint to go back to"

    def _learning(self) -> list[nn.Parameter]:
        return [p for p in self.objective.parameters() if p.requires_grad]

    def _watch(self, journal: RunLog, judged: bool, drawn: bool) -> dict[str, float]:
        """Let the caller judge the model, and draw samples: in the main process, while the others wait at the next
        collective. The random numbers of training stay as they were."""
        numbers: dict[str, float] = {}
        half = torch.bfloat16 if self.how.precision == "bf16" else None
        here = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with self.average.swapped():
            model = devices.whole_model(self.model, self.main, half)
            if model is None or not self.main:
                return numbers
            model = devices.in_one_type(model, half) if half else model
            was_training = model.training
            model.eval()
            with torch.no_grad(), torch.random.fork_rng(devices=here):
                if judged and self.options.evaluate is not None:
                    numbers = self.options.evaluate(model, self.step)
                    journal.write(self.step, {f"eval/{k}": v for k, v in numbers.items()})
                if drawn and self.options.sample is not None:
                    for name, image in self.options.sample(model, self.step).items():
                        journal.image(self.step, name, image)
            model.train(was_training)
        return numbers

    # --- checkpoints

    def identity(self) -> JsonObject:
        """What a resume must find unchanged (trainer.checkpoints)."""
        shapes = [self.shapes[name] for name in self.trained]
        model = {"trained": self.trained, "shapes": shapes, "frozen weights": self.frozen}
        return identity(self.stage, self.how, self.mixture.seed, self.mixture.counts, self.data, **model)

    def trained_parameters(self) -> dict[str, torch.Tensor]:
        """The trained parameters in full, under the model's own names. Where they are sharded, every process has to
        call this."""
        parameters = dict(self.model.named_parameters())
        return {name: devices.whole(parameters[name]) for name in self.trained}

    def _save(self, score: float | None) -> None:
        if self.checkpoints is None:
            return
        trained, optimizers = self.trained_parameters(), self.optimizers.state_dict(keep=self.main)
        average = self.average.state_dict()
        rng = devices.random_states(self.accelerator)
        if self.main:
            processes = {"processes": self.accelerator.num_processes, "sharded": self.options.shard}
            state = {"step": self.step, "score": score, "cost": asdict(self.cost), "run": self.identity(), **processes}
            extra = {"average": average} if average else {}
            self.checkpoints.save(self.step, trained, {"optimizers": optimizers, "rng": rng, **extra}, state)
        self.accelerator.wait_for_everyone()

    def begin(self) -> None:
        """Take up the last checkpoint, where the options say so. Raises UserError for the directory of another run,
        before anything is written into it; called again, it does nothing."""
        if self.begun:
            return
        self.begun = True
        if self.options.resume:
            self._resume()
        elif self.checkpoints is not None and self.checkpoints.steps():
            raise UserError(f"{self.options.out} already holds a run; resume it or choose another directory")

    def _resume(self) -> None:
        saved_here = self.checkpoints
        step = devices.choose(self.accelerator, max(saved_here.steps(), default=0) if saved_here else 0)
        if saved_here is None or not step:
            return
        path, digest = saved_here.path(step), ""
        if self.accelerator.num_processes > 1:  # a machine with other files would go on with another run
            digest = saved_here.digest(step)
        devices.agree(self.accelerator, {f"{path.name}": digest}, f"{path.parent} has to be one folder for all")
        trained, saved, state = saved_here.load(step)
        different = differences(state["run"], self.identity())
        if different:
            raise UserError(
                f"{path} belongs to another run: {'; '.join(different)}",
                "resume with the same settings, or choose another --out",
            )
        if told := longer(state["run"], self.how, step):
            log.warning("%s", told)
        if (before := state["processes"]) != (now := self.accelerator.num_processes):
            log.warning("written by %d processes, resumed by %d: the same run up to rounding", before, now)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in trained.items():
                parameters[name].copy_(devices.placed_like(value, parameters[name]))
        self.average.load_state_dict(saved.get("average", {}))
        self.optimizers.load_state_dict(saved["optimizers"])
        devices.restore_random_state(self.accelerator, saved["rng"])
        self.step, self.cost = int(state["step"]), Cost(**state["cost"])


def mark(name: str, value: torch.Tensor) -> bytes:
    """A tensor's name, shape and eight of its values."""
    flat = value.detach().flatten()
    # Whole numbers: at over 2^24 values torch.linspace's last index, rounded in float32, is past the end.
    at = [(len(flat) - 1) * i // 7 for i in range(8)] if len(flat) else []
    some = flat[torch.tensor(at, dtype=torch.long, device=flat.device)].float().cpu()
    return f"{name} {list(value.shape)}".encode() + some.numpy().tobytes()


def fingerprint(marks: Iterable[bytes]) -> str:
    """Tells models apart by the marks of their tensors: a checkpoint of a stage holds trained parts only, which on
    another model's frozen ones would be nonsense without an error."""
    return hashlib.sha256(b"".join(marks)).hexdigest()[:16]
