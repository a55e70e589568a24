"""Every class that transformers lists for image and text to text, as far as it can be built small.

`make test` holds one of each kind; the rest is measured by the slow suite against the table in docs/models.md.
"""

import pytest
from probe import judge
from table import STATUS, explained, measure, read_table

KINDS = {
    "llava": "a chat template",
    "paligemma": "no template, and no question without an image",
    "blip-2": "no template: the processor places the image",
    "idefics2": "nested images",
    "mllama": "cross-attention: rows with and without an image",
    "florence2": "encoder and decoder",
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_each_kind(tiny_model, kind):
    said = judge(tiny_model(kind))
    assert [said.get(way) for way in ("loads", "image", "batch", "marks")] == ["yes"] * 4, said
    if kind == "mllama":
        assert said["mixed"] == "yes" and said["two images"] == "yes", said


def test_the_table_has_sixty_classes_and_explains_every_failure():
    rows = read_table()
    assert len(rows) >= 60 and set(KINDS) <= set(rows)
    assert all(row["status"] in STATUS.values() for row in rows.values())
    unexplained = [kind for kind, row in rows.items() if row["status"] != STATUS["works"] and not row["why"]]
    assert not unexplained
    assert all(explained(kind) for kind, row in rows.items() if row["status"] in (STATUS["not"], STATUS["unbuilt"]))


@pytest.mark.slow
def test_every_family_is_as_the_table_says(tmp_path):
    measured, rows = measure(tmp_path), read_table()
    assert {kind: row["status"] for kind, row in measured.items()} == {k: row["status"] for k, row in rows.items()}
