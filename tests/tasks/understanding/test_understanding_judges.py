"""Judges of every kind: behind a server and on this machine, thinking, mended, rambling, at a loss."""

import json
import re

import pytest
from harness_data import measure, the_run
from scripted_server import ScriptedServer, chat, refusal

from armor_eval.cli import main
from armor_eval.models import language
from armor_eval.models.base import Answer
from armor_eval.models.endpoint import Endpoint, Patience
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.understanding.judge import EndpointJudge, ModelJudge, Request, judge_spec, open_judge
from armor_model.base.errors import UserError

QUICK = Patience(
    timeout=600, deadline=600, attempts=3, first_wait=0.01, longest_wait=0.02, dead_after=600, concurrency=2
)


@pytest.fixture
def judged(tsv_folder, tmp_path):
    """script, run's name, ... -> (the finished MMVet run, the server)"""

    def scripted(script, name="r", cache="cache", **options):
        with ScriptedServer(script) as server:
            endpoint = Endpoint(server.url, "j", QUICK)
            endpoint.fingerprint = "one judge"  # whatever port its server has
            judge = EndpointJudge(endpoint, tmp_path / cache, **options)
            try:
                done = measure("MMVet", MockModel("a cat"), tmp_path / name, tsv_folder, judge=judge)
            finally:
                judge.close()
        return done, server

    return scripted


def headline(done):
    return next(m for m in done.scores.metrics if m.primary).value


def test_a_judge_that_was_mended_is_asked_again(judged):
    done, server = judged(lambda asked: chat("I cannot grade this."))
    assert headline(done) is None and "unreadable" in done.scores.withheld
    assert len(server.asked) == 3 * 6  # three tries each, none of them kept
    done, server = judged(lambda asked: chat("0.5"))
    assert headline(done) == 50.0 and len(server.asked) == 6 and done.run.status == "complete"
    done, server = judged(lambda asked: chat("1.0"), name="again")
    assert headline(done) == 50.0 and not server.asked  # usable replies are kept


def test_what_another_judge_left_in_the_cache_is_no_verdict(judged, tmp_path):
    (tmp_path / "cache").mkdir()
    judged(lambda asked: chat("0.5"))
    file = next((tmp_path / "cache").glob("*.jsonl"))
    spoiled = [json.loads(line) | {"reply": "hm"} for line in file.read_text().splitlines() if line.strip()]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in spoiled))
    done, server = judged(lambda asked: chat("0.7"), name="again")
    assert len(server.asked) == 6 and headline(done) == pytest.approx(70)


@pytest.mark.parametrize("form", ["inline", "field", "hidden"])
def test_a_judge_that_thinks_gets_the_room_and_only_its_verdict_is_read(judged, form):
    thoughts = "It names the dog, which deserves 1.0, or maybe 0.5."

    def script(asked):
        cut = asked.body["max_tokens"] < 64
        if form == "inline":
            return chat(f"<think>\n{thoughts[:9]}", "length") if cut else chat(f"<think>\n{thoughts}\n</think>\n\n0.4")
        held = {"reasoning_content": thoughts} if form == "field" else {}
        return chat(None if cut else "0.4", "length" if cut else "stop", **held)

    done, server = judged(script)
    assert headline(done) == 40.0
    rooms = [one.body["max_tokens"] for one in server.asked]
    assert sorted(set(rooms)) == [16, 4096] and rooms.count(16) <= QUICK.concurrency, rooms  # learned once
    assert all(one.body["temperature"] == 0.0 for one in server.asked)  # a cut reply is no failed try
    assert all(it.extras["judge_reply"] == "0.4" for it in read_bundle(done.path)[1])


def test_the_limit_of_a_reply_is_an_option_and_is_kept_to(judged):
    done, server = judged(lambda asked: chat("<think>hm", "length"), longest=32)
    assert {one.body["max_tokens"] for one in server.asked} == {32} and headline(done) is None
    usual, _ = judged(lambda asked: chat("0.5"), name="usual", cache="other")
    assert done.run.judge.prompt_sha256 != usual.run.judge.prompt_sha256


def test_a_reply_costs_its_item_at_most(judged, request):
    import gc

    gc.collect()
    gc.disable()  # a collection at the recursion limit calls weak references of torch, and pytest fails on their errors
    request.addfinalizer(gc.enable)
    odd = [chat("0.5 \ud83d"), (200, b"[" * 100_000), chat("0.5", reasoning_content="\udc00"), chat([{}])]
    prompts: dict[str, int] = {}

    def script(asked):
        at = prompts.setdefault(asked.text, len(prompts))
        return odd[at] if at < len(odd) else chat("0.5")

    done, _ = judged(script)
    assert done.scores.counts["judge_failed"] == 2 and done.scores.counts["ok"] == 4
    assert headline(done) is None  # two of six are more than one in a hundred


def test_a_dead_judge_is_given_up_and_the_answers_are_kept(judged):
    done, server = judged(lambda asked: refusal(500, "out of memory"))
    assert done.run.status == "partial" and "HTTP 500: out of memory" in done.scores.withheld
    done, server = judged(lambda asked: refusal(429, "no more", code="insufficient_quota"))
    assert len(server.asked) <= QUICK.concurrency and "HTTP 429: no more" in done.scores.withheld
    assert headline(judged(lambda asked: chat("0.5"))[0]) == 50.0


