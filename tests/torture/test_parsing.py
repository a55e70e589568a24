"""One reader of JSON, TOML and literals: ValueError for whatever is wrong, at any depth; a bad image costs its item."""

from __future__ import annotations

import struct

import pytest
from harness_data import measure, seed_bench, write

from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_model.base.errors import UserError
from armor_model.base.parsing import MAX_DEPTH, json_of, literal_of, read_table, toml_of
from armor_model.convert.shards import Source

CELLS = ["[1" + "+1" * 99_999 + "]", "[{[]}]", "[" + "-" * 100_000 + "1]", "[" * 5_000 + "]" * 5_000, "[['a'", "[\x00]"]


@pytest.mark.parametrize("text", CELLS)
def test_a_literal_that_is_none(text):
    with pytest.raises(ValueError):
        literal_of(text)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 900, 100_000])
def test_what_is_nested_too_deep(levels):
    for parse, text in (
        (json_of, "[" * levels + "]" * levels),
        (json_of, '{"a":' * levels + "1" + "}" * levels),
        (toml_of, "a = " + "[" * levels + "]" * levels),
        (literal_of, "[" * levels + "]" * levels),
    ):
        with pytest.raises(ValueError):
            parse(text)


def test_what_is_well_formed():
    depth = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json_of(depth) and json_of(b'{"a": [1, "x"]}') == {"a": [1, "x"]}
    assert literal_of("['a', 2.5, (1,)]") == ["a", 2.5, (1,)]
    assert toml_of("a = [1, {b = 2}]") == {"a": [1, {"b": 2}]}


def test_a_file_that_holds_no_object_is_one_line(tmp_path):
    for content in (b"[1]", b"{", b"\xff", b"[" * 9_000):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(UserError, match=r"config\.json"):
            read_table(tmp_path / "config.json")
    with pytest.raises(UserError, match="is not there"):
        read_table(tmp_path / "none.json")


def test_a_malformed_image_cell_costs_its_item(tmp_path):
    frame = seed_bench(12)
    frame["image"] = frame["image"].where(frame.index >= 3, [*CELLS[:3], *frame["image"][3:]])
    write(frame, tmp_path / "SEEDBench_IMG.tsv")
    done = measure("SEED", MockModel(), tmp_path / "run", tmp_path)
    _, items, _ = read_bundle(done.path)
    assert [item.status == "error" for item in items] == [True] * 3 + [False] * 9
    assert all("list" in (item.reason or "") for item in items[:3])


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": null, "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
        b"[" * 50_000,
        b"\xff\xfe",
    ],
)
def test_a_damaged_safetensors_header_is_one_line(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match="damaged header"):
        Source(tmp_path)
