"""From what `--judge` says to a judge: `openai:URL#NAME` behind an endpoint, `hf:ID` on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from armor_eval.models.endpoint import Endpoint, Extra
from armor_eval.models.openai import patience
from armor_eval.profiles import profile_of
from armor_eval.runs.schema import Profile
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.judge import AskingJudge, EndpointJudge, Judge, ModelJudge
from armor_model.base.cache import cache_dir
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject, JsonView

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
