"""The server over real HTTP: answers equal to `generate`'s, streams equal to whole answers, and every refusal."""

import base64
import http.client
import io
import json
import socket
import threading
import time

import pytest

pytest.importorskip("uvicorn", reason="the server's tests need pip install 'armor-eval[serve]'")
pytest.importorskip("starlette", reason="the server's tests need pip install 'armor-eval[serve]'")
httpx = pytest.importorskip("httpx")

TOKEN = "a-token-of-a-test-0123"
ASK = "draw a red circle"


class Served:
    """A server in a thread, and a client of it."""

    def __init__(self, model, processor, settings=None, token=None, hosts=None, **limits):
        from armor_model.serve.app import Service, create_app
        from armor_model.serve.command import ServeLimits, server_of

        self.service = Service(model, processor, "toy", settings, ServeLimits(body_seconds=600, **limits), "f00d")
        app = create_app(self.service, token, hosts)
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        self.server = server_of(app)
        self.thread = threading.Thread(target=self.server.run, args=([bound],))
        self.thread.start()
        self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        self.http = httpx.Client(base_url=self.url, timeout=600)
        while not self.server.started:
            time.sleep(0.01)

    def chat(self, content=ASK, **more):
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return self.http.post("/v1/chat/completions", json={"model": "toy", "messages": messages, **more})

    def close(self):
        self.http.close()
        self.server.should_exit = True
        self.thread.join(timeout=600)


def wait_for(condition):
    ends = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture(scope="module")
def served(talker):
    it = Served(*talker, batch=4, queue=8)
    yield it
    it.close()


