"""Question images on the page: of the file that was measured and of no other, wrong answers first where it is full."""

import base64
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_mocks import make_items, make_run, metric, write_bundle

from armor_eval.cli import main
from armor_eval.report import viewer
from armor_eval.report.loading import load_runs
from armor_eval.report.viewer import Flip
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import DataInfo
from armor_eval.tasks.understanding.data import locate
from armor_eval.tasks.understanding.declare import benchmarks
from armor_eval.tasks.understanding.table import read_table


def noise(seed: int, side: int = 200) -> bytes:
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def pope_file(folder: Path, cells: list[str]) -> Path:
    """A file in POPE's layout with invented questions."""
    lines = ["index\tquestion\tanswer\tcategory\timage_path\timage"]
    lines += [f"{n}\tIs there a cup?\tYes\trandom\tp{n}.jpg\t{cell}" for n, cell in enumerate(cells)]
    path = folder / "POPE.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def a_run_of(path: Path, folder: Path, count: int, run_id: str = "pope-a", seed: int = 0) -> Path:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    run = make_run(run_id, data=DataInfo(name="POPE", sha256=sha256, items=count))
    items = [
        item.model_copy(update={"images": [f"POPE.tsv#{n}"]}) for n, item in enumerate(make_items(count, seed=seed))
    ]
    return write_bundle(folder, run, [metric("F1", 85.0, (80.0, 90.0))], items)


def images_of(payload: viewer.Payload) -> dict[str, Image.Image]:
    made = json.loads(payload.images)
    return {key: Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for key, (_, _, _, data) in made.items()}


def test_a_page_of_the_embedded_profile_shows_the_pixels_that_were_asked(tmp_path: Path) -> None:
    assert main(["understanding", "--bench", "MME", "--limit", "6", "--out", str(tmp_path / "mme")]) == 0
    assert main(["report", str(tmp_path / "mme"), "--out", str(tmp_path / "page.html")]) == 0
    (view,) = load_runs([tmp_path / "mme"])
    payload = viewer.pack([view])
    assert payload.missing == [] and payload.images_left == 0
    assert payload.images in (tmp_path / "page.html").read_text()
    _, items, _ = read_bundle(view.path)
    rows = {
        row.id: row
        for row in read_table(
            benchmarks()["MME"], locate(benchmarks()["MME"], "shapes", None), need_published=False
        ).rows
    }
    expected = {row.images()[0].tobytes() for row in (rows[item.id] for item in items)}
    assert {image.tobytes() for image in images_of(payload).values()} == expected and len(expected) > 1


def test_only_the_measured_file_gives_images_and_the_page_says_what_is_missing(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setenv("LMUData", str(tmp_path / "nothing"))
    one, two = base64.b64encode(noise(1)).decode(), base64.b64encode(noise(2)).decode()
    (tmp_path / "data").mkdir()
    path = pope_file(tmp_path / "data", [one, f"['{one}', '{two}']", "0", "not base64 at all"])
    folder = a_run_of(path, tmp_path / "run", 4)
    payload = viewer.pack(load_runs([folder]), data=tmp_path / "data")
    assert payload.missing == [] and len(images_of(payload)) == 3, "one, a list of two, a reference to the first"
    assert sorted(key.partition("~")[2] for key in images_of(payload)) == ["", "", "1"]
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    told = f"no POPE.tsv in {tmp_path}/nothing (--data FOLDER)"
    assert told in (tmp_path / "page.html").read_text() and told in caplog.text
    path.write_text(path.read_text().replace("cup", "mug"))
    payload = viewer.pack(load_runs([folder]), data=path)
    assert images_of(payload) == {} and "another sha256" in payload.missing[0]


def test_all_images_of_few_items_and_of_many_the_wrong_ones_until_the_page_is_full(tmp_path: Path, monkeypatch):
    path = pope_file(tmp_path, [base64.b64encode(noise(n)).decode() for n in range(40)])
    views = load_runs([a_run_of(path, tmp_path / "run", 40)])
    monkeypatch.setattr(viewer, "PAGE_BUDGET", viewer.PAGE_REST + 400_000)
    payload = viewer.pack(views, data=path)
    assert payload.images_kept == 40 and len(payload.images) > 400_000
    monkeypatch.setattr(viewer, "ALL_IMAGES", 39)
    payload = viewer.pack(views, data=path)
    assert payload.images_kept + payload.images_left == 40 and payload.urgent_left == 0 < payload.images_left
    assert len(payload.images) + len(payload.table) < 450_000
    wrong = sum(viewer.outcome(item) != 0 or item.status != "ok" for item in views[0].items())
    assert wrong <= payload.images_kept
    monkeypatch.setattr(viewer, "PAGE_BUDGET", viewer.PAGE_REST + 60_000)
    assert viewer.pack(views, data=path).urgent_left > 0


def test_flips_show_the_images_of_their_questions(tmp_path: Path) -> None:
    path = pope_file(tmp_path, [base64.b64encode(noise(n, 32)).decode() for n in range(10)])
    folders = [a_run_of(path, tmp_path / name, 10, name, seed) for seed, name in enumerate(("base", "candidate"))]
    payload = viewer.pack(load_runs(folders), [Flip("q000003", "base", "candidate", "lost")], data=path)
    (shown,) = images_of(payload).values()
    assert shown.tobytes() == Image.open(io.BytesIO(noise(3, 32))).tobytes()


@pytest.mark.parametrize("name", ["../POPE.tsv#0", "/etc/POPE.tsv#0"])
def test_a_record_cannot_name_a_file_elsewhere(name: str, tmp_path: Path) -> None:
    path = pope_file(tmp_path, [base64.b64encode(noise(0)).decode()])
    folder = a_run_of(path, tmp_path / "data" / "run", 1)
    journal = folder / "items.jsonl"
    journal.write_text(journal.read_text().replace("POPE.tsv#0", name))
    payload = viewer.pack(load_runs([folder]), data=tmp_path / "data")
    assert images_of(payload) == {} and "is no file's name" in payload.missing[0]
