"""Suites, read from `benchmarks/suites/*.toml` or from a file of the user's: adding one is one file and a loader."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from armor_eval.base.data import Declared, Progress, benchmarks_dir, fetch
from armor_eval.profiles import OFFICIAL, profile_of
from armor_eval.runs.schema import Profile, Run
from armor_eval.tasks.suites.items import ParentRule, SuiteData, check_items
from armor_model.base.cache import cache_dir
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.hashing import sha256_file, sha256_json
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import fault_of, toml_of

JudgeKind = Literal["vqa_prob", "vqa_text", "rubric", "ocr"]
"""Of a look: probability mass of first tokens, an answer in an accept set, a parsed chat answer, the text read."""


class SuiteFile(Declared):
    """One published file, known by sha256 or by its git blob id."""

    name: str
    sha256: str | None = None
    """Whole, or its first digits."""
    git_blob: str | None = None
    url: str | None = None
    """For --download; None: the user brings it."""
    where: str = ""
    """Where it comes from and its licence, one line."""


class Grid(Declared):
    """Several samples in one image file."""

    columns: int = Field(ge=1)
    rows: int = Field(ge=1)
    black_is_missing: bool = False
    """A cell without any light holds no image: it is how others fill a grid."""


class Substitute(Declared):
    """The same questions, put to another judge than the suite's own."""

    name: str
    """The run is called NAME:JUDGE."""
    template: str
    loose: bool = True
    """An answer is its first word, whatever its case; one that is neither yes nor no is unread."""


class Suite(Declared):
    """What `--suite` asks for."""

    name: str
    title: str
    judge: JudgeKind
    loader: str
    """`module:function` of armor_eval.tasks.suites, or `./file.py:function` beside the declaration:
    (files, suite) -> SuiteData."""
    reduction: str
    """A name of armor_eval.tasks.suites.reductions.REDUCTIONS."""
    files: list[SuiteFile] = Field(min_length=1)
    """The first is the main one; several where the loader needs them."""
    profile: Profile = "official"
    own_judge: str | None = None
    """The official judge's name; any other is a reservation. None: the suite has none of its own."""
    default_judge: str | None = None
    """What `--judge` is where nothing is said; None: it must be said."""
    template: str = "{question}"
    """The judge's user text; `{question}`, `{prompt}` and the item's fields are filled in."""
    system: str | None = None
    image_last: bool = False
    """The judge reads the words before the images, as the official script sends them."""
    jpeg_quality: int | None = None
    """The judge is shown each image as a JPEG of this quality, as the official script saves it."""
    max_new_tokens: int = 16
    """Of a judge's reply; an item's own goes before it."""
    without_image: str | None = None
    """What stands for the judge's reply where the model responds without an image: it was asked, and did not do it.
    None: the image is missing."""
    attempts: int = Field(default=1, ge=1)
    """How often a judge is asked where its reply is unread."""
    prompts: int | None = None
    """Of the published file; a file that holds another number is refused."""
    samples: int = Field(default=1, ge=1)
    """Images a prompt."""
    images: str = "{id}"
    """Name of an image's file without its ending: `{id}`, `{index}`, `{prompt}`, `{sample}` (from 0), `{sample1}`."""
    grid: Grid | None = None
    grid_file: str | None = None
    """Name of a grid's file without its ending, where images come as grids."""
    skills: list[str] = Field(default_factory=list)
    groups: list[str] = Field(default_factory=list)
    parents: ParentRule = "before"
    options: JsonObject = Field(default_factory=dict)
    """The reduction's own."""
    substitute: Substitute | None = None
    """What the suite becomes under another judge than its own; None: it keeps its name, with a reservation."""
    proven: str | None = None
    """What golden numbers prove; None: no golden number exists, and docs and runs say `unproven`."""
    order: int = 1000
    outside: bool = False
    """Declared by a file of the user's."""
    folder: str = ""
    """Of that file: its loader lies beside it."""

    def read(self, files: Sequence[Path], sha256: str) -> SuiteData:
        """The items, checked. UserError where they are no such suite's."""
        data = loader_of(self)(files, self)
        if self.prompts is not None and len(data.items) != self.prompts:
            raise UserError(f"{files[0]} holds {len(data.items)} items, expected {self.prompts}")
        notes = check_items(
            data.items,
            str(files[0]),
            skills=self.skills,
            groups=self.groups,
            parents=self.parents,
            accepts=self.judge in ("vqa_prob", "vqa_text"),
        )
        return replace(data, sha256=sha256, notes=[*data.notes, *notes])

    def judged_by(self, judge: str) -> tuple[str, Suite, bool]:
        """(the run's name, the suite as this judge is asked, whether the judge is the suite's own)."""
        own = self.own_judge is None or Path(judge).name == Path(self.own_judge).name
        if own or self.substitute is None:
            return self.name, self, own
        options = {**self.options, "loose": self.substitute.loose}
        asked = self.model_copy(update={"template": self.substitute.template, "options": options})
        return f"{self.substitute.name}:{Path(judge).name}", asked, False

    def recorded(self) -> JsonObject:
        """What a run records, so that its scores can be read without the file that declared it."""
        return self.model_dump(exclude_defaults=True, exclude={"folder"}) if self.outside else {"name": self.name}


