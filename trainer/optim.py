"""Optimizers and learning-rate schedules: AdamW for the stages, Muon for the matrices of a base trained from
nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from armor_model.base.errors import RunFailed
from trainer import devices


@dataclass(frozen=True)
class Optimization:
    """How a stage walks, apart from what it learns."""

    steps: int
    """Optimizer steps in all."""
    batch_size: int
    """Conversations in one optimizer step, over all processes and accumulation steps."""
    lr: float = 1e-4
    """AdamW's peak learning rate. The paper prints none; 1e-4 is our default for InternVL2.5's sizes."""
    muon_lr: float | None = None
    """Peak rate of Muon for hidden matrices, before its RMS matching to AdamW; None leaves everything to AdamW."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Shape after the warm-up: half a cosine down to `floor`, or level."""
    warmup: int = 0
    """Steps of linear warm-up from zero."""
    floor: float = 0.0
    """The cosine's end, as a share of the peak."""
    weight_decay: float = 0.0
    """Decoupled; applied to matrices only, so gains and biases stay free."""
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    """Largest gradient norm over all trained parameters; 0 turns clipping off."""
    accumulate: int = 1
    """Micro-batches in one step; `batch_size` is split evenly over them."""
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    """Recompute the decoder's blocks in the backward pass instead of keeping their activations."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.accumulate < 1:
            raise ValueError("steps, batch_size and accumulate must be at least 1")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not split into {self.accumulate} micro-batches")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup {self.warmup} is not within the {self.steps} steps")
        for name in ("lr", "muon_lr"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(f"{name} {rate:g} is not above 0")
        for name in ("clip", "weight_decay", "floor"):  # a negative norm would turn every gradient round
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name):g} is not 0 or more")

    def factor(self, step: int) -> float:
        """Learning rate of optimizer step `step` (from 0) as a share of the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Optimizers:
    """Several optimizers that step as one; Muon and AdamW each get the parameters they are made for.

    One object with one state, so that a checkpoint has nothing to forget.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], how: Optimization) -> None:
        """Take the trained parameters by name; what does not require a gradient is left out."""
        named = [(name, p) for name, p in named if p.requires_grad]
        if not named:
            raise ValueError("no parameter is trained")
        self.how = how
        hidden = [p for name, p in named if how.muon_lr is not None and is_hidden_matrix(name, p)]
        rest = [(name, p) for name, p in named if not any(p is q for q in hidden)]
        self.parts: list[torch.optim.Optimizer] = []
        if hidden:  # torch.optim.Muon raises on an empty list
            self.parts.append(
                torch.optim.Muon(
                    hidden,
                    lr=how.muon_lr,
                    weight_decay=how.weight_decay,
                    momentum=0.95,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        groups = [
            {"params": [p for _, p in rest if p.ndim >= 2], "weight_decay": how.weight_decay},
            {"params": [p for _, p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if groups:
            self.parts.append(torch.optim.AdamW(groups, lr=how.lr, betas=how.betas, fused=False))
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def set_step(self, step: int) -> float:
        """Set the learning rates for step `step`; returns the share of the peak."""
        factor = self.how.factor(step)
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        return factor

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self, keep: bool = True) -> list[dict[str, Any]]:
        """Every optimizer's state with its tensors in full, the same whether they are sharded or not. Where they are,
        every process has to call this, and only those that `keep` hold what is gathered, on the CPU.

        torch's own gathering by name (torch.distributed.checkpoint.state_dict) is not used: on loading it gives a
        state to parameters that had none yet, and a head that is first asked after the resume would count its steps
        differently.
        """
        states = []
        for part in self.parts:
            state = part.state_dict()
            if any(isinstance(v, DTensor) for values in state["state"].values() for v in values.values()):
                full: dict[int, dict[str, Any]] = {}
                for number, values in state["state"].items():
                    gathered = {name: devices.whole(v) if isinstance(v, Tensor) else v for name, v in values.items()}
                    if keep:
                        full[number] = {n: v.cpu() if isinstance(v, Tensor) else v for n, v in gathered.items()}
                state = {**state, "state": full}
            states.append(state)
        return states

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take what `state_dict` gave; each process keeps its part where parameters are sharded."""
        if len(states) != len(self.parts):
            raise RunFailed(f"the checkpoint has {len(states)} optimizers, this run has {len(self.parts)}")
        for part, state in zip(self.parts, states, strict=True):
            order = [p for group in part.param_groups for p in group["params"]]
            placed = {
                number: {
                    name: devices.placed_like(v, order[number]) if isinstance(v, Tensor) and v.ndim else v
                    for name, v in values.items()
                }
                for number, values in state["state"].items()
            }
            part.load_state_dict({**state, "state": placed})


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon should have it: a matrix between hidden states, no embedding, head or convolution."""
    if parameter.ndim != 2:
        return False
    outside = ("embed", "head", "position", "cls_token", "patch")
    return not any(word in name for word in outside)
