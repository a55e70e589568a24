"""Two runs of a text suite: compared by prompt on the very formula, in a table, and on the page."""

import json

import pytest
from test_suite_chat_runs import images_in, numbers, replies_in

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle

DECLARED = """
name = "my-text"
title = "Mine"
judge = "ocr"
loader = "longtext:read"
reduction = "longtext"
samples = 2
images = "{id}_{sample1}"
options = { units = "words" }
groups = ["sign"]
[[files]]
name = "mine.jsonl"
"""


def test_a_ratio_of_sums_is_compared_by_prompt(tmp_path, capsys):
    ids = range(12)
    (tmp_path / "my.toml").write_text(DECLARED)
    rows = [{"prompt_id": i, "prompt": "p", "text": ["one two " * (1 + i % 3)], "category": "sign"} for i in ids]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = images_in(tmp_path / "images", *(f"{i:04d}_{k}" for i in ids for k in (1, 2)))
    for name, wrong in (("base", 1), ("worse", 9)):
        lines = [(f"{i:04d}", k, "1", "one" if i < wrong else "one two " * 3) for i in ids for k in (0, 1)]
        judge = replies_in(tmp_path / f"{name}.jsonl", *lines)
        command = ["draw", "--suite", str(tmp_path / "my.toml"), "--images", str(images), "--judge", judge]
        assert main([*command, "--out", str(tmp_path / name)]) == 0, capsys.readouterr().err
    base, worse = tmp_path / "base" / "my-text", tmp_path / "worse" / "my-text"
    total = sum(2 * 2 * (1 + i % 3) for i in ids)
    lost = sum(2 * (2 * (1 + i % 3) - 1) for i in ids if i < 9)
    assert numbers(worse)["text score"] == pytest.approx((total - lost) / total)
    metric = next(m for m in read_bundle(worse)[2].metrics if m.primary)
    assert metric.clusters == 12 and metric.n == 24 and metric.ci95 is not None
    capsys.readouterr()
    policy = tmp_path / "policy.toml"
    policy.write_text('[comparability]\nignore = ["judge"]\n')  # two files of replies, one judge
    assert main(["compare", str(base), str(worse), "--policy", str(policy)]) == 1
    said = capsys.readouterr().out
    assert "my-text" in said and "REGRESSION" in said
