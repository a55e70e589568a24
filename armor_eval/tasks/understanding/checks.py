"""What scoring formulas take for granted of a row, checked before hours of inference: a row that lacks it is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from armor_eval.tasks.understanding.declare import Benchmark

if TYPE_CHECKING:
    from armor_eval.tasks.understanding.table import Row


def problems_of(benchmark: Benchmark, rows: list[Row], has_answers: bool) -> dict[str, str]:
    """Row -> why it cannot be asked or scored, a line that follows `row INDEX`; what a row already carries stays."""
    found = {row.id: why for row in rows if (why := row.problem or _own_problem(benchmark, row, has_answers))}
    return found | benchmark.scoring.problems([row for row in rows if row.id not in found])


def _own_problem(benchmark: Benchmark, row: Row, has_answers: bool) -> str | None:
    """What is wrong with a row for itself."""
    family = benchmark.scoring
    if lacking := [c for c in benchmark.columns if c not in row.fields and c not in family.optional]:
        return f"has no {' and no '.join(lacking)}"
    if (problem := family.problem(row)) or not has_answers:
        return problem
    return "has no answer" if row.fields.get("answer") is None else family.answer_problem(row)
