"""A prediction file scored into a run bundle, by the same rules as answers that we asked for ourselves."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from armor_eval.engine import Described, Finished, Ready, Settings, Unit, evaluate
from armor_eval.engine.task import Progress
from armor_eval.models.base import Answer, Model, NotAsked
from armor_eval.runs.schema import Item, JudgeInfo, ModelInfo, Profile, Reservation
from armor_eval.tasks.families import FAMILIES
from armor_eval.tasks.understanding.cells import Reading
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.judge import Judge, read_reply
from armor_eval.tasks.understanding.predictions.layouts import Prediction, PredictionFile, read_predictions
from armor_eval.tasks.understanding.predictions.questions import read_questions, write_table
from armor_eval.tasks.understanding.prompts import clean, item_of
from armor_eval.tasks.understanding.table import Row, Table, read_table
from armor_eval.tasks.understanding.task import Options, UnderstandingTask, open_table
from armor_eval.tasks.understanding.thinking import Thinking
from armor_eval.vlmevalkit.records import Judged, Request
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_json

FAILED_CALL = "Failed to obtain answer"
"""How VLMEvalKit's files say that nothing came back (`Failed to obtain answer via API.`): no answer, never scored."""


@dataclass(frozen=True)
class Source:
    """What a user gave to be scored."""

    benchmark: Benchmark
    predictions: Path
    data: Path | None = None
    """A TSV or a folder of them; None: the published one in $LMUData."""
    questions: Sequence[Path] = ()
    """The benchmark's own question file(s), instead of a TSV."""
    profile: Profile = "official"
    model: str | None = None
    """Name for tables; by default the file's."""
    thinking: Thinking = "strip"
    reading: Reading = "keep-none"
    command: list[str] = field(default_factory=list)
    judging: int | None = None
    """Which of several recorded judgings, from 1."""
    judge_name: str | None = None
    """Who gave the recorded replies."""

    @property
    def name(self) -> str:
        """Who answered: as given, else the file's name without VLMEvalKit's `_DATASET`."""
        file = self.predictions.resolve()
        return self.model or file.name.removesuffix(file.suffix).removesuffix(f"_{self.benchmark.dataset}")

    @property
    def variant(self) -> str:
        """The benchmark and what of its scoring is not the default: names a folder."""
        parts = [self.benchmark.name, "" if self.reading == "keep-none" else self.reading]
        parts += ["thoughts" if self.thinking == "keep" else "", f"judging{self.judging}" if self.judging else ""]
        return "-".join(part for part in parts if part)


def score_predictions(
    source: Source, out: Path, judge: Judge | None = None, progress: Progress | None = None
) -> Finished:
    """Score a file of answers into the bundle `out`; a complete bundle of the same file is only read.

    `judge` is asked where the file holds no replies of its own. Rows without an answer are counted as lost: the run is
    partial, and its headline withheld above 1 %. Raises UserError where the file is not of this benchmark.
    """
    file = read_predictions(source.predictions)
    model = NotAsked(ModelInfo(spec=f"predictions:{file.path.name}", name=source.name, fingerprint=file.sha256))
    with tempfile.TemporaryDirectory(prefix="armor-eval-") as folder:
        task = PredictionsTask(source, file, Path(folder), judge)
        finished = evaluate(task, model, out, Settings(source.profile, source.command), progress=progress)
    assert finished is not None  # one process
    return finished


