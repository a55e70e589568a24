"""The words a model is asked in, held by a snapshot (equality with VLMEvalKit's own: test_harness_parity)."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness_data import task_of

from armor_eval.tasks.understanding.declare import benchmarks, choose
from armor_eval.tasks.understanding.images import image_cells
from armor_eval.tasks.understanding.prompts import (
    build_question,
    decoded,
    image_marks,
    marked_prompt,
    parts,
    prompt_hash,
    tiles_each,
)

SNAPSHOT = Path(__file__).with_name("prompts_snapshot.json")


def current(tsv_folder) -> dict:
    found = {}
    for benchmark in benchmarks().values():
        if benchmark.in_paper:
            rows = task_of(benchmark.name, tsv_folder).table.rows
            shown = {row.id: marked_prompt(benchmark, row, len(image_cells(row.image))) for row in rows[:4]}
            found[benchmark.name] = {"hash": prompt_hash(benchmark), "prompts": shown}
    return found


def test_prompts_and_hashes_are_the_recorded_ones(tsv_folder):
    """To accept a change on purpose: write `current(...)` to the snapshot, and raise prompts.PROTOCOL."""
    assert current(tsv_folder) == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_tiles_and_upscaling(tsv_folder):
    by_name = benchmarks()
    assert tiles_each(by_name["MMMU"].prompt, 1) == 12 and by_name["MMMU"].prompt.upscale_first
    for name in ("MME", "MMVet", "MMB", "SEED", "HallusionBench", "POPE", "LLaVABench"):
        assert tiles_each(by_name[name].prompt, 1) == 6 and not by_name[name].prompt.upscale_first
    assert [tiles_each(by_name["MMMU"].prompt, n) for n in (5, 6, 8, 64, 99)] == [12, 10, 8, 1, 1]


def test_images_stand_where_the_protocol_puts_them(tsv_folder):
    assert parts(image_marks("What?", 1), ["P"]) == ["P", "\nWhat?"]
    assert parts(image_marks("Q", 2), ["P", "R"]) == ["Image-1: ", "P", "\nImage-2: ", "R", "\nQ"]
    assert parts(image_marks("Q", 0), []) == ["Q"]
    # A mark in the question's own words is text, not a picture.
    assert parts(image_marks("what does <image> mean?", 1), ["P"]) == ["P", "\nwhat does <image> mean?"]


def test_mmmu_doubles_its_first_image(tsv_folder):
    from armor_eval.models.armor import _Cutter

    benchmark = choose(["MMMU"])[0]
    row = next(r for r in task_of(benchmark.name, tsv_folder).table.rows if r.image.startswith("["))
    processor = SimpleNamespace(cut=lambda image, most: image.size)
    content = _Cutter(processor).content(build_question(benchmark, row, decoded(row)), 6)
    assert [part["tiles"] for part in content if part["type"] == "image"] == [(32, 32), (16, 16)]


@pytest.mark.parametrize("name", ["MMB", "MMMU"])
def test_a_chinese_question_is_asked_in_chinese(name):
    from armor_eval.tasks.understanding.prompts import question_text
    from armor_eval.tasks.understanding.table import Row

    row = Row("1", 1, {"question": "\u8fd9\u662f\u4ec0\u4e48?", "A": "x", "B": "y"}, None)
    chinese = "\u8bf7\u76f4\u63a5\u56de\u7b54\u9009\u9879\u5b57\u6bcd\u3002"
    assert question_text(choose([name])[0].prompt, row).endswith(chinese)
