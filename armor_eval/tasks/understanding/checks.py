"""What scoring formulas take for granted of a row, checked before hours of inference: a row that lacks it is named."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from armor_eval.tasks.understanding.cells import OPTIONS, whole_number
from armor_eval.tasks.understanding.declare import Benchmark

if TYPE_CHECKING:
    from armor_eval.tasks.understanding.table import Row

LLAVABENCH_KINDS = ("conv", "detail", "complex")
"""The kinds of question that LLaVA-Bench's judge has a prompt for."""
_HALLUSION = re.compile(r"[\w-]+")


def problems_of(benchmark: Benchmark, rows: list[Row], has_answers: bool) -> dict[str, str]:
    """Row -> why it cannot be asked or scored, a line that follows `row INDEX`; what a row already carries stays."""
    found = {row.id: why for row in rows if (why := row.problem or _own_problem(benchmark, row, has_answers))}
    for check in (_without_base, _odd_mme_pairs):
        found |= check(benchmark, [row for row in rows if row.id not in found])
    return found


def _own_problem(benchmark: Benchmark, row: Row, has_answers: bool) -> str | None:
    """What is wrong with a row for itself."""
    from armor_eval.stats.composite import MME_PERCEPTION, MME_REASONING

    optional = {"image", "answer", *OPTIONS, *(["category"] if benchmark.kind.startswith("mcq") else [])}
    if lacking := [c for c in benchmark.columns if c not in row.fields and c not in optional]:
        return f"has no {' and no '.join(lacking)}"
    if benchmark.kind == "ratio" and row.fields["category"] not in LLAVABENCH_KINDS:
        return f"has the category {row.fields['category']!r}, expected {', '.join(LLAVABENCH_KINDS)}"
    if benchmark.cluster == "circular-group" and whole_number(row.index) is None:
        return f"has an index that is not an integer, which {benchmark.name}'s rotations need"
    if benchmark.cluster == "hallusion-set" and not (_HALLUSION.fullmatch(row.id) and len(row.id.split("_")) == 6):
        return "has an index that is not category_subcategory_visual_set_figure_question"
    if benchmark.dataset == "MME" and row.fields.get("category") not in MME_PERCEPTION + MME_REASONING:
        return f"has the category {row.fields.get('category')!r}, not one of MME's 14 (the total would leave it out)"
    return _answer_problem(benchmark, row) if has_answers else None


def _answer_problem(benchmark: Benchmark, row: Row) -> str | None:
    answer = row.fields.get("answer")
    if answer is None:
        return "has no answer"
    said = f"has the answer {str(answer)[:40]!r}"
    if benchmark.kind == "yes-no" and answer not in ("Yes", "No"):
        return f"{said}, expected Yes or No"
    if benchmark.kind in ("mcq", "mcq-circular"):
        options = row.options
        if benchmark.dataset.startswith("MMMU") and "A" not in options:
            return None  # an open question: VLMEvalKit turns it into two options when scoring
        if answer not in options:
            return f"{said}, which is not one of its options {', '.join(options)}"
    return None


def _without_base(benchmark: Benchmark, rows: list[Row]) -> dict[str, str]:
    """Rotations whose unrotated question the file does not hold: VLMEvalKit would drop them unseen."""
    if benchmark.cluster != "circular-group":
        return {}
    present = {row.id for row in rows}
    return {row.id: f"is a rotation of {row.cluster}, which the file does not hold" for row in rows
            if row.cluster not in present}  # fmt: skip


def _odd_mme_pairs(benchmark: Benchmark, rows: list[Row]) -> dict[str, str]:
    """MME's rows of a picture that is not asked about twice: acc+ is over pairs."""
    if benchmark.dataset != "MME":
        return {}
    pairs = {row.id: (row.fields.get("category"), row.fields.get("image_path")) for row in rows}
    times = Counter(pairs.values())
    return {row: f"is one of {times[pair]} questions of its picture, and MME asks two" for row, pair in pairs.items()
            if times[pair] != 2}  # fmt: skip