class PredictionsTask(UnderstandingTask):
    """A benchmark whose answers are there already; in which words and how they were decoded is not known."""

    def __init__(self, source: Source, file: PredictionFile, folder: Path, judge: Judge | None) -> None:
        self._source, self._file = source, file
        options = Options(data=source.data, any_data=True, thinking=source.thinking, reading=source.reading)
        super().__init__(source.benchmark, source.profile, options)
        table, aliases, whole = _open(source, options, folder)
        self._opened = (table, None)
        self._told = self._tell()  # of what was just read, which may be question files
        self._joined = join(table, file, aliases)
        self._judge = _judge(source, self._joined, judge, whole)

    def check(self, model: Model) -> None:
        """Any will do: nobody is asked."""

    def describe(self, model: ModelInfo) -> Described:
        source, table, plain = self._source, self.table, super().describe(model)
        reservations = []
        if source.questions:
            names = ", ".join(path.name for path in source.questions)
            text = f"questions and right answers are from {names}, not from VLMEvalKit's published file"
            if (rows := source.benchmark.official.rows) not in (None, len(table.rows)):
                text += f" ({len(table.rows):,} rows, the published one has {rows:,})"
            reservations.append(Reservation(kind="data", text=text))
        layout_note = f"{len(self._file.predictions)} answers in the layout {self._file.layout}"
        notes = [*plain.extras["notes"], layout_note, *self._joined.notes()]
        return replace(
            plain,
            prompt_sha256=sha256_json([source.benchmark.name, "recorded predictions"]),
            protocol={**plain.protocol, "prompts": "recorded"},
            reservations=reservations,
            extras={**plain.extras, "notes": notes, "layout": self._file.layout},
            asks=False,
        )

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Ready]:
        return [Ready(_recorded_answer(self._rows[u.id], self._joined.by_row.get(u.id), self._joined)) for u in units]

    def _item(self, row: Row, request: object, output: Answer | Exception) -> Item:
        """With the prompt that was recorded, else the question."""
        one = self._joined.by_row.get(row.id)
        prompt = (one.prompt if one is not None else None) or str(row.fields.get("question", ""))
        answer = output if isinstance(output, Answer) else Answer(error=str(output))
        return item_of(self.table, row, answer, 0, prompt)


def _open(source: Source, options: Options, folder: Path) -> tuple[Table, dict[str, str], bool]:
    """The rows, the ids by which other files call them, and whether a judge could be asked about them."""
    if not source.questions:
        table, _ = open_table(source.benchmark, source.profile, options)
        if not table.has_answers:
            raise UserError(f"{table.path} holds no answers to score by", "its benchmark's server has them")
        return table, {}, True
    if source.data is not None:
        raise UserError("--data and --questions each name the questions: leave one out")
    questions = read_questions(source.benchmark, source.questions)
    path = write_table(source.benchmark, questions, folder / source.benchmark.official.file)
    table = read_table(source.benchmark, path, need_published=False, reading=source.reading)
    return table, questions.aliases, questions.whole


def _judge(source: Source, joined: Joined, judge: Judge | None, whole: bool) -> Judge | None:
    """The recorded replies as a judge, else the one that was given; UserError where a required one is lacking."""
    judgings = max((len(one.replies) for one in joined.by_row.values()), default=0)
    if judgings:
        if judge is not None:
            raise UserError("the file holds judge replies, and a judge is given", "leave one of them out")
        if judgings > 1 and source.judging is None:
            raise UserError(f"each answer was judged {judgings} times", f"say which: --judging 1 to {judgings}")
        number = source.judging or 1
        if number > judgings:
            raise UserError(f"--judging {number}: the file holds {judgings}")
        replies = {i: clean(one.replies[number - 1]) for i, one in joined.by_row.items() if len(one.replies) >= number}
        return RecordedJudge(replies, source.judge_name or "recorded judge", number if judgings > 1 else None)
    if source.judging is not None:
        raise UserError("--judging names a recorded judging, and the file holds none")
    if judge is None and source.benchmark.judge == "required":
        raise UserError(
            f"{source.benchmark.name} needs a judge, and the file holds no replies of one",
            "give --judge openai:URL#NAME or --judge hf:ID, or a `judge` field with what a judge said",
        )
    if judge is not None and not whole:
        raise UserError("the question file lacks texts that a judge must read", "give the TSV with --data")
    return judge


