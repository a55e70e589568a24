"""Judges read answers that no rule can. Every reply is checked; one that cannot be read is a failure, never a score.

The prompts are VLMEvalKit's own. Replies are kept in a cache under the hash of endpoint, model, prompt and attempt.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from armor_eval.models.endpoint import Endpoint, EndpointError
from armor_eval.runs.provenance import packages, sha256_json
from armor_eval.runs.schema import JudgeInfo

ATTEMPTS = 3
"""How often a judge is asked again when its reply cannot be read."""
LONGEST_REPLY = {"graded": 16, "ratio": 1024}
_NUMBER = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?(?![\d.]*\d)")


@dataclass(frozen=True)
class Request:
    """One answer to be judged."""

    id: str
    prompt: str
    """VLMEvalKit's own words, as its `evaluate` will send them."""
    kind: str
    """The benchmark's kind: what a readable reply looks like."""
    options: dict[str, Any] = field(default_factory=dict)
    system: str | None = None


@dataclass
class Judged:
    """Replies as VLMEvalKit wants them, by prompt; and the items that no reply could be had for."""

    replies: dict[str, str] = field(default_factory=dict)
    usable: dict[str, str] = field(default_factory=dict)
    """Item id -> the reply in the form that is read without doubt."""
    raw: dict[str, str] = field(default_factory=dict)
    """Item id -> what the judge said."""
    failed: dict[str, str] = field(default_factory=dict)
    """Item id -> why, one line."""

    def generate(self, prompt: str, **_: Any) -> str:
        """Stands in for VLMEvalKit's judge: says again what was said."""
        return self.replies[prompt]


class Judge(Protocol):
    info: JudgeInfo

    def judge(self, requests: Sequence[Request], done: Callable[[int], None] | None = None) -> Judged: ...

    def close(self) -> None: ...


def read_reply(request: Request, reply: str) -> str | None:
    """The reply in the form that VLMEvalKit reads without doubt, or None where it says nothing usable."""
    if request.kind == "graded":
        # "0.5", "Correctness: 0.5", "0.5 (half of it)": one number between 0 and 1, and no other.
        found = {float(n) for n in _NUMBER.findall(reply)}
        return str(found.pop()) if len(found) == 1 and 0 <= min(found) <= 1 else None
    if request.kind == "ratio":
        first = next((line for line in reply.splitlines() if line.strip()), "")
        found = [float(n) for n in _NUMBER.findall(first)]
        return f"{found[0]} {found[1]}" if len(found) == 2 and all(1 <= n <= 10 for n in found) else None
    if request.kind == "yes-no":
        words = set(re.findall(r"[a-z]+", reply.lower())) & {"yes", "no", "unknown"}
        return words.pop().capitalize() if len(words) == 1 else None
    from vlmeval.utils import can_infer

    return can_infer(reply, dict(request.options)) or None


class EndpointJudge:
    """A model behind an OpenAI-compatible endpoint."""

    def __init__(self, endpoint: Endpoint, cache: Path) -> None:
        self._endpoint = endpoint
        self._cache = ReplyCache(cache / f"{endpoint.fingerprint[:16]}.jsonl")
        version = packages().get("ms-vlmeval", "?")
        self.info = JudgeInfo(
            name=endpoint.model, endpoint="openai-compatible",
            prompt_sha256=sha256_json(["vlmeval judge prompts", version, ATTEMPTS, LONGEST_REPLY]),
        )  # fmt: skip

    def judge(self, requests: Sequence[Request], done: Callable[[int], None] | None = None) -> Judged:
        """Ask for each; equal prompts are asked once. Raises UserError where the endpoint refuses us altogether."""
        judged = Judged()
        unique = {request.prompt: request for request in requests}
        found = self._endpoint.many([lambda r=r: self._ask(r) for r in unique.values()], done)
        by_prompt = dict(zip(unique, found, strict=True))
        for request in requests:
            usable, said = by_prompt[request.prompt]
            if usable is None:
                judged.failed[request.id] = said
            else:
                judged.replies[request.prompt] = judged.usable[request.id] = usable
                judged.raw[request.id] = said
        return judged

    def _ask(self, request: Request) -> tuple[str | None, str]:
        """(usable reply, raw reply), or (None, why not)."""
        said = "no reply"
        for attempt in range(ATTEMPTS):
            key = sha256_json([self._endpoint.url, self._endpoint.model, request.system, request.prompt, attempt])
            reply = self._cache.get(key)
            if reply is None:
                system = [{"role": "system", "content": request.system}] if request.system else []
                messages = [*system, {"role": "user", "content": request.prompt}]
                longest = LONGEST_REPLY.get(request.kind, 64)
                try:
                    # The first try is greedy; asking the same again would give the same.
                    reply = self._endpoint.chat(messages, temperature=0.5 * attempt, max_tokens=longest).text
                except EndpointError as error:
                    return None, f"judge: {error}"
                self._cache.put(key, reply)
            usable = read_reply(request, reply)
            if usable is not None:
                return usable, reply
            said = f"judge: unreadable after {attempt + 1} tries: {' '.join(reply.split())[:120]!r}"
        return None, said

    def close(self) -> None:
        self._endpoint.close()
        self._cache.close()


class ReplyCache:
    """Replies by key in a JSON-lines file: appended and flushed, torn lines ignored, safe for threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._known: dict[str, str] = {}
        self._descriptor = -1
        if path.exists():
            for line in path.read_bytes().split(b"\n"):
                try:
                    entry = json.loads(line)
                    self._known[entry["key"]] = entry["reply"]
                except (ValueError, KeyError, TypeError):
                    continue

    def get(self, key: str) -> str | None:
        return self._known.get(key)

    def put(self, key: str, reply: str) -> None:
        line = b"\n" + json.dumps({"key": key, "reply": reply}).encode() + b"\n"
        with self._lock:
            if self._descriptor < 0:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(self._descriptor, line)
            self._known[key] = reply

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RuleJudge:
    """The shapes world's own judge: exact rules, named as such, never an official number."""

    def __init__(self) -> None:
        from armor_eval.shapes.judge import ShapesRules

        self._rules = ShapesRules()
        self.info = JudgeInfo(name=self._rules.name, endpoint="rules")

    def judge(self, requests: Sequence[Request], done: Callable[[int], None] | None = None) -> Judged:
        judged = Judged()
        for request in requests:
            try:
                reply = self._rules.generate(request.prompt)
            except ValueError as error:  # a row that is not of the shapes world
                judged.failed[request.id] = f"judge: {error}"
                continue
            judged.replies[request.prompt] = judged.usable[request.id] = judged.raw[request.id] = reply
        return judged

    def close(self) -> None:
        """Nothing is held."""
