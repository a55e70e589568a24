"""Asks a model every open question: batches of like length, pictures decoded ahead in threads, each answer journaled.

VLMEvalKit asks one question at a time; the ratio between the two is measured by tests/perf/test_perf_understanding.py.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from armor_eval.models.base import Answer, AnswersQuestions, Decoding, ModelUnavailable, Question
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import Item
from armor_eval.tasks.understanding import images, prompts
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.table import Row, Table
from armor_model.base.errors import ArmorError
from armor_model.base.hashing import sha256_text

log = logging.getLogger(__name__)

DECODING_THREADS = 2
BATCHES_AHEAD = 2
"""Batches whose pictures are decoded before they are needed: bounds memory to three batches of pictures."""

Progress = Callable[[int, int], None]
"""Called with (items answered, of them failed) after each batch."""


def answer_all(
    model: AnswersQuestions,
    table: Table,
    bundle: Bundle,
    decoding: Decoding,
    batch_size: int,
    *,
    part: tuple[int, int] = (0, 1),
    blind: bool = False,
    progress: Progress | None = None,
) -> None:
    """Answer the rows that the journal does not hold and append them. `part` = (this process, of how many).

    `blind` leaves the pictures out (and says so in the prompt's marks): the baseline of what text alone gives. Raises
    ModelUnavailable, after journaling what there is, where the model is gone.
    """
    rank, world = part
    mine = [row for rows in by_picture(table)[rank::world] for row in rows]
    open_rows = [row for row in mine if row.id not in bundle.items]
    unusable = [row for row in open_rows if row.problem is not None]
    for row in unusable:
        bundle.append(item_of(table, row, Answer(error=f"data: the row {row.problem}"), 0.0, 0))
    if unusable and progress is not None:
        progress(len(unusable), len(unusable))
    open_rows = [row for row in open_rows if row.problem is None]
    batches = [open_rows[i : i + batch_size] for i in range(0, len(open_rows), batch_size)]
    for batch, questions in _prefetched(table.benchmark, batches, blind):
        began = time.monotonic()
        asked = [q for q in questions if isinstance(q, Question)]
        stop: ModelUnavailable | None = None
        try:
            answers = iter(_answer_batch(model, asked, decoding))
        except ModelUnavailable as error:
            stop, answers = error, iter(error.answers)
        seconds = (time.monotonic() - began) / max(1, len(asked))
        failed = 0
        for row, question in zip(batch, questions, strict=True):
            answer = next(answers) if isinstance(question, Question) else Answer(error=f"picture: {question}")
            if answer is None:  # the model was gone: left open, and asked by the command that resumes
                continue
            failed += answer.error is not None
            pictures = 1 if not isinstance(question, Question) else _pictures(question)
            bundle.append(item_of(table, row, answer, seconds, pictures))
        if progress is not None:
            progress(len(batch), failed)
        if stop is not None:
            raise stop


def by_picture(table: Table) -> list[list[Row]]:
    """The rows in the order they are asked: questions about one picture together, so that a batch decodes and encodes
    it once (POPE asks 18 of each); longest first, so that padding is small and a batch too large for memory shows at
    once."""
    shown: dict[Any, list[tuple[int, str, Row]]] = defaultdict(list)
    for row in table.rows:
        shown[row.shown].append((-_length(table.benchmark, row), row.id, row))
    groups = [sorted(rows, key=lambda entry: entry[:2]) for rows in shown.values()]
    return [[row for _, _, row in rows] for rows in sorted(groups, key=lambda rows: rows[0][:2])]


def marked_prompt(benchmark: Benchmark, row: Row, pictures: int) -> str:
    """What the model reads, with `<image>` where pictures go: what a bundle records and a snapshot test holds."""
    return prompts.picture_marks(prompts.question_text(benchmark.prompt, row), pictures)


def decoded(row: Row) -> list[Any] | images.BadImageError:
    """The row's pictures; the error itself where one cannot be read."""
    try:
        return row.images()
    except images.BadImageError as error:
        return error


def build_question(benchmark: Benchmark, row: Row, pictures: list[Any]) -> Question:
    """The row's prompt, filled, with its decoded pictures where they belong."""
    marked = marked_prompt(benchmark, row, len(pictures))
    return Question(
        id=row.id,
        parts=prompts.parts(marked, pictures),
        dataset=benchmark.dataset,
        max_tiles=prompts.tiles_each(benchmark.prompt, len(pictures)),
        upscale_first=benchmark.prompt.upscale_first,
        fields={**row.fields, "index": row.index},
    )


def _length(benchmark: Benchmark, row: Row) -> int:
    return len(prompts.question_text(benchmark.prompt, row))


def _prefetched(
    benchmark: Benchmark, batches: Sequence[list[Row]], blind: bool
) -> Iterator[tuple[list[Row], list[Question | images.BadImageError]]]:
    """Batches in order, each with its questions; pictures are decoded in threads a few batches ahead, each once a
    batch: questions about the same one hold the same object."""

    def question(row: Row, pictures: dict[Any, Future]) -> Question | images.BadImageError:
        found = pictures[row.shown].result() if row.shown in pictures else []
        return found if isinstance(found, images.BadImageError) else build_question(benchmark, row, found)

    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decode") as pool:
        ahead: deque[tuple[list[Row], dict[Any, Future]]] = deque()
        waiting = iter(batches)
        try:
            while True:
                while len(ahead) <= BATCHES_AHEAD and (batch := next(waiting, None)) is not None:
                    shown = {} if blind else {row.shown: row for row in batch if row.picture is not None}
                    ahead.append((batch, {key: pool.submit(decoded, row) for key, row in shown.items()}))
                if not ahead:
                    return
                batch, pictures = ahead.popleft()
                yield batch, [question(row, pictures) for row in batch]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _answer_batch(model: AnswersQuestions, questions: list[Question], decoding: Decoding) -> list[Answer]:
    """Answers in order. A batch that fails is asked again one by one, so that only the culprit is lost."""
    if not questions:
        return []
    try:
        answers = model.answer(questions, decoding)
        if len(answers) != len(questions):
            raise RuntimeError(f"the model gave {len(answers)} answers to {len(questions)} questions")
        return answers
    except ArmorError:  # the model itself cannot be had: no question's fault
        raise
    except Exception as error:
        if len(questions) == 1:
            log.warning("item %s failed: %s", questions[0].id, error)
            return [Answer(error=" ".join(f"{type(error).__name__}: {error}".split())[:500])]
        log.warning("a batch of %d failed (%s): asking one by one", len(questions), type(error).__name__)
        return [_answer_batch(model, [question], decoding)[0] for question in questions]


def _pictures(question: Question) -> int:
    return sum(not isinstance(part, str) for part in question.parts)


def item_of(table: Table, row: Row, answer: Answer, seconds: float, pictures: int) -> Item:
    """The journal's record of an answer, not scored yet."""
    benchmark = table.benchmark
    prompt = marked_prompt(benchmark, row, pictures)
    group = row.fields.get(benchmark.group)
    return Item(
        id=row.id,
        cluster=row.cluster,
        group=None if group is None else str(group),
        prompt=prompt,
        prompt_sha256=sha256_text(prompt),
        images=[f"{table.path.name}#{row.id}"] if pictures else [],
        gold=plain(row.fields.get("answer")),
        output=None if answer.error is not None else clean(answer.text),
        reason=answer.error,
        extras=dict(answer.extras),
        status="ok" if answer.error is None else "error",
        seconds=round(seconds, 6),
    )


def clean(text: str) -> str:
    """Text that a UTF-8 file and a TSV can hold: lone surrogates and NUL become the replacement character."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


def plain(value: Any) -> Any:
    """A numpy scalar as the Python value JSON can hold."""
    return value.item() if hasattr(value, "item") else value
