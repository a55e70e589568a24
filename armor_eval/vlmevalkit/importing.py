"""Imports VLMEvalKit without its side effects, and for scoring only the modules that score.

`import vlmeval` imports every model wrapper, API client and data set of it (5 of the 9 CPU-seconds that one question
costs), turns gradients off, seeds torch, disables TLS verification and reads a `.env`. A data set's `evaluate` needs
three modules: they are imported behind packages whose `__init__` is not run, and which nobody outside of this context
ever meets: whoever imports vlmeval for himself gets the whole of it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import logging
import os
import random
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from armor_eval.vlmevalkit.left_out import stand_ins

SCORING = ("image_mcq", "image_yorn", "image_vqa")
"""The modules of vlmeval.dataset whose `evaluate` scores the declared benchmarks."""
_HOLLOW = "__armor_eval_hollow__"
_put_away: dict[str, ModuleType] = {}
"""The scoring modules between two uses."""


@contextlib.contextmanager
def quiet_vlmeval(scores: str | None = None, *, whole: bool = True) -> Iterator[None]:
    """Import vlmeval if it is not yet, and keep the process as it was: gradients, TLS, random states, logging.

    Not `whole`: only the modules that score, or all of it where they do not score the data set `scores`.
    """
    import numpy as np
    import torch

    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    grad, tls = torch.is_grad_enabled(), ssl._create_default_https_context
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    environment = dict(os.environ)
    logging.disable(logging.CRITICAL)
    outermost = not _is_hollow()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if not whole:
                _import_scoring()
            if whole or not _score(scores):
                _import_whole()
            yield
    finally:
        if outermost and _is_hollow():
            _put_away.update(_take_out())
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
        torch.set_grad_enabled(grad)
        ssl._create_default_https_context = tls
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)


def _is_hollow() -> bool:
    return hasattr(sys.modules.get("vlmeval"), _HOLLOW)


def _take_out() -> dict[str, ModuleType]:
    """vlmeval and all below it, no longer among the imported modules."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "vlmeval"}


def _import_whole() -> None:
    if _is_hollow():  # modules that hang on hollow packages make room for whole ones
        _take_out()
    with stand_ins():
        importlib.import_module("vlmeval")
        importlib.import_module("vlmeval.dataset")
    _mend()


@functools.cache
def scoring_function(module: str, name: str) -> Callable[..., Any]:
    """A function of VLMEvalKit's scoring modules (`module` below vlmeval), imported as they are and kept."""
    with quiet_vlmeval(whole=False):
        found: Callable[..., object] = getattr(importlib.import_module(f"vlmeval.{module}"), name)
        return found


def _score(dataset: str | None) -> bool:
    """Whether what is imported scores the data set; all of vlmeval is what there is."""
    known = sys.modules["vlmeval.dataset"].DATASET_CLASSES if _is_hollow() else ()
    return dataset is None or not _is_hollow() or any(dataset in kind.supported_datasets() for kind in known)


def _import_scoring() -> None:
    if "vlmeval" in sys.modules and not _is_hollow():
        return
    sys.modules.update(_put_away)
    if "vlmeval" not in sys.modules:
        for name in ("vlmeval", "vlmeval.api", "vlmeval.dataset"):
            _hollow(name)
        setattr(sys.modules["vlmeval.api"], "OpenAIWrapper", None)  # noqa: B010 - a judge is ours, never built
        _mend()
        owner = sys.modules["vlmeval.dataset"]
        found: dict[str, type] = {}
        with stand_ins():
            for name in SCORING:
                found |= vars(importlib.import_module(f"vlmeval.dataset.{name}"))
        order = [name for name in _declared(Path(owner.__path__[0]) / "__init__.py") if name in found]
        owner.DATASET_CLASSES = [found[name] for name in order]  # type: ignore[attr-defined]
        vars(owner).update({name: found[name] for name in order})


def _mend() -> None:
    """llavabench.py imports `..smp.log` from one level too low."""
    for name in ("smp", "smp.log"):
        sys.modules.setdefault(f"vlmeval.dataset.{name}", importlib.import_module(f"vlmeval.{name}"))


def _hollow(name: str) -> None:
    """A package whose modules can be imported and whose own `__init__` is not run."""
    above, _, last = name.rpartition(".")
    if above:
        folder = Path(sys.modules[above].__path__[0]) / last
    else:
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        folder = Path(found.submodule_search_locations[0])
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    setattr(module, _HOLLOW, True)
    sys.modules[name] = module
    if above:
        setattr(sys.modules[above], last, module)


def _declared(init: Path) -> list[str]:
    """The names of the image data sets' classes in the order in which VLMEvalKit looks for one that knows a name."""
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "IMAGE_DATASET":
            return [name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)]
    return []
