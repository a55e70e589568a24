"""`armor-eval draw`: runs are recorded whole, resumed, compared; what is lost withholds the headline."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from suite_world import (
    GENEVAL2_GM,
    PROBABILITIES,
    QUESTIONS,
    ROWS,
    dpg_suite,
    geneval2_replies,
    geneval2_suite,
    replies,
    write_images,
)

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.comparable import reservations_of


def draw(suite: Path, judge: str, out: Path, *more: str) -> int:
    return main(["draw", "--suite", str(suite), "--model", "mock", "--judge", judge, "--out", str(out), *more])


def headline(folder: Path):
    return next(metric for metric in read_bundle(folder)[2].metrics if metric.primary)


def dpg_replies(path: Path, reply: str = "yes", judge: str = "mplug_visual-question-answering_coco_large_en") -> str:
    asked = [(item, probe) for item, probe, *_ in QUESTIONS]
    return replies(
        path,
        [
            {"item": item, "sample": k, "probe": probe, "reply": reply, "judge": judge}
            for item, probe in asked
            for k in range(4)
        ],
    )


def test_a_run_holds_what_its_numbers_hang_on(tmp_path):
    suite = geneval2_suite(tmp_path)
    assert draw(suite, geneval2_replies(tmp_path / "r.jsonl"), tmp_path / "out") == 0
    run, items, scores = read_bundle(tmp_path / "out" / "mine")
    assert headline(tmp_path / "out" / "mine").value == pytest.approx(GENEVAL2_GM)
    assert (run.kind, run.benchmark, run.status) == ("suite", "mine", "complete")
    assert run.judge.name == "org/Judge-8B" and run.judge.endpoint == "recorded" and len(run.judge.prompt_sha256) == 64
    assert run.scorer.settings["kind"] == "vqa_prob" and run.data.items == 3
    assert run.protocol["protocol"] == "mine" and run.protocol["samples"] == "1"
    assert not run.reservations and run.extras["drawing"] is not None
    assert [probe["value"] for probe in items[0].extras["probes"]] == pytest.approx(PROBABILITIES[0])
    assert (tmp_path / "out" / "mine" / "images" / f"{ROWS[0][0]}.png").is_file()
    assert sorted(path.name for path in (tmp_path / "out" / "mine" / "sheets").iterdir()) == ["3.png", "4.png"]
    by_name = {metric.name: metric for metric in scores.metrics}
    assert by_name["object"].value == pytest.approx(100 * (0.9 + 0.01) / 2) and by_name["object"].clusters == 2
    assert by_name["atomicity 4"].clusters == 1 and by_name["soft-TIFA GM"].ci95 is not None


def test_the_template_is_what_the_judge_is_told_and_part_of_its_identity(tmp_path, capsys):
    judge = geneval2_replies(tmp_path / "r.jsonl")
    assert draw(geneval2_suite(tmp_path), judge, tmp_path / "a") == 0
    assert draw(geneval2_suite(tmp_path, template='"{question} One word."'), judge, tmp_path / "b") == 0
    first, second = (read_bundle(tmp_path / name / "mine")[0].judge.prompt_sha256 for name in "ab")
    assert first != second
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) != 0
    assert "mine: judge differs: prompt_sha256" in capsys.readouterr().out


def test_another_judge_is_a_reservation(tmp_path):
    suite = geneval2_suite(tmp_path)
    assert draw(suite, geneval2_replies(tmp_path / "r.jsonl", judge="Tiny-VLM"), tmp_path / "out") == 0
    (reservation,) = reservations_of(read_bundle(tmp_path / "out" / "mine")[0])
    assert reservation.kind == "judge"
    assert reservation.text == "judged by Tiny-VLM, not by the suite's own judge org/Judge-8B"


def test_dpg_under_another_judge_is_another_suite(tmp_path):
    suite, judge = dpg_suite(tmp_path), dpg_replies(tmp_path / "r.jsonl", reply="Yes.", judge="org/Tiny-VLM")
    assert draw(suite, judge, tmp_path / "out") == 0
    run, _, _ = read_bundle(tmp_path / "out" / "dpg-vqa-Tiny-VLM")
    assert run.benchmark == "dpg-vqa:Tiny-VLM" and [r.kind for r in run.reservations] == ["judge"]
    assert headline(tmp_path / "out" / "dpg-vqa-Tiny-VLM").value == 100, "a chat model's `Yes.` is a yes"
    assert draw(suite, dpg_replies(tmp_path / "own.jsonl", reply="Yes."), tmp_path / "own") == 0
    assert headline(tmp_path / "own" / "stub-corrected").value == 0, "mPLUG's yes is `yes`, exactly"


def test_a_run_that_was_cut_ends_as_one_that_was_not(tmp_path, monkeypatch):
    suite, judge = geneval2_suite(tmp_path), geneval2_replies(tmp_path / "r.jsonl")
    assert draw(suite, judge, tmp_path / "whole", "--batch-size", "1") == 0
    assert draw(suite, judge, tmp_path / "cut", "--batch-size", "1") == 0
    folder = tmp_path / "cut" / "mine"
    lines = (folder / "items.jsonl").read_text().splitlines(keepends=True)
    (folder / "items.jsonl").write_text("".join(lines[:1]))
    (folder / "images" / f"{ROWS[2][0]}.png").write_bytes(b"\x89PNG cut")
    assert draw(suite, judge, tmp_path / "cut", "--batch-size", "1") == 0
    once, again = (read_bundle(tmp_path / name / "mine") for name in ("whole", "cut"))
    assert once[2] == again[2]
    assert [(i.id, i.score, i.extras) for i in once[1]] == [(i.id, i.score, i.extras) for i in again[1]]
    name = f"{ROWS[2][0]}.png"
    assert (folder / "images" / name).read_bytes() == (tmp_path / "whole" / "mine" / "images" / name).read_bytes()


def test_a_missing_image_is_counted_and_withholds_the_headline(tmp_path, capsys):
    images = write_images(tmp_path / "images", [ROWS[0][0], ROWS[1][0], "of another suite"])
    suite = geneval2_suite(tmp_path)
    command = [
        "draw",
        "--suite",
        str(suite),
        "--images",
        str(images),
        "--judge",
        geneval2_replies(tmp_path / "r.jsonl"),
    ]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    run, items, scores = read_bundle(tmp_path / "out" / "mine")
    assert run.status == "partial" and scores.withheld == "1 of 3 images have no score"
    assert headline(tmp_path / "out" / "mine").value is None
    assert [(item.status, item.reason) for item in items][2] == ("error", "the image is missing")
    said = capsys.readouterr().out
    assert "1 files of images belong to no prompt" in said and "without a score: 1 error" in said


def test_a_reply_that_is_not_there_withholds_too_and_is_asked_for_again(tmp_path):
    suite, lines = geneval2_suite(tmp_path), tmp_path / "r.jsonl"
    judge = geneval2_replies(lines)
    whole = lines.read_text()
    lines.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert draw(suite, judge, tmp_path / "out") == 1
    _, items, scores = read_bundle(tmp_path / "out" / "mine")
    assert scores.withheld and items[2].reason == "judge: no reply is recorded for question 1"


@pytest.mark.parametrize(("side", "reason"), [("16", "the grid is 64x64, expected 32x32 (2x2 of 16)"), ("32", None)])
def test_a_grid_of_another_size_is_not_cut_into_rubbish(tmp_path, side, reason):
    suite, judge = dpg_suite(tmp_path), dpg_replies(tmp_path / "r.jsonl")
    grids = write_images(tmp_path / "grids", ["a0", "b0"], (64, 64))
    command = ["draw", "--suite", str(suite), "--images", str(grids), "--judge", judge, "--out", str(tmp_path / "out")]
    assert main([*command, "--resolution", side]) == (1 if reason else 0)
    _, items, scores = read_bundle(tmp_path / "out" / "stub-corrected")
    assert {item.reason for item in items} == {reason} and bool(scores.withheld) == bool(reason)
    if reason is None:
        assert {item.extras["size"] for item in items} == {"32x32"} and headline(
            tmp_path / "out" / "stub-corrected"
        ).value == pytest.approx(100)


def test_a_grids_samples_are_its_quarters_in_reading_order(tmp_path):
    from PIL import Image

    grid = Image.new("RGB", (4, 4))
    for k, colour in enumerate(colours := [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]):
        grid.paste(colour, (k % 2 * 2, k // 2 * 2, k % 2 * 2 + 2, k // 2 * 2 + 2))
    folder = write_images(tmp_path / "grids", ["b0"], (4, 4))
    grid.save(folder / "a0.png")
    suite, judge = dpg_suite(tmp_path), dpg_replies(tmp_path / "r.jsonl")
    command = ["draw", "--suite", str(suite), "--images", str(folder), "--judge", judge, "--out", str(tmp_path / "out")]
    assert main([*command, "--resolution", "2"]) == 0
    stored = [tmp_path / "out" / "stub-corrected" / "images" / f"a0_{k}.png" for k in (1, 2, 3, 4)]
    assert [Image.open(path).getpixel((1, 1)) for path in stored] == colours


def test_several_suites_load_model_and_judge_once(tmp_path, monkeypatch):
    from armor_eval.models import registry
    from armor_eval.tasks.suites import judges

    loads: list[str] = []
    for module, name in ((registry, "load"), (judges, "load_judge")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, name=name, **k: (loads.append(name), real(*a, **k))[1])
    other = tmp_path / "other"
    other.mkdir()
    first, second = geneval2_suite(tmp_path), geneval2_suite(other).rename(other / "second.toml")
    second.write_text(second.read_text().replace('name = "mine"', 'name = "second"'))
    judge = geneval2_replies(tmp_path / "r.jsonl")
    assert (
        main(
            ["draw", "--suite", f"{first},{second}", "--model", "mock", "--judge", judge, "--out", str(tmp_path / "o")]
        )
        == 0
    )
    assert sorted(loads) == ["load", "load_judge"]
    assert headline(tmp_path / "o" / "mine").value == headline(tmp_path / "o" / "second").value


def test_compare_and_report_read_a_suite_whose_file_is_gone(tmp_path, capsys):
    suite, judge = geneval2_suite(tmp_path), geneval2_replies(tmp_path / "r.jsonl")
    for name in ("base", "candidate"):
        assert draw(suite, judge, tmp_path / name) == 0
    suite.unlink()
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "candidate")]) == 0
    assert "mine: soft-TIFA GM: same model, every answer identical" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "base" / "mine"), "--out", str(tmp_path / "page.html")]) == 0
    assert "soft-TIFA GM" in (tmp_path / "page.html").read_text()


def test_a_runs_own_replies_judge_again(tmp_path):
    suite = geneval2_suite(tmp_path)
    assert draw(suite, geneval2_replies(tmp_path / "r.jsonl"), tmp_path / "out") == 0
    again = f"replies:{tmp_path / 'out' / 'mine'}"
    images = tmp_path / "out" / "mine" / "images"
    command = [
        "draw",
        "--suite",
        str(suite),
        "--images",
        str(images),
        "--judge",
        again,
        "--out",
        str(tmp_path / "again"),
    ]
    assert main(command) == 0
    assert headline(tmp_path / "again" / "mine").value == pytest.approx(GENEVAL2_GM)


def test_a_limit_is_a_subset_spread_over_the_groups(tmp_path):
    suite, judge = geneval2_suite(tmp_path), geneval2_replies(tmp_path / "r.jsonl")
    assert draw(suite, judge, tmp_path / "out", "--limit", "2") == 0
    run, items, _ = read_bundle(tmp_path / "out" / "mine")
    assert sorted(item.group for item in items) == ["3", "4"] and run.subset.of_items == 3
    assert [r.kind for r in reservations_of(run)] == ["subset"]


@pytest.mark.slow
def test_draw_geneval_is_the_run_of_the_command_geneval(tmp_path):
    options = ["--model", "mock", "--profile", "shapes", "--limit", "2", "--samples", "1"]
    assert main(["draw", "--suite", "geneval", *options, "--out", str(tmp_path / "a")]) == 0
    assert main(["geneval", *options, "--out", str(tmp_path / "b")]) == 0
    (one, items, scores), (other, others, same) = (read_bundle(tmp_path / name / "geneval") for name in "ab")
    assert scores == same and one.protocol == other.protocol and one.scorer == other.scorer
    assert [(i.id, i.score, i.extras) for i in items] == [(i.id, i.score, i.extras) for i in others]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    suite, judge = dpg_suite(tmp_path), dpg_replies(tmp_path / "r.jsonl")
    assert draw(suite, judge, tmp_path / "one", "--batch-size", "2") == 0
    command = [
        "draw",
        "--suite",
        str(suite),
        "--model",
        "mock",
        "--judge",
        judge,
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "armor_eval",
    ]
    done = subprocess.run(
        [*launcher, *command, "--out", str(tmp_path / "two")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, two = (read_bundle(tmp_path / name / "stub-corrected") for name in ("one", "two"))
    assert two[0].device.processes == 2 and one[2] == two[2]
    assert [(i.id, i.score, i.extras) for i in one[1]] == [(i.id, i.score, i.extras) for i in two[1]]


def test_the_suite_of_the_contributing_page_runs(tmp_path):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    page = page[page.index("## Add a suite") :]
    for language, name in (("toml", "birds.toml"), ("python", "birds.py")):
        block = re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)
        (tmp_path / name).write_text(block[1])
    (tmp_path / "birds.txt").write_text("a wren\na robin\n")
    said = {("0", "there"): "Yes.", ("0", "kind"): "No, a robin", ("1", "there"): "no", ("1", "kind"): "yes"}
    lines = [{"item": item, "probe": probe, "reply": reply} for (item, probe), reply in said.items()]
    assert draw(tmp_path / "birds.toml", replies(tmp_path / "r.jsonl", lines), tmp_path / "out") == 0
    _, items, _ = read_bundle(tmp_path / "out" / "birds")
    assert [item.score for item in items] == [0.5, 0.0], "no bird, so no robin either"


def test_shards_of_a_suite_under_another_judge_are_joined(tmp_path):
    suite, judge = dpg_suite(tmp_path), dpg_replies(tmp_path / "r.jsonl", reply="Yes.", judge="org/Tiny-VLM")
    both, lines = f"{suite},{geneval2_suite(tmp_path)}", tmp_path / "both.jsonl"
    geneval2_replies(tmp_path / "p.jsonl", judge="org/Tiny-VLM")
    lines.write_text((tmp_path / "r.jsonl").read_text() + (tmp_path / "p.jsonl").read_text())
    assert draw(suite, judge, tmp_path / "whole", "--batch-size", "2") == 0
    for part in ("1/2", "2/2"):
        more = ["--batch-size", "2", "--shard", part]
        assert draw(Path(both), f"replies:{lines}", tmp_path / "parts", *more) == 0
    parts = [str(tmp_path / "parts" / f"dpg-vqa-Tiny-VLM-{k}of2") for k in (1, 2)]
    assert main(["merge", *parts, "--out", str(tmp_path / "joined")]) == 0
    one, joined = (read_bundle(tmp_path / name / "dpg-vqa-Tiny-VLM") for name in ("whole", "joined"))
    assert one[2] == joined[2] and joined[0].benchmark == "dpg-vqa:Tiny-VLM"
    assert [path.name for path in (tmp_path / "joined").iterdir()] == ["dpg-vqa-Tiny-VLM"], "the other suite is not run"
