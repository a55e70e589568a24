"""lm-evaluation-harness's own command with ARMOR registered, in a process of its own; what it measures becomes bundles.

python -m armor_eval.tasks.text.runner CHECKPOINT OUT run --model ARMOR --tasks NAME
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from armor_eval.runs.schema import ModelInfo
from armor_eval.tasks.text.record import write_bundles
from armor_model.base.errors import ArmorError, UserError
from armor_model.base.hashing import sha256_folder, sha256_json
from armor_model.hub import name_of

NAME = "ARMOR"


def main(argv: list[str]) -> int:
    """Exit code 2 for the user's mistakes, 1 where nothing was measured; lm-eval's own else."""
    checkpoint, out, *rest = argv
    try:
        run(Path(checkpoint), Path(out), rest)
    except UserError as error:
        sys.stderr.write(f"armor-eval: {error.line()}\n")
        return 2
    except ArmorError as error:
        sys.stderr.write(f"armor-eval: {error}\n")
        return 1
    return 0


def run(checkpoint: Path, out: Path, words: list[str]) -> None:
    """Register, run, and record every task."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    import lm_eval.evaluator as evaluator
    from lm_eval.__main__ import cli_evaluate

    from armor_eval.tasks.text.lm import ArmorLM

    own = evaluator.simple_evaluate
    measured: list[Path] = []

    @functools.wraps(own)
    def recorded(model: object = None, model_args: object = None, **settings: Any) -> object:
        settings["log_samples"] = True
        info = _info(str(model), model_args, checkpoint)
        if model == NAME:
            size = settings.get("batch_size") or 1
            model, model_args = ArmorLM(checkpoint, size, settings.get("device")), None
        results = own(model=model, model_args=model_args, **settings)
        if results is not None:  # None in every process but the first
            measured.extend(write_bundles(results, info, out, ["armor-eval", "lm-eval", "--", *words]))
        return results

    evaluator.simple_evaluate = recorded
    sys.argv = ["lm-eval", *translated(words)]
    cli_evaluate()
    for folder in measured:
        sys.stdout.write(f"{folder}\n")


def translated(words: list[str]) -> list[str]:
    """`--model hf:ID[@REVISION]` in lm-eval's own words."""
    if "--model" not in words or words.index("--model") + 1 == len(words):
        return words
    at = words.index("--model") + 1
    kind, _, id = words[at].partition(":")
    if kind != "hf" or not id:
        return words
    if "--model_args" in words:
        raise UserError(f"--model {words[at]} and --model_args do not go together", "say --model hf --model_args ...")
    folder = Path(id).is_dir()
    name, _, revision = (id, "", "") if folder else id.partition("@")
    more = f",revision={revision}" if revision else ""
    return [*words[:at], "hf", "--model_args", f"pretrained={name}{more}", *words[at + 1 :]]


def _info(model: str, model_args: object, checkpoint: Path) -> ModelInfo:
    """The model as a run records it; a folder is known by its content, everything else by what was asked for."""
    args = dict(model_args) if isinstance(model_args, dict) else {}
    if isinstance(model_args, str):
        args = dict(part.split("=", 1) for part in model_args.split(",") if "=" in part)
    name = str(args.get("pretrained", model))
    folder = checkpoint if model == NAME else Path(name)
    digest = sha256_folder(folder) if folder.is_dir() else sha256_json([model, args])
    spec = str(folder) if model == NAME else f"hf:{name}" if model == "hf" else f"lm-eval:{model}"
    return ModelInfo(
        spec=spec, name=name_of(folder) if folder.is_dir() else name, fingerprint=digest, revision=args.get("revision")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
