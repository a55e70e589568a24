"""The GenEval judge as a reward over HTTP: a batch of images and their metadata in, verdicts and soft scores out.

`armor-eval reward` serves it on loopback. Verdicts are those of `armor-eval geneval` on the same images: same reader,
detector, colours and rules.

    POST /reward  {"images": [base64 of a PNG or JPEG, or a data: URL, ...], "metadata": [GenEval's record, ...]}
                  -> {"scores": [0 to 1, ...], "strict": [0 or 1, ...], "reasons": ["" if right, ...]}
    GET /health   -> what judges: profile, detector, weights, thresholds

A batch of which one image cannot be judged is refused whole, with its index: no reward stands for what was not seen.
JSON, never pickle, which would run what a client sends.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from armor_eval.base.images import rgb_of
from armor_eval.tasks.geneval.colors import ColorJudge
from armor_eval.tasks.geneval.detectors import Detector
from armor_eval.tasks.geneval.judging import judge_images
from armor_eval.tasks.geneval.prompts import Metadata, Vocabulary, check_metadata
from armor_eval.tasks.geneval.verdicts import Rules, soft_score
from armor_model.base.errors import UserError
from armor_model.base.images import BadImageError

HOSTS = ["127.0.0.1", "localhost"]
"""Values of Host that are answered: a page of another name that resolves to this machine is not."""


@dataclass(frozen=True)
class Limits:
    """What one client may ask; beyond it the answer is 413 or 429."""

    images: int = 128
    """Of one batch."""
    megapixels: float = 200.0
    """Of a batch's images together."""
    body: int = 256 * 2**20
    """Bytes of a request."""
    waiting: int = 32
    """Batches under way or in line; a trainer's every process sends one."""


@dataclass(frozen=True)
class Reward:
    """The judge of a profile. `judge` is not to be called from two threads at once."""

    vocabulary: Vocabulary
    detector: Detector
    colors: ColorJudge
    rules: Rules = field(default_factory=Rules)
    limits: Limits = field(default_factory=Limits)

    @property
    def settings(self) -> dict[str, object]:
        """What the verdicts follow from."""
        rules = asdict(self.rules)
        return {"profile": self.vocabulary.profile, **self.detector.settings, **self.colors.settings, **rules}

    def judge(self, batch: object) -> dict[str, Sequence[float | str]]:
        """The answer to a request's JSON; HTTPException where it is none, or an image cannot be judged."""
        images, metas = self._read(batch)
        judged = judge_images(images, metas, self.detector, self.colors, self.rules)
        soft = [soft_score(m, j.detections, j.colors, self.rules) for m, j in zip(metas, judged, strict=True)]
        strict = [int(one.verdict.correct) for one in judged]
        return {"scores": soft, "strict": strict, "reasons": [one.verdict.reason for one in judged]}

    def _read(self, batch: object) -> tuple[list[np.ndarray], list[Metadata]]:
        if not isinstance(batch, dict) or not all(isinstance(batch.get(k), list) for k in ("images", "metadata")):
            raise HTTPException(400, 'expected {"images": [base64, ...], "metadata": [record, ...]}')
        given, records = batch["images"], batch["metadata"]
        if not given or len(given) != len(records):
            raise HTTPException(400, f"{len(given)} images and {len(records)} metadata: expected one of each, or more")
        if len(given) > self.limits.images:
            raise HTTPException(413, f"{len(given)} images: at most {self.limits.images} a batch")
        try:
            metas = [check_metadata(record, self.vocabulary, f"metadata[{i}]") for i, record in enumerate(records)]
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        images: list[np.ndarray] = []
        pixels = 0
        for i, text in enumerate(given):
            try:
                images.append(np.asarray(_image(text)))
            except (BadImageError, binascii.Error, ValueError) as error:
                raise HTTPException(400, f"images[{i}]: {error}") from None
            pixels += images[-1].shape[0] * images[-1].shape[1]
            if pixels > self.limits.megapixels * 1e6:
                raise HTTPException(413, f"images[{i}]: the batch exceeds {self.limits.megapixels:g} megapixels")
        return images, metas


def _image(text: object) -> object:
    """An image from base64 or a data: URL; no other URL is ever fetched."""
    if not isinstance(text, str):
        raise ValueError("expected base64 text")
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("expected data:image/...;base64,")
    return rgb_of(base64.b64decode(text, validate=True))[0]


def make_app(reward: Reward) -> Starlette:
    """The web application. One batch is judged at a time; the next ones wait in line."""
    turn = asyncio.Lock()
    in_line = 0

    async def judge(request: Request) -> Response:
        nonlocal in_line
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "expected Content-Type: application/json")  # which no foreign page can send
        if in_line >= reward.limits.waiting:
            raise HTTPException(429, f"{in_line} batches are waiting", {"Retry-After": "1"})
        in_line += 1
        try:
            try:
                batch = json.loads(await _body(request, reward.limits.body))
            except (ValueError, RecursionError) as error:
                raise HTTPException(400, f"not JSON: {error}") from None
            async with turn:
                return JSONResponse(await run_in_threadpool(reward.judge, batch))
        finally:
            in_line -= 1

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "judge": reward.settings, "limits": asdict(reward.limits)})

    return Starlette(
        routes=[Route("/reward", judge, methods=["POST"]), Route("/health", health)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
        exception_handlers={HTTPException: _refused},
    )


async def _body(request: Request, most: int) -> bytes:
    """The request's bytes; counted as they come, whatever its Content-Length says."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise HTTPException(413, f"the request exceeds {most:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": {"message": error.detail}}, error.status_code, error.headers)
