"""The harness that measures ARMOR: understanding by VLMEvalKit, drawing by GenEval, and what the numbers say."""

from typing import TYPE_CHECKING, Any

from armor_model import __version__ as __version__

if TYPE_CHECKING:
    from armor_eval.api import Named as Named
    from armor_eval.api import evaluate as evaluate

__all__ = ["Named", "evaluate"]


def __getattr__(name: str) -> Any:
    """The API (armor_eval.api), loaded when it is first asked for: the command line starts without it."""
    if name in __all__:
        from armor_eval import api

        return getattr(api, name)
    raise AttributeError(f"module 'armor_eval' has no attribute {name!r}")