def data_url(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def png_of(part):
    return base64.b64decode(part["image_url"]["url"].partition(",")[2])


def events_of(reply):
    lines = [line[6:] for line in reply.text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def locally(talker, seed, talk=None, **settings):
    """The answer without a server, and its images as PNG bytes."""
    from armor_model import GenerationSettings, generate
    from armor_model.serve.protocol import png

    talk = talk or [{"role": "user", "content": ASK}]
    [answer] = generate(*talker, [talk], GenerationSettings(**{"max_new_tokens": 40, **settings}), [seed])
    return answer, [base64.b64decode(png(image)) for image in answer.images]


def test_an_idle_connection_outlives_its_clients_patience(served):
    """Else a request is lost that is sent as the server closes its connection: seen under load, once in 192 tries with
    pauses of 5 seconds give or take 4 milliseconds."""
    assert served.server.config.timeout_keep_alive > 10 * httpx.Limits().keepalive_expiry


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_those_of_generate(served, talker, temperature):
    """Eight clients at once, each with its own seed: text, order and images as without a server."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:

        def ask(seed):
            return served.chat(seed=seed, max_tokens=40, temperature=temperature, content_parts=seed % 2 == 1)

        replies = list(pool.map(ask, range(8)))
    drawn = 0
    for seed, reply in enumerate(replies):
        answer, images = locally(talker, seed, temperature=temperature)
        [choice] = reply.json()["choices"]
        content = choice["message"]["content"]
        if seed % 2:
            assert [part["type"] for part in content] == [
                "text" if isinstance(part, str) else "image_url" for part in answer.parts
            ]
            assert "\n".join(part["text"] for part in content if part["type"] == "text") == answer.text
            got = [png_of(part) for part in content if part["type"] == "image_url"]
        else:
            assert content == answer.text
            got = [png_of(part) for part in choice["message"].get("images", [])]
        assert got == images
        assert choice["finish_reason"] == ("length" if answer.stats["finish"] == "length" else "stop")
        assert reply.json()["usage"]["completion_tokens"] == len(answer.tokens)
        drawn += len(images)
    assert drawn > 2


def test_guided_answers_are_those_of_generate(talker):
    """Several images in an answer, other rows beside it, few places: the unconditional rows come and go."""
    from concurrent.futures import ThreadPoolExecutor

    from armor_model import GenerationSettings

    it = Served(*talker, GenerationSettings(guidance=2.0), batch=3, queue=8)
    try:
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda seed: it.chat(seed=seed, max_tokens=24), range(6)))
    finally:
        it.close()
    drawn = []
    for seed, reply in enumerate(replies):
        answer, images = locally(talker, seed, max_new_tokens=24, guidance=2.0)
        message = reply.json()["choices"][0]["message"]
        assert message["content"] == answer.text
        assert [png_of(part) for part in message.get("images", [])] == images
        drawn.append(len(images))
    assert max(drawn) > 1


def test_a_stream_is_the_whole_answer(served, talker):
    pieces = 0
    for seed in range(4):
        asked = {"seed": seed, "max_tokens": 40, "temperature": 1.0}
        whole = served.chat(**asked).json()
        events = events_of(served.chat(**asked, stream=True, stream_options={"include_usage": True}))
        deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
        message = whole["choices"][0]["message"]
        assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
        assert [image for delta in deltas for image in delta.get("images", [])] == message.get("images", [])
        assert events[-1]["usage"] == whole["usage"]
        assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
        pieces += len(deltas)
    assert pieces > 20


def test_modalities(served, talker):
    text = served.chat(modalities=["text"], max_tokens=30, seed=1).json()["choices"][0]["message"]
    assert "images" not in text and text["content"] == locally(talker, 1, max_new_tokens=30, allow_images=False)[0].text
    image = served.chat(modalities=["image"], seed=1).json()["choices"][0]
    assert image["message"]["content"] == "" and len(image["message"]["images"]) == 1
    assert image["finish_reason"] == "stop"


def test_images_are_those_of_draw(served, talker):
    """`n` seeds count on from the one given."""
    from armor_model import draw
    from armor_model.serve.protocol import png

    reply = served.http.post("/v1/images/generations", json={"prompt": ASK, "n": 3, "seed": 5, "size": "auto"})
    ours = [png(image) for image in draw(*talker, [ASK] * 3, seeds=[5, 6, 7])]
    assert [each["b64_json"] for each in reply.json()["data"]] == ours
    unserved = {"size": "7x7"}, {"response_format": "url"}, {"output_format": "webp"}, {"n": 9}, {"guidance_scale": 3.0}
    for wrong in (*unserved, {"prompt": ""}):
        assert served.http.post("/v1/images/generations", json={"prompt": ASK, **wrong}).status_code == 400


def test_a_shown_image_and_a_drawn_one_come_in(served, talker, conversations):
    shown = conversations[1][0]["content"]
    parts = [{"type": "image_url", "image_url": {"url": data_url(shown[0]["image"])}}, shown[1]]
    drawn = served.chat(modalities=["image"], seed=2).json()["choices"][0]["message"]
    asked = [{"role": "user", "content": parts}, drawn, {"role": "user", "content": "what is it"}]
    from PIL import Image

    again = Image.open(io.BytesIO(png_of(drawn["images"][0])))
    talk = [
        {"role": "user", "content": shown},
        {"role": "assistant", "content": [{"type": "image", "image": again}]},
        {"role": "user", "content": "what is it"},
    ]
    answer, images = locally(talker, 3, talk)
    message = served.chat(asked, seed=3, max_tokens=40).json()["choices"][0]["message"]
    assert message["content"] == answer.text and [png_of(each) for each in message.get("images", [])] == images


def test_a_stop_text_ends_the_answer(served):
    asked = {"modalities": ["text"], "max_tokens": 30, "seed": 1, "temperature": 1.0}
    whole = served.chat(**asked).json()["choices"][0]["message"]["content"]
    stop = whole.split()[4]
    cut = whole[: whole.index(stop)]
    reply = served.chat(**asked, stop=[stop]).json()
    assert reply["choices"][0]["message"]["content"] == cut
    assert reply["choices"][0]["finish_reason"] == "stop" and reply["usage"]["completion_tokens"] < 30
    events = events_of(served.chat(**asked, stop=[stop], stream=True))
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == cut


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://localhost/x.png"}}]}]
NO_IMAGE = json.loads(json.dumps(IMAGE).replace("http://localhost/x.png", "data:image/png;base64,AAAA"))


@pytest.mark.parametrize(
    "status, word, more",
    [
        (400, "never fetched", {"messages": IMAGE}),
        (400, "cannot be read", {"messages": NO_IMAGE}),
        (400, "messages", {"messages": []}),
        (400, "empty", {"messages": [{"role": "user", "content": " "}]}),
        (400, "empty", {"messages": [{"role": "user", "content": [{"type": "text", "text": " "}]}]}),
        (400, "content", {"messages": [{"role": "user"}]}),
        (400, "user", {"messages": [{"role": "assistant", "content": "a"}]}),
        (400, "context", {"messages": [{"role": "user", "content": "red " * 3000}]}),
        (400, "letters", {"messages": [{"role": "user", "content": "red " * 100_000}]}),
        (400, "role", {"messages": [{"role": "tool", "content": "a"}]}),
        (400, "tools", {"tools": [{"type": "function"}]}),
        (400, "logprobs", {"logprobs": True}),
        (400, "repetition_penalty", {"repetition_penalty": 1.1}),
        (400, "min_p", {"min_p": 0.1}),
        (400, "at most", {"max_tokens": 10**6}),
        (400, "temperature", {"temperature": -1}),
        (400, "temperature", {"temperature": "0"}),
        (400, "n:", {"n": 100}),
        (400, "n:", {"n": 1.5}),
        (400, "modalities", {"modalities": ["audio"]}),
        (404, "no model", {"model": "gpt"}),
    ],
)
def test_refusals_name_the_field(served, status, word, more):
    reply = served.http.post(
        "/v1/chat/completions", json={"model": "toy", "messages": [{"role": "user", "content": ASK}], **more}
    )
    assert reply.status_code == status and word in reply.json()["error"]["message"]
    wait_for(lambda: served.service.batcher.load == (0, 0))  # the test before this one may just have had its answer


@pytest.mark.parametrize(
    "param, word, more",
    [  # where a text or a list may stand, the fault of what was sent, under the name that the client wrote
        ("messages.0.content.0.image_url", "object", {"content": [{"type": "image_url", "image_url": "data:"}]}),
        ("messages.0.content.0", "input_audio", {"content": [{"type": "input_audio"}]}),
        ("messages.0.content.1.text", "required", {"content": [{"type": "text", "text": ASK}, {"type": "text"}]}),
        ("messages.0.content", "string", {"content": 5}),
        ("stop", "at most 4", {"stop": list("abcde")}),
        ("stop.1", "string", {"stop": ["a", 5]}),
    ],
)
def test_a_fault_in_a_list_is_not_told_as_no_text(param, word, more):
    from armor_model.serve import protocol

    talk = [{"role": "user", "content": more.get("content", ASK)}]
    with pytest.raises(protocol.ApiError) as refused:
        protocol.read_body(protocol.ChatRequest, json.dumps({"model": "toy", "messages": talk, **more}).encode())
    error = refused.value.body["error"]
    assert error["param"] == param and error["message"].startswith(f"{param}: ") and word in error["message"]


def test_whole_numbers_may_be_written_with_a_point(served):
    asked = {"n": 2, "seed": 3, "max_tokens": 5}
    whole = served.chat(**asked).json()
    pointed = served.chat(**{name: float(number) for name, number in asked.items()}).json()
    assert whole["choices"] == pointed["choices"] and len(whole["choices"]) == 2 and pointed["seed"] == 3


def test_bodies_are_limited(served):
    def post(content, kind="application/json"):
        return served.http.post("/v1/chat/completions", content=content, headers={"content-type": kind})

    assert post(b"{").status_code == 400
    assert post(b"{}", "text/plain").status_code == 415
    assert post(b"\xff\xfe").status_code == 400
    assert post(iter([b" " * 2**20] * 33)).status_code == 413
    assert served.http.get("/v1/chat/completions").status_code == 405
    assert served.http.get("/nowhere").json()["error"]["message"]


def test_models_health_metrics(served):
    [card] = served.http.get("/v1/models").json()["data"]
    assert card["id"] == "toy" and card["architecture"]["output_modalities"] == ["text", "image"]
    assert served.http.get("/v1/models/toy").json() == card
    assert served.http.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    assert served.http.get("/health").json() == {"status": "ok"}
    before = served.http.get("/metrics").text
    served.chat(max_tokens=3)
    after = served.http.get("/metrics").text

    def count(text):
        return int(text.partition("\narmor_answers_total ")[2].split("\n")[0])

    assert count(after) == count(before) + 1
    assert 'armor_http_requests_total{path="/v1/chat/completions",status="200"}' in after
    assert "schemas" in served.http.get("/openapi.json").json()["components"]
    assert "connect-src 'self'" in served.http.get("/").headers["content-security-policy"]


@pytest.fixture
def held(talker, monkeypatch):
    """Starts a server of one row and one place in the queue, in which a row goes no further than its first step until
    `go` is set, or the server ends: what is to happen in the middle of an answer happens there, however busy the
    machine is."""
    from armor_model.serve.batching import Batcher

    go, watch, started = threading.Event(), Batcher._watch, []

    def wait_and_watch(self, rows):
        while not self._closing and not go.wait(0.02):
            pass
        watch(self, rows)

    def start(**limits):
        it = Served(*talker, batch=1, queue=1, **limits)
        it.go = go
        started.append(it)
        return it

    monkeypatch.setattr(Batcher, "_watch", wait_and_watch)
    yield start
    go.set()
    for it in started:
        it.close()


LONG = {"modalities": ["text"], "max_tokens": 60, "temperature": 100.0, "seed": 3}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_row(held, stream):
    server = held()
    load, client = server.service.batcher, http.client.HTTPConnection(server.url.removeprefix("http://"))
    asked = {"model": "toy", "messages": [{"role": "user", "content": ASK}], **LONG, "stream": stream}
    client.request("POST", "/v1/chat/completions", json.dumps(asked), {"content-type": "application/json"})
    reply = client.getresponse() if stream else None
    wait_for(lambda: load.load == (1, 0))
    [job] = load._running.values()
    if reply is not None:
        reply.close()
    client.close()
    wait_for(lambda: job.dropped)
    server.go.set()
    wait_for(lambda: load.counts["dropped"] == 1 and load.load == (0, 0))
    assert load.counts["answers"] == 0
    assert server.chat(max_tokens=1).status_code == 200


def test_a_full_queue_refuses(held):
    server, got = held(), []
    threads = [threading.Thread(target=lambda: got.append(server.chat(**LONG))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: server.service.batcher.load == (1, 1))
    refused = server.chat(**LONG)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
    server.go.set()
    for thread in threads:
        thread.join()
    assert [reply.status_code for reply in got] == [200, 200]


def test_time_ends_an_answer(held):
    """One that has a row, and one that waits for it."""
    server = held(seconds=0.5)
    assert [server.chat(**LONG).status_code for _ in range(2)] == [504, 504]
    assert server.service.batcher.load == (1, 0)
    server.go.set()
    wait_for(lambda: server.service.batcher.load == (0, 0))
    assert server.service.batcher.counts["answers"] == 0


def test_an_ending_server_says_so(held):
    server, got = held(), []
    thread = threading.Thread(target=lambda: got.append(server.chat(**LONG)))
    thread.start()
    wait_for(lambda: server.service.batcher.load == (1, 0))
    server.service.batcher.close()
    thread.join()
    assert got[0].status_code == 503 and server.http.get("/health").status_code == 503
    assert server.chat().status_code == 503


def test_a_failure_costs_its_request_alone(talker, monkeypatch):
    from armor_model.generation.engine import Engine

    it = Served(*talker)
    try:
        whole, failed = Engine._step, []

        def step(self, batch):
            if not failed:
                failed.append(True)
                raise RuntimeError("out of memory")
            whole(self, batch)

        monkeypatch.setattr(Engine, "_step", step)
        reply = it.chat(max_tokens=9, modalities=["text"])
        assert reply.status_code == 500 and "RuntimeError" in reply.json()["error"]["message"]
        assert it.chat(max_tokens=9, modalities=["text"]).status_code == 200
    finally:
        it.close()


def test_token_and_host(talker):
    it = Served(*talker, token=TOKEN, hosts=frozenset({"127.0.0.1", "::1"}))
    try:

        def get(path, **headers):
            return it.http.get(path, headers=headers).status_code

        assert get("/v1/models") == 401 and get("/metrics") == 401 and it.chat().status_code == 401
        assert get("/v1/models", authorization=f"Bearer {TOKEN}x") == 401
        assert get("/v1/models", authorization=f"Bearer {TOKEN}") == 200
        assert get("/health") == 200 and get("/") == 200
        assert get("/health", host="evil.example") == 403 and get("/health", host="127.0.0.1.evil.example") == 403
        assert get("/health", host="[::1]:8000") == 200
    finally:
        it.close()


def test_beyond_loopback_needs_a_token(tmp_path, monkeypatch):
    """In one line, before a model is loaded."""
    from armor_model.base.errors import UserError
    from armor_model.serve.command import Address, read_token

    monkeypatch.delenv("ARMOR_SERVE_TOKEN", raising=False)
    with pytest.raises(UserError, match="token is needed"):
        Address("0.0.0.0", 1, None).check()
    file = tmp_path / "token"
    file.write_text("short\n")
    with pytest.raises(UserError, match="16 printable"):
        read_token(file)
    file.write_text(TOKEN + "\n")
    assert read_token(file) == TOKEN
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot listen"):
            Address("127.0.0.1", taken.getsockname()[1], None).check()
    assert Address("0.0.0.0", 1, TOKEN).hosts is None and "localhost" in Address("127.0.0.2", 1, None).hosts


def test_openai_sdk(served, talker):
    openai = pytest.importorskip("openai", reason="a client that others wrote: pip install openai")
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
    talk = [{"role": "user", "content": ASK}]
    asked = {"model": "toy", "messages": talk, "seed": 1, "max_tokens": 40}
    reply = client.chat.completions.create(**asked)
    answer, images = locally(talker, 1)
    assert reply.choices[0].message.content == answer.text
    assert [png_of(each) for each in getattr(reply.choices[0].message, "images", [])] == images
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.text
    drawn = client.images.generate(prompt=ASK, model="toy", n=2, extra_body={"seed": 1})
    assert len(drawn.data) == 2 and base64.b64decode(drawn.data[0].b64_json).startswith(b"\x89PNG")
    assert [each.id for each in client.models.list()] == ["toy"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=talk)


@pytest.mark.slow
def test_litellm(served, talker, monkeypatch):
    """A text, an answer with images, an image shown, a stream, `n` images, an error: as it reads them."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it fetches one
    litellm = pytest.importorskip("litellm", reason="a client that others wrote: pip install litellm")
    server = {"model": "openai/toy", "api_base": served.url + "/v1", "api_key": "none"}
    asked = {**server, "messages": [{"role": "user", "content": ASK}], "seed": 1, "max_tokens": 40}
    answer, images = locally(talker, 1)
    message = litellm.completion(**asked).choices[0].message
    assert message.content == answer.text and [png_of(each) for each in message.images] == images
    deltas = [chunk.choices[0].delta for chunk in litellm.completion(**asked, stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == answer.text
    assert [png_of(part) for delta in deltas for part in getattr(delta, "images", None) or []] == images
    shown = {"role": "user", "content": [dict(message.images[0]), {"type": "text", "text": "what is it ?"}]}
    shown["content"][0].pop("index", None)
    told = litellm.completion(**{**asked, "messages": [shown], "max_tokens": 8}, modalities=["text"])
    assert told.usage.completion_tokens <= 8 and isinstance(told.choices[0].message.content, str)
    drawn = litellm.image_generation(prompt=ASK, n=2, **server)
    assert len(drawn.data) == 2 and base64.b64decode(drawn.data[0].b64_json).startswith(b"\x89PNG")
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**asked, "model": "openai/gpt"})
