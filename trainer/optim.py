"""Optimizers and learning-rate schedules: AdamW for the stages, Muon for the matrices of a base trained from nothing;
and the moving average of what learns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from armor_model.base.errors import RunFailed
from armor_model.base.jsons import JsonObject
from trainer import devices
from trainer.config import Optimization


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
                    hidden, lr=how.muon_lr, weight_decay=how.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
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

    def state_dict(self, keep: bool = True) -> list[JsonObject]:
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
                full: dict[int, JsonObject] = {}
                for number, values in state["state"].items():
                    gathered = {name: devices.whole(v) if isinstance(v, Tensor) else v for name, v in values.items()}
                    if keep:
                        full[number] = {n: v.cpu() if isinstance(v, Tensor) else v for n, v in gathered.items()}
                state = {**state, "state": full}
            states.append(state)
        return states

    def load_state_dict(self, states: list[JsonObject]) -> None:
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


class Average:
    """The exponential moving average (`--ema`) of a model's named parameters, in fp32, beside them and sharded as they
    are; with decay 0 there is none, and nothing happens."""

    def __init__(self, model: nn.Module, names: Sequence[str], decay: float) -> None:
        self.model, self.decay = model, decay
        parameters = self._parameters()
        self.values = {name: parameters[name].detach().float().clone() for name in (names if decay else ())}

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())  # anew each time: sharding and loading replace them

    @torch.no_grad()
    def update(self) -> None:
        """Take a step's parameters in."""
        parameters = self._parameters() if self.values else {}
        for name, value in self.values.items():
            value.mul_(self.decay).add_(parameters[name].detach().float(), alpha=1 - self.decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model with the average in the place of what learns; without one, as it is."""
        parameters = self._parameters() if self.values else {}
        last = {name: parameters[name].detach().clone() for name in self.values}
        self._put(parameters, self.values)
        try:
            yield
        finally:
            self._put(parameters, last)

    @staticmethod
    @torch.no_grad()
    def _put(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            parameters[name].copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """In full, on the CPU; where parameters are sharded, every process has to call this."""
        return {name: devices.whole(value).cpu() for name, value in self.values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; each process keeps its part where parameters are sharded."""
        for name, value in self.values.items():
            value.copy_(devices.placed_like(state[name], value))
