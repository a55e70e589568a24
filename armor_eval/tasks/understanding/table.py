"""Reads a published TSV: each cell as what it is; a row with an unusable one is counted, never silently lost."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.runs.schema import Subset
from armor_eval.tasks.understanding import images
from armor_eval.tasks.understanding.cells import OPTIONS, Reading, as_vlmeval_reads, differing_cells, whole_number
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.images import Gallery, ImageCell
from armor_eval.tasks.understanding.tsv import Tsv, stand_of
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image


@dataclass
class Row:
    """One question of the file."""

    id: str
    index: object
    """As VLMEvalKit holds it: int where every index is one, else str."""
    fields: JsonObject
    """Every column but `image`; missing cells are absent."""
    image_cell: ImageCell | None
    """The cell with the image(s), references followed; its text is read from disk when asked for."""
    cluster: str = ""
    gallery: Gallery | None = None
    saved_as: tuple[str, ...] = ()
    """The names of the image files, where the benchmark declares that VLMEvalKit's files are what is shown."""
    problem: str | None = None
    """Why the row can be neither asked nor scored, one line: it counts as an error."""

    @property
    def image(self) -> str | None:
        return None if self.image_cell is None else self.image_cell.cell()

    @property
    def shown(self) -> object:
        """What tells the row's images from other rows'; the row itself where it has none."""
        return self.id if self.image_cell is None else (self.image_cell.digest, self.image_cell.length, self.saved_as)

    @property
    def options(self) -> JsonObject:
        return {letter: self.fields[letter] for letter in OPTIONS if letter in self.fields}

    def images(self) -> list[Image.Image]:
        """The row's images, RGB, as they are shown. BadImageError where one cannot be read."""
        if self.image_cell is None or self.gallery is None:
            return []
        return self.gallery.open(self.image_cell, self.saved_as)


@dataclass
class Table:
    """The rows that are asked, and the frame (without images) that predictions are written against."""

    benchmark: Benchmark
    path: Path
    sha256: str
    """What names the data: of the bytes, or of the content where it was generated (a PNG's bytes depend on zlib)."""
    file_sha256: str
    rows: list[Row]
    """Also those with a problem."""
    frame: pd.DataFrame
    """The usable rows, as the reading makes them."""
    has_answers: bool
    published: bool
    """The file is one whose md5 the benchmark declares."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers should know about the file."""
    reading: Reading = "keep-none"
    touched: dict[str, str] = field(default_factory=dict)
    """Row -> the cells that the two readings make something else of."""
    stand: list[int] = field(default_factory=list)
    """The file's number, size and times when it was read."""
    other: Table | None = None
    """The touched rows by the other reading."""

    def select(self, keep: set[str]) -> Table:
        """The same table with fewer rows."""
        rows = [row for row in self.rows if row.id in keep]
        frame = self.frame[[str(i) in keep for i in self.frame["index"]]]
        touched = {index: cells for index, cells in self.touched.items() if index in keep}
        other = None if self.other is None or not touched else self.other.select(keep)
        return replace(self, rows=rows, frame=frame, touched=touched, other=other)


def read_table(
    benchmark: Benchmark,
    path: Path,
    *,
    need_published: bool,
    content: str | None = None,
    reading: Reading = "keep-none",
) -> Table:
    """Read and check a TSV. UserError in one line where no row could be asked or no score would mean anything.

    `need_published` refuses a file whose md5 is not a declared one; `content` is the hash of generated content. A row
    with a cell that cannot be used carries its `problem`.
    """
    import pandas as pd

    if not path.is_file():
        raise missing_file(benchmark, path)
    stand, file = stand_of(path), Tsv.open(path)
    edition, md5 = benchmark.official.edition(file.found.md5), file.found.md5
    if need_published and not benchmark.official.md5:
        raise UserError(
            f"{benchmark.name} declares no md5 of a published file, so {path} cannot be checked",
            f'write md5 = {{ own = "{md5}" }} under [official] of its file, or measure it, marked: '
            "armor-eval understanding --any-data",
        )
    if need_published and edition is None:
        known = " or ".join(f"{known} ({name})" for name, known in benchmark.official.md5.items())
        raise UserError(
            f"{path} is not the published {benchmark.dataset}: truncated or changed (md5 {md5}, expected {known})",
            "get it again, or add --any-data to measure this file and mark the result",
        )
    if edition is None and not _ends_with_newline(path):
        raise UserError(f"{path} does not end with a whole line: truncated", "get it again")
    try:
        cells = file.content()
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is not a whole TSV file: {' '.join(str(error).split())}", "get it again") from error
    lacking = [c for c in benchmark.columns if c not in cells.columns]
    if lacking:
        raise UserError(
            f"{path} lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}",
            f"{benchmark.name} needs {', '.join(benchmark.columns)}",
        )
    sha256, published = file.found.sha256, edition is not None
    table = Table(
        benchmark, path, content or sha256, sha256, [], cells.text, False, published, reading=reading, stand=stand
    )
    if edition is not None and len(benchmark.official.md5) > 1:
        table.notes.append(f"the file is the edition {edition}")
    _fill(table, cells.text, cells.images)
    return table


