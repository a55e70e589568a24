"""A scoring family: everything that benchmarks scored by one rule have in common, in one place.

A family says which columns a file needs, what is resampled together, how VLMEvalKit's rule reads an answer, what a
judge is asked, which numbers are made of the items (composites), what other rules read, and what a constant answers.
A benchmark is a TOML that names its family; nothing else asks for a benchmark's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from armor_eval.tasks.understanding.cells import OPTIONS
from armor_eval.vlmevalkit.records import Evaluated, Judged, Request, Verdict, Work
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    import pandas as pd

    from armor_eval.runs.schema import Item
    from armor_eval.stats.composite import Composite
    from armor_eval.tasks.understanding.table import Row

SHORT_REPLY = 64
"""New tokens of a judge's reply, where a family says nothing else."""


@dataclass(frozen=True)
class Clusters:
    """A rule of what is resampled together."""

    name: str
    unit: str
    """One unit of `--limit`, in words."""
    key: Callable[[Row], str]


BY_IMAGE = Clusters(
    "image", "picture with its questions", lambda row: row.id if row.image_cell is None else row.image_cell.digest
)
BY_ITEM = Clusters("item", "question", lambda row: row.id)


class Family:
    """What is the same for all; a family overrides what is its own. The first cluster rule is the default one."""

    name: str
    columns: tuple[str, ...] = ("index", "image", "question", "answer")
    """Columns that a file must have, beside the category's."""
    optional: frozenset[str] = frozenset({"image", "answer", *OPTIONS})
    """Those of them that a row may lack."""
    clusters: tuple[Clusters, ...] = (BY_IMAGE, BY_ITEM)
    scorer: str
    """VLMEvalKit's class, for the record."""
    stand_in: str
    """A data set of VLMEvalKit's that is scored by this rule: the name under which those that it does not know are."""
    constant: str
    """What the constant baseline answers."""
    always_judged = False
    """Nothing is scored without a judge; else it reads only what the rule cannot read, and only if there is one."""
    longest_reply = SHORT_REPLY
    scored_whole: Literal["row", "cluster", "file"] = "row"
    """What VLMEvalKit can score only where no row of it is missing; the rest is left to our own formula."""
    index_matters = False
    """The rule reads the index itself; else rows are numbered for VLMEvalKit."""
    integer_index = False
    """An index has to be an integer."""
    takes_submissions = False
    """Files without answers exist, for the benchmark's server."""
    rounded_to = 0.0
    """How far the official headline may be off by rounding."""
    second_lines: tuple[tuple[str, str], ...] = (("our", "our reading"),)
    """Other readings of the same answers, printed beside the official one: key of an item's extras, name."""
    second_of_all: frozenset[str] = frozenset()
    """Those that are printed for every number, not for the headline alone."""

    def composites(self) -> list[Composite]:
        """The numbers, exactly one of them primary."""
        raise NotImplementedError

    def plain_answer(self, answer: str, options: set[str]) -> str:
        """A right answer as the scoring rule spells it."""
        return answer

    def problem(self, row: Row) -> str | None:
        """What the rule takes for granted and the row lacks; follows `row INDEX`."""
        return None

    def answer_problem(self, row: Row) -> str | None:
        """What is wrong with the row's right answer."""
        return None

    def problems(self, rows: Sequence[Row]) -> dict[str, str]:
        """Row -> what is wrong with it among the others."""
        return {}

    def check(self, rows: Sequence[Row]) -> None:
        """UserError where the rule could not score these rows, before any is asked."""

    def order(self, by_cluster: Mapping[str, list[Row]], order: list[str], limit: int) -> list[str]:
        """The order in which `--limit` takes clusters."""
        return order

    def formula_extras(self, row: Row) -> JsonObject:
        """What of the row the composites read from an item."""
        return {}

    def verdict_extras(self, row: Row, verdict: Verdict) -> JsonObject:
        """What of the verdict they read."""
        return {}

    def second_readings(self, row: Row, text: str) -> dict[str, tuple[str | None, float]]:
        """What other rules than the official one read: key -> (parse, score)."""
        return {}

    def requests(self, frame: pd.DataFrame) -> list[Request]:
        """What goes to a judge, from a prediction file as VLMEvalKit reads it."""
        raise NotImplementedError

    def read_reply(self, request: Request, reply: str) -> str | None:
        """The reply in the form that VLMEvalKit reads without doubt, or None where it says nothing usable."""
        raise NotImplementedError

    def rows(self, frame: pd.DataFrame, judged: Judged | None) -> dict[str, Verdict]:
        """The verdicts of single rows by the official reading, without a score over them."""
        raise NotImplementedError

    def evaluated(self, work: Work, returned: pd.DataFrame, judged: Judged | None) -> Evaluated:
        """The result from the table that `evaluate` returned and from what it left beside the predictions."""
        raise NotImplementedError


def extra_of(item: Item, key: str) -> Any:
    """What a composite needs of an item's extras. ValueError naming the item where it is not there."""
    try:
        return item.extras[key]
    except KeyError:
        raise ValueError(f"item {item.id}: extras has no {key!r}, which its benchmark's score needs") from None
