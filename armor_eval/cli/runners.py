"""`armor-eval vlmeval` and `lm-eval`: other harnesses' own runners, ARMOR registered in them, in a fresh process."""

from __future__ import annotations

import importlib.util
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
    if not context.args:
        raise UserError("nothing for VLMEvalKit to do", "armor-eval vlmeval -- --model ARMOR --data MMBench_DEV_EN")
    _checked(checkpoint)
    words = [str(checkpoint or ""), str(max_new_tokens), "any" if any_data else "published", *context.args]
    if code := _fresh_process("armor_eval.vlmevalkit.runner", words):
        raise typer.Exit(1 if code > 0 else 130)


def lm_eval(
    context: typer.Context,
    checkpoint: Annotated[Path | None, typer.Option(help="ARMOR checkpoint; default armor-nano.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the bundles, OUT/TASK each.")] = Path("runs/lm-eval"),
) -> None:
    """Run lm-evaluation-harness as `lm-eval ARGS...` would, with `--model ARMOR` and `--model hf:ID` known; each task's
    results become a bundle.

    armor-eval lm-eval --out runs/text run --model ARMOR --tasks hellaswag
    """
    if not context.args:
        raise UserError("nothing for lm-eval to do", "armor-eval lm-eval -- run --model ARMOR --tasks arc_easy")
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed", "pip install 'armor-eval[lm-eval]'")
    if code := _fresh_process("armor_eval.tasks.text.runner", [str(_checked(checkpoint)), str(out), *context.args]):
        raise typer.Exit(code if code > 0 else 130)


def _checked(checkpoint: Path | None) -> Path:
    """The checkpoint's folder. UserError where it is none of ours."""
    from armor_model import bundled
    from armor_model.loading import check_checkpoint

    return check_checkpoint(checkpoint or bundled("armor-nano"))


def _fresh_process(module: str, words: list[str]) -> int:
    """The exit code of a runner in a process of its own; negative where a signal ended it."""
    return subprocess.run([sys.executable, "-m", module, *words], check=False).returncode
