"""`--repeats`: sampled drawing again with other seeds, and what varies between them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from armor_eval.cli import main
from armor_eval.report.loading import load_runs
from armor_eval.report.page import render_page
from armor_eval.report.results import found
from armor_eval.runs.bundle import read_bundle

DRAW = ["draw", "--suite", "shapes-vqa", "--limit", "3", "--image-temperature", "4"]
"""So hot that drawings fail, and fail otherwise with each seed."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of two repeats of two suites, and what the command printed."""
    out = tmp_path_factory.mktemp("repeats")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("armor_eval.cli.common.write", lines.append)
        words = [*DRAW, "--suite", "geneval", "--samples", "1", "--seed", "5", "--repeats", "2", "--out", str(out)]
        assert main([*words, "--json"]) == 0
    return out, "\n".join(lines)


def test_every_suite_is_drawn_again_with_each_seed(measured: tuple[Path, str]) -> None:
    out, _ = measured
    assert sorted(folder.name for folder in out.iterdir()) == [
        *("geneval@5", "geneval@6", "shapes-vqa@5", "shapes-vqa@6")
    ]
    for suite in ("geneval", "shapes-vqa"):
        (one, some, _), (other, others, _) = (read_bundle(out / f"{suite}@{seed}") for seed in (5, 6))
        assert (one.seeds["pictures"], other.seeds["pictures"]) == (5, 6) and one.subset == other.subset
        assert [item.prompt for item in some] == [item.prompt for item in others]
        names = [item.output_images[0] for item in some]
        assert names == [item.output_images[0] for item in others]
        for name in names:
            assert len({(out / f"{suite}@{seed}" / name).read_bytes() for seed in (5, 6)}) == 2, "drawn anew"


def test_what_varies_stands_in_json_tables_and_page(measured: tuple[Path, str]) -> None:
    out, text = measured
    told = {one["benchmark"]: one for one in json.loads(text)["repeats"]}
    assert set(told) == {"geneval", "shapes-vqa"}
    views = load_runs([out])
    for one in found(views):
        record = one.record()
        assert record == told[record["benchmark"]] | {
            "ci95": record["ci95"],
            "ci95_over_both": record["ci95_over_both"],
        }
        assert record["values"] == [view.primary.value for view in one.views if view.primary is not None]
        low, high = record["ci95_over_both"]
        assert low <= record["mean"] <= high and record["sd"] is not None
    assert "SD between seeds" in render_page(views, with_plots=False)


def test_only_what_differs_by_its_seed_is_a_repeat(measured: tuple[Path, str], tmp_path: Path, capsys) -> None:
    out, _ = measured
    greedy = [*DRAW[:-1], "0", "--seed", "5"]
    assert main([*greedy, "--out", str(tmp_path / "greedy")]) == 0
    capsys.readouterr()
    one, again = load_runs([out / "shapes-vqa@5"]), load_runs([out / "shapes-vqa@5"])
    assert found([*one, *again]) == [], "the same seed twice"
    assert found([*one, *load_runs([tmp_path / "greedy"])]) == [], "another decoding"
    assert len(found(load_runs([out]))) == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([*DRAW[:-1], "0", "--repeats", "2"], "greedy"),
        ([*DRAW[:-2], "--images", ".", "--repeats", "2"], "there already"),
        (["geneval", "--image-temperature", "0", "--repeats", "2"], "greedy"),
        (["geneval", "--images", ".", "--repeats", "2"], "there already"),
        (["modality", "--image-temperature", "0", "--repeats", "2"], "greedy"),
        (["interleaved", "--image-temperature", "0", "--repeats", "2"], "greedy"),
    ],
)
def test_where_nothing_is_sampled_it_is_refused(words: list[str], why: str, tmp_path: Path, capsys) -> None:
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("armor-eval: --repeats draws seeds of a sampled run") and why in said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_answers_of_text_and_images_repeat_too(tmp_path: Path, capsys) -> None:
    assert main(["modality", "--limit", "1", "--repeats", "2", "--json", "--out", str(tmp_path)]) == 0
    [one] = json.loads(capsys.readouterr().out)["repeats"]
    assert one["benchmark"] == "modality" and len(one["values"]) == 2 and one["ci95_over_both"] is not None
