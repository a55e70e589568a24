"""The prompt set: the official 553 regenerated from their seed, or a file in the same form.

`armor-eval geneval prompts` prints it. A prompt is a GenEval metadata object: `tag`, `include` (class, count and
optionally color or position), `exclude`, `prompt`; one JSON object a line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from armor_eval.base.data import benchmarks_dir
from armor_eval.profiles import profile_of
from armor_eval.runs.schema import Profile
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import fault_of, json_of

NUMBERS = ("zero", "one", "two", "three", "four")
NAMED = 80
"""Classes that the official generator draws from."""
TRIES = 100
"""Draws a task before de-duplication."""


class Wanted(BaseModel):
    """One entry of `include` or `exclude`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: str = Field(alias="class", min_length=1)
    count: int = Field(ge=1)
    color: str | None = None
    position: tuple[str, int] | None = None
    """(relation, index into `include` of the target)."""


class Metadata(BaseModel):
    """One prompt with what its image must show. Keys of our own (`held_out`) may stand beside the official ones."""

    model_config = ConfigDict(extra="allow")

    tag: Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
    include: list[Wanted] = Field(min_length=1)
    exclude: list[Wanted] = []
    prompt: str = Field(min_length=1)


@dataclass(frozen=True)
class PromptSet:
    """Prompts in order, each with the record that goes into `metadata.jsonl` unchanged."""

    name: str
    records: list[JsonObject]
    sha256: str
    """Of the records as JSON lines, as `to_jsonl` writes them, whatever bytes they were read from."""

    @property
    def official(self) -> bool:
        """True for the published 553, word for word."""
        return self.sha256 == declaration("official")["prompts_sha256"]

    @property
    def content_sha256(self) -> str:
        """Of the prompts' texts joined by newlines: files that differ in layout only are one protocol."""
        return hashlib.sha256("\n".join(record["prompt"] for record in self.records).encode()).hexdigest()

    @property
    def metadata(self) -> list[Metadata]:
        return [Metadata.model_validate(record) for record in self.records]


def own_prompts(vocabulary: Vocabulary) -> PromptSet:
    """The prompts that a profile's number is made of."""
    profile = profile_of(vocabulary.profile)
    if profile.guest is None:
        return official_prompts()
    return prompt_set(vocabulary.name, profile.part("geneval").records())


def official_records() -> list[JsonObject]:
    """The 553 prompts in the official order, regenerated: numpy's PCG64 stream of seed 43, duplicates dropped.

    Draw order and counts: facts of the official generator (commit af4902f). Byte-identical once written with
    `json.dumps` defaults; a test holds the sha256.
    """
    import numpy as np

    data = declaration("official")
    vocabulary = load_vocabulary("official")
    names, colors, relations = vocabulary.classes, vocabulary.colors, vocabulary.relations
    rng = np.random.default_rng(data["seed"])
    records: list[JsonObject] = []

    def plain(index: int) -> JsonObject:
        return {"class": names[index], "count": 1}

    for index in rng.choice(NAMED, NAMED, replace=False):
        records.append(_record("single_object", [plain(index)], f"a photo of {_a(names[index])}"))
    for _ in range(TRIES):
        first, second = rng.choice(NAMED, 2, replace=False)
        text = f"a photo of {_a(names[first])} and {_a(names[second])}"
        records.append(_record("two_object", [plain(first), plain(second)], text))
    for _ in range(TRIES):
        index, count = rng.choice(NAMED), int(rng.integers(2, 4, endpoint=True))
        record = {
            "tag": "counting",
            "include": [{"class": names[index], "count": count}],
            "exclude": [{"class": names[index], "count": count + 1}],
            "prompt": f"a photo of {NUMBERS[count]} {_plural(names[index])}",
        }
        records.append(record)
    # "person", class 0, is never coloured: the draw leaves it out by shifting the other 79 up by one
    for _ in range(TRIES):
        index, color = (rng.choice(NAMED - 1) + 1) % NAMED, colors[rng.choice(len(colors))]
        include = [{**plain(index), "color": color}]
        records.append(_record("colors", include, f"a photo of {_a(f'{color} {names[index]}')}"))
    for _ in range(TRIES):
        (subject, target), relation = rng.choice(NAMED, 2, replace=False), relations[rng.choice(len(relations))]
        include = [plain(target), {**plain(subject), "position": [relation, 0]}]
        text = f"a photo of {_a(names[subject])} {relation} {_a(names[target])}"
        records.append(_record("position", include, text))
    for _ in range(TRIES):
        pair = (rng.choice(NAMED - 1, 2, replace=False) + 1) % NAMED
        words = [colors[i] for i in rng.choice(len(colors), 2, replace=False)]
        include = [{**plain(index), "color": word} for index, word in zip(pair, words, strict=True)]
        phrases = [_a(f"{word} {names[index]}") for index, word in zip(pair, words, strict=True)]
        records.append(_record("color_attr", include, f"a photo of {phrases[0]} and {phrases[1]}"))
    return list({json.dumps(record): record for record in records}.values())


