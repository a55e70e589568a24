"""Protocol labels: how a benchmark was run where several ways are in use, and what GenEval's departs from them in.

GenEval's are declared in benchmarks/geneval/protocols.toml. Its label has `protocol` (a name there, or `custom`),
`prompts`, `samples`, `guidance` and `detector`; two runs are compared and ranked only where all of it agrees.
"""

from __future__ import annotations

import functools
import tomllib

from armor_eval.base.data import Declared, benchmarks_dir
from armor_eval.runs.schema import Run, decoding_of
from armor_model.base.hashing import sha256_json
from armor_model.base.jsons import JsonObject

CUSTOM = "custom"
OWN_GUIDANCE, UNSTATED = "the model's own", "not stated"


class PromptFile(Declared):
    sha256: str
    """Or its first digits."""
    where: str
    """Projects that hold a copy."""


class Prompts(Declared):
    rewritten: bool
    content_sha256: str
    """Of the prompts joined by newlines, or its first digits."""
    files: list[PromptFile]
    note: str


class Protocol(Declared):
    prompts: str
    samples: int
    """Images a prompt."""
    detector: str
    note: str


class Protocols(Declared):
    limits: list[str]
    """What GenEval's number must be read with."""
    prompts: dict[str, Prompts]
    detectors: dict[str, dict[str, list[str | float]]]
    """Build -> scorer setting -> the values that it may have; of a sha256 the first digits."""
    protocols: dict[str, Protocol]


@functools.cache
def declared() -> Protocols:
    return Protocols.model_validate(tomllib.loads((benchmarks_dir() / "geneval" / "protocols.toml").read_text()))


UNSTATED_PROTOCOL: dict[str, dict[str, str]] = {"understanding": {"reading": "keep-none", "thinking": "strip"}}
"""What runs of before the label was written did, by kind: they refused the files and cut no thoughts where it matters,
so that an equal answer got an equal score."""


def protocol_of(run: Run) -> dict[str, str]:
    """The run's protocol label, complete also for runs of before it was written down."""
    if run.kind == "geneval" and not run.protocol:
        return label_of(run)
    return {**UNSTATED_PROTOCOL.get(run.kind, {}), **run.protocol}


def label(prompts_sha256: str, content_sha256: str, samples: int, scorer: JsonObject, *, drawn: bool) -> dict[str, str]:
    """The label of a GenEval run to come, by the hashes of its prompts' file and of their texts; the engine puts a
    guidance that was asked for in its place."""
    guidance = OWN_GUIDANCE if drawn else UNSTATED
    return _named(_prompts_of(prompts_sha256, content_sha256), str(samples), guidance, _detector_of(scorer))


def label_of(run: Run) -> dict[str, str]:
    """The label of a run of before labels were written: its prompts are known by their file."""
    samples = str(run.extras.get("samples", UNSTATED))
    return _named(_prompts_of(run.data.sha256, None), samples, _guidance_of(run), _detector_of(run.scorer.settings))


def _named(prompts: str, samples: str, guidance: str, detector: str) -> dict[str, str]:
    parts = {"prompts": prompts, "samples": samples, "guidance": guidance, "detector": detector}
    name = next((name for name in declared().protocols if not departures(parts, name)), CUSTOM)
    return {"protocol": name, **parts}


def departures(label: dict[str, str], protocol: str) -> list[str]:
    """In what a label is not the protocol, in words: `samples 2 (geneval: 4)`."""
    wanted = declared().protocols[protocol]
    parts = {"prompts": wanted.prompts, "samples": str(wanted.samples), "detector": wanted.detector}
    return [f"{part} {label.get(part)} ({protocol}: {value})" for part, value in parts.items() if label[part] != value]


def remark_of(label: dict[str, str], expected: str) -> str | None:
    """What is printed under a headline that is not of the expected protocol; None where it is."""
    if label["protocol"] == expected:
        return None
    number = "the paper's number" if expected == "geneval" else f"the {expected} number"
    return f"protocol {label['protocol']}: {'; '.join(departures(label, expected))}: not {number}"


def _prompts_of(file_sha256: str, content_sha256: str | None) -> str:
    for name, prompts in declared().prompts.items():
        if content_sha256 is not None and content_sha256.startswith(prompts.content_sha256):
            return name
        if content_sha256 is None and any(file_sha256.startswith(file.sha256) for file in prompts.files):
            return name
    return f"{CUSTOM} {file_sha256[:8]}"


def _guidance_of(run: Run) -> str:
    guidance = decoding_of(run).get("guidance")
    if run.model.spec.startswith("images:"):
        return UNSTATED
    return OWN_GUIDANCE if guidance is None else f"{guidance:g}"


def _detector_of(settings: JsonObject) -> str:
    for name, build in declared().detectors.items():
        if all(_allowed(key, settings.get(key), values) for key, values in build.items()):
            return name
    return f"{CUSTOM} {settings.get('detector', 'unknown')} {sha256_json(settings)[:8]}"


def _allowed(key: str, value: object, values: list[str | float]) -> bool:
    if key.endswith("sha256"):
        return isinstance(value, str) and value.startswith(tuple(map(str, values)))
    return value in values
