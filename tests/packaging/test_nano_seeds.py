"""The seeds of armor-nano's recipe side by side, in reports/armor-nano/README.md, are those of the committed runs.

python tests/packaging/test_nano_seeds.py --write      writes the table anew
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from paths import ROOT

FOLDER = ROOT / "reports" / "armor-nano"
PAGE = FOLDER / "README.md"
BUNDLED = json.loads((ROOT / "armor_model" / "pretrained" / "armor-nano" / "training.json").read_text())
BEGIN, END = "<!-- seeds: written by tests/packaging/test_nano_seeds.py --write -->\n", "<!-- seeds: end -->"
ROWS = (
    ("conversation", "own drawing", "questions about its own drawing", "85"),
    ("conversation", "follow-up", "a follow-up drawn", "85"),
    ("conversation", "decline", "declines what it cannot draw", "85"),
    ("conversation", "accuracy", "conversations, all", ""),
    ("conversation", "known wordings", "in the words of its lessons", ""),
    ("conversation", "new wordings", "in new words", ""),
    *(("conversation", f"{n} turn{'s' * (n > 1)}", f"of {n} turn{'s' * (n > 1)}", "") for n in range(1, 5)),
    ("modality", "accuracy", "modality in new wordings", ""),
    ("POPE", "F1", "POPE, F1", "89.9"),
)
"""Run, metric, what it is called, what issue 21 asks for."""


def seeds() -> dict[int, Path]:
    """Seed -> the folder of its runs; the bundled seed's are those of all tables."""
    kept = {int(folder.name.removeprefix("seed-")): folder for folder in FOLDER.glob("seed-*") if folder.is_dir()}
    return dict(sorted((kept | {BUNDLED["recipe"]["seed"]: ROOT / "reports" / "runs"}).items()))


def metric(folder: Path, run: str, name: str) -> dict:
    metrics = json.loads((folder / run / "scores.json").read_text(encoding="utf-8"))["metrics"]
    return next(each for each in metrics if each["name"] == name)


def table() -> str:
    folders, bundled = seeds(), BUNDLED["recipe"]["seed"]
    heads = [f"seed {seed}{', bundled' * (seed == bundled)}" for seed in folders]
    lines = [["by the harness, percent", *heads, "95 % interval of the bundled", "n", "asked for"]]
    lines += [["---"] * len(lines[0])]
    for run, name, called, asked in ROWS:
        found = {seed: metric(folder, run, name) for seed, folder in folders.items()}
        low, high = found[bundled]["ci95"]
        values = [f"{each['value']:.1f}" for each in found.values()]
        lines.append([called, *values, f"{low:.1f} to {high:.1f}", f"{found[bundled]['n']}", asked])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_the_table_of_seeds_is_that_of_the_committed_runs() -> None:
    assert PAGE.read_text(encoding="utf-8").split(BEGIN, 1)[1].split(END, 1)[0] == table(), f"{__doc__}"


def test_every_seed_is_of_one_recipe() -> None:
    records = [json.loads((FOLDER / f"seed-{seed}.json").read_text(encoding="utf-8")) for seed in seeds()]
    recipes = [{**record["recipe"], "seed": None} for record in records]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert BUNDLED in records


if __name__ == "__main__" and "--write" in sys.argv:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN, 1)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END, 1)[1], encoding="utf-8")
