"""The benchmarks, read from `benchmarks/understanding/*.toml`: adding one is writing one file."""

from __future__ import annotations

import functools
import tomllib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from armor_eval.base.resources import benchmarks_dir
from armor_model.base.errors import UserError, did_you_mean

Kind = Literal["mcq-circular", "mcq", "yes-no", "graded", "ratio"]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Keep(_Declared):
    """Which rows of the file are asked at all."""

    column: str
    one_of: list[str]


class Official(_Declared):
    """The published file, in each edition that is known."""

    file: str
    url: str
    md5: dict[str, str]
    """Edition -> md5, the first as VLMEvalKit 0.0.20 lists it; the sha256 of what was read is recorded in every run."""
    rows: int | None = None
    clusters: int | None = None

    def edition(self, md5: str) -> str | None:
        """The name of the edition with this md5; None where the file is not a published one."""
        return next((name for name, known in self.md5.items() if known == md5), None)


class Prompt(_Declared):
    """The words around a question: InternVL's protocol (vlmeval/vlm/internvl), which ARMOR must share."""

    form: Literal["choice", "question"]
    """`choice`: hint, question, lettered options; `question`: the question alone."""
    suffix: str
    """Behind the options, or behind the question."""
    suffix_chinese: str | None = None
    """Instead of `suffix` where the prompt holds Chinese characters."""
    open_suffix: str = ""
    """Instead of `suffix` where a `choice` row has no options."""
    open_suffix_chinese: str | None = None
    max_tiles: int = 6
    """448-pixel tiles a picture may be cut into, before the total of 64 is shared among several pictures."""
    upscale_first: bool = False


class Benchmark(_Declared):
    """One number that can be asked for by `--bench`."""

    name: str
    title: str
    order: int = Field(ge=1)
    in_paper: bool
    """One of the nine columns of the paper's Table 2: what `--bench all` runs."""
    dataset: str
    """VLMEvalKit's name of the data."""
    split: str
    kind: Kind
    judge: Literal["optional", "required"]
    """`required`: free text that no rule can grade; `optional`: a judge may read what the official rule could not."""
    number: str
    """What is reported, in words."""
    columns: list[str]
    """Columns the file must have."""
    cluster: Literal["circular-group", "image_path", "image", "hallusion-set", "item"]
    """What is resampled together."""
    group: str
    """Column of the category."""
    saved_as: str | None = None
    """Column of the file name(s) under which VLMEvalKit writes a row's image(s) before they are shown: a `.jpg` name
    compresses them again, and published numbers were made with those pixels."""
    keep: Keep | None = None
    shares: str | None = None
    """The benchmark whose answers serve this one too."""
    claim: str | None = None
    """Column of the paper's Table 2."""
    note: str | None = None
    official: Official
    prompt: Prompt

    @property
    def composite(self) -> str:
        """Name of its formula in armor_eval.stats.composite."""
        return "MMB" if self.kind == "mcq-circular" else self.name


@functools.cache
def benchmarks() -> dict[str, Benchmark]:
    """Every declared benchmark by name, in the order of the paper's Table 2."""
    found = [
        Benchmark.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        for path in (benchmarks_dir() / "understanding").glob("*.toml")
    ]
    return {b.name: b for b in sorted(found, key=lambda b: b.order)}


def choose(names: list[str]) -> list[Benchmark]:
    """What `--bench` asks for: names, several with commas, `all` (the paper's nine). UserError for an unknown one.

    The official dataset name (`MMBench_DEV_EN`) is understood too.
    """
    known = benchmarks()
    by_lower = {name.lower(): name for name in known}
    for b in known.values():
        by_lower.setdefault(b.dataset.lower(), b.name)
    chosen: dict[str, Benchmark] = {}
    for word in [w.strip() for name in names for w in name.split(",") if w.strip()]:
        if word.lower() == "all":
            chosen |= {b.name: b for b in known.values() if b.in_paper}
            continue
        if word.lower() not in by_lower:
            near = did_you_mean(word, [*known, *(b.dataset for b in known.values())])
            raise UserError(f"unknown benchmark {word!r}{near}", f"known: {', '.join(known)}, all")
        name = by_lower[word.lower()]
        chosen[name] = known[name]
    # A benchmark that shares another's answers comes after it.
    return sorted(chosen.values(), key=lambda b: (b.shares is not None, b.order))
