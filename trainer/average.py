"""The exponential moving average of what learns (`--ema`): kept beside the parameters, sharded as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer import devices


class Average:
    """Of a model's named parameters, in fp32; with decay 0 there is none, and nothing happens."""

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
