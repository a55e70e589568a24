"""The benchmarks, read from `benchmarks/understanding/*.toml`: adding one is writing one file."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, model_validator

from armor_eval.base.data import Declared, benchmarks_dir
from armor_eval.tasks.families import FAMILIES
from armor_eval.tasks.families.base import Clusters, Family
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import fault_of, toml_of

if TYPE_CHECKING:
    from armor_eval.runs.schema import Run


class Keep(Declared):
    """Which rows of the file are asked at all."""

    column: str
    one_of: list[str]


class Official(Declared):
    """The published file, in each edition that is known."""

    file: str
    url: str | None = None
    md5: dict[str, str] = Field(default_factory=dict)
    """Edition -> md5, the first as VLMEvalKit 0.0.20 lists it; the sha256 of what was read is recorded in every run."""
    rows: int | None = None
    clusters: int | None = None

    def edition(self, md5: str) -> str | None:
        """The name of the edition with this md5; None where the file is not a published one."""
        return next((name for name, known in self.md5.items() if known == md5), None)


class Prompt(Declared):
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
    """448-pixel tiles an image may be cut into, before the total of 64 is shared among several images."""
    upscale_first: bool = False


class Benchmark(Declared):
    """One number that can be asked for by `--bench`. A file needs `name`, `dataset`, `family`, `official`, `prompt`."""

    name: str
    title: str = ""
    order: int = Field(default=1000, ge=1)
    in_paper: bool = False
    """One of the nine columns of the paper's Table 2: what `--bench all` runs."""
    dataset: str
    """VLMEvalKit's name of the data; a name that it does not know is scored by its family's rule."""
    split: str = "test"
    family: str
    """How it is scored (armor_eval.tasks.families)."""
    number: str = ""
    """What is reported, in words."""
    cluster: str = ""
    """What is resampled together: a rule of the family, its first by default."""
    group: str = "category"
    """Column of the category; empty where there is none."""
    saved_as: str | None = None
    """Column of the file name(s) under which VLMEvalKit writes a row's image(s) before they are shown: a `.jpg` name
    compresses them again, and published numbers were made with those pixels."""
    keep: Keep | None = None
    shares: str | None = None
    """The benchmark whose answers serve this one too."""
    claim: str | None = None
    """Column of the paper's Table 2."""
    note: str | None = None
    outside: bool = False
    """Declared by a file of the user's."""
    official: Official
    prompt: Prompt

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: JsonObject) -> JsonObject:
        """The family's own where the file says nothing."""
        family = FAMILIES.get(str(values.get("family")))
        if family is None:
            near = did_you_mean(str(values.get("family")), FAMILIES)
            raise ValueError(f"family {values.get('family')!r} is none{near} - known: {', '.join(FAMILIES)}")
        rules = [rule.name for rule in family.clusters]
        values = {"title": values.get("name"), "number": family.composites()[0].name, **values}
        values["cluster"] = values.get("cluster") or rules[0]
        if values["cluster"] not in rules:
            raise ValueError(
                f"cluster {values['cluster']!r} is none of the family {family.name}'s - known: {', '.join(rules)}"
            )
        return values

    @property
    def scoring(self) -> Family:
        return FAMILIES[self.family]

    @property
    def clusters(self) -> Clusters:
        return next(rule for rule in self.scoring.clusters if rule.name == self.cluster)

    @property
    def judge(self) -> Literal["optional", "required"]:
        """`required`: free text that no rule can grade; `optional`: it may read what the official rule could not."""
        return "required" if self.scoring.always_judged else "optional"

    @property
    def columns(self) -> list[str]:
        """Columns the file must have."""
        filter_columns = [self.keep.column] if self.keep is not None else []
        return list(dict.fromkeys([*self.scoring.columns, *([self.group] if self.group else []), *filter_columns]))

    def declared(self) -> JsonObject:
        """What a run records of a benchmark that this repository does not hold: its scores are read by it."""
        return {"declared": self.model_dump(exclude_defaults=True)} if self.outside else {}


def of_run(run: Run) -> Benchmark | None:
    """The declaration that came from outside and was recorded with the run."""
    recorded = run.extras.get("declared")
    try:
        return None if recorded is None else Benchmark.model_validate(recorded)
    except (ValidationError, TypeError, AttributeError) as error:
        raise UserError(f"{run.run_id} records no declaration of {run.benchmark}: {error}") from error


@functools.cache
def benchmarks() -> dict[str, Benchmark]:
    """Every declared benchmark by name, in the order of the paper's Table 2."""
    declared = [
        Benchmark.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        for path in (benchmarks_dir() / "understanding").glob("*.toml")
    ]
    return {b.name: b for b in sorted(declared, key=lambda b: b.order)}


def read_benchmark(path: Path) -> Benchmark:
    """A benchmark declared in a file outside of the repository. UserError where it could not be scored."""
    try:
        values = toml_of(path.read_text(encoding="utf-8"))
        benchmark = Benchmark.model_validate({**values, "outside": True})
    except ValidationError as error:
        fault = fault_of(error, whole="")
        raise UserError(f"{path} declares no benchmark: {fault}", "see CONTRIBUTING.md for an example") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the benchmark {path}: {error}") from error
    if taken := next((b for b in benchmarks().values() if b.name.lower() == benchmark.name.lower()), None):
        raise UserError(f"{path}: the name {benchmark.name} is taken ({taken.title})", "give it another name")
    return benchmark


def choose(names: list[str], also: Iterable[str] = ()) -> list[Benchmark]:
    """What `--bench` asks for: names, several with commas, `all` (the paper's nine), or files `./my.toml`. UserError
    for an unknown one.

    The official dataset name (`MMBench_DEV_EN`) is understood too. `also`: other tasks that may have been meant.
    """
    known = benchmarks()
    by_lower = {name.lower(): name for name in known}
    for b in known.values():
        by_lower.setdefault(b.dataset.lower(), b.name)
    chosen: dict[str, Benchmark] = {}
    for word in [w.strip() for name in names for w in name.split(",") if w.strip()]:
        if word.endswith(".toml"):
            benchmark = read_benchmark(Path(word))
            if benchmark.name in chosen:
                raise UserError(f"--bench names {benchmark.name} twice")
            chosen[benchmark.name] = benchmark
            continue
        if word.lower() == "all":
            chosen |= {b.name: b for b in known.values() if b.in_paper}
            continue
        if word.lower() not in by_lower:
            near = did_you_mean(word, [*known, *(b.dataset for b in known.values()), *also])
            raise UserError(f"unknown benchmark {word!r}{near}", f"known: {', '.join([*known, 'all', *also])}")
        name = by_lower[word.lower()]
        chosen[name] = known[name]
    # A benchmark that shares another's answers comes after it.
    return sorted(chosen.values(), key=lambda b: (b.shares is not None, b.order))
