"""compare.json: everything that the terminal, Markdown, JUnit and HTML outputs are functions of."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from armor_eval.runs.schema import Reservation

Verdict = Literal["PASS", "REGRESSION", "INCONCLUSIVE", "INCOMPLETE", "NOT COMPARABLE"]

EXIT_CODES: dict[Verdict, int] = {"PASS": 0, "REGRESSION": 1, "INCOMPLETE": 3, "NOT COMPARABLE": 4, "INCONCLUSIVE": 0}
STRICT_INCONCLUSIVE = 5

SEVERITY: tuple[Verdict, ...] = ("REGRESSION", "NOT COMPARABLE", "INCOMPLETE", "INCONCLUSIVE", "PASS")
"""The whole comparison has the first of these that any benchmark has: what was shown goes before what is not known."""


def worst(verdicts: list[Verdict]) -> Verdict:
    return next((v for v in SEVERITY if v in verdicts), "PASS")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Side(_Record):
    """One of the two runs."""

    path: str
    run_id: str
    model: str
    fingerprint: str
    status: str
    counts: dict[str, int] = Field(default_factory=dict)
    seconds_per_item: float | None = None
    peak_memory_bytes: int = 0
    git_commit: str | None = None
    reservations: list[Reservation] = Field(default_factory=list)
    """What the run's numbers must not be read without."""


class MetricResult(_Record):
    """One number of both runs. Differences are candidate minus base, negated where lower is better."""

    name: str
    unit: str
    direction: str
    primary: bool
    base: float | None = None
    candidate: float | None = None
    delta: float | None = None
    ci95: tuple[float, float] | None = None
    """Of the difference; the one that decides."""
    bootstrap_ci95: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    """Adjusted over the primary metrics of all benchmarks."""
    test: str = ""
    n: int = 0
    clusters: int = 0
    losses: int = 0
    """Clusters whose change lowered the score."""
    wins: int = 0
    tolerance: float = 0.0
    mde: float | None = None
    """Drop that this comparison would have seen with 80 % power."""
    allows: float | None = None
    """The smallest tolerance at which an equal model would have passed with 80 % power, by the changes observed."""
    verdict: Verdict | None = None
    """Primary metrics only; others never gate."""
    reason: str = ""
    decided_at: int | None = None
    """Items that would end an INCONCLUSIVE verdict if the difference stays as it is."""


class Check(_Record):
    """A limit of the policy that is not a score."""

    name: str
    verdict: Verdict
    reason: str


class Slice(_Record):
    """Mean item score of one group; never gates."""

    group: str
    n: int
    base: float
    candidate: float


class FlipRecord(_Record):
    """An item whose score changed. Texts are cut."""

    id: str
    kind: Literal["lost", "gained"]
    group: str = ""
    base_score: float
    candidate_score: float
    prompt: str = ""
    gold: str = ""
    base_output: str = ""
    candidate_output: str = ""


class BenchmarkResult(_Record):
    benchmark: str
    profile: str
    data: str = ""
    verdict: Verdict
    reasons: list[str] = Field(default_factory=list)
    base: Side | None = None
    candidate: Side | None = None
    items: int = 0
    """Items measured in both runs."""
    unmeasured: int = 0
    """Items without a score in at least one run: left out of both."""
    metrics: list[MetricResult] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)
    slices: list[Slice] = Field(default_factory=list)
    flips: list[FlipRecord] = Field(default_factory=list)

    def stopped(self, verdict: Verdict, reasons: list[str]) -> BenchmarkResult:
        """This result, without numbers: why nothing is compared."""
        self.verdict, self.reasons = verdict, [*reasons, *self.reasons]
        return self

    @property
    def primary(self) -> MetricResult | None:
        return next((m for m in self.metrics if m.primary), None)


class Comparison(_Record):
    """compare.json"""

    schema_version: int = 1
    verdict: Verdict
    exit_code: int
    strict: bool = False
    base: str
    candidate: str
    policy: str
    """Its file, or `defaults`."""
    policy_sha256: str
    seed: int
    resamples: int
    benchmarks: list[BenchmarkResult]
    notes: list[str] = Field(default_factory=list)
