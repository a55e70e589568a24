"""Progress of a recipe over all its phases: one bar with an ETA on a terminal, a log line for each phase elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass

from trainer.logs import progress
from trainer.plan import duration

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """A part of the recipe whose units take about equally long."""

    name: str
    units: int
    seconds: float
    """Expected of a unit, in CPU-seconds of the machine that armor-nano was made on: the phases' share of the bar."""


class Walk:
    """Where a recipe is. The time left is what is expected of the rest, times how much longer than expected the current
    phase takes here; so steps that a resumed run finds done, which take no time, do not spoil it."""

    def __init__(self, phases: list[Phase], bar: bool = True) -> None:
        self.phases = phases
        self._number, self._behind, self._slower = 0, 0.0, 1.0
        self._first: tuple[int, float] | None = None
        form = "{desc} {percentage:3.0f}% |{bar}| {elapsed} gone{postfix}"
        self._bar = progress(round(self._expected), 0, phases[0].name, bar, form)

    @property
    def _expected(self) -> float:
        return sum(phase.units * phase.seconds for phase in self.phases)

    @property
    def seen(self) -> bool:
        """Whether there is a bar to look at."""
        return not self._bar.disable

    def at(self, done: int, note: str = "") -> None:
        """`done` units of the current phase are done; `note` is shown behind the bar."""
        phase, now = self.phases[self._number], time.perf_counter()
        if self._first is None:
            self._first = done, now
        elif done > self._first[0]:
            self._slower = (now - self._first[1]) / ((done - self._first[0]) * phase.seconds)
        gone = self._behind + done * phase.seconds
        left = duration((self._expected - gone) * self._slower)
        self._bar.set_description_str(f"{self._number + 1}/{len(self.phases)} {phase.name}", refresh=False)
        self._bar.set_postfix_str(f"about {left} left{f', {note}' if note else ''}", refresh=False)
        self._bar.update(gone - self._bar.n)

    def done(self, result: str) -> None:
        """The current phase is over: say so in a line, above the bar where there is one."""
        phase = self.phases[self._number]
        self.at(phase.units)
        left = duration((self._expected - self._behind - phase.units * phase.seconds) * self._slower)
        self._behind += phase.units * phase.seconds
        self._number, self._first = self._number + 1, None
        line = f"{self._number}/{len(self.phases)} {phase.name}: {result}"
        if self.seen:
            self._bar.write(line, file=sys.stderr)
        else:
            log.info("%s", line if self._number == len(self.phases) else f"{line}; about {left} left")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
