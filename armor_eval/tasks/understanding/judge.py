"""Judges read answers that no rule can. Every reply is checked; one that cannot be read is a failure, never a score.

The prompts are VLMEvalKit's own. Usable replies are kept in a cache under the hash of judge, prompt and reply limit.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from armor_eval.engine.ask import ask
from armor_eval.models.base import Answer, AnswersQuestions, Decoding, Question
from armor_eval.models.drawing import one_line
from armor_eval.models.endpoint import Endpoint, EndpointError, Extra
from armor_eval.models.openai import patience
from armor_eval.profiles import profile_of
from armor_eval.runs.provenance import packages
from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.tasks.families import FAMILIES
from armor_eval.tasks.families.base import SHORT_REPLY
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.prompts import clean
from armor_eval.tasks.understanding.thinking import strip_thoughts
from armor_eval.vlmevalkit.records import Judged, Request
from armor_model.base.cache import cache_dir
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_json
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import json_of

ATTEMPTS = 3
"""How often a judge is asked again when its reply cannot be read."""
WARMER = 0.5
"""Temperature that each further attempt adds."""
LONGEST_REPLY = {name: one.longest_reply for name, one in FAMILIES.items() if one.longest_reply != SHORT_REPLY}
"""New tokens of a reply by family; SHORT_REPLY for the others. Part of what identifies a judge."""
ROOM_TO_THINK = 4096
"""New tokens of a reply where the judge was cut short while it thought."""
JUDGED_TOGETHER = 8
"""Prompts that a local judge reads at a time."""


class Judge(Protocol):
    info: JudgeInfo

    def judge(self, requests: Sequence[Request], done: Callable[[int], None] | None = None) -> Judged: ...

    def close(self) -> None: ...


def read_reply(request: Request, reply: str) -> str | None:
    """The reply in the form that VLMEvalKit reads without doubt, or None where it says nothing usable."""
    return FAMILIES[request.kind].read_reply(request, reply)


class AskingJudge:
    """A judge that is a model: asked in rounds, each reply checked, usable ones kept.

    The first round is greedy and later ones are not: asking the same again would give the same. What is unreadable is
    never kept, so that a judge that was mended is asked again.
    """

    def __init__(self, identity: str, info: JudgeInfo, cache: Path, longest: int | None = None) -> None:
        version = packages().get("ms-vlmeval", "?")
        words: list[object] = ["vlmeval judge prompts", version, ATTEMPTS, LONGEST_REPLY]
        self.info = info.model_copy(update={"prompt_sha256": sha256_json([*words, longest] if longest else words)})
        self._identity, self._longest = identity, longest
        self._cache = ReplyCache(cache / f"{identity[:16]}.jsonl")
        self._thinks = False

    def judge(self, requests: Sequence[Request], done: Callable[[int], None] | None = None) -> Judged:
        """Ask for each; equal prompts are asked once. Raises UserError where the judge refuses us altogether."""
        unique = {request.prompt: request for request in requests}
        verdicts = {prompt: self._recalled(request) for prompt, request in unique.items()}
        pending = [request for prompt, request in unique.items() if verdicts[prompt].usable is None]
        if done is not None and len(pending) < len(unique):
            done(len(unique) - len(pending))
        attempt = 0
        while pending and attempt < ATTEMPTS:
            thought = self._thinks
            latest = self._say(pending, attempt, done)
            verdicts |= {request.prompt: verdict for request, verdict in zip(pending, latest, strict=True)}
            pending = [
                r for r, verdict in zip(pending, latest, strict=True) if verdict.usable is None and not verdict.final
            ]
            attempt += thought == self._thinks  # a judge found to think is asked the same again, with room for it
            done = None
        judged = Judged()
        for request in requests:
            verdict = verdicts[request.prompt]
            if verdict.usable is None:
                judged.failed[request.id] = f"judge: {verdict.why}"
            else:
                judged.replies[request.prompt] = judged.usable[request.id] = verdict.usable
                judged.raw[request.id] = verdict.raw
        return judged

    def _say(self, requests: Sequence[Request], attempt: int, done: Callable[[int], None] | None) -> list[_Verdict]:
        """A verdict a request, in order; `done` is called with the number of those that came."""
        raise NotImplementedError

    def _room(self, kind: str) -> int:
        """New tokens that a reply may have."""
        usual = self._longest or FAMILIES[kind].longest_reply
        return max(usual, ROOM_TO_THINK) if self._thinks and not self._longest else usual

    def _heard(self, request: Request, text: str, reasoning: str | None = None, cut: bool = False) -> _Verdict:
        """What a reply says, with its thoughts cut; kept if it is usable."""
        text = clean(text)
        reply = strip_thoughts(text)
        usable = read_reply(request, reply)
        if usable is not None:
            self._cache.put(self._key(request), reply)
            return _Verdict(usable, reply)
        if cut and (reasoning or not reply):
            self._thinks = True
        return _Verdict(None, reply, f"unreadable: {' '.join(text.split())[:120]!r}{' (cut by length)' if cut else ''}")

    def _recalled(self, request: Request) -> _Verdict:
        reply = self._cache.get(self._key(request))
        return _Verdict(read_reply(request, reply), reply) if reply is not None else _Verdict(None, "")

    def _key(self, request: Request) -> str:
        return sha256_json([self._identity, request.system, request.prompt, self._longest, "usable"])

    def close(self) -> None:
        self._cache.close()


class EndpointJudge(AskingJudge):
    """A model behind an OpenAI-compatible endpoint. `longest`: new tokens of a reply, instead of LONGEST_REPLY."""

    def __init__(self, endpoint: Endpoint, cache: Path, longest: int | None = None) -> None:
        info = JudgeInfo(name=endpoint.model, endpoint="openai-compatible")
        super().__init__(endpoint.fingerprint, info, cache, longest)
        self._endpoint = endpoint

    def _say(self, requests: Sequence[Request], attempt: int, done: Callable[[int], None] | None) -> list[_Verdict]:
        return self._endpoint.many([functools.partial(self._ask, request, attempt) for request in requests], done)

    def _ask(self, request: Request, attempt: int) -> _Verdict:
        system = [{"role": "system", "content": request.system}] if request.system else []
        messages = [*system, {"role": "user", "content": request.prompt}]
        try:
            reply = self._endpoint.chat(messages, temperature=WARMER * attempt, max_tokens=self._room(request.kind))
        except EndpointError as error:
            return _Verdict(None, "", str(error), final=True)
        return self._heard(request, reply.text, reply.reasoning, reply.cut)

    def close(self) -> None:
        self._endpoint.close()
        super().close()


class ModelJudge(AskingJudge):
    """A model of this machine, asked in batches."""

    def __init__(self, model: AnswersQuestions, cache: Path, longest: int | None = None) -> None:
        info = JudgeInfo(name=model.info.name, version=model.info.revision, endpoint="local")
        super().__init__(model.info.fingerprint, info, cache, longest)
        self._model = model

    def _say(self, requests: Sequence[Request], attempt: int, done: Callable[[int], None] | None) -> list[_Verdict]:
        verdicts: list[_Verdict] = []
        for start in range(0, len(requests), JUDGED_TOGETHER):
            batch = requests[start : start + JUDGED_TOGETHER]
            room = max(self._room(request.kind) for request in batch)
            words = ["\n\n".join(filter(None, (request.system, request.prompt))) for request in batch]
            questions = [Question(request.id, [text]) for request, text in zip(batch, words, strict=True)]
            decoding = Decoding(max_new_tokens=room, temperature=WARMER * attempt, seed=attempt)
            answers = ask(self._model, questions, decoding)
            verdicts += [self._read(request, answer) for request, answer in zip(batch, answers, strict=True)]
            if done is not None:
                done(len(batch))
        return verdicts

    def _read(self, request: Request, answer: Answer | Exception) -> _Verdict:
        if isinstance(answer, Exception) or answer.error:
            return _Verdict(
                None, "", one_line(answer) if isinstance(answer, Exception) else answer.error or "", final=True
            )
        unclosed = bool(answer.text.strip()) and not strip_thoughts(answer.text)
        cut = unclosed or "length" in (answer.extras.get("finish_reason"), answer.extras.get("finish"))
        return self._heard(request, answer.text, answer.extras.get("reasoning"), cut)

    def close(self) -> None:
        self._model.close()
        super().close()


@dataclass(frozen=True)
class _Verdict:
    """What a judge's reply to one prompt says."""

    usable: str | None
    """In the form that is read without doubt; None: there is no such reply."""
    raw: str
    why: str = "no reply"
    final: bool = False
    """No reply could be had: asking for another one is the endpoint's business, and done."""