def _recorded_answer(row: Row, one: Prediction | None, joined: Joined) -> Answer:
    if row.problem is not None:
        return Answer(error=f"data: the row {row.problem}")
    if one is None:
        where = joined.contradicted.get(row.id)
        return Answer(error=f"several different answers ({where})" if where else "no answer in the file")
    if one.text is None:
        return Answer(error=f"no answer ({one.where})")
    if one.text.startswith(FAILED_CALL):
        return Answer(error=f"the file says: {' '.join(one.text.split())[:120]}")
    return Answer(one.text, extras={"reasoning": clean(one.reasoning)} if one.reasoning else {})


# --- recorded replies as a judge -------------------------------------------------------------------------------------


@dataclass
class _InTurn(Judged):
    """Replies in the order of their rows: two rows may ask in equal words and have been judged differently."""

    queues: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))

    def generate(self, prompt: str, **settings: object) -> str:
        queue = self.queues[prompt]
        return queue.popleft() if len(queue) > 1 else queue[0]


class RecordedJudge:
    """Says what a judge once said of each row; a row without a reply, or with one that cannot be read, has failed."""

    def __init__(self, replies: Mapping[str, str], name: str, run: int | None = None) -> None:
        self._replies = replies
        self.info = JudgeInfo(name=name, version=None if run is None else f"judging {run}", endpoint="recorded")

    def judge(self, requests: Sequence[Request], done: Callable[[int], None] | None = None) -> Judged:
        judged = _InTurn()
        by_prompt: dict[str, set[str]] = defaultdict(set)
        for request in requests:
            reply = self._replies.get(request.id)
            usable = None if reply is None else read_reply(request, reply)
            if reply is None or usable is None:
                reply_text = "none recorded" if reply is None else f"unreadable: {' '.join(reply.split())[:120]!r}"
                judged.failed[request.id] = f"judge: {reply_text}"
                continue
            by_prompt[request.prompt].add(usable)
            judged.replies[request.prompt] = judged.usable[request.id] = usable
            judged.raw[request.id] = reply
            judged.queues[request.prompt].append(usable)
        for request in requests:
            # VLMEvalKit asks a graded row once and in the file's order; of a choice it may ask in another.
            if not FAMILIES[request.kind].always_judged and len(by_prompt[request.prompt]) > 1:
                judged.usable.pop(request.id, None)
                judged.failed[request.id] = "judge: equal words were judged differently"
        return judged

    def close(self) -> None:
        """Nothing is held."""


# --- answers joined to rows: by index, else by image and question; what does not fit is counted ----------------------


_INSTRUCTIONS = re.compile(
    r"please answer (?:with )?yes or no\.?|answer the question using a single word or phrase\.?|<image(?: ?\d+)?>",
    re.IGNORECASE,
)
"""What papers and tools hang onto a question, or write into it where an image stands, each in its own way."""


@dataclass
class Joined:
    """Row id -> its answer, and what is to be told of the rest."""

    by_row: dict[str, Prediction] = field(default_factory=dict)
    folded: int = 0
    """Answers said again in the same words (POPE asks one question in up to three categories)."""
    contradicted: dict[str, str] = field(default_factory=dict)
    """Row id -> the places of its different answers: none of them is scored."""
    unknown: list[Prediction] = field(default_factory=list)
    other_question: list[Prediction] = field(default_factory=list)
    """Answers whose id is a row's, but whose question is not: not scored."""

    def notes(self) -> list[str]:
        """What a reader of the numbers should know, a line each."""
        counts = [
            (self.folded, "answers are given again in the same words and used once", ""),
            (len(self.unknown), "answers name no row of the data and are left out", _where(self.unknown)),
            (
                len(self.other_question),
                "answers carry another question than the data and are not scored",
                _where(self.other_question),
            ),
            (
                len(self.contradicted),
                "rows have several different answers, of which none is scored",
                next(iter(self.contradicted.values()), ""),
            ),
        ]
        return [f"{n} {text}{f' (first: {where})' if where else ''}" for n, text, where in counts if n]


