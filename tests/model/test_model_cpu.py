"""Attention of one query a row, as steps on a CPU compute it: what SDPA gives, from the slots that a row sees alone."""

import pytest
import torch
from test_model_engine import run_engine
from torch.nn import functional as F

from armor_model import GenerationSettings
from armor_model.generation import cpu

FIRST = {"none": None, "near": [0, 3, 9, 0], "far": [70, 70, 0, 85], "mixed": [2, 75, 80, 0]}


@pytest.fixture(params=[1, 2])
def threads(request, monkeypatch):
    """One thread, in which NumPy multiplies, and several, in which SDPA does; a cache of any size."""
    monkeypatch.setattr(cpu, "FEWEST", 0)
    monkeypatch.setattr(cpu, "NARROWEST", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def inputs(heads, width=1, slots=90):
    torch.manual_seed(0)
    caches = torch.randn(2, 5, 3, 100, 8)[:, :4, :, :slots]  # more rows and slots are allocated than are seen
    return torch.randn(4, heads, width, 8), caches[0], caches[1]


def mask_of(first, slots=90):
    return None if first is None else torch.arange(slots)[None, None, None] >= torch.tensor(first)[:, None, None, None]


def reference(query, keys, values, mask, scaling):
    """SDPA in float64."""
    groups = query.shape[1] // keys.shape[1]
    keys, values = (each.double().repeat_interleave(groups, 1) for each in (keys, values))
    return F.scaled_dot_product_attention(query.double(), keys, values, mask, scale=scaling).transpose(1, 2)


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
@pytest.mark.parametrize(("heads", "scaling"), [(3, 0.3), (3, None), (6, 0.3)])
def test_one_query_is_attended_as_by_sdpa(threads, first, heads, scaling):
    query, keys, values = inputs(heads)
    mask = mask_of(first)
    with torch.inference_mode():
        out, weights = cpu.attend(None, query, keys, values, mask, scaling=scaling)
    assert weights is None and out.shape == (4, 1, heads, 8)
    assert (out - reference(query, keys, values, mask, scaling)).abs().max() < 1e-6


def test_a_mask_with_holes_is_kept_to(threads):
    query, keys, values = inputs(3)
    mask = torch.rand(4, 1, 1, 90) < 0.5
    mask[1:3, ..., :70] = False
    out, _ = cpu.attend(None, query, keys, values, mask, scaling=0.3)
    assert (out - reference(query, keys, values, mask, 0.3)).abs().max() < 1e-6


def test_rows_that_begin_far_behind_others_read_their_own_slots_only(threads):
    """What lies before them is never touched: not even a NaN there comes through."""
    query, keys, values = inputs(3)
    keys[1:3, :, :70] = values[1:3, :, :70] = torch.nan
    out, _ = cpu.attend(None, query, keys, values, mask_of([0, 70, 75, 1]), scaling=0.3)
    assert out.isfinite().all()


def test_what_is_not_one_query_is_left_to_sdpa(threads):
    """Several queries with a mask for each, and one query with another kind of mask."""
    module = torch.nn.Identity()
    for width, mask in ((2, torch.rand(4, 1, 2, 90) < 0.9), (1, torch.randn(4, 3, 1, 90))):
        query, keys, values = inputs(3, width)
        out, _ = cpu.attend(module, query, keys, values, mask, scaling=0.3)
        expected = F.scaled_dot_product_attention(query, keys, values, mask, scale=0.3)
        assert torch.equal(out, expected.transpose(1, 2))


@pytest.mark.parametrize(("limit", "least"), [("FEWEST", 4 * 3 * 90 * 8 + 1), ("NARROWEST", 9)])
def test_a_small_cache_is_left_to_sdpa(threads, limit, least, monkeypatch):
    monkeypatch.setattr(cpu, "_attention", lambda *_: pytest.fail("computed here"))
    monkeypatch.setattr(cpu, limit, least)
    query, keys, values = inputs(3)
    out, _ = cpu.attend(torch.nn.Identity(), query, keys, values, None, scaling=0.3)
    assert torch.equal(out, F.scaled_dot_product_attention(query, keys, values, scale=0.3).transpose(1, 2))


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.parametrize("draws", [True, False])
def test_images_and_answers_are_those_of_sdpa(talker, conversations, draws, threads, monkeypatch):
    """Sampled, guided, prompts of several lengths, one so long that its unconditional row begins far behind it."""
    settings = GenerationSettings(max_new_tokens=8, temperature=1.0, max_images=1, guidance=2.0, force_image=draws)
    long = [{"role": "user", "content": "what is it and draw a picture of it . " * 10}]
    asked, calls, attend = [*conversations, long], [], cpu.attend
    monkeypatch.setattr(cpu, "attend", lambda *given, **named: (calls.append(0), attend(*given, **named))[1])
    _, ours = run_engine(talker, asked, settings, batch_size=3)
    assert calls
    del calls[:]
    monkeypatch.setattr(cpu, "_register", lambda: None)
    monkeypatch.setattr(cpu, "ATTENTION", "sdpa")
    _, theirs = run_engine(talker, asked, settings, batch_size=3)
    assert ours == theirs and not calls
