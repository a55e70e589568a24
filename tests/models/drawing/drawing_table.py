"""Writes the table of drawing models in docs/models.md from tiny random checkpoints of each family.

python tests/models/drawing/drawing_table.py          about a minute; the text around the markers stays as it is
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import tiny_drawers

from armor_eval.models import registry
from armor_eval.models.base import Decoding
from armor_eval.models.drawing import is_blank

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- drawing:begin (tests/models/drawing/drawing_table.py) -->", "<!-- drawing:end -->"
HEAD = ("Family", "Class", "Draws", "Rows of a batch against alone", "Own steps", "Own guidance", "Scheduler")
PROMPTS, SEEDS = ["a photo of a bench", "two cows"], [1, 2]


def row(family: str, model, quick: dict) -> list[str]:
    """What one family does: `model` at its own settings, `quick` the arguments under which it was drawn with."""
    own = model.settings(Decoding())
    fast = registry.load(model.info.spec, "official", device="cpu", **({"model_args": quick} if quick else {}))
    both = fast.draw(PROMPTS, SEEDS, Decoding())
    alone = fast.draw(PROMPTS[1:], SEEDS[1:], Decoding())
    failed = next((one for one in (*both, *alone) if isinstance(one, Exception)), None)
    if failed is not None:
        return [family, own.get("pipeline", type(model).__name__), f"no: {failed}", "-", "-", "-", "-"]
    gap = np.abs(np.asarray(both[1], int) - np.asarray(alone[0], int)).max()
    how = "one at a time" if fast.alone else "equal" if gap == 0 else f"at most {gap} of 255 apart"
    drawn = "blank" if any(is_blank(one) for one in both) else "yes"
    guidance = own["guidance"]
    return [
        family,
        own.get("pipeline", type(model).__name__),
        drawn,
        how,
        str(own.get("num_inference_steps", "-")),
        "-" if guidance is None else f"{guidance:g}",
        own.get("scheduler", "-"),
    ]


def rows() -> list[list[str]]:
    """Every family, drawn now."""
    with tempfile.TemporaryDirectory() as folder:
        root, made = Path(folder), []
        for family, (_, needs) in tiny_drawers.PIPELINES.items():
            spec = f"diffusers:{tiny_drawers.save(family, root)}"
            made.append(row(family, registry.load(spec, "official", device="cpu"), {"steps": 2, **needs}))
        for name, layout in (("Janus-Pro, new layout", "top"), ("Janus-Pro, old layout", "kwargs")):
            spec = f"janus:{tiny_drawers.janus(root / name, layout)}"
            made.append(row(name, registry.load(spec, "official", device="cpu"), {}))
        spec = f"emu3:{tiny_drawers.emu3(root / 'emu3')}"
        made.append(row("Emu3", registry.load(spec, "official", device="cpu"), {"image_area": 1024}))
        return made


def table(made: list[list[str]]) -> str:
    """Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *made]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows())}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write()
    sys.stdout.write(f"{PAGE}\n")
