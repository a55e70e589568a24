"""docs/ci.md: the example gate for one's own model decides at the tolerance that it comes with."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from paths import ROOT

from armor_eval.cli import main
from armor_eval.compare.formats import plain
from armor_eval.compare.policy import plan

WORKFLOW = (ROOT / "docs/ci/own-model.yml").read_text(encoding="utf-8")
STEPS = yaml.safe_load(WORKFLOW)["jobs"]["compare"]["steps"]
MEASURE, COMPARE = (s["run"].removeprefix("armor-eval ") for s in STEPS if s.get("run", "").startswith("armor-eval "))
MEASURE_BASE, SAVE = re.findall(r"#   armor-eval (.+)", WORKFLOW)


def typed(line: str, bench: str, model: Path | str) -> list[str]:
    """The workflow's line with the embedded profile in the place of the official data."""
    given = {'"$BENCH"': bench, '"$MODEL"': str(model), '--data "$DATA"': "--profile shapes"}
    for name, value in given.items():
        line = line.replace(name, value)
    return shlex.split(line)


def another(folder: Path, noise: float) -> Path:
    """armor-nano with noise on its matrices, as a share of their own spread: a model of another fingerprint."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    from armor_model import bundled

    shutil.copytree(bundled("armor-nano"), folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    random = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if weight.dim() > 1:
            drawn = torch.randn(weight.shape, generator=random)
            weights[name] = (weight.float() + noise * weight.float().std() * drawn).to(weight.dtype)
    save_file(weights, folder / "model.safetensors", metadata=metadata)
    return folder


@pytest.mark.parametrize("bench", ["POPE", pytest.param("MMB,POPE", marks=pytest.mark.slow)])
def test_the_example_passes_an_equal_model_and_catches_a_planted_regression(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(typed(MEASURE_BASE, bench, "armor-nano")) == 0
    assert main(shlex.split(SAVE)) == 0
    told = capsys.readouterr().out
    assert all(f"is tolerated in {name}" in told for name in bench.split(","))
    for noise, code, verdict in ((0.03, 0, "PASS"), (0.25, 1, "REGRESSION")):
        shutil.rmtree("runs/candidate", ignore_errors=True)
        assert main(typed(MEASURE, bench, another(tmp_path / f"noise-{noise}", noise))) == 0
        assert main(typed(COMPARE, bench, "")) == code
        assert Path("runs/compare/compare.md").read_text().startswith(f"## {verdict}: ")
        assert capsys.readouterr().out.count(verdict) >= len(bench.split(","))


def test_at_the_usual_tolerance_the_same_equal_model_is_inconclusive_and_told_what_its_size_decides(pair, capsys):
    base, candidate = pair(*([1.0] * 360 + [0.0] * 40 + [s] * 10 + [1 - s] * 10 for s in (0.0, 1.0)))
    assert main(["compare", str(base), str(candidate)]) == 0
    assert re.search(
        r"INCONCLUSIVE.*; at this size a tolerance of \d\.\d\d % decides", capsys.readouterr().out, re.DOTALL
    )


def test_the_page_says_what_power_says():
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \| (.+?) \| (.+?) \|$", (ROOT / "docs/ci.md").read_text(), re.MULTILINE)
    assert len(rows) == 9
    for benchmark, *cells in rows:
        found = plan(benchmark, None, None, 0.1, None)
        shown = (plain(value, found.unit, False) for value in (found.tolerance, found.caught))
        assert cells == [f"{found.clusters:,}", *shown]


def test_a_tolerance_is_the_one_at_which_the_needed_size_is_the_given_one():
    """The inverse of what `--drop` says: the size that passes an equal model at this tolerance."""
    from armor_eval.stats.power import passing_clusters, passing_tolerance

    for clusters in (200, 1164, 5000):
        tolerance = passing_tolerance(clusters, 0.1, 100.0)
        assert passing_clusters(tolerance, 0.1, 100.0) == pytest.approx(clusters, rel=0.01)


def test_a_drop_that_is_called_a_regression_is_measured_above_the_tolerance_in_four_of_five():
    import numpy as np

    from armor_eval.stats.power import exceeding_drop

    clusters, changed, tolerance = 1164, 0.1, 2.6
    drop = exceeding_drop(tolerance, clusters, changed, 100.0)
    rng = np.random.default_rng(0)
    flips = rng.multinomial(clusters, [changed / 2 + drop / 100, changed / 2, 1 - changed - drop / 100], size=20_000)
    measured = 100 * (flips[:, 0] - flips[:, 1]) / clusters
    assert np.mean(measured > tolerance) == pytest.approx(0.8, abs=0.02)