def join(table: Table, file: PredictionFile, aliases: Mapping[str, str] | None = None) -> Joined:
    """Find each answer's row. `aliases`: ids of the question file -> row ids.

    UserError where most answers find none: the file is of another benchmark or edition.
    """
    # MMMU's own ids stand in a column `id` beside the TSV's index; the index comes first where both would do.
    rows = {str(row.fields["id"]): row for row in table.rows if "id" in row.fields}
    rows |= {row.id: row for row in table.rows}
    by_image_name: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in table.rows:
        if (name := row.fields.get("image_path")) is not None and "question" in row.fields:
            by_image_name[image_key(str(name))].append(row)
    joined = Joined()
    for one in file.predictions:
        named = _by_image_name(one, by_image_name) or _by_id(one, rows, aliases or {})
        if named is None:
            joined.unknown.append(one)
        elif not same_question(named, one.prompt):
            joined.other_question.append(one)
        else:
            _take(joined, named, one)
    lost = len(joined.unknown) + len(joined.other_question)
    if lost * 2 > len(file.predictions):
        raise UserError(
            f"{lost} of {len(file.predictions)} answers in {file.path} are to no question of {table.benchmark.name}"
            f" as {table.path.name} holds it: {'; '.join(joined.notes())}",
            "is it another benchmark's file, or another edition of the data (--data, --questions)?",
        )
    return joined


def _take(joined: Joined, row: Row, one: Prediction) -> None:
    earlier = joined.by_row.get(row.id)
    if row.id in joined.contradicted:
        return
    if earlier is None:
        joined.by_row[row.id] = one
    elif (earlier.text, earlier.replies) == (one.text, one.replies):
        joined.folded += 1
    else:
        joined.contradicted[row.id] = f"{earlier.where} and {one.where}"
        del joined.by_row[row.id]


def _by_id(one: Prediction, rows: Mapping[str, Row], aliases: Mapping[str, str]) -> Row | None:
    # MM-Vet's questions are v1_0, v1_1 ... in its own files and 0, 1 ... in LLaVA's.
    names = [
        name for index in one.ids for name in (aliases.get(index), index, f"v1_{index}", index.removeprefix("v1_"))
    ]
    return next((rows[name] for name in names if name is not None and name in rows), None)


def _by_image_name(one: Prediction, by_image_name: Mapping[tuple[str, str], list[Row]]) -> Row | None:
    """The image's row whose question the prompt holds; LLaVA's MME answers have the image as id."""
    if one.prompt is None:
        return None
    prompt = plain_question(one.prompt)
    for name in (one.image_name, *one.ids):
        rows = by_image_name.get(image_key(name), ()) if name else ()
        held = [row for row in rows if plain_question(str(row.fields["question"])) in prompt]
        longest = max((len(str(row.fields["question"])) for row in held), default=0)
        held = [row for row in held if len(str(row.fields["question"])) == longest]
        if len(held) == 1:
            return held[0]
    return None


def image_key(name: str) -> tuple[str, str]:
    """An image's category (the first folder, where there is one) and name without its ending."""
    path = PurePosixPath(name.strip())
    folders = [part for part in path.parts[:-1] if part != "."]
    return folders[0] if folders else "", path.stem


def same_question(row: Row, prompt: str | None) -> bool:
    """Whether the recorded text is, or holds, the row's question; True where none is recorded."""
    if prompt is None or "question" not in row.fields:
        return True
    question, prompted = plain_question(str(row.fields["question"])), plain_question(prompt)
    return question in prompted or prompted in question


def plain_question(text: str) -> str:
    """A question without its instructions, spaces and capitals."""
    return re.sub(r"\s+", "", _INSTRUCTIONS.sub("", text)).lower()


def _where(answers: list[Prediction]) -> str:
    return answers[0].where if answers else ""
