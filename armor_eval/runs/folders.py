"""Run folders: every run at and below a folder, each in a folder of its own and none inside another."""

from __future__ import annotations

from pathlib import Path

from armor_model.base.errors import UserError


def find_runs(path: Path) -> list[Path]:
    """The folders with a run.json at and below `path`, sorted; [] where there is none.

    UserError where a run lies inside another one: whoever reads the outer as one run would not see the inner.
    """
    found = sorted(file.parent for file in path.rglob("run.json")) if path.is_dir() else []
    for run in found:
        refuse_nesting(run)
    return found


def refuse_nesting(folder: Path) -> None:
    """UserError where the folder of a run lies inside another run's."""
    for above in folder.absolute().parents:
        if (above / "run.json").is_file():
            raise UserError(f"{folder} is a run inside the run {above}", "give every run a folder of its own")


def folder_name(benchmark: str) -> str:
    """A benchmark's name as a folder's: `dpg-vqa:NAME` has a character that not every file system takes."""
    return benchmark.replace(":", "-").replace("/", "-")