def loader_of(suite: Suite) -> Callable[[Sequence[Path], Suite], SuiteData]:
    """The loader's function. UserError where there is none."""
    module, _, function = suite.loader.partition(":")
    try:
        if module.startswith("./"):
            path = Path(suite.folder) / module
            spec = importlib.util.spec_from_file_location(f"armor_suite_{suite.name}", path)
            assert spec is not None and spec.loader is not None
            found = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found)
        else:
            found = importlib.import_module(f"armor_eval.tasks.suites.{module}")
        return getattr(found, function)
    except (AttributeError, ImportError, OSError, AssertionError, SyntaxError) as error:
        raise UserError(
            f"suite {suite.name} has no loader {suite.loader!r}: {error}",
            "expected MODULE:FUNCTION or ./FILE.py:FUNCTION",
        ) from error


@functools.cache
def suites() -> dict[str, Suite]:
    """Every declared suite by name."""
    found = [
        Suite.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        for path in (benchmarks_dir() / "suites").glob("*.toml")
    ]
    return {suite.name: suite for suite in sorted(found, key=lambda s: (s.order, s.name))}


def read_suite(path: Path) -> Suite:
    """A suite declared in a file outside of the repository. UserError where it is none."""
    from armor_eval.tasks.suites.reductions import REDUCTIONS

    try:
        values = toml_of(path.read_text(encoding="utf-8"))
        suite = Suite.model_validate({**values, "outside": True, "folder": str(path.parent)})
    except ValidationError as error:
        raise UserError(f"{path} declares no suite: {fault_of(error)}", "see CONTRIBUTING.md, Add a suite") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the suite {path}: {error}") from error
    if suite.name in ("geneval", *suites()):
        raise UserError(f"{path}: the name {suite.name} is taken", "give it another name")
    if suite.reduction not in REDUCTIONS:
        raise unknown_name("reduction", suite.reduction, REDUCTIONS)
    try:
        REDUCTIONS[suite.reduction].composites(suite)
    except ValidationError as error:
        raise UserError(f"{path}: options.{fault_of(error)}", "see CONTRIBUTING.md, Add a suite") from None
    except KeyError as error:
        raise UserError(f"{path}: the reduction {suite.reduction} needs options.{error.args[0]}") from None
    return suite


def of_run(run: Run) -> Suite:
    """The suite of a run: ours by name, or the declaration that was recorded. KeyError for a name that is gone."""
    recorded = run.extras["suite"]
    try:
        return Suite.model_validate(recorded) if len(recorded) > 1 else suites()[recorded["name"]]
    except (ValidationError, TypeError) as error:
        raise UserError(f"{run.run_id} records no declaration of {run.benchmark}: {error}") from error