class ReplyCache:
    """Replies by key in a JSON-lines file: appended and flushed, torn lines ignored, safe for threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._known: dict[str, str] = {}
        self._descriptor = -1
        if path.exists():
            for line in path.read_bytes().split(b"\n"):
                try:
                    entry = json_of(line)
                    if isinstance(entry["reply"], str):
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


# --- from what --judge says to a judge -------------------------------------------------------------------------------


PATIENCE: JsonObject = {"timeout": 300.0, "deadline": 600.0}
"""A judge says less than a model under test."""


def judge_spec(judge: str | None, url: str | None, name: str | None) -> str | None:
    """`--judge`, or `--judge-url` with `--judge-model` as one specification; None without a judge. Raises UserError."""
    if (url is None) != (name is None):
        raise UserError("a judge needs both --judge-url and --judge-model", "or one --judge openai:URL#NAME")
    if judge is not None and url is not None:
        raise UserError("--judge and --judge-url name two judges", "give one of them")
    return judge if url is None or name is None else f"openai:{url}#{name}"


def open_judge(
    spec: str,
    profile: Profile,
    cache: Path,
    *,
    longest: int | None = None,
    extra: Extra | None = None,
    limits: JsonView | None = None,
    **options: Any,
) -> AskingJudge:
    """The judge that a specification names; UserError where it names none. `longest`: new tokens of a reply; `limits`:
    fields of the endpoint's Patience; `options`: of a local model's loader."""
    kind, _, rest = spec.partition(":")
    if kind == "openai":
        url, _, name = rest.rpartition("#")
        if not url or not name:
            raise UserError(f"--judge {spec} lacks the judge's name", "expected openai:URL#NAME")
        return EndpointJudge(Endpoint(url, name, patience(PATIENCE, limits), extra), cache, longest)
    if kind == "hf":
        from armor_eval.models import language, registry

        if extra is not None and (extra.body or extra.headers):
            raise UserError("--judge-request-json is for a judge behind an endpoint", "leave it out with --judge hf:ID")
        local = language.load(rest) or registry.load(spec, profile, **options)
        return ModelJudge(local, cache, longest)
    raise UserError(f"--judge {spec} names no judge", "expected openai:URL#NAME or hf:ID")


def make_judges(profile: Profile, judge: str | None, benchmarks: list[Benchmark], **options: Any) -> dict[str, Judge]:
    """Benchmark name -> judge: the named one for all if there is one, else a guest profile's rules for free text.

    UserError before anything is asked where a benchmark cannot be scored. `options`: see judges.open_judge.
    """
    if judge is not None:
        opened = open_judge(judge, profile, cache_dir() / "judge", **options)
        return {b.name: opened for b in benchmarks}
    free = [b.name for b in benchmarks if b.judge == "required"]
    spec = profile_of(profile)
    if spec.guest is None:
        if free:
            raise UserError(
                f"{' and '.join(free)} need a judge",
                "give --judge openai:URL#NAME or --judge hf:ID, or leave them out of --bench",
            )
        return {}
    return {name: spec.part("judge").RuleJudge() for name in free}