def _record(tag: str, include: list[JsonObject], prompt: str) -> JsonObject:
    return {"tag": tag, "include": include, "prompt": prompt}


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _plural(noun: str) -> str:
    return f"{noun}{'es' if noun.endswith('s') else 's'}"


def to_jsonl(records: list[JsonObject]) -> str:
    """The official file's text: `json.dumps` defaults, a newline after each."""
    return "".join(json.dumps(record) + "\n" for record in records)


def prompt_set(name: str, records: list[JsonObject]) -> PromptSet:
    """Records under a name, with their hash."""
    return PromptSet(name, records, hashlib.sha256(to_jsonl(records).encode()).hexdigest())


def constraints(record: JsonObject) -> str:
    """What the image must show, without the prompt's words: rewritten prompts share it with the official ones."""
    return json.dumps([record["tag"], record["include"], record.get("exclude", [])], sort_keys=True)


def official_prompts() -> PromptSet:
    prompts = prompt_set("geneval", official_records())
    if not prompts.official:
        expected = declaration("official")["prompts_sha256"]
        raise UserError(
            f"the official prompts came out different (sha256 {prompts.sha256}, expected {expected})",
            hint="this numpy draws another random stream; give the official file with --prompts",
        )
    return prompts


def read_prompts(path: Path, vocabulary: Vocabulary) -> PromptSet:
    """A prompt file in GenEval's form, checked against the vocabulary. Errors name the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read prompts {path}: {error}") from None
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            records.append(parse_metadata_line(line, vocabulary, f"{path}:{number}"))
    if not records:
        raise UserError(f"{path} holds no prompts: expected one JSON object a line")
    prompts = prompt_set(path.stem, records)
    return replace(prompts, name="geneval") if prompts.official else prompts


def parse_metadata_line(line: str, vocabulary: Vocabulary | None, where: str) -> JsonObject:
    """One line's record, or a UserError that says where and what. `vocabulary` None leaves the names unchecked."""
    try:
        record = json_of(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    check_metadata(record, vocabulary, where)
    return record


def check_metadata(record: object, vocabulary: Vocabulary | None, where: str) -> Metadata:
    """Typed view of a record; refuses what no verdict could be given on."""
    try:
        meta = Metadata.model_validate(record)
    except ValidationError as error:
        fault = fault_of(error)
        hint = f"tags are {', '.join(TASKS)}" if fault.startswith("tag: ") else None
        raise UserError(f"{where}: {fault}", hint=hint) from None
    for index, wanted in enumerate(meta.include):
        if wanted.position is not None and not 0 <= wanted.position[1] < index:
            raise UserError(
                f"{where}: position of {wanted.name} points at include[{wanted.position[1]}], which is not before it"
            )
    if vocabulary is not None:
        for kind, word, known in _words(meta, vocabulary):
            if word not in known:
                raise UserError(
                    f"{where}: unknown {kind} {word!r} for the {vocabulary.name} detector{did_you_mean(word, known)}"
                )
    return meta


def _words(meta: Metadata, vocabulary: Vocabulary) -> Iterator[tuple[str, str, Collection[str]]]:
    for wanted in [*meta.include, *meta.exclude]:
        yield "class", wanted.name, vocabulary.classes
        if wanted.color is not None:
            yield "color", wanted.color, vocabulary.colors
        if wanted.position is not None:
            yield "relation", wanted.position[0], vocabulary.relations


# --- what a prompt set may talk about --------------------------------------------------------------------------------


TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True)
class Vocabulary:
    """The closed lists of one profile."""

    name: str
    """`geneval`, or another profile's."""
    profile: Profile
    classes: tuple[str, ...]
    """In the detector's order."""
    colors: tuple[str, ...]
    """In the colour classifier's order."""
    relations: tuple[str, ...]


def declaration(profile: str) -> dict:
    """The profile's JSON file as it is."""
    return json.loads((benchmarks_dir() / "geneval" / f"{profile}.json").read_text())


def load_vocabulary(profile: Profile) -> Vocabulary:
    """The profile's declared lists; `official`: the 80 class names of the published list, held to its hash."""
    data = declaration(profile)
    if "classes_file" in data:
        path = benchmarks_dir() / "geneval" / data["classes_file"]
        raw = path.read_bytes()
        found = hashlib.sha256(raw).hexdigest()
        if found != data["classes_sha256"]:
            raise UserError(f"{path} is not the official class list: sha256 {found}, expected {data['classes_sha256']}")
        classes = tuple(raw.decode().split("\n")[:-1]) if raw.endswith(b"\n") else tuple(raw.decode().split("\n"))
    else:
        classes = tuple(data["classes"])
    return Vocabulary(data["name"], profile, classes, tuple(data["colors"]), tuple(data["relations"]))
