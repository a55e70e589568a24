"""`armor-eval lm-eval -- ARGS...`: lm-evaluation-harness, with ARMOR registered in it, in a fresh process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from armor_model.base.errors import UserError


def lm_eval(
    context: typer.Context,
    checkpoint: Annotated[Path | None, typer.Option(help="ARMOR checkpoint; default armor-nano.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the bundles, OUT/TASK each.")] = Path("runs/lm-eval"),
) -> None:
    """Run lm-evaluation-harness as `lm-eval ARGS...` would, with `--model ARMOR` and `--model hf:ID` known; each task's
    results become a bundle.

    armor-eval lm-eval --out runs/text run --model ARMOR --tasks hellaswag
    """
    from armor_model import bundled
    from armor_model.loading import check_checkpoint

    if not context.args:
        raise UserError("nothing for lm-eval to do", "armor-eval lm-eval -- run --model ARMOR --tasks arc_easy")
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed", "pip install 'armor-eval[lm-eval]'")
    folder = check_checkpoint(checkpoint or bundled("armor-nano"))
    words = [str(folder), str(out), *context.args]
    done = subprocess.run([sys.executable, "-m", "armor_eval.tasks.text.runner", *words], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode if done.returncode > 0 else 130)
