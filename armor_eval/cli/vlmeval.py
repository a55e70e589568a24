"""`armor-eval vlmeval -- ARGS...`: VLMEvalKit's own runner, with ARMOR registered in it, in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from armor_model.base.errors import UserError


def vlmeval(
    context: typer.Context,
    checkpoint: Annotated[Path | None, typer.Option(help="ARMOR checkpoint; default armor-nano.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 4096,
    any_data: Annotated[
        bool, typer.Option("--any-data", help="Take the TSVs in $LMUData as they are (else VLMEvalKit replaces them).")
    ] = False,
) -> None:
    """Run VLMEvalKit as `vlmeval ARGS...` would, with `--model ARMOR` known. Its own traps are not guarded here.

    armor-eval vlmeval --data MMBench_DEV_EN --model ARMOR
    """
    from armor_model import bundled
    from armor_model.loading import check_checkpoint

    if not context.args:
        raise UserError("nothing for VLMEvalKit to do", "armor-eval vlmeval -- --model ARMOR --data MMBench_DEV_EN")
    check_checkpoint(checkpoint or bundled("armor-nano"))
    words = [str(checkpoint or ""), str(max_new_tokens), "any" if any_data else "published", *context.args]
    done = subprocess.run([sys.executable, "-m", "armor_eval.vlmevalkit.runner", *words], check=False)
    if done.returncode:
        raise typer.Exit(1 if done.returncode > 0 else 130)
