"""An endpoint reads every kind of reply for what it is, adapts once, bounds time and size, and never repeats a key."""

import asyncio
import gzip
import itertools
import json
import threading
import time

import pytest
from scripted_server import ScriptedServer, chat, delta, events, refusal

from armor_eval.models import transport
from armor_eval.models.endpoint import Endpoint, EndpointDown, EndpointError, Extra, Patience
from armor_eval.models.openai import patience
from armor_eval.models.replies import Dialect
from armor_model.base.errors import UserError, one_line

QUICK = Patience(
    timeout=600, deadline=600, attempts=4, first_wait=0.01, longest_wait=0.03, dead_after=600, concurrency=4
)
SECRET = "sk-0123456789abcdef"
ASK = [{"role": "user", "content": "Which one?"}]


@pytest.fixture
def serve(monkeypatch):
    """script -> (server, endpoint); all closed at the end."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    opened = []

    def start(script, limits=QUICK, extra=None, query=""):
        server = ScriptedServer(script)
        endpoint = Endpoint(server.url + query, "m", limits, extra)
        opened.extend((server.__enter__(), endpoint))
        return server, endpoint

    yield start
    for one in reversed(opened):
        one.close() if isinstance(one, Endpoint) else one.__exit__()


def failure(endpoint, **parameters):
    with pytest.raises(EndpointError) as caught:
        endpoint.chat(ASK, **parameters)
    return caught.value


def posts(server):
    return [one for one in server.asked if one.method == "POST"]


# ---- reading --------------------------------------------------------------------------------------------------------

THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    ("reply", "text", "reasoning", "finish", "refused"),
    [
        (chat("B"), "B", None, "stop", False),
        (chat(""), "", None, "stop", False),
        (chat("B", None), "B", None, None, False),
        (chat("so far", "max_tokens"), "so far", None, "length", False),
        (chat([THOUGHT, {"type": "text", "text": "B"}, {"type": "text", "text": "."}]), "B.", "hm", "stop", False),
        (chat([{"type": "output_text", "text": "B"}]), "B", None, "stop", False),
        (chat(None, "length", reasoning_content="A or B"), "", "A or B", "length", False),
        (chat("B", reasoning="A or B"), "B", "A or B", "stop", False),
        (chat(None, "length"), "", None, "length", False),
        (chat(None, refusal="I cannot say."), "I cannot say.", None, "stop", True),
        (chat([{"type": "refusal", "refusal": "No."}]), "No.", None, "stop", True),
        (chat("B \ud83d \x00"), "B ? \x00", None, "stop", False),
        (chat(None, images=[{"image_url": {"url": "data:,"}}]), "", None, "stop", False),
        (events(delta(role="assistant"), delta(content="B"), delta("stop", content="!")), "B!", None, "stop", False),
        (
            events(delta(reasoning_content="h"), delta(reasoning_content="m"), delta("stop", content="B")),
            "B",
            "hm",
            "stop",
            False,
        ),
        (events(delta(content="B"), {"choices": [], "usage": {}}), "B", None, None, False),
    ],
)
def test_a_reply_is_read_for_what_it_is(serve, reply, text, reasoning, finish, refused):
    server, endpoint = serve(lambda asked: reply)
    got = endpoint.chat(ASK)
    assert (got.text, got.reasoning, got.finish_reason, got.refused) == (text, reasoning, finish, refused)
    assert len(server.asked) == 1 and got.cut == (finish == "length")


@pytest.mark.parametrize(
    ("reply", "kind", "attempts"),
    [
        (chat(None, "content_filter"), "content_filter", 1),
        (chat("half an answ", "content_filter"), "content_filter", 1),
        (chat(None, "tool_calls", tool_calls=[{}]), "empty", 3),
        ((200, {"choices": []}), "empty", 3),
        ((200, {"error": {"message": "overloaded", "code": 503}}), "http 503", 4),
        ((200, {"error": {"message": "flagged", "code": "403"}}), "http 403", 1),
        ((200, {"error": "something"}), "http 500", 4),
        ((200, {"object": "list"}), "malformed", 4),
        ((200, b"<html>login"), "malformed", 4),
        ((200, b"[" * 200_000), "malformed", 4),
        (events(delta(content="B"), end=False), "malformed", 4),
        (events({"error": {"message": "died", "code": 502}}), "http 502", 4),
        (refusal(403, "flagged by moderation"), "http 403", 1),
        (refusal(500, "boom"), "http 500", 4),
        ((413, b"too much"), "http 413", 1),
    ],
)
def test_a_failure_is_counted_by_kind_and_asked_again_only_where_that_can_help(serve, reply, kind, attempts):
    server, endpoint = serve(lambda asked: reply)
    error = failure(endpoint)
    assert (error.kind, len(server.asked)) == (kind, attempts)
    assert not isinstance(error, EndpointDown)


def test_what_the_server_says_is_shown_with_its_error(serve):
    _, endpoint = serve(lambda asked: refusal(500, "no decoder for png"))
    assert "HTTP 500: no decoder for png" in str(failure(endpoint))


@pytest.mark.parametrize("status", [301, 401, 404])
def test_a_wrong_key_address_or_name_is_the_users_to_mend(serve, status):
    server, endpoint = serve(lambda asked: refusal(status, "go away"))
    with pytest.raises(UserError, match=f"HTTP {status}: go away"):
        endpoint.chat(ASK)
    assert len(server.asked) == 1


# ---- adapting -------------------------------------------------------------------------------------------------------


def modern(asked):
    """Refuses, one after the other, what reasoning models of hosted services refuse."""
    if "max_tokens" in asked.body:
        return refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    if "temperature" in asked.body:
        return refusal(400, "Unsupported value: 'temperature' does not support 0.0 with this model.")
    if not asked.body.get("stream"):
        return refusal(422, "This model only supports stream mode, please enable the stream parameter")
    return events(delta("stop", content="B"))


def test_what_a_server_refuses_is_said_otherwise_once_and_for_all(serve):
    server, endpoint = serve(modern)
    for _ in range(3):
        assert endpoint.chat(ASK, temperature=0.0, max_tokens=64).text == "B"
    assert len(server.asked) == 3 + 3  # three refusals, once
    assert set(server.asked[-1].body) == {"model", "messages", "max_completion_tokens", "stream"}
    assert set(endpoint.adapted) == {"max_tokens", "temperature", "stream"}


def test_a_server_that_wants_its_only_temperature_gets_it(serve):
    def script(asked):
        ok = asked.body.get("temperature") == 1
        return chat() if ok else refusal(400, "'temperature': only the default (1) value is supported")

    server, endpoint = serve(script)
    assert endpoint.chat(ASK, temperature=0.0).text == endpoint.chat(ASK, temperature=0.0).text == "B"
    assert [one.body.get("temperature") for one in server.asked] == [0.0, None, 1, 1] and endpoint.adapted


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is {n} tokens. However, you requested {all} tokens ({p} in the messages, "
        "{m} in the completion).",
        "'max_tokens' or 'max_completion_tokens' is too large: {m}. This model's maximum context length is {n} tokens "
        "and your request has {p} input tokens ({m} > {n} - {p}).",
        "Requested token count exceeds the model's maximum context length of {n} tokens. You requested a total of "
        "{all} tokens: {p} tokens from the input messages and {m} tokens for the completion.",
        "`inputs` tokens + `max_new_tokens` must be <= {n}. Given: {p} `inputs` tokens and {m} `max_new_tokens`",
    ],
)
def test_where_the_context_is_too_small_the_answers_room_is_what_is_left(serve, words):
    def script(asked, window=4096):
        prompt, room = len(asked.text), asked.body["max_tokens"]
        if prompt + room <= window:
            return chat("B", "length")
        return refusal(400, words.format(n=window, all=prompt + room, p=prompt, m=room))

    server, endpoint = serve(script)
    for length in (100, 90, 3000):
        reply = endpoint.chat([{"role": "user", "content": "x" * length}], max_tokens=4096)
        # a shorter question begins with the room that was found; a long one is refused once more, and does not make
        # the room of those that follow it small
        assert reply.room == {100: 3996, 90: 3996, 3000: 1096}[length] and reply.cut
    assert endpoint.chat(ASK, max_tokens=4096).room == 3996
    assert [one.body["max_tokens"] for one in server.asked] == [4096, 3996, 3996, 3996, 1096, 3996]
    assert endpoint.adapted == {"room": "at most 3996 new tokens fit"}
    with pytest.raises(EndpointError, match="does not fit") as caught:
        endpoint.chat([{"role": "user", "content": "x" * 5000}], max_tokens=4096)
    assert caught.value.kind == "context"
    assert endpoint.chat(ASK, max_tokens=16).room is None


def test_a_context_that_is_not_told_is_found_by_halving(serve):
    def script(asked):
        ok = asked.body["max_tokens"] <= 600
        return chat() if ok else refusal(400, "the request exceeds the available context size")

    _, endpoint = serve(script)
    assert endpoint.chat(ASK, max_tokens=4096).room == 512
    hopeless = serve(lambda asked: refusal(400, "context length exceeded"))[1]
    assert failure(hopeless, max_tokens=64).kind == "context"


def test_a_cap_on_completions_holds_for_all():
    dialect = Dialect({})
    meant = {"max_tokens": 100_000}
    words = (
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens, whereas you said more."
    )
    assert dialect.learn(meant, dialect.say(meant, None), words) == 16384
    assert dialect.say(meant, None) == {"max_tokens": 16384}


def test_what_the_user_asks_for_is_sent_and_never_dropped(serve):
    extra = Extra.read('{"temperature": 0.5, "top_p": null, "chat_template_kwargs": {"x": 1}, "headers": {"x-a": "b"}}')
    server, endpoint = serve(lambda asked: refusal(400, "temperature is unsupported"), extra=extra)
    error = failure(endpoint, temperature=0.0, top_p=1.0)
    assert error.kind == "http 400" and len(server.asked) == 1
    body = server.asked[0].body
    assert body["temperature"] == 0.5 and body["chat_template_kwargs"] == {"x": 1} and "top_p" not in body
    assert server.asked[0].headers["x-a"] == "b"
    assert endpoint.fingerprint != serve(lambda asked: chat())[1].fingerprint


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("{", "cannot be read"),
        ("[]", "not an object"),
        ('{"headers": 3}', "not an object"),
        ('{"model": "x"}', "must not set 'model'"),
        ("@/no/such/file", "cannot be read"),
        ('{"headers": {"Authorization": "Bearer x"}}', "seen by others"),
    ],
)
def test_bad_extra_fields_are_one_line(text, needle):
    with pytest.raises(UserError, match=needle):
        Extra.read(text)


def test_azures_addresses_and_header(serve, tmp_path):
    server, endpoint = serve(lambda asked: chat(), query="/deployments/d/chat/completions?api-version=2024-06-01")
    assert endpoint.chat(ASK).text == "B"
    asked = server.asked[0]
    assert asked.path == "/v1/deployments/d/chat/completions?api-version=2024-06-01"
    assert asked.headers["api-key"] == SECRET and "authorization" not in asked.headers
    (tmp_path / "r.json").write_text(json.dumps({"headers": {"authorization": "Bearer mine"}}))
    server, endpoint = serve(lambda asked: chat(), extra=Extra.read(f"@{tmp_path / 'r.json'}"))
    endpoint.chat(ASK)
    assert server.asked[0].headers["authorization"] == "Bearer mine"
    with pytest.raises(UserError, match="must not hold a key"):
        Endpoint("http://x/v1?api_key=1", "m")


def test_any_path_is_posted_with_the_same_care(serve):
    server, endpoint = serve(lambda asked: (200, {"data": [1]}) if asked.count else refusal(503, "not ready"))
    assert endpoint.post("/images/generations", {"prompt": "x"}, lambda payload: payload["data"]) == [1]
    assert [one.path for one in server.asked] == ["/v1/images/generations"] * 2
    assert server.asked[0].body == {"model": "m", "prompt": "x"}


# ---- limits ---------------------------------------------------------------------------------------------------------


def drip(piece=b" ", pause=0.02, after_five=lambda: None):
    for number in itertools.count(1):
        yield piece
        if number == 5:
            after_five()
        time.sleep(pause)


def limits(**changes):
    return patience(QUICK.__dict__, changes)


class PutForward(asyncio.SelectorEventLoop):
    """An event loop whose clock a test puts forward."""

    ahead = 0.0

    def time(self):
        return super().time() + self.ahead


def test_a_reply_that_drips_ends_at_the_deadline(serve, monkeypatch):
    """Ten minutes pass between two drops, in which a short limit would end a connection that a busy machine begins."""
    loop = PutForward()
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: loop)

    def ten_minutes():
        loop.ahead += 600

    server, endpoint = serve(lambda asked: (200, drip(after_five=ten_minutes)), limits(timeout=600))
    error = failure(endpoint)
    assert error.kind == "timeout" and "no whole reply within 600 s" in str(error)
    assert len(posts(server)) == 2


@pytest.mark.parametrize(
    "reply",
    [
        (200, drip(b"x" * 65536, 0)),
        (200, b"x" * 2_000_000),
        (200, gzip.compress(b" " * 50_000_000), {"content-encoding": "gzip"}),
    ],
    ids=["streamed", "declared", "compressed"],
)
def test_a_reply_that_is_too_large_is_dropped_while_it_comes(serve, reply):
    server, endpoint = serve(lambda asked: reply, limits(max_reply_bytes=1_000_000))
    error = failure(endpoint)
    assert error.kind == "too large" and len(server.asked) == 1


def test_a_compressed_reply_is_read(serve):
    body = gzip.compress(json.dumps(chat("B")[1]).encode())
    assert serve(lambda asked: (200, body, {"content-encoding": "gzip"}))[1].chat(ASK).text == "B"
    assert failure(serve(lambda asked: (200, body, {"content-encoding": "br"}))[1]).kind == "broken reply"
    assert failure(serve(lambda asked: (200, body[:-9] + b"x" * 9, {"content-encoding": "gzip"}))[1]).kind


@pytest.mark.parametrize("header", ["1e308", "nan", "-5", "soon", "Wed, 21 Oct 2037 07:28:00 GMT"])
def test_a_pause_that_a_server_asks_for_is_bounded(serve, header):
    def script(asked):
        return chat() if asked.count else (429, {}, {"retry-after": header})

    assert serve(script)[1].chat(ASK).text == "B"


def test_a_limit_that_is_none_is_one_line():
    assert patience({}, {"timeout": 7, "concurrency": 3}) == Patience(timeout=7, concurrency=3)
    for name, value in (("timeout", 0), ("timeout", "7"), ("concurrency", 1.5), ("attempts", True), ("patience", 1)):
        with pytest.raises(UserError, match=name):
            patience({}, {name: value})


# ---- keys and terminals ---------------------------------------------------------------------------------------------


def test_a_key_that_a_server_echoes_is_not_repeated(serve):
    def script(asked):
        held = f"you sent {asked.headers['authorization']}"
        replies = [chat(held, reasoning=held), refusal(400, held), (500, held.encode()), (200, held.encode())]
        return replies[min(asked.count, 3)]

    _, endpoint = serve(script, limits(attempts=1))
    reply = endpoint.chat(ASK)
    errors = [str(failure(endpoint)) for _ in range(3)]
    seen = [reply.text, reply.reasoning, json.dumps(reply.message), *errors]
    assert all(SECRET not in text and "[key removed]" in text for text in seen), seen


def test_a_word_that_stands_for_no_key_is_left_alone(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    assert serve(lambda asked: chat("The room is EMPTY"))[1].chat(ASK).text == "The room is EMPTY"


def test_a_server_does_not_steer_the_terminal(serve):
    _, endpoint = serve(lambda asked: (400, b"bad\n\x1b[31mred\x1b]0;TITLE\x07 \x9b2J \xe2\x80\xae"))
    error = str(failure(endpoint))
    assert error.isprintable() and "bad" in error and "red" in error
    assert UserError("a\x1b[2Jb", "c\x07").line() == "a\ufffd[2Jb - c\ufffd" and one_line(" a\n b ") == "a b"


# ---- circuit breaker ------------------------------------------------------------------------------------------------


def test_an_exhausted_quota_is_not_asked_again(serve):
    words = "You exceeded your current quota, please check your plan and billing details."
    server, endpoint = serve(lambda asked: refusal(429, words, code="insufficient_quota"))
    assert isinstance(failure(endpoint), EndpointDown) and isinstance(failure(endpoint), EndpointDown)
    assert len(server.asked) == 1
    limited, endpoint = serve(
        lambda asked: refusal(429, "Rate limit reached: insufficient balance of tokens per minute")
    )
    assert not isinstance(failure(endpoint), EndpointDown) and len(limited.asked) == 4


def test_a_dead_server_is_given_up():
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", limits(dead_after=1))
    down = endpoint.many([lambda: failure(endpoint)] * 20)
    assert all(isinstance(error, EndpointDown) and error.kind == "connection" for error in down)
    endpoint.close()


def test_a_silent_server_is_dead_and_a_slow_one_is_not(serve, monkeypatch):
    server, endpoint = serve(lambda asked: None, limits(dead_after=0.2))
    silent = Endpoint(server.url, "m", limits(dead_after=0.2))
    silent._transport._probe = "http://127.0.0.1:9/"  # as if the whole machine hung
    assert isinstance(failure(silent), EndpointDown)
    silent.close()

    breathed = threading.Event()

    def slow(asked):
        """Replies once it was asked whether it is alive."""
        if asked.method == "POST":
            assert breathed.wait(600)
        else:
            breathed.set()
        return chat()

    monkeypatch.setattr(transport, "CONNECT_SECONDS", 600)
    server, endpoint = serve(slow, limits(dead_after=0.2))
    assert endpoint.chat(ASK).text == "B"
    assert [one.method for one in server.asked].count("POST") == 1 and len(server.asked) > 1


def test_questions_that_fail_alike_end_it_and_an_answer_between_them_does_not(serve):
    server, endpoint = serve(lambda asked: refusal(500, "boom"), limits(alike=3))
    errors = [failure(endpoint) for _ in range(4)]
    assert [isinstance(error, EndpointDown) for error in errors] == [False, False, True, True]
    # the first question had all its attempts, those that failed alike behind it fewer
    assert len(server.asked) == 4 + 2 + 2

    _, endpoint = serve(lambda asked: refusal(403, "no") if asked.count % 4 else chat(), limits(alike=2))
    for turn in range(80):
        assert endpoint.chat(ASK).text == "B" if turn % 4 == 0 else failure(endpoint).kind == "http 403"
    _, endpoint = serve(lambda asked: refusal(403, "no"))
    assert [isinstance(failure(endpoint), EndpointDown) for _ in range(64)] == [False] * 63 + [True]


def test_an_interrupt_ends_what_is_under_way(serve):
    _, endpoint = serve(lambda asked: None, limits(timeout=600, dead_after=600, deadline=600))
    asked = threading.Event()

    def job(at):
        if at == 1:
            asked.wait(60)
            raise KeyboardInterrupt
        asked.set()
        return endpoint.chat(ASK)

    with pytest.raises(KeyboardInterrupt):  # and not after the ten minutes that the server may take
        endpoint.many([lambda at=at: job(at) for at in range(6)])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("endpoint_")]
