"""reports/bases/equality.md can fail: a bug planted in our side moves its numbers, and rows are really packed."""

import pytest
from equality_table import controls, logits_difference, made, packed_difference
from test_model_every_base import slow_if

from armor_model.bases import BASES


@pytest.mark.parametrize("name", [slow_if(name in ("qwen2_5_vl", "smolvlm"), name) for name in BASES])
def test_a_planted_bug_shows(name):
    model, processor, talks = made(name)
    loss, examples, rows = packed_difference(model, processor, talks)
    assert rows < examples and loss < 1e-5 and logits_difference(model, processor, talks) <= 1e-4
    assert {bug: moved for bug, moved in controls(model, processor, talks).items() if moved < 1e-4} == {}