# ---- what `--judge` says --------------------------------------------------------------------------------------------


def test_a_judge_is_named_once_in_either_way(tsv_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path / "cache"))
    assert judge_spec(None, "http://x/v1", "m") == "openai:http://x/v1#m" and judge_spec("hf:x", None, None) == "hf:x"
    for given in (("hf:x", "http://x", "m"), (None, "http://x", None), (None, None, "m")):
        with pytest.raises(UserError):
            judge_spec(*given)
    for spec in ("mock", "openai:http://x/v1", "gpt-4", "hf:"):
        with pytest.raises(UserError):
            open_judge(spec, "official", tmp_path)
    argv = ["understanding", "--bench", "MMVet", "--model", "mock", "--data", str(tsv_folder), "--any-data"]
    with ScriptedServer(lambda asked: chat("0.5")) as server:
        spec = f"openai:{server.url}#grader"
        extra = ["--judge-request-json", '{"reasoning_effort": "low"}', "--judge-max-tokens", "99"]
        assert main([*argv, "--judge", spec, *extra, "--out", str(tmp_path / "r")]) == 0
        body = server.asked[0].body
        assert (body["model"], body["reasoning_effort"], body["max_tokens"]) == ("grader", "low", 99)
    assert read_bundle(the_run(tmp_path / "r"))[0].judge.name == "grader"
    assert "50.0 %" in capsys.readouterr().out


@pytest.fixture(scope="module")
def grader(tmp_path_factory):
    """A language model whose weights make it say `1` for ever: nothing is added to equal embeddings, and its head knows
    one token."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from armor_model import build_word_tokenizer

    tokenizer = build_word_tokenizer([*"0123456789."])
    one = tokenizer.convert_tokens_to_ids("1")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[one] = 1.0
    folder = tmp_path_factory.mktemp("grader")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_language_model_of_this_machine_judges(grader, tsv_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path / "cache"))
    argv = ["understanding", "--bench", "MMVet", "--model", "mock", "--data", str(tsv_folder), "--any-data"]
    assert main([*argv, "--judge", f"hf:{grader}", "--out", str(tmp_path / "r")]) == 0
    run, items, scores = read_bundle(the_run(tmp_path / "r"))
    assert (run.judge.name, run.judge.endpoint) == (grader.name, "local")
    assert next(m for m in scores.metrics if m.primary).value == 100.0
    assert {it.extras["judge_reply"] for it in items} == {" ".join("1" * 16)}
    assert main([*argv, "--judge", f"hf:{grader}", "--judge-request-json", "{}", "--out", str(tmp_path / "x")]) == 0
    assert main([*argv, "--judge", f"hf:{grader}", "--judge-request-json", '{"a": 1}', "--out", str(tmp_path)]) == 2


def test_a_chat_template_is_used_and_batches_change_nothing(grader, tmp_path):
    import shutil

    from armor_eval.models.base import Decoding, Question

    shutil.copytree(grader, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text(
        "{{ messages[0]['content'] }}{% if add_generation_prompt %}{% endif %}"
    )
    model = language.load(str(tmp_path / "m"))
    questions = [Question("1", ["1 2 3"]), Question("2", ["1"])]
    both = model.answer(questions, Decoding(max_new_tokens=2))
    assert both == [Answer("1 1", extras={"finish_reason": "length"})] * 2
    assert both[:1] == model.answer(questions[:1], Decoding(max_new_tokens=2))


def test_a_model_with_eyes_is_left_to_its_own_adapter(tmp_path):
    from transformers import InternVLConfig

    InternVLConfig().save_pretrained(tmp_path / "vlm")
    assert language.load(str(tmp_path / "vlm")) is None
    with pytest.raises(UserError, match="cannot load hf:"):
        language.load(str(tmp_path / "nothing"))


class Local:
    """A judge of this machine that says what its list says, in turn."""

    def __init__(self, *replies):
        self.info, self.replies, self.rooms = MockModel().info, list(replies), []

    def answer(self, questions, decoding):
        self.rooms.append((decoding.max_new_tokens, decoding.temperature))
        return [Answer(self.replies.pop(0), extras={"finish_reason": "length"}) for _ in questions]

    def close(self):
        pass


def test_a_local_judge_that_thinks_gets_room_too(tmp_path):
    model = Local("<think>It is 1.0", "<think>It is 1.0</think> 0.3")
    judged = ModelJudge(model, tmp_path).judge([Request("1", "p", "graded", system="Be fair.")])
    assert judged.usable == {"1": "0.3"} and model.rooms == [(16, 0.0), (4096, 0.0)]
    model = Local("hm", "well", "0.2", "0.9")
    requests = [Request("1", "q", "graded"), Request("2", "q", "graded"), Request("3", "r", "graded")]
    judged = ModelJudge(model, tmp_path).judge(requests)
    assert judged.usable == {"1": "0.2", "2": "0.2", "3": "0.9"} and [t for _, t in model.rooms] == [0.0, 0.5]
    assert re.fullmatch(r"[0-9a-f]{16}\.jsonl", next(tmp_path.glob("*.jsonl")).name)
