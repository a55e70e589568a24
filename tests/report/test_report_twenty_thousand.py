"""Twenty thousand items, every one with an image of its own: the page keeps its size, the server gives them all."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_report_question_images import a_run_of, pope_file

pytest.importorskip("starlette", reason="the extra `view` is not installed")
from starlette.testclient import TestClient
from test_report_serve import addresses

from armor_eval.report import viewer
from armor_eval.report.loading import load_runs
from armor_eval.report.page import render_page
from armor_eval.report.serve import Library, make_app

pytestmark = pytest.mark.slow

ITEMS = 20_000


def image_cell(seed: int) -> str:
    """A 96 px JPEG that no other item has, base64."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((96, 96)).save(buffer, format="JPEG", quality=70)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> tuple[Path, Path]:
    """(TSV, run folder) of a benchmark of twenty thousand questions."""
    folder = tmp_path_factory.mktemp("big")
    path = pope_file(folder, [image_cell(n) for n in range(ITEMS)])
    return path, a_run_of(path, folder / "run", ITEMS)


def test_a_page_of_twenty_thousand_images_stays_within_its_size_wrong_ones_first(bundle) -> None:
    path, folder = bundle
    views = load_runs([folder])
    page = render_page(views, data=path)
    size = len(page.encode())
    assert 0.8 * viewer.PAGE_BUDGET < size <= viewer.PAGE_BUDGET, f"{size:,} bytes"
    payload = viewer.pack(views, data=path)
    assert payload.images_kept + payload.images_left == payload.items == ITEMS
    wrong = [it for it in views[0].items() if it.status != "ok" or viewer.outcome(it) != 0]
    assert payload.urgent_left == max(0, len(wrong) - payload.images_kept)
    assert f"{payload.images_left:,} images are left out" in page


def test_a_served_page_names_every_image_and_is_smaller(bundle) -> None:
    path, folder = bundle
    client = TestClient(make_app(Library([folder], path)), base_url="http://127.0.0.1")
    (row,) = client.get("/api/runs").json()
    page = client.get("/runs", params={"run": row["key"]})
    named = addresses(page.text)
    assert len(set(named)) == ITEMS and len(page.content) < 0.5 * viewer.PAGE_BUDGET
    image = Image.open(io.BytesIO(client.get(named[-1]).content))
    assert image.size == (96, 96)
