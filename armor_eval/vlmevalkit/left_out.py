"""Stand-ins for the packages that VLMEvalKit imports and `make setup` leaves out for their licence (docs/licences.md).

VLMEvalKit imports the data sets of all benchmarks at once; ChartX, OmniDocBench and OCRBench v2 want these.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

from armor_model.base.errors import UserError

LEFT_OUT = {"Levenshtein": "Levenshtein", "distance": "Distance"}
"""Modules -> the GPL packages they are in."""


class StandIn(ModuleType):
    """A module of which everything can be imported and nothing called: UserError says what to install."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)
        package = LEFT_OUT[self.__name__]

        def refuse(*_args: object, **_options: object) -> NoReturn:
            raise UserError(f"this benchmark needs {package} (GPL), left out of the install", f"pip install {package}")

        return refuse


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """While VLMEvalKit is being imported, what is not installed of LEFT_OUT is there as a stand-in."""
    absent = [name for name in LEFT_OUT if name not in sys.modules and importlib.util.find_spec(name) is None]
    sys.modules.update({name: StandIn(name) for name in absent})
    try:
        yield
    finally:  # whoever looks for the package itself finds that it is not there
        for name in absent:
            del sys.modules[name]
