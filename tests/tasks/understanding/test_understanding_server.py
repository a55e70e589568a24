"""A benchmark asked of a server that does what servers do: the run stops, goes on, counts and says so."""

import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from harness_data import the_run
from PIL import Image
from scripted_server import ScriptedServer, chat, nobody, refusal

from armor_eval.cli import main
from armor_eval.models import openai
from armor_eval.models.base import Answer, Question
from armor_eval.models.endpoint import Endpoint, EndpointDown, Patience
from armor_eval.models.openai import _alike
from armor_eval.runs.bundle import read_bundle

SECRET = "sk-0123456789abcdef"
# Pauses are short; how long a reply may take is no test's matter here, and a busy machine's own affair.
QUICK = Patience(
    timeout=600, deadline=600, attempts=3, first_wait=0.01, longest_wait=0.02, dead_after=600, concurrency=4
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The command's own server, with a patience that a test has."""
    monkeypatch.setattr(openai, "patience", lambda *_: QUICK)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def command(url, folder, out, *more, bench="SEED"):
    model = f"openai:{url}#m"
    argv = ["understanding", "--bench", bench, "--model", model, "--data", str(folder), "--any-data"]
    return [*argv, "--out", str(out), *more]


def journal(out):
    return {it.id: it for it in read_bundle(the_run(out))[1]}


class Switch:
    """A script that can be exchanged while the server runs."""

    def __init__(self, script):
        self.script = script

    def __call__(self, asked):
        return self.script(asked)


@pytest.mark.parametrize(
    ("broken", "needle"),
    [
        (refusal(403, "account suspended"), "all 4 questions of a batch failed alike"),
        (refusal(500, "no decoder"), "HTTP 500: no decoder"),
        (refusal(429, "You exceeded your current quota", code="insufficient_quota"), "exceeded your current quota"),
        (refusal(402, "pay"), "HTTP 402"),
        ((200, b"<html>maintenance</html>"), "not JSON"),
    ],
    ids=["403", "500", "quota", "402", "html"],
)
def test_a_batch_that_fails_whole_stops_the_run_and_the_same_command_resumes(
    tsv_folder, tmp_path, capsys, broken, needle
):
    script = Switch(lambda asked: chat() if asked.count < 4 else broken)
    with ScriptedServer(script) as server:
        argv = command(server.url, tsv_folder, tmp_path / "r", "--batch-size", "4")
        assert main(argv) == 1
        said = capsys.readouterr()
        assert needle in said.err and "the same command goes on" in said.err and said.err.count("\n") == 1
        assert len(journal(tmp_path / "r")) == 4 and read_bundle(the_run(tmp_path / "r"))[0].status == "failed"
        script.script, before = lambda asked: chat(), len(server.asked)
        assert main(argv) == 0
        assert len(server.asked) - before == 8
    assert {it.status for it in journal(tmp_path / "r").values()} == {"ok"}


def test_answers_that_came_before_the_quota_ended_are_kept(tsv_folder, tmp_path, capsys):
    def script(asked):
        return chat() if asked.count < 3 else refusal(429, "quota", code="insufficient_quota")

    with ScriptedServer(script) as server:
        assert main(command(server.url, tsv_folder, tmp_path / "r")) == 1
        assert len(server.asked) < 12
    assert len(journal(tmp_path / "r")) == 3 and "quota" in capsys.readouterr().err


def test_a_dead_server_stops_the_run(tsv_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(openai, "patience", lambda *_: replace(QUICK, dead_after=1))
    with nobody() as url:
        assert main(command(url, tsv_folder, tmp_path / "r")) == 1
    said = capsys.readouterr().err
    assert "ConnectError" in said and said.count("\n") == 1 and not journal(tmp_path / "r")


def test_one_rows_403_costs_the_row(tsv_folder, tmp_path, capsys):
    def script(asked):
        return (
            refusal(403, "flagged")
            if "fits 3" in asked.text
            else chat(None, "content_filter")
            if ("fits 4" in asked.text)
            else chat()
        )

    with ScriptedServer(script) as server:
        assert main(command(server.url, tsv_folder, tmp_path / "r", "--batch-size", "1")) == 1
    run, items, scores = read_bundle(the_run(tmp_path / "r"))
    lost = {it.extras["failure"] for it in items if it.status == "error"}
    assert lost == {"http 403", "content_filter"} and scores.counts["ok"] == len(items) - scores.counts["error"]
    assert re.search(r"\(\d http 403, \d content_filter\)|\(\d content_filter, \d http 403\)", run.status_reason)
    assert run.extras["answers"] == {f"failed: {kind}": 1 for kind in sorted(lost)}
    assert "1 failed: http 403" in capsys.readouterr().out


def test_questions_about_one_image_are_one_to_a_circuit_breaker():
    one, other = Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2))
    failed = Answer(error="HTTP 403: no", extras={"failure": "http 403"})
    questions = [Question(str(i), [one, "what?"]) for i in range(3)]
    assert _alike(questions, [failed] * 3) is None
    assert "all 4 questions" in _alike([*questions, Question("4", [other, "what?"])], [failed] * 4)
    assert "all 2 questions" in _alike([Question("1", ["a"]), Question("2", ["b"])], [failed] * 2)
    filtered = Answer(error="filter", extras={"failure": "content_filter"})
    apart = [Question("1", ["a"]), Question("2", ["b"])]
    assert _alike(apart, [filtered] * 2) is None and _alike(apart, [failed, filtered]) is None
    assert _alike(apart, [failed, Answer(text="B")]) is None and _alike(apart, [EndpointDown("x", "y")] * 2) is None


