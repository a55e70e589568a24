"""The server: routes, and what guards them.

    armor-model serve --port 8000
    curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \
        -d '{"model": "armor-nano", "messages": [{"role": "user", "content": "draw a red circle"}]}'
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.generation import GenerationSettings, encode
from armor_model.generation import Response as Answer
from armor_model.generation.api import TooLongError
from armor_model.serve import protocol
from armor_model.serve.batching import Batcher, BusyError, ClosedError, Job
from armor_model.serve.command import Guard, ServeLimits, read_bytes
from armor_model.serve.openapi import openapi
from armor_model.serve.protocol import ApiError, ChatRequest, ImageRequest

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

PAGE = Path(__file__).with_name("page.html")
KEEP_ALIVE_SECONDS = 10.0
"""A stream says something at least so often: an image may take a minute, and clients give up on silence."""
LETTERS_A_TOKEN = 256
"""No token is longer: what has more letters for each token of the context is refused before it is tokenised."""
ENCODED_AT_ONCE = 4


class Service:
    """One model, its batcher, and what is said of it."""

    def __init__(
        self,
        model: ArmorModel,
        processor: ArmorProcessor,
        name: str,
        settings: GenerationSettings | None = None,
        limits: ServeLimits | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.model, self.processor, self.name, self.fingerprint = model, processor, name, fingerprint
        self.limits, self.created = limits or ServeLimits(), int(time.time())
        settings = settings or GenerationSettings()
        context = model.config.text_config.max_position_embeddings
        settings = replace(settings, max_new_tokens=context, allow_images=processor.vq is not None)
        self.settings = settings
        self._most_letters = LETTERS_A_TOKEN * context
        self._encoding = asyncio.Semaphore(ENCODED_AT_ONCE)
        self.batcher = Batcher(model, processor, settings, self.limits.batch, self.limits.queue)

    @property
    def side(self) -> int:
        """Pixels a side of a drawn image; 0 where none can be drawn."""
        return self.processor.vq.image_size if self.processor.vq is not None else 0

    def card(self) -> JsonObject:
        """The model's entry in /v1/models."""
        out = ["text", "image"] if self.side else ["text"]
        kinds = {"input_modalities": ["text", "image"], "output_modalities": out}
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "armor-model",
            "architecture": kinds,
            "image_size": f"{self.side}x{self.side}" if self.side else None,
        }

    def check_model(self, name: str | None) -> None:
        if name is not None and name != self.name:
            raise ApiError(404, f"there is no model {name!r} here, only {self.name!r}", "model", "model_not_found")

    async def jobs(
        self,
        talk: list[JsonObject],
        settings: GenerationSettings,
        seed: int | None,
        n: int,
        live: bool = False,
        stop: tuple[str, ...] = (),
    ) -> Jobs:
        """Hand in `n` answers to a conversation. ApiError where it cannot be answered, or not now."""
        first = secrets.randbelow(2**32) if seed is None else seed
        letters = sum(len(part.get("text", "")) for message in talk for part in message["content"])
        if letters > self._most_letters:
            message = f"{letters} letters are more than this model's context can hold"
            raise ApiError(400, message, "messages", "context_length_exceeded")
        try:
            async with self._encoding:
                request = await run_in_threadpool(encode, self.model, self.processor, talk, settings, first)
        except TooLongError as error:
            raise ApiError(400, error.line(), "messages", "context_length_exceeded") from None
        except UserError as error:
            raise ApiError(400, error.line(), "messages") from None
        jobs = Jobs(self.batcher, len(request.ids), first)
        for k in range(n):
            one = replace(request, settings=settings, seed=(first + k) % 2**63)
            jobs.add(Job(one, jobs.listener(k), live, stop))
        try:
            self.batcher.submit(jobs.all)
        except BusyError:
            raise ApiError(429, "too many requests wait already", retry_after=2) from None
        except ClosedError:
            raise ApiError(503, "the server is ending", retry_after=10) from None
        return jobs


