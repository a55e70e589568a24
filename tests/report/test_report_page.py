"""What the page is packed from: budgets, order of pictures, flips, equal output for equal input."""

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from report_mocks import images, make_items, make_run, metric, shapes_run, write_bundle

from armor_eval.cli import main
from armor_eval.report import viewer
from armor_eval.report.loading import inside, load_runs
from armor_eval.report.page import render_page
from armor_eval.report.plots import aligned, plots
from armor_eval.runs.schema import Point
from armor_model.base.errors import UserError


def unpacked(payload: viewer.Payload) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(payload.table)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shown = images(20)
    return write_bundle(
        tmp_path / "pope", make_run(), [metric("F1", 75.0, (70.0, 80.0))], make_items(100, images=list(shown)), shown
    )


def test_the_table_carries_every_item(folder: Path) -> None:
    payload = viewer.pack(load_runs([folder]))
    table, items = unpacked(payload), make_items(100)
    assert table["id"] == [i.id for i in items]
    assert [table["statuses"][s] for s in table["status"]] == [i.status for i in items]
    assert [table["prompts"][p] for p in table["prompt"]] == [i.prompt for i in items]
    assert table["flip"] == []
    assert payload.cut == 0 and payload.images_left == 0 and payload.images_kept == 20


def test_failures_get_their_images_first(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(viewer, "ALL_IMAGES", 99)
    whole = viewer.pack(load_runs([folder]))
    monkeypatch.setattr(viewer, "PAGE_BUDGET", viewer.PAGE_REST + len(whole.table) + 1500)
    payload = viewer.pack(load_runs([folder]))
    table, kept = unpacked(payload), set(json.loads(payload.images))
    assert 0 < payload.images_kept < 20 and payload.images_left > 0
    first_failure = next(i for i, o in enumerate(table["outcome"]) if o != 0)
    assert table["seen"][first_failure][0] in kept
    assert any(seen and seen[0] not in kept for seen in table["seen"])


def test_long_texts_are_cut_until_the_table_fits_and_failures_keep_more(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    items = [i.model_copy(update={"output": rng.bytes(3000).hex()}) for i in make_items(40)]
    write_bundle(tmp_path / "a", make_run(), [metric("F1", 75.0, None)], items)
    monkeypatch.setattr(viewer, "TEXT_BUDGET", 30_000)
    payload = viewer.pack(load_runs([tmp_path]))
    assert len(payload.table) <= 40_000 and payload.cut >= 40
    table = unpacked(payload)
    longest = {o: max(len(t) for t, k in zip(table["output"], table["outcome"], strict=True) if k == o) for o in (0, 2)}
    assert longest[2] > longest[0]


def test_a_record_cannot_name_a_file_outside_its_bundle(folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes(next(iter(images(1).values())))
    assert inside(folder, "../secret.png") is None
    assert inside(folder, str(folder.parent / "secret.png")) is None
    assert inside(folder, "images/\x00") is None
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    assert inside(folder, "link.png") is None


def test_flips_name_runs_and_items_that_exist(folder: Path) -> None:
    views = load_runs([folder])
    with pytest.raises(UserError, match="not among the given bundles"):
        viewer.pack(views, [viewer.Flip("q000001", "pope-a", "other", "lost")])
    with pytest.raises(UserError, match="does not hold"):
        viewer.pack(views, [viewer.Flip("nothing", "pope-a", "pope-a", "lost")])
    assert "No item changed." in render_page(views, flips=[], docs=[], with_plots=False)


def test_equal_bundles_make_equal_pages(folder: Path) -> None:
    write_bundle(
        folder.parent / "s", shapes_run("s", "understanding", "POPE"), [metric("F1", 90.0, (80.0, 95.0))], make_items(5)
    )
    assert render_page(load_runs([folder.parent])) == render_page(load_runs([folder.parent]))


def test_curves_are_drawn_over_the_steps_that_all_seeds_share(tmp_path: Path) -> None:
    points = [
        Point(step=s, name="loss/image", value=1.0 / (s + 1) + k, arm=f"switching/seed{k}")
        for k in range(3)
        for s in range(0, 50, 10)
    ]
    write_bundle(
        tmp_path,
        shapes_run("h", "ablate-heads", "ablate-heads"),
        [metric("auc/switching", 1.0, None, "nats")],
        series=points[:-1],
    )
    made = [p for p in plots(load_runs([tmp_path])) if "training image loss" in p.title]
    assert "mean and range of 3 seeds" in made[0].title
    assert "currentColor" in made[0].svg and "#010203" not in made[0].svg
    steps, values_RS = aligned([[(0, 1.0), (10, 2.0)], [(0, 3.0)]])
    assert steps.tolist() == [0] and values_RS.tolist() == [[1.0], [3.0]]


def test_unfinished_runs_are_named_before_the_numbers(tmp_path: Path, capsys) -> None:
    write_bundle(
        tmp_path / "a",
        make_run(status="partial", status_reason="2 items missing"),
        [metric("F1", 75.0, None)],
        make_items(8),
    )
    assert main(["report", str(tmp_path / "a"), "--out", str(tmp_path / "r.html")]) == 0
    assert "is partial: 2 items missing" in capsys.readouterr().err
    text = (tmp_path / "r.html").read_text()
    assert "1 run, 1 not complete" in text and text.index("is partial") < text.index('id="items"')