def test_how_answers_ended_is_kept_and_counted(tsv_folder, tmp_path, capsys):
    replies = [
        chat("The picture shows", "length"),
        chat(None, "length", reasoning_content="A or B"),
        chat(None, refusal="I cannot say."),
        chat([{"type": "text", "text": "B"}]),
        chat("B \ud83d \x00 \x1b[2J"),
    ]

    def script(asked):
        if "temperature" in asked.body:
            return refusal(400, "temperature is not supported", param="temperature")
        return replies[min(asked.count % 6, 4)]

    with ScriptedServer(script) as server:
        assert main(command(server.url, tsv_folder, tmp_path / "r", "--batch-size", "1")) == 0
    run, items, _ = read_bundle(the_run(tmp_path / "r"))
    cut = [it for it in items if it.extras["finish_reason"] == "length"]
    assert run.extras["answers"] == {"cut by length": len(cut), "refusal": 2} and len(cut) == 4
    assert sum(it.extras.get("reasoning") == "A or B" and it.output == "" for it in items) == 2
    assert all(it.status == "unparsed" for it in items if it.extras.get("refusal"))
    # what was not as the run's decoding says stands beside the number
    assert "temperature" in run.extras["served"]["adapted"]
    assert [r.kind for r in run.reservations if r.kind == "decoding"] == ["decoding"]
    shown = capsys.readouterr().out
    assert "4 cut by length" in shown and "refuses the temperature" in shown and "\x1b" not in shown


@pytest.mark.parametrize("kind", ["text", "error"])
def test_an_echoed_key_is_in_no_file_and_on_no_screen(tsv_folder, tmp_path, capsys, caplog, kind):
    caplog.set_level("DEBUG")

    def script(asked):
        held = asked.headers["authorization"]
        return chat(f"B {held}", reasoning=held) if kind == "text" else refusal(400, f"\x1b[31m{asked.count} {held}")

    with ScriptedServer(script) as server:
        assert main(command(server.url, tsv_folder, tmp_path / "r", "--json")) == (0 if kind == "text" else 1)
        assert server.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    said = capsys.readouterr()
    everything = (
        said.out
        + said.err
        + caplog.text
        + "".join(path.read_text() for path in (tmp_path / "r").rglob("*") if path.is_file())
    )
    assert SECRET not in everything and "[key removed]" in everything and "\x1b" not in everything


def test_extra_fields_reach_every_request_and_the_record(tsv_folder, tmp_path, capsys):
    with ScriptedServer(lambda asked: chat()) as server:
        argv = command(server.url, tsv_folder, tmp_path / "r", "--request-json", '{"reasoning_effort": "low"}')
        assert main(argv) == 0
        assert all(one.body["reasoning_effort"] == "low" for one in server.asked)
        assert read_bundle(the_run(tmp_path / "r"))[0].extras["served"] == {"extra": {"reasoning_effort": "low"}}
        assert main(argv[:-2]) == 2  # without them it is another model
        assert "holds another run: model (fingerprint)" in capsys.readouterr().err
    mock = ["understanding", "--bench", "SEED", "--model", "mock", "--request-json", "{}"]
    assert main(mock) == 2 and "behind a server" in capsys.readouterr().err


def test_a_wrong_key_costs_nothing_but_a_line(tsv_folder, tmp_path, capsys):
    with ScriptedServer(lambda asked: refusal(401, "invalid key")) as server:
        assert main(command(server.url, tsv_folder, tmp_path / "r")) == 2
    assert "HTTP 401: invalid key" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("signalled", ["model", "judge"])
def test_ctrl_c_returns_at_once(tsv_folder, tmp_path, signalled):
    """A server that never answers, asked with the real patience: nobody waits for it, nor for that to end."""
    with ScriptedServer(lambda asked: None) as server:
        argv = command(server.url, tsv_folder, tmp_path / "r")
        if signalled == "judge":
            argv = ["understanding", "--bench", "MMVet", "--model", "mock", "--data", str(tsv_folder), "--any-data"]
            argv += ["--judge", f"openai:{server.url}#j", "--out", str(tmp_path / "r")]
        child = subprocess.Popen([sys.executable, "-m", "armor_eval", *argv], stderr=subprocess.PIPE, text=True)
        waiting = threading.Event()
        for _ in range(1200):
            if server.asked or waiting.wait(0.1):
                break
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=Patience().timeout / 2)[1]
    assert child.returncode == 130 and "interrupted, nothing is lost" in said


@pytest.mark.slow
def test_a_dead_server_stops_a_run_within_two_minutes(tsv_folder, tmp_path, monkeypatch, capsys):
    """With the real patience: nobody listens; the batch size is one, the worst case. All its pauses together count, and
    not the machine's own time."""
    pause, pauses = Endpoint._sleep, []
    monkeypatch.setattr(openai, "patience", lambda *_: Patience())
    monkeypatch.setattr(Endpoint, "_sleep", lambda self, seconds: pauses.append(seconds) or pause(self, seconds))
    with nobody() as url:
        assert main(command(url, tsv_folder, tmp_path / "r", "--batch-size", "1")) == 1
    told = capsys.readouterr().err
    assert "is of no use" in told and told.count("\n") == 1 and len(pauses) > 2 and sum(pauses) < 120
