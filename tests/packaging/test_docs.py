"""docs/architecture.md names files that exist, and the layers it states are those that import-linter holds; commands of
the training pages are understood as they are printed."""

import re
import shlex
from importlib import import_module

import pytest
import typer
from paths import ROOT


def test_every_file_of_the_walks_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"`((?:armor_eval|armor_model|trainer)/[\w/]+\.py)`", text)
    assert len(files) > 30
    assert [file for file in files if not (ROOT / file).is_file()] == []


def commands(page: str) -> list[list[str]]:
    """What is typed to armor-train and armor-model on a page, launchers left out."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ {4}.*?(?:-m trainer|(?<!/)armor-(?=train|model)) ?(.*)$", text, re.MULTILINE)
    typed = [shlex.split(line, comments=True) for line in lines]
    return [words if words[0] in ("train", "model") else ["train", *words] for words in typed if words[-1] != "..."]


@pytest.mark.parametrize(("page", "at_least"), [("training.md", 11), ("training-data.md", 3)])
def test_commands_of_the_training_pages_are_understood(page: str, at_least: int) -> None:
    typed = commands(page)
    assert len(typed) >= at_least
    for program, name, *words in typed:
        app = import_module({"train": "trainer.cli", "model": "armor_model.cli"}[program]).app
        command = typer.main.get_command(app).commands[name]
        words = [word.replace("$SLURM_ARRAY_TASK_ID", "0") for word in words]
        command.make_context(name, words)  # raises where an option or its value is none


def test_a_misspelt_option_would_be_seen() -> None:
    command = typer.main.get_command(import_module("trainer.cli").app).commands["stage"]
    with pytest.raises(Exception, match="No such option: --gradient-checkpoint"):
        command.make_context("stage", ["--gradient-checkpoint"])


@pytest.mark.slow
def test_the_memory_of_the_8b_is_what_its_plan_says() -> None:
    import torch

    from armor_model import new_model, preset
    from trainer.config import Optimization
    from trainer.objective import freeze
    from trainer.plan import memory
    from trainer.stages import STAGES

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([123]) \| ([\d,]+) M \|((?: [\d.]+ \|){5} [\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 3
    new_model(preset("tiny"))  # so that nothing is imported for the first time below
    with torch.device("meta"):
        model = new_model(preset("internvl2_5-8b"))
    for stage, millions, cells in rows:
        model = model.to(torch.bfloat16)
        freeze(model, STAGES[stage])
        learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in learns:
            parameter.data = parameter.data.float()
        sizes = memory(model, Optimization())
        frozen, all_of_it = sizes["frozen weights"], sum(sizes.values())
        ddp = all_of_it + sizes["gradients"]
        found = [frozen, all_of_it - frozen, all_of_it, ddp, all_of_it / 8, all_of_it / 64]
        assert f"{sum(p.numel() for p in learns) / 1e6:,.0f}" == millions
        assert [f"{size / 1e9:.1f}" for size in found] == [cell.strip() for cell in cells.split("|")]
