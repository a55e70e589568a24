"""The run bundle's three files as typed records: the one contract between measuring and everything that reads it.

A measuring command writes a directory with `run.json` (Run), `items.jsonl` (one Item a line), `scores.json` (Scores)
and, for training, `series.jsonl` (Point). Tables, plots, pages and comparisons are pure functions of these records.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from armor_model.base.jsons import JsonObject

SCHEMA_VERSION = 1

Profile = Literal["shapes", "official"]
RunStatus = Literal["running", "complete", "partial", "failed"]
ItemStatus = Literal["ok", "unparsed", "judge_failed", "error"]
RunKind = Literal[
    "understanding", "geneval", "suite", "text", "modality", "interleaved", "ablate-heads", "ablate-stages", "training"
]


class Record(BaseModel):
    """Base of every record: unknown keys are refused, so a newer writer is noticed instead of half-read."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, defer_build=True)


class Subset(Record):
    """How `--limit` chose fewer items: a complete run of a named part, never compared with a full one."""

    rule: str
    """What one unit of the limit is, e.g. `MMBench group` or `prompt`."""
    limit: int = Field(ge=1)
    """Units asked for."""
    seed: int
    items: int = Field(ge=0)
    """Items that the chosen units hold."""
    of_items: int = Field(ge=0)
    """Items of the full benchmark."""


class ModelInfo(Record):
    spec: str
    """What `--model` said, e.g. `armor-nano`, a path, `hf:ID@REVISION`, `openai:URL#NAME`."""
    name: str
    """Short name for tables."""
    fingerprint: str
    """sha256 over the weights and configuration, or over the endpoint and model name where weights are out of reach."""
    parameters: int | None = None
    dtype: str | None = None
    revision: str | None = None


class DataInfo(Record):
    name: str
    """The official dataset name (`MMBench_DEV_EN`), for GenEval `geneval`."""
    split: str | None = None
    sha256: str
    """Of the file that was read; also when it was generated."""
    items: int = Field(ge=0)


class ScorerInfo(Record):
    name: str
    """e.g. `vlmeval.ImageMCQDataset.evaluate`, `geneval-official-rules`."""
    version: str
    settings: JsonObject = Field(default_factory=dict)
    """Thresholds, detector, weights hash, colour classifier ...: all whose change would change a score."""


class JudgeInfo(Record):
    name: str
    """Model name sent to the endpoint, or the local rule's name."""
    version: str | None = None
    endpoint: Literal["none", "rules", "recorded", "openai-compatible", "local"]
    """`recorded`: replies of an earlier judging; `local`: a model of this machine."""
    prompt_sha256: str | None = None


class Reservation(Record):
    """What must be known wherever the run's number is printed; a number with one is never ranked with one without."""

    kind: Literal["data", "subset", "blind", "judge", "unread", "failed", "blank", "partial", "decoding"]
    text: str
    """One line for a reader, e.g. `the data file is not the published one`."""


class DeviceInfo(Record):
    kind: str
    """`cpu`, or the accelerator's name."""
    count: int = 1
    processes: int = 1
    threads: int | None = None
    hostname_sha256: str | None = None
    """Tells machines apart without naming them."""


class TrainingInfo(Record):
    """Table 3's cost columns."""

    images_seen: int = Field(ge=0)
    tokens: int = Field(ge=0)
    device_days: float = Field(ge=0)
    optimizer_steps: int = Field(ge=0)


class Seal(Record):
    """sha256 of what a scored bundle holds (armor_eval.runs.journal); None for a file that it did not have."""

    items: str | None = None
    scores: str | None = None
    run: str
    """Of run.json's own content without the seal."""


