"""`--download` against a local server: whole, resumed, another file, no range; and what `doctor --data` says of it."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from harness_data import seed_bench, the_run, write

from armor_eval.base.data import fetch
from armor_eval.cli import main
from armor_eval.tasks.understanding import declare
from armor_model.base.errors import RunFailed


class FileServer:
    """Serves `content` at every path; `cut` ends the first replies after so many bytes, `ranges` off ignores Range."""

    def __init__(self, content: bytes) -> None:
        self.content, self.cut, self.ranges, self.asked = content, [], True, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.asked.append(wanted)
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and outer.ranges else 0
                if self.path == "/gone":
                    return self.send_error(404)
                if start >= len(outer.content):
                    return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(outer.content) - start))
                self.end_headers()
                data = outer.content[start:]
                self.wfile.write(data[: outer.cut.pop(0)] if outer.cut else data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/SEEDBench_IMG.tsv"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of SEED-Bench's file, and a declaration that points to it: the second of two editions."""
    content = write(seed_bench(8), tmp_path / "source.tsv").read_bytes()
    with FileServer(content) as server:
        seed = declare.benchmarks()["SEED"]
        md5 = {"first": "0" * 32, "second": hashlib.md5(content).hexdigest()}
        official = seed.official.model_copy(update={"url": server.url, "md5": md5})
        known = {**declare.benchmarks(), "SEED": seed.model_copy(update={"official": official})}
        monkeypatch.setattr(declare, "benchmarks", lambda: known)
        yield server


def command(tmp_path):
    return [
        "understanding",
        "--bench",
        "SEED",
        "--model",
        "mock",
        "--data",
        str(tmp_path / "d"),
        "--download",
        "--out",
        str(tmp_path / "r"),
    ]


def test_a_file_is_fetched_checked_and_named_by_its_edition(server, tmp_path, capsys):
    (tmp_path / "d").mkdir()
    assert main([word for word in command(tmp_path) if word != "--download"]) == 2
    assert "add --download to fetch http://127.0.0.1" in capsys.readouterr().err
    assert main(command(tmp_path)) == 0
    run = json.loads((the_run(tmp_path / "r") / "run.json").read_text())
    assert run["extras"]["data_is_published"] and "the file is the edition second" in run["extras"]["notes"]
    assert run["scorer"]["version"] == "0.0.20"
    assert (tmp_path / "d" / "SEEDBench_IMG.tsv").read_bytes() == server.content
    assert main(command(tmp_path)) == 0 and server.asked == [None]  # the second time it is there


def test_a_cut_transfer_is_resumed(server, tmp_path, capsys):
    server.cut = [1000, 500]
    for kept in (1000, 1500):
        assert main(command(tmp_path)) == 1
        said = capsys.readouterr().err
        assert f"{kept:,} bytes are kept" in said and len(said.strip().splitlines()) == 1
        assert not (tmp_path / "d" / "SEEDBench_IMG.tsv").exists()
    assert main(command(tmp_path)) == 0
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]
    assert (tmp_path / "d" / "SEEDBench_IMG.tsv").read_bytes() == server.content


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.cut, server.ranges = [1000], False
    assert main(command(tmp_path)) == 1
    assert main(command(tmp_path)) == 0
    assert (tmp_path / "d" / "SEEDBench_IMG.tsv").read_bytes() == server.content


def test_another_file_is_refused_and_removed(server, tmp_path, capsys):
    server.content = server.content.replace(b"Which", b"Whose")
    assert main(command(tmp_path)) == 1
    said = capsys.readouterr().err
    assert "another file than the published one: md5" in said and len(said.strip().splitlines()) == 1
    assert list((tmp_path / "d").iterdir()) == []


def test_progress_counts_bytes_and_no_server_is_one_line(server, tmp_path):
    seen = []
    fetch(server.url, tmp_path / "x", lambda _: None, lambda there, total: seen.append((there, total)))
    assert seen[-1] == (len(server.content), len(server.content))
    for url in (server.url.replace("SEEDBench_IMG.tsv", "gone"), "http://127.0.0.1:1/x"):
        with pytest.raises(RunFailed, match="cannot download"):
            fetch(url, tmp_path / "y", lambda _: None)


def test_doctor_says_which_files_are_there_and_whole(server, tmp_path, capsys):
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "SEEDBench_IMG.tsv").write_bytes(server.content)
    (folder / "POPE.tsv.part").write_bytes(b"x" * 1234)

    def states():
        status = main(["doctor", "--data", str(folder), "--json"])
        rows = json.loads(capsys.readouterr().out)
        return status, {r["what"]: (r["state"], r["found"]) for r in rows if r["what"].startswith("official")}

    status, found = states()
    assert status == 0 and found["official SEED"] == ("ok", f"{folder}/SEEDBench_IMG.tsv: whole, second")
    assert found["official POPE"][0] == "missing" and "1,234 bytes of it are fetched" in found["official POPE"][1]
    assert "official MMB_TEST_V11" in found and "official MME-P" not in found  # it is MME's file
    (folder / "SEEDBench_IMG.tsv").write_bytes(server.content[:-1])
    status, found = states()
    assert status == 1 and found["official SEED"][0] == "broken" and "truncated or changed" in found["official SEED"][1]
    assert main(["doctor", "--data", str(folder / "none")]) == 2


def test_vlmevalkits_runner_keeps_the_other_edition(server, tmp_path, monkeypatch):
    from armor_eval.vlmevalkit.importing import quiet_vlmeval

    (tmp_path / "SEEDBench_IMG.tsv").write_bytes(server.content)
    monkeypatch.setenv("LMUData", str(tmp_path))
    with quiet_vlmeval():
        from vlmeval.dataset import build_dataset
        from vlmeval.dataset.image_mcq import ImageMCQDataset

        from armor_eval.vlmevalkit.runner import accept_editions

        monkeypatch.setattr(ImageMCQDataset, "DATASET_MD5", dict(ImageMCQDataset.DATASET_MD5))
        monkeypatch.setattr(
            ImageMCQDataset, "DATASET_URL", {**ImageMCQDataset.DATASET_URL, "SEEDBench_IMG": server.url}
        )
        accept_editions()
        assert len(build_dataset("SEEDBench_IMG").data) == 8
    assert server.asked == []  # nothing was downloaded over it


def test_every_file_has_named_editions_and_vlmevalkits_is_the_first():
    from armor_eval.vlmevalkit.importing import quiet_vlmeval

    with quiet_vlmeval():
        from vlmeval.dataset import DATASET_CLASSES

        listed = {k: v for c in DATASET_CLASSES for k, v in getattr(c, "DATASET_MD5", {}).items()}
    for benchmark in declare.benchmarks().values():
        assert next(iter(benchmark.official.md5.items())) == ("VLMEvalKit 0.0.20", listed[benchmark.dataset])
    again = declare.benchmarks()["MMB_TEST_V11"].official
    assert again.edition("8d1a704e791df6f5d9fb3ef782b65365") == "of August 2026" and again.edition("0" * 32) is None
