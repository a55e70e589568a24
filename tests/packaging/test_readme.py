"""The README's numbers of armor-nano are those of the committed runs, and what it names exists.

python tests/packaging/test_readme.py --write      writes its table anew
"""

from __future__ import annotations

import json
import re
import sys

import pytest
from paths import ROOT

README = ROOT / "README.md"
RUNS = ROOT / "reports" / "runs"
BASELINE = ROOT / "reports" / "baselines" / "armor-nano"
BEGIN, END = "|---|---|---|---|---|\n", "<!-- nano: end -->"
MEASURED = ("MMMU", "MME", "MMVet", "MMB", "SEED", "HallusionBench", "POPE", "LLaVABench", "geneval")
ROWS = (*MEASURED, "modality", "conversation")


def primary(run: str) -> dict | None:
    """The headline metric of a committed run; None where there is no such run."""
    file = RUNS / run / "scores.json"
    if not file.is_file():
        return None
    return next(metric for metric in json.loads(file.read_text())["metrics"] if metric["primary"])


def shown(metric: dict | None) -> str:
    if metric is None:
        return "-"
    unit = {"%": " %", "points": " points"}.get(metric["unit"], "")
    return f"{metric['value']:.3f}" if metric["unit"] == "score" else f"{metric['value']:.1f}{unit}"


def table() -> str:
    lines = []
    for name in ROWS:
        metric = primary(name)
        low, high = (f"{end:.{3 if metric['unit'] == 'score' else 1}f}" for end in metric["ci95"])
        what = {"geneval": "GenEval's rules", "conversation": "conversations"}.get(name, name)
        cells = (f"{what}, {metric['name']}", shown(metric), f"{low} to {high}", shown(primary(f"{name}-blind")))
        lines.append(f"| {' | '.join(cells)} | {metric['n']:,} |\n")
    return "".join(lines)


def test_the_table_of_armor_nano_is_that_of_the_committed_runs() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.split(BEGIN, 1)[1].split(END, 1)[0] == table(), "python tests/packaging/test_readme.py --write"


def test_the_demos_output_in_the_readme_is_the_committed_baselines() -> None:
    text = README.read_text(encoding="utf-8")
    for name in ("MMB", "POPE"):
        metric = primary(name)
        low, high = metric["ci95"]
        assert re.search(rf"{name}\s+{metric['value']:.1f} %\s+{low:.1f} to {high:.1f}\s+{metric['n']} ", text), name


def test_what_the_readme_says_is_bad_is_what_was_measured() -> None:
    text = README.read_text(encoding="utf-8")
    metrics = json.loads((RUNS / "conversation" / "scores.json").read_text())["metrics"]
    longest = next(metric for metric in metrics if metric["name"] == "4 turns")
    assert f"of four turns {longest['value']:.0f} % end right" in text
    assert "one answer in nine has the wrong" in text and round(100 / (100 - primary("modality")["value"])) == 9


def test_the_baseline_of_armor_nano_and_the_runs_of_the_tables_are_one_measurement() -> None:
    """Ten runs are kept twice, since each copy lacks what the other is for: items to compare by, packages to cite."""
    kept = {folder.name.removesuffix("-shapes"): folder for folder in BASELINE.iterdir() if folder.is_dir()}
    assert set(kept) == {*MEASURED, "MME-P"}
    for name, folder in kept.items():
        assert (folder / "scores.json").read_bytes() == (RUNS / name / "scores.json").read_bytes(), name
        models = [json.loads((path / "run.json").read_text())["model"] for path in (folder, RUNS / name)]
        assert models[0] == models[1], name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_every_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
    assert not missing


if __name__ == "__main__" and "--write" in sys.argv:
    before, rest = README.read_text(encoding="utf-8").split(BEGIN, 1)
    README.write_text(before + BEGIN + table() + END + rest.split(END, 1)[1], encoding="utf-8")