class Run(Record):
    """run.json"""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    kind: RunKind
    benchmark: str
    """What was measured, as typed: `MMB`, `POPE`, `geneval`, `modality` ..."""
    command: list[str]
    profile: Profile
    status: RunStatus
    status_reason: str | None = None
    """Why it is partial or failed, one line."""
    subset: Subset | None = None
    model: ModelInfo
    data: DataInfo
    protocol: dict[str, str] = Field(default_factory=dict)
    """The protocol label: how the benchmark was run where more than one way is in use (`reading`, `thinking`, `prompts`
    ...). No reservation: numbers are compared and ranked within one label. Read it through `protocols.protocol_of`."""
    reservations: list[Reservation] = Field(default_factory=list)
    """What the run's numbers must not be read without."""
    prompt_sha256: str
    """Hash of the prompt template(s), not of the filled prompts: two runs with equal hashes asked in the same words."""
    scorer: ScorerInfo
    judge: JudgeInfo
    decoding: JsonObject = Field(default_factory=dict)
    seeds: dict[str, int] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)
    device: DeviceInfo
    git_commit: str | None = None
    started: str
    """ISO 8601, UTC."""
    finished: str | None = None
    wall_seconds: float = Field(default=0.0, ge=0)
    """Summed over resumes."""
    cpu_seconds: float = Field(default=0.0, ge=0)
    peak_memory_bytes: int = Field(default=0, ge=0)
    training: TrainingInfo | None = None
    extras: JsonObject = Field(default_factory=dict)
    seal: Seal | None = None


def decoding_of(run: Run) -> JsonObject:
    """The run's decoding. Runs of before `drawing` was recorded wrote a guidance of 1 where none was asked for."""
    if "drawing" in run.extras or run.decoding.get("guidance") != 1.0:
        return run.decoding
    return {**run.decoding, "guidance": None}


class Item(Record):
    """One line of items.jsonl."""

    id: str
    """Unique in the bundle."""
    cluster: str
    """The group that is resampled together (MMBench group, MME image, GenEval prompt ...)."""
    group: str | None = None
    """Category or task: slices, and the terms of composite scores."""
    prompt: str
    prompt_sha256: str
    images: list[str] = Field(default_factory=list)
    """Input images, as paths inside the bundle or the dataset's own references."""
    gold: object = None
    output: str | None = None
    """Raw model output, untrusted."""
    output_images: list[str] = Field(default_factory=list)
    """Paths inside the bundle, content-addressed."""
    parsed: object = None
    score: float | None = None
    """None where nothing was measured (status judge_failed or error before scoring)."""
    reason: str | None = None
    extras: JsonObject = Field(default_factory=dict)
    status: ItemStatus
    seconds: float = Field(default=0.0, ge=0)


class Metric(Record):
    name: str
    value: float | None
    """None = withheld or undefined; `note` says why."""
    unit: str
    """`%`, `points` (MME), `score` (0..1) ..."""
    direction: Literal["higher", "lower"] = "higher"
    n: int = Field(ge=0)
    """Items behind the value."""
    clusters: int = Field(ge=0)
    ci95: tuple[float, float] | None = None
    method: str | None = None
    """How the interval was made, e.g. `cluster bootstrap, 2000 resamples, seed 0`."""
    primary: bool = False
    """The number reported for the benchmark; only primary metrics gate a comparison."""
    note: str | None = None
    bounds: tuple[float | None, float | None] | None = None
    """Least and greatest possible value, None for an end that is open; None in all where nobody recorded them."""

    @classmethod
    def nothing(cls, name: str, unit: str, note: str, primary: bool = False) -> Metric:
        """A number that nothing was measured for, and why."""
        return cls(name=name, value=None, unit=unit, n=0, clusters=0, primary=primary, note=note)

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> Metric:
        if self.ci95 is not None and self.ci95[0] > self.ci95[1]:
            raise ValueError(f"interval of {self.name} is reversed: {self.ci95}")
        return self


class Scores(Record):
    """scores.json"""

    schema_version: int = SCHEMA_VERSION
    metrics: list[Metric]
    counts: dict[ItemStatus, int]
    expected_items: int = Field(ge=0)
    """Items that a complete run of this subset holds; fewer in `counts` means partial."""
    blank: int | None = None
    """Images of one single colour, which were scored as they are; None where no images are made, or nobody looked."""
    withheld: str | None = None
    """Why the primary metric has no value, one line."""


class Point(Record):
    """One line of series.jsonl: a step of a training curve."""

    step: int = Field(ge=0)
    name: str
    """e.g. `loss/text`, `loss/image`, `loss/t2i`, `tokens_per_second`, `eval/drawing`."""
    value: float
    arm: str | None = None
    """Which run of an ablation, e.g. `switching/seed0`."""
