"""A judge that fails, in any way, never becomes a number."""

import json
from pathlib import Path

import pytest
from fault_server import FaultServer, good_reply
from harness_data import measure

from armor_eval.cli import main
from armor_eval.models.endpoint import Endpoint, EndpointError, Patience
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.understanding.judge import EndpointJudge, ReplyCache, Request, read_reply
from armor_model.base.errors import UserError

QUICK = Patience(
    timeout=600, deadline=600, attempts=4, first_wait=0.01, longest_wait=0.05, dead_after=600, concurrency=4
)
SECRET = "sk-this-is-a-secret"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with FaultServer() as running:
        yield running


def run(bench, folder, out, server, mode, model=None, cache="cache"):
    judge = EndpointJudge(Endpoint(server.url, mode, QUICK), out.parent / cache)
    try:
        return measure(bench, model or MockModel("a cat"), out, folder, judge=judge)
    finally:
        judge.close()


def primary(finished):
    return next(m for m in finished.scores.metrics if m.primary)


@pytest.mark.parametrize("mode", ["good", "slow", "500", "429", "half", "correctness", "garbage-once"])
def test_a_judge_that_recovers_gives_the_good_judges_score(mode, tsv_folder, tmp_path, server):
    wanted = primary(run("MMVet", tsv_folder, tmp_path / "good", server, "good", cache="other"))
    found = run("MMVet", tsv_folder, tmp_path / "r", server, mode)
    assert primary(found).value == wanted.value and found.run.status == "complete"
    assert (found.run.judge.name, found.run.judge.endpoint) == (mode, "openai-compatible")
    assert all(it.extras["judge_reply"] for it in read_bundle(found.path)[1])


@pytest.mark.parametrize("bench", ["MMVet", "LLaVABench"])
@pytest.mark.parametrize("mode", ["dead", "garbage", "not-json", "null"])
def test_a_judge_that_fails_withholds_the_headline(bench, mode, tsv_folder, tmp_path, server):
    done = run(bench, tsv_folder, tmp_path / "r", server, mode)
    assert primary(done).value is None and "withheld" in primary(done).note
    assert done.scores.counts["judge_failed"] == len(read_bundle(done.path)[1])
    assert done.run.status == "partial"
    assert all(it.score is None and it.status == "judge_failed" for it in read_bundle(done.path)[1])
    # A better judge later scores the same answers.
    again = run(bench, tsv_folder, tmp_path / "r", server, "good")
    assert again.run.status == "complete" and primary(again).value is not None


def test_a_failing_judge_draws_no_options(tsv_folder, tmp_path, server):
    for bench in ("SEED", "MMB", "MMMU", "POPE"):
        done = run(bench, tsv_folder, tmp_path / bench, server, "garbage", MockModel("hmm"))
        assert primary(done).value is None, bench
        assert done.scores.counts["judge_failed"] > 0


def test_closed_questions_ask_only_what_the_rule_cannot_read(tsv_folder, tmp_path, server):
    run("SEED", tsv_folder, tmp_path / "a", server, "good", MockModel("B"))
    assert server.asked == 0
    done = run("SEED", tsv_folder, tmp_path / "b", server, "good", MockModel("hmm"))
    assert server.asked == 12 and done.run.status == "complete"
    done = run("POPE", tsv_folder, tmp_path / "c", server, "good", MockModel("There is one"))
    assert done.run.status == "complete" and done.scores.counts["unparsed"] == 0


def test_replies_are_cached_by_content(tsv_folder, tmp_path, server):
    run("MMVet", tsv_folder, tmp_path / "a", server, "good")
    asked = server.asked
    run("MMVet", tsv_folder, tmp_path / "b", server, "good")
    assert server.asked == asked
    run("MMVet", tsv_folder, tmp_path / "c", server, "good", MockModel("a dog"))
    assert server.asked == 2 * asked


def test_the_key_is_sent_and_never_written(tsv_folder, tmp_path, server, capsys, caplog, monkeypatch):
    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path / "cache"))
    caplog.set_level("DEBUG")
    argv = ["understanding", "--bench", "MMVet", "--model", "mock", "--data", str(tsv_folder), "--any-data"]
    argv += ["--judge-url", server.url, "--judge-model", "good", "--out", str(tmp_path / "r")]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    written = "".join(p.read_text() for p in Path(tmp_path).rglob("*.json*"))
    assert SECRET not in said.out + said.err + written + caplog.text
    assert '"good"' in written


def test_a_refusing_endpoint_is_the_users_to_mend(tsv_folder, tmp_path, server):
    with pytest.raises(UserError, match="HTTP 401") as caught:
        run("MMVet", tsv_folder, tmp_path / "r", server, "refused")
    assert SECRET not in caught.value.line()
    # Nothing is lost: the answers are in the journal.
    assert len(read_bundle(tmp_path / "r")[1]) == 6


def test_free_text_without_a_judge_is_refused_before_anything_is_asked(tsv_folder, tmp_path, capsys):
    argv = ["understanding", "--bench", "MMVet,MMB", "--model", "mock", "--data", str(tsv_folder), "--any-data"]
    assert main([*argv, "--out", str(tmp_path / "r")]) == 2
    assert "MMVet need a judge" in capsys.readouterr().err
    assert main([*argv, "--judge-url", "http://x", "--out", str(tmp_path / "r")]) == 2
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1", "http://user:pw@x/v1"])
def test_bad_addresses(url):
    with pytest.raises(UserError):
        Endpoint(url, "m")


def test_deadline_and_unreachable_endpoint():
    patience = Patience(timeout=0.2, deadline=0.5, attempts=50, first_wait=0.05, longest_wait=0.1)
    with pytest.raises(EndpointError):
        Endpoint("http://127.0.0.1:9/v1", "m", patience).chat([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("kind", "reply", "usable"),
    [
        ("graded", "0.5", "0.5"),
        ("graded", "Correctness: 0.5", "0.5"),
        ("graded", " 1 ", "1.0"),
        ("graded", "0.7 (mostly)", "0.7"),
        ("graded", "1.5", None),
        ("graded", "-0.5", None),
        ("graded", "", None),
        ("graded", "0.5 or 0.7", None),
        ("graded", "nan", None),
        ("graded", "1e-1", None),
        ("graded", "0.5.1", None),
        ("ratio", "8 6\nbecause", "8.0 6.0"),
        ("ratio", "\n8, 6", "8.0 6.0"),
        ("ratio", "8", None),
        ("ratio", "8 6 7", None),
        ("ratio", "0 6", None),
        ("ratio", "11 2", None),
        ("ratio", "Scores: 8 6", "8.0 6.0"),
        ("yes-no", "Yes", "Yes"),
        ("yes-no", "no.", "No"),
        ("yes-no", "Unknown", "Unknown"),
        ("yes-no", "yes no", None),
        ("yes-no", "lorem", None),
    ],
)
def test_reading_of_replies(kind, reply, usable):
    assert read_reply(Request("1", "p", kind), reply) == usable


def test_cache_survives_torn_lines(tmp_path):
    path = tmp_path / "c.jsonl"
    cache = ReplyCache(path)
    cache.put("a", "1\n\u2603")
    cache.close()
    with path.open("ab") as file:
        file.write(b'{"key": "b", "rep')
    cache = ReplyCache(path)
    cache.put("c", "3")
    cache.close()
    again = ReplyCache(path)
    assert (again.get("a"), again.get("b"), again.get("c")) == ("1\n\u2603", None, "3")
    assert json.loads(json.dumps(good_reply("x")))