class Jobs:
    """The answers of one HTTP request, and what comes of them in the order of its coming."""

    def __init__(self, batcher: Batcher, prompt_tokens: int, seed: int) -> None:
        self.all: list[Job] = []
        self.prompt_tokens, self.seed = prompt_tokens, seed
        self._batcher, self._loop = batcher, asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    def add(self, job: Job) -> None:
        self.all.append(job)

    def listener(self, index: int) -> Callable[[object], None]:
        """For the engine's thread."""

        def send(event: object) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody listens
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        return send

    def drop(self) -> None:
        self._batcher.drop(self.all)

    async def events(self, seconds: float) -> AsyncIterator[tuple[int, Any]]:
        """(index, text | image | Answer) until each answer is there; (-1, None) where nothing came for a while.
        ApiError where one failed, or it took too long."""
        ends, left = self._loop.time() + seconds, len(self.all)
        while left:
            wait = min(KEEP_ALIVE_SECONDS, ends - self._loop.time())
            if wait <= 0:
                raise ApiError(504, f"no answer within {seconds:g} seconds", code="timeout")
            try:
                index, event = await asyncio.wait_for(self._queue.get(), wait)
            except TimeoutError:
                yield -1, None
                continue
            if isinstance(event, ClosedError):
                raise ApiError(503, "the server is ending", retry_after=10)
            if isinstance(event, Exception):
                raise ApiError(500, f"the model failed: {type(event).__name__}")
            left -= isinstance(event, Answer)
            yield index, event

    async def answers(self, request: Request, seconds: float) -> list[Answer]:
        """All answers, in order. What is under way ends where the client leaves."""

        async def collect() -> list[Answer]:
            found = {i: event async for i, event in self.events(seconds) if isinstance(event, Answer)}
            return [found[i] for i in range(len(self.all))]

        work, left = asyncio.create_task(collect()), asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ApiError(499, "the client has left")
            return work.result()
        finally:
            for task in (work, left):
                task.cancel()
            self.drop()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(service: Service, token: str | None = None, hosts: frozenset[str] | None = None) -> Starlette:
    """The application; `token` is asked of everything but the page and /health, `hosts` are the names it answers to."""
    limits = service.limits

    async def chat(request: Request) -> Response:
        body = protocol.read_body(ChatRequest, await read_bytes(request, limits.body_bytes, limits.body_seconds))
        service.check_model(body.model)
        settings = protocol.chat_settings(body, service.settings)
        talk = await run_in_threadpool(protocol.conversation_of, body.messages, limits.images)
        jobs = await service.jobs(talk, settings, body.seed, body.n or 1, bool(body.stream), body.stops)
        head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": service.fingerprint,
        }
        if body.stream:
            return StreamingResponse(_chunks(jobs, head, body, limits.seconds), media_type="text/event-stream")
        answers = await jobs.answers(request, limits.seconds)
        choices = await run_in_threadpool(
            lambda: [protocol.choice(i, answer, bool(body.content_parts)) for i, answer in enumerate(answers)]
        )
        used = protocol.usage(jobs.prompt_tokens, answers)
        return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": used, "seed": jobs.seed})

    async def images(request: Request) -> Response:
        body = protocol.read_body(ImageRequest, await read_bytes(request, limits.body_bytes, limits.body_seconds))
        service.check_model(body.model)
        settings = protocol.image_settings(body, service.settings, service.side)
        talk = [{"role": "user", "content": [{"type": "text", "text": body.prompt}]}]
        jobs = await service.jobs(talk, settings, body.seed, body.n or 1)
        answers = await jobs.answers(request, limits.seconds)
        drawn = await run_in_threadpool(lambda: [protocol.png(answer.images[0]) for answer in answers])
        data = [{"b64_json": each, "url": None, "revised_prompt": None} for each in drawn]
        used = protocol.usage(jobs.prompt_tokens, answers)
        usage = {"input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"]}
        usage["total_tokens"] = used["total_tokens"]
        return JSONResponse({"created": int(time.time()), "data": data, "usage": usage, "seed": jobs.seed})

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [service.card()]})

    async def model(request: Request) -> Response:
        service.check_model(request.path_params["name"])
        return JSONResponse(service.card())

    async def health(_: Request) -> Response:
        alive = service.batcher.alive
        return JSONResponse({"status": "ok" if alive else "unavailable"}, 200 if alive else 503)

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(_metrics(service.batcher, guard_of(request)), media_type="text/plain; version=0.0.4")

    async def spec(_: Request) -> Response:
        return JSONResponse(openapi(service.name, service.side, service.settings.max_new_tokens, bool(token)))

    async def page(_: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
        policy += "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        return HTMLResponse(PAGE.read_text(), headers={"content-security-policy": policy})

    def guard_of(request: Request) -> Guard:
        return request.scope["armor.guard"]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await run_in_threadpool(service.batcher.close)

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/openapi.json", spec, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", model, methods=["GET"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/images/generations", images, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={ApiError: _refused, HTTPException: _no_route})
    app.add_middleware(Guard, token=token, hosts=hosts)
    return app


async def _chunks(jobs: Jobs, head: JsonObject, body: ChatRequest, seconds: float) -> AsyncIterator[str]:
    """Server-sent events: texts as they grow, an image when it is whole, a comment where nothing came for a while."""
    head = {**head, "object": "chat.completion.chunk"}
    answers: dict[int, Answer] = {}
    drawn = dict.fromkeys(range(len(jobs.all)), 0)

    def chunk(index: int, delta: JsonObject, finish: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event({**head, "choices": [choice]})

    try:
        for index in drawn:
            yield chunk(index, {"role": "assistant", "content": ""})
        async for index, event in jobs.events(seconds):
            if index < 0:
                yield ": still at it\n\n"
            elif isinstance(event, str):
                yield chunk(index, {"content": event})
            elif isinstance(event, Answer):
                answers[index] = event
                yield chunk(index, {}, protocol.finish_reason(event))
            else:
                part = await run_in_threadpool(protocol.image_part, event, drawn[index])
                drawn[index] += 1
                yield chunk(index, {"images": [part]})
        if (body.stream_options or {}).get("include_usage"):
            used = protocol.usage(jobs.prompt_tokens, list(answers.values()))
            yield _event({**head, "choices": [], "usage": used})
        yield "data: [DONE]\n\n"
    except ApiError as error:  # the status has gone out
        yield _event(error.body)
    finally:
        jobs.drop()


def _event(value: object) -> str:
    return f"data: {json.dumps(value)}\n\n"  # in ASCII: some clients end a line at U+2028 too


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"retry-after": str(error.retry_after)} if error.retry_after else None
    return JSONResponse(error.body, error.status, headers)


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(ApiError(error.status_code, error.detail).body, error.status_code, error.headers)


def _metrics(batcher: Batcher, guard: Guard) -> str:
    """Prometheus' text format."""
    running, waiting = batcher.load
    rows: list[tuple[str, str, str, str, float]] = [("armor_running", "gauge", "Answers under way.", "", running)]
    rows += [("armor_waiting", "gauge", "Answers that wait for a row.", "", waiting)]
    for name in ("answers", "dropped", "failures", "images", "prompt_tokens", "text_tokens"):
        rows.append((f"armor_{name}_total", "counter", f"{name} since the start.", "", batcher.counts[name]))
    for (path, status), count in sorted(guard.seen.items()):
        rows.append(
            ("armor_http_requests_total", "counter", "Requests.", f'{{path="{path}",status="{status}"}}', count)
        )
    for path, seconds in sorted(guard.seconds.items()):
        rows.append(("armor_http_seconds_total", "counter", "Seconds in requests.", f'{{path="{path}"}}', seconds))
    lines, named = [], set()
    for name, kind, what, labels, value in rows:
        if name not in named:
            named.add(name)
            lines += [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
        lines.append(f"{name}{labels} {value:g}" if isinstance(value, float) else f"{name}{labels} {value}")
    return "\n".join(lines) + "\n"