def _fill(table: Table, text: pd.DataFrame, images: list[ImageCell | None]) -> None:
    """The table's rows, its frame, and what the other reading would make of them, from the file's cells."""
    benchmark, path, reading = table.benchmark, table.path, table.reading
    indices = _indices(benchmark, path, text)
    named = [*zip(indices, images, strict=True), *zip(text["index"], images, strict=True)]
    gallery = Gallery(path.parent, {str(index): image_cell for index, image_cell in named if image_cell is not None})
    is_asked = _asked(table, text, images)
    text_frame = _with_plain_answers(benchmark, text.assign(index=indices)[is_asked])
    lossy = as_vlmeval_reads(text).assign(index=indices)[is_asked]
    frames: dict[Reading, pd.DataFrame] = {"keep-none": text_frame, "vlmeval": lossy}
    table.has_answers = "answer" in text_frame and bool(text_frame["answer"].notna().any())
    if not table.has_answers and not benchmark.scoring.takes_submissions:
        raise UserError(f"{path} has no answers, and {benchmark.name} has no server that takes submissions")
    rows = _rows(benchmark, text_frame, gallery)
    problems = problems_of(benchmark, rows, table.has_answers)
    if reading == "vlmeval":
        rows = _rows(benchmark, lossy, gallery)
        lost = {
            row.id: "has a question that VLMEvalKit 0.0.20 reads as missing"
            for row in rows
            if "question" not in row.fields
        }
        problems = {**lost, **problems}
    for row in rows:
        row.problem = problems.get(row.id)
    if len(problems) == len(rows):
        raise UserError(f"{path} has no row that can be used: row {rows[0].id} {rows[0].problem}")
    if problems:
        index, why = next(iter(problems.items()))
        table.notes.append(
            f"{len(problems)} of {len(rows)} rows cannot be used and count as errors, e.g. {index} {why}"
        )
    usable = [row.id not in problems for row in rows]
    differing = zip((row.id for row in rows), differing_cells(text_frame, lossy), usable, strict=True)
    table.rows, table.frame = rows, frames[reading][usable]
    table.touched = {index: cells for index, cells, one in differing if cells and one}
    if table.touched:
        other: Reading = "vlmeval" if reading == "keep-none" else "keep-none"
        touched = frames[other][[row.id in table.touched for row in rows]]
        table.other = replace(table, rows=_rows(benchmark, touched, gallery), frame=touched, reading=other)
        index, cells = next(iter(table.touched.items()))
        table.notes.append(f"the reading ({reading}) touches {len(table.touched)} rows, e.g. {index} ({cells})")


def _asked(table: Table, text: pd.DataFrame, images: list[ImageCell | None]) -> list[bool]:
    """Which rows of the file are asked at all: those with an image cell, of the split that the benchmark keeps."""
    is_asked = [image_cell is not None for image_cell in images]
    if without := is_asked.count(False):
        table.notes.append(f"{without} rows have no image and are not asked (VLMEvalKit drops them too)")
    if empty := sum(p is not None and p.length == 2 and p.cell() == "[]" for p in images):
        table.notes.append(f"{empty} rows have an empty list of images and are asked without any")
    keep = table.benchmark.keep
    if keep is not None:
        before = sum(is_asked)
        is_asked = [one and value in keep.one_of for one, value in zip(is_asked, text[keep.column], strict=True)]
        table.notes.append(f"{sum(is_asked)} of {before} rows belong to {table.benchmark.split} ({keep.column})")
    if not any(is_asked):
        raise UserError(f"{table.path} has no row to ask")
    return is_asked


def missing_file(benchmark: Benchmark, path: Path) -> UserError:
    """The error for a file that is not there: its name, where it comes from, the options that bring one."""
    fetch = f"add --download to fetch {benchmark.official.url}, " if benchmark.official.url else ""
    shapes = "" if benchmark.outside else ", or use --profile shapes"
    return UserError(
        f"{benchmark.name} needs {benchmark.official.file}, which is not at {path}",
        f"{fetch}give the folder of a copy with --data{shapes}",
    )


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 1))
        return size == 0 or handle.read(1) == b"\n"