def choose(words: Sequence[str]) -> list[Suite | Literal["geneval"]]:
    """What `--suite` asks for: names, several with commas, or files `./my.toml`. UserError for an unknown one."""
    known = suites()
    chosen: dict[str, Suite | Literal["geneval"]] = {}
    for word in [w.strip() for name in words for w in name.split(",") if w.strip()]:
        if word.endswith(".toml"):
            suite: Suite | Literal["geneval"] = read_suite(Path(word))
        elif word == "geneval":
            suite = "geneval"
        elif word in known:
            suite = known[word]
        else:
            raise unknown_name("suite", word, ["geneval", *known])
        name = suite if isinstance(suite, str) else suite.name
        if name in chosen:
            raise UserError(f"--suite names {name} twice")
        chosen[name] = suite
    if not chosen:
        raise UserError("--suite names nothing", f"known: {', '.join(['geneval', *known])}, or ./FILE.toml")
    return list(chosen.values())


# --- published files: among what the user gives, in the cache, or downloaded; known by their hash --------------------


def git_blob_id(path: Path) -> str:
    """The id that git gives a file's content: sha1 over `blob LENGTH`, a zero byte and the bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def file_fault(path: Path, file: SuiteFile) -> str | None:
    """What says that this is not the published file; None where it is, or where nothing is declared of it."""
    for kind, wanted, digest in (("sha256", file.sha256, sha256_file), ("git blob", file.git_blob, git_blob_id)):
        if wanted is not None and not (found := digest(path)).startswith(wanted):
            return f"{kind} {found[:16]}, expected {wanted[:16]}"
    return None


def read_data(suite: Suite, given: Sequence[Path], download: bool, progress: Progress | None = None) -> SuiteData:
    """The suite's items from its published files. UserError where one is missing or another one.

    `given`: files, or folders that hold files of the declared names; with several declared files, or suites, each is
    found by its content or name. Nothing need be given of a guest profile's, which makes its own.
    """
    for path in given:
        if not path.exists():
            raise UserError(f"--data {path} does not exist")
    profile = profile_of(suite.profile)
    if profile.guest is not None and not given:
        given = profile.part("suites").made(suite.name, cache_dir() / "suites" / suite.name)
    files = [find_file(suite, file, given, download, progress) for file in suite.files]
    try:
        hashes = [sha256_file(path) for path in files]
        return suite.read(files, hashes[0] if len(hashes) == 1 else sha256_json(hashes))
    except UnicodeDecodeError as error:
        raise UserError(f"{suite.name}: a file is not UTF-8 text: {error}") from None


def find_file(
    suite: Suite, file: SuiteFile, given: Sequence[Path] = (), download: bool = False, progress: Progress | None = None
) -> Path:
    """A published file: among what is given, beside the suite, in the cache, or fetched. UserError where it is not."""
    beside = Path(suite.folder) / file.name if suite.outside else None
    candidates = [path / file.name if path.is_dir() else path for path in given]
    if beside is not None:
        candidates.append(beside)
    if suite.profile != OFFICIAL and not suite.outside and not given:  # a guest's data come with the program
        candidates.append(benchmarks_dir() / suite.profile / file.name)
    there = [path for path in candidates if path.is_file()]
    named = [path for path in there if path.name == file.name] or (there if len(suite.files) == 1 == len(given) else [])
    known = file.sha256 is not None or file.git_blob is not None
    fitting = [path for path in there if file_fault(path, file) is None] if known else named
    if fitting:
        return fitting[0]
    if named:
        raise UserError(
            f"{named[0]} is not the published {file.name} of {suite.name}: {file_fault(named[0], file)}",
            file.where or None,
        )
    cached = cache_dir() / "suites" / suite.name / file.name
    if cached.is_file() and file_fault(cached, file) is None:
        return cached
    if download and file.url is not None:
        fetch(file.url, cached, lambda path: file_fault(path, file), progress)
        return cached
    how = "give it with --data FILE" + (", or fetch it with --download" if file.url else "")
    raise UserError(f"{suite.name} needs {file.name}", f"{how}: {file.where}")
