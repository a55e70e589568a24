"""Pictures drawn during training for the same prompts and seeds each time: the paper's Figure 6."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any


def drawer(processor: Any, prompts: Sequence[str], seed: int) -> Callable[[Any, int], dict[str, Any]]:
    """What LoopOptions.sample wants: (model, step) -> {name: PIL image}; prompt number i is drawn with seed + i."""
    names = [
        f"{i:02d}-{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:40]}" for i, prompt in enumerate(prompts)
    ]

    def sample(model: Any, step: int) -> dict[str, Any]:
        from armor_model import draw

        processor.vq.to(next(model.parameters()).device)
        pictures = draw(model, processor, list(prompts), seeds=[seed + i for i in range(len(prompts))])
        return dict(zip(names, pictures, strict=True))

    return sample