def file_hashes(path: Path) -> tuple[str, str]:
    """(sha256, md5) of a file in one pass."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            sha256.update(block)
            md5.update(block)
    return sha256.hexdigest(), md5.hexdigest()


def _indices(benchmark: Benchmark, path: Path, text: pd.DataFrame) -> list[int | str]:
    """The index of each row, an integer where every one is (or has to be): `007` and `7.0` are 7. All are unique."""
    if text["index"].isna().any():
        raise UserError(
            f"{path}: row {int(text['index'].isna().to_numpy().argmax()) + 1} has no index (a truncated file?)"
        )
    numbers = [whole_number(index) for index in text["index"]]
    if benchmark.scoring.integer_index or None not in numbers:
        indices = [index if number is None else number for index, number in zip(text["index"], numbers, strict=True)]
    else:
        indices = list(text["index"])
    twice, times = Counter(map(str, indices)).most_common(1)[0] if indices else ("", 1)
    if times > 1:
        raise UserError(f"{path}: index {twice} occurs {'twice' if times == 2 else f'{times} times'}")
    return indices


def _with_plain_answers(benchmark: Benchmark, frame: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    if "answer" not in frame:
        return frame
    letters = [c for c in OPTIONS if c in frame]
    options = zip(*(frame[c] for c in letters), strict=True) if letters else ([] for _ in range(len(frame)))
    answers = [
        benchmark.scoring.plain_answer(answer, {c for c, text in zip(letters, texts, strict=True) if text == text})
        if answer == answer
        else None
        for answer, texts in zip(frame["answer"], options, strict=True)
    ]
    return frame.assign(answer=pd.Series(answers, index=frame.index, dtype=object))


def _rows(benchmark: Benchmark, frame: pd.DataFrame, gallery: Gallery) -> list[Row]:
    rows, cluster_of = [], benchmark.clusters.key
    for record in frame.to_dict("records"):
        fields = {str(k): v for k, v in record.items() if v is not None and v == v}
        index = str(record["index"])
        row = Row(index, record["index"], fields, gallery.cells[index], gallery=gallery)
        try:
            row.image_cell = gallery.follow(gallery.cells[index])
            saved_as = fields.get(benchmark.saved_as, "[]") if benchmark.saved_as else "[]"
            row.saved_as = tuple(images.image_cells(str(saved_as)))
        except images.BadImageError as error:
            row.problem = f"has an image that {error}"
        row.cluster = cluster_of(row)
        rows.append(row)
    return rows


# --- what scoring formulas take for granted of a row, checked before hours of inference ------------------------------


def problems_of(benchmark: Benchmark, rows: list[Row], has_answers: bool) -> dict[str, str]:
    """Row -> why it cannot be asked or scored, a line that follows `row INDEX`; what a row already carries stays."""
    by_row = {row.id: why for row in rows if (why := row.problem or _own_problem(benchmark, row, has_answers))}
    return by_row | benchmark.scoring.problems([row for row in rows if row.id not in by_row])


def _own_problem(benchmark: Benchmark, row: Row, has_answers: bool) -> str | None:
    """What is wrong with a row for itself."""
    family = benchmark.scoring
    if lacking := [c for c in benchmark.columns if c not in row.fields and c not in family.optional]:
        return f"has no {' and no '.join(lacking)}"
    if (problem := family.problem(row)) or not has_answers:
        return problem
    return "has no answer" if row.fields.get("answer") is None else family.answer_problem(row)


# --- --limit N: fewer items without breaking what belongs together (rotations, pairs, sets) --------------------------


def limit_table(table: Table, limit: int | None, seed: int) -> tuple[Table, Subset | None]:
    """The table cut to `limit` clusters, spread evenly over the categories; None where nothing is cut off."""
    by_cluster: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        by_cluster[row.cluster].append(row)
    if limit is None or limit >= len(by_cluster):
        return table, None
    benchmark = table.benchmark
    order = _spread(table, by_cluster, seed)
    order = benchmark.scoring.order(by_cluster, order, limit)
    chosen = set(order[:limit])
    cut = table.select({row.id for row in table.rows if row.cluster in chosen})
    rule = f"{benchmark.name} {benchmark.clusters.unit}"
    return cut, Subset(rule=rule, limit=limit, seed=seed, items=len(cut.rows), of_items=len(table.rows))


def _spread(table: Table, by_cluster: dict[str, list[Row]], seed: int) -> list[str]:
    """All clusters in an order whose every beginning takes from each category in turn."""
    generator = random.Random(seed)
    by_group: dict[str, list[str]] = defaultdict(list)
    for cluster in sorted(by_cluster):
        by_group[str(by_cluster[cluster][0].fields.get(table.benchmark.group))].append(cluster)
    queues = [by_group[group] for group in sorted(by_group)]
    for queue in queues:
        generator.shuffle(queue)
    generator.shuffle(queues)
    order = []
    while queues:
        order += [queue.pop() for queue in queues]
        queues = [queue for queue in queues if queue]
    return order
