"""`armor-eval view`: the table of all runs, pages with full images, a live run; foreign hosts and paths are refused."""

import base64
import fcntl
import io
import json
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
from PIL import Image
from report_mocks import images, make_items, make_run, metric, shapes_run, write_bundle
from test_report_question_images import a_run_of, noise, pope_file

pytest.importorskip("starlette", reason="the extra `view` is not installed")
from starlette.testclient import TestClient

from armor_eval.cli import main
from armor_eval.report.serve import Library, make_app

HOSTILE = "</script><script>window.hacked=1</script>"


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A complete run with drawings, one that nobody writes any more, one that cannot be read."""
    shown = images(4)
    items = make_items(12)
    names = [*shown, "../../secret.png"]
    items = [item.model_copy(update={"output_images": [names[n % 5]]}) for n, item in enumerate(items)]
    root = tmp_path / "runs"
    write_bundle(
        root / "drawn",
        shapes_run("drawn", "geneval", "geneval", items=12),
        [metric("overall", 75.0, (60.0, 90.0))],
        items,
        shown,
    )
    write_bundle(
        root / "older",
        make_run("older", status="running", started="2026-11-01T00:00:00+00:00", model=HOSTILE, items=40),
        [],
        make_items(7),
    )
    (root / "older" / "scores.json").unlink()
    (root / "bad").mkdir()
    (root / "bad" / "run.json").write_text("{}")
    (tmp_path / "secret.png").write_bytes(next(iter(shown.values())))
    return root


def client_of(*roots: Path, data: Path | None = None) -> TestClient:
    return TestClient(make_app(Library(roots, data)), base_url="http://127.0.0.1:8765")


def addresses(text: str) -> list[str]:
    """Of the images that a page names."""
    found = re.search(r'id="picture-data">(.*?)</script>', text, re.S)
    return [address for _, _, _, address in json.loads(found[1]).values()]


def test_the_table_has_every_run_with_its_state_also_what_cannot_be_read(roots: Path) -> None:
    client = client_of(roots)
    rows = {row["folder"]: row for row in client.get("/api/runs").json()}
    assert set(rows) == {"runs/drawn", "runs/older", "runs/bad"}
    drawn = rows["runs/drawn"]
    assert (drawn["state"], drawn["score"], drawn["interval"]) == ("complete", "75.0 %", "60.0 to 90.0")
    assert (drawn["value"], drawn["items"], drawn["of"]) == (75.0, 12, 12)
    assert (rows["runs/older"]["state"], rows["runs/older"]["value"]) == ("interrupted", None)
    assert rows["runs/bad"]["state"] == "unreadable" and "run.json" in rows["runs/bad"]["why"]
    page = client.get("/")
    assert page.status_code == 200 and HOSTILE not in page.text and "window.hacked" in page.text
    assert str(roots.parent) not in page.text.replace(rows["runs/bad"]["why"], "")


def test_a_page_names_images_by_address_and_gives_them_whole(roots: Path) -> None:
    client = client_of(roots)
    key = next(row["key"] for row in client.get("/api/runs").json() if row["folder"] == "runs/drawn")
    page = client.get("/runs", params={"run": key})
    named = addresses(page.text)
    assert len(named) == 4 and "data:image" not in page.text
    for address in named:
        image = client.get(address)
        assert image.headers["content-type"] == "image/png" and image.headers["x-content-type-options"] == "nosniff"
        assert image.content in {
            (roots / "drawn" / "images" / p.name).read_bytes() for p in (roots / "drawn" / "images").iterdir()
        }
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert client.get("/runs").status_code == client.get("/runs", params={"run": "../.."}).status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "../../secret.png",
        "..%2F..%2Fsecret.png",
        "%2E%2E%2F%2E%2E%2Fsecret.png",
        "/etc/passwd",
        "run.json",
        "items.jsonl",
        "images/../run.json",
    ],
)
def test_only_images_that_a_record_names_inside_its_bundle_are_given_out(roots: Path, name: str) -> None:
    client = client_of(roots)
    key = next(row["key"] for row in client.get("/api/runs").json() if row["folder"] == "runs/drawn")
    assert client.get("/runs", params={"run": key}).status_code == 200
    assert client.get(f"/image/{key}/{name}").status_code == 404
    assert client.get(f"/image/nothing/{name}").status_code == 404
    # A record may name a file of its bundle that is no image.
    library = Library([roots])
    library._files[key, "run.json"] = roots / "drawn"
    assert library.image(key, "run.json") is None


def test_a_link_out_of_the_bundle_is_not_followed(roots: Path) -> None:
    target = next((roots / "drawn" / "images").iterdir())
    target.unlink()
    target.symlink_to(roots.parent / "secret.png")
    client = client_of(roots)
    key = next(row["key"] for row in client.get("/api/runs").json() if row["folder"] == "runs/drawn")
    assert len(addresses(client.get("/runs", params={"run": key}).text)) == 3
    assert client.get(f"/image/{key}/images%2F{target.name}").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "0.0.0.0"])
def test_a_request_to_another_name_is_refused(roots: Path, host: str) -> None:
    for path in ("/", "/api/runs"):
        assert client_of(roots).get(path, headers={"host": host}).status_code == 400
    assert client_of(roots).get("/", headers={"host": "localhost:1"}).status_code == 200
    assert client_of(roots).post("/").status_code == 405


def test_a_run_that_is_going_on_is_live_until_it_has_ended(roots: Path) -> None:
    client = client_of(roots)
    run = roots / "older"

    def row() -> dict:
        return next(row for row in client.get("/api/runs").json() if row["folder"] == "runs/older")

    lock = (run / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert (row()["state"], row()["items"], row()["of"]) == ("running", 7, 40)
    page = client.get("/runs", params={"run": row()["key"]}).text
    assert f'data-runs="{row()["key"]}" data-items="7"' in page
    line = make_items(9)[8].model_dump_json()
    with (run / "items.jsonl").open("a") as journal:
        journal.write(line[:30])
        journal.flush()
        assert row()["items"] == 7  # a line that is being written
        journal.write(line[30:] + "\n")
    assert row()["items"] == 8 and sum(row()["counts"].values()) == 8
    shutil.copy(run / "items.jsonl", run / "new")
    (run / "new").replace(run / "items.jsonl")  # as a run that finishes does
    assert row()["items"] == 8
    lock.close()
    assert row()["state"] == "interrupted"
    assert "data-runs=" not in client.get("/runs", params={"run": row()["key"]}).text


def test_question_images_come_from_the_measured_file_one_address_an_image(tmp_path: Path) -> None:
    data = [noise(n, 40) for n in range(3)]
    texts = [base64.b64encode(one).decode() for one in data]
    file = pope_file(tmp_path, [texts[0], str([texts[1], texts[2]])])
    client = client_of(a_run_of(file, tmp_path / "runs", 2), data=file)
    (row,) = client.get("/api/runs").json()
    named = addresses(client.get("/runs", params={"run": row["key"]}).text)
    given = [Image.open(io.BytesIO(client.get(address).content)).tobytes() for address in named]
    assert sorted(given) == sorted(Image.open(io.BytesIO(one)).convert("RGB").tobytes() for one in data)
    assert client.get(named[0].rsplit("/", 1)[0] + "/9").status_code == 404
    assert client_of(tmp_path / "runs", data=file).get(named[0]).status_code == 404  # nothing was shown yet


def test_bad_input_is_one_line(tmp_path: Path, capsys, monkeypatch) -> None:
    assert main(["view", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["view", str(tmp_path), "--port", str(other.getsockname()[1])]) == 2
    assert "cannot be used: Address already in use" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["view", str(tmp_path)]) == 2
    assert "view needs uvicorn - pip install 'armor-eval[view]'" in capsys.readouterr().err
