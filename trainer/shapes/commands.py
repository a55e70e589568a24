"""`armor-train nano` and `nano-seeds`: the commands of the shapes world."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer

from armor_model.base.errors import UserError
from armor_model.base.files import check_free
from armor_model.base.parsing import json_of
from trainer.configure import Config, Json, Set, configure


def add_to(app: typer.Typer) -> None:
    """Add the commands to `armor-train`."""
    app.command()(nano)
    app.command("nano-seeds")(nano_seeds)


def nano(
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write; its run record goes beside it.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    base: Annotated[str, typer.Option(help="Build on a base of this name, in armor-nano's sizes.")] = "internvl",
    random_backbone: Annotated[bool, typer.Option(help="The twin: an untrained, frozen backbone.")] = False,
    scale: Annotated[float, typer.Option(help="Share of the recipe's steps; below 1 for a quick look.")] = 1.0,
    work: Annotated[
        Path | None, typer.Option(help="Keep logs and checkpoints here; the same command then goes on after a kill.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Train armor-nano from nothing: image tokenizer, base, stages 1, 2, 3; judge it; write its card.

    armor-train nano --out my-nano --work my-nano-training

    armor-train nano --out quick --scale 0.05
    """
    from armor_model.base.runtime import quiet_transformers
    from trainer.logs import told_on_stderr
    from trainer.shapes import recipe as recipes
    from trainer.shapes.card import measure, save_nano, write_card
    from trainer.shapes.walk import Walk

    # A model without a record was being judged when its run was killed.
    check_free(out, None if (out / "training.json").exists() else "config.json")
    if not 0 < scale <= 100:
        raise UserError(f"--scale is above 0, not {scale:g}")
    typed = {("seed",): seed, ("random_backbone",): random_backbone}
    recipe = configure(
        recipes.default_recipe(base=base), config, set_ or (), {path: v for path, v in typed.items() if v}
    )
    if scale != 1.0:
        recipe = recipes.scaled(recipe, scale)
    folder = work or out.with_name(f"{out.name}-training")
    quiet_transformers()
    with ExitStack() as ends:
        walk = ends.enter_context(closing(Walk(recipes.phases(recipe))))
        ends.enter_context(told_on_stderr("trainer.shapes" if walk.seen else "trainer"))  # a bar shows a stage's steps
        training = ends.enter_context(recipes.record(recipe, folder, ["armor-train", *sys.argv[1:]]))
        outcome = recipes.train_nano(recipe, work, walk)
        save_nano(outcome, out)
        scores = measure(out, {"questions": 80, "modality": 50, "drawings": 60}, seed=1000 + recipe.seed)
        walk.done(", ".join(f"{group.replace('_', ' ')} {value:.3f}" for group, value in scores["mean"].items()))
        command = f"armor-train nano --out DIR --seed {recipe.seed}{' --random-backbone' * recipe.random_backbone}"
        command += f" --base {base}" * (base != "internvl")
        command += (f" --scale {scale:g}" if scale != 1.0 else "") + (" --config FILE" if config else "")
        write_card(out, recipe, outcome, scores, command + "".join(f" --set {change}" for change in set_ or ()))
        training.finish(out, outcome.steps, outcome.cost, outcome.reports[-1].losses, recipes.logs(work))
    if as_json:
        told = {"model": str(out), "steps": outcome.steps, "cpu_seconds": outcome.cpu_seconds, "scores": scores}
        typer.echo(json.dumps(told, indent=1))
        return
    for group, value in scores["mean"].items():
        typer.echo(f"{group}: mean {value:.3f}, worst {scores['worst'][group]}")
    typer.echo(f"{out} ({outcome.cpu_seconds:.0f} CPU-seconds)")


def nano_seeds(
    checkpoints: Annotated[list[Path], typer.Argument(help="Folders that `nano` wrote, or their training.json.")],
    as_json: Json = False,
) -> None:
    """Print several armor-nanos side by side, with intervals; name the median; compare random-backbone twins.

    armor-train nano-seeds nano-0 nano-1 nano-2
    """
    from trainer.shapes.card import GROUPS, seeds_text

    records = []
    for path in checkpoints:
        file = path / "training.json" if path.is_dir() else path
        try:
            records.append(json_of(file.read_text(encoding="utf-8")))
            _ = [records[-1]["scores"]["mean"][group] for group in GROUPS]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is no record of `armor-train nano`: {error}") from error
    if as_json:
        told = [
            {name: r["recipe"][name] for name in ("seed", "random_backbone")}
            | {k: r[k] for k in ("cpu_seconds", "scores")}
            for r in records
        ]
        typer.echo(json.dumps(told, indent=1))
        return
    typer.echo(seeds_text(records))
