"""Reads a VLMEvalKit TSV as VLMEvalKit reads it, and refuses what it would misread in silence."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.errors import UserError
from armor_eval.understanding.declare import Benchmark
from armor_eval.understanding.images import REFERENCE_LENGTH
from armor_eval.understanding.pictures import Picture, read_pictures

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CIRCLE = 1_000_000
"""MMBench: rotation k of question i has the index i + k * 10^6."""


@dataclass
class Row:
    """One question of the file."""

    id: str
    index: Any
    """As VLMEvalKit holds it: int where every index is one, else str."""
    fields: dict[str, Any]
    """Every column but `image`; missing cells are absent."""
    picture: Picture | None
    """The cell with the picture(s), references followed; its text is read from disk when asked for."""
    cluster: str = ""

    @property
    def image(self) -> str | None:
        return None if self.picture is None else self.picture.cell()

    @property
    def options(self) -> dict[str, Any]:
        return {letter: self.fields[letter] for letter in OPTIONS if letter in self.fields}


@dataclass
class Table:
    """The rows that are asked, and the frame (without pictures) that predictions are written against."""

    benchmark: Benchmark
    path: Path
    sha256: str
    """What names the data: of the bytes, or of the content where it was generated (a PNG's bytes depend on zlib)."""
    file_sha256: str
    rows: list[Row]
    frame: pd.DataFrame
    has_answers: bool
    published: bool
    """The file is the one whose md5 VLMEvalKit declares."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers should know about the file."""

    def select(self, keep: set[str]) -> Table:
        """The same table with fewer rows."""
        rows = [row for row in self.rows if row.id in keep]
        frame = self.frame[[str(i) in keep for i in self.frame["index"]]]
        return replace(self, rows=rows, frame=frame)


def read_table(benchmark: Benchmark, path: Path, *, need_published: bool, content: str | None = None) -> Table:
    """Read and check a TSV. UserError in one line for anything that would make a number wrong.

    `need_published` refuses a file whose md5 is not the declared one; `content` is the hash of generated content.
    """
    import pandas as pd

    if not path.is_file():
        raise missing_file(benchmark, path)
    sha256, md5 = _hashes(path)
    if need_published and md5 != benchmark.official.md5:
        raise UserError(
            f"{path} is not the published {benchmark.dataset}: truncated or changed"
            f" (md5 {md5}, expected {benchmark.official.md5})",
            "get it again, or add --any-data to measure this file and mark the result",
        )
    if md5 != benchmark.official.md5 and not _ends_with_newline(path):
        raise UserError(f"{path} does not end with a whole line: truncated", "get it again")
    try:
        frame = pd.read_csv(path, sep="\t", usecols=lambda column: column != "image")
        columns = [*frame.columns, *pd.read_csv(path, sep="\t", nrows=0).columns.intersection(["image"])]
        pictures = read_pictures(path) if "image" in columns else []
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is not a whole TSV file: {' '.join(str(error).split())}", "get it again") from error
    lacking = [c for c in benchmark.columns if c not in columns]
    if lacking:
        raise UserError(
            f"{path} lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}",
            f"{benchmark.name} needs {', '.join(benchmark.columns)}",
        )
    notes: list[str] = []
    frame = _checked_index(benchmark, path, frame)
    if len(pictures) != len(frame):
        raise UserError(f"{path} is not a whole TSV file: {len(frame)} rows, {len(pictures)} pictures", "get it again")
    without = sum(picture is None for picture in pictures)
    if without:
        notes.append(f"{without} rows have no picture and are not asked (VLMEvalKit drops them too)")
    images = _follow_references(path, frame, pictures)
    frame = frame[[picture is not None for picture in pictures]]
    if benchmark.keep is not None:
        before = len(frame)
        frame = frame[frame[benchmark.keep.column].astype(str).isin(benchmark.keep.one_of)]
        notes.append(f"{len(frame)} of {before} rows belong to {benchmark.split} ({benchmark.keep.column})")
    if not len(frame):
        raise UserError(f"{path} has no row to ask")
    rows = [_row(record, images) for record in frame.to_dict("records")]
    for row in rows:
        if "question" not in row.fields:
            raise UserError(f"{path}: the row with index {row.id} has no question")
        row.cluster = _cluster(benchmark, row)
    has_answers = "answer" in frame.columns and bool(frame["answer"].notna().any())
    _check_rows(benchmark, path, rows, has_answers)
    published = md5 == benchmark.official.md5
    return Table(benchmark, path, content or sha256, sha256, rows, frame, has_answers, published, notes)


def missing_file(benchmark: Benchmark, path: Path) -> UserError:
    """The error for a file that is not there: its name, where it comes from, the option for a local copy."""
    return UserError(
        f"{benchmark.name} needs {benchmark.official.file}, which is not at {path}",
        f"download {benchmark.official.url} and give its folder with --data, or use --profile shapes",
    )


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 1))
        return size == 0 or handle.read(1) == b"\n"


def _hashes(path: Path) -> tuple[str, str]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            sha256.update(block)
            md5.update(block)
    return sha256.hexdigest(), md5.hexdigest()


def _checked_index(benchmark: Benchmark, path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Indices unique, and integers where the benchmark's arithmetic needs them."""
    if frame["index"].isna().any():
        raise UserError(
            f"{path}: row {int(frame['index'].isna().to_numpy().argmax()) + 1} has no index (a truncated file?)"
        )
    as_text = [str(i) for i in frame["index"]]
    if len(set(as_text)) != len(as_text):
        twice = next(i for n, i in enumerate(as_text) if i in as_text[:n])
        raise UserError(f"{path}: index {twice} occurs twice")
    integers = all(i.lstrip("-").isdigit() for i in as_text)
    if benchmark.cluster == "circular-group" and not integers:
        odd = next(i for i in as_text if not i.lstrip("-").isdigit())
        raise UserError(f"{path}: index {odd!r} is not an integer, which {benchmark.name}'s rotations need")
    if benchmark.cluster == "hallusion-set":
        odd = next((i for i in as_text if len(i.split("_")) < 6), None)
        if odd is not None:
            raise UserError(f"{path}: index {odd!r} is not category_subcategory_visual_set_figure_question")
    return frame.assign(index=[int(i) for i in as_text] if integers else as_text)


def _follow_references(path: Path, frame: pd.DataFrame, pictures: list[Picture | None]) -> dict[str, Picture]:
    """Index -> picture; a short cell names the row that holds the picture, as in VLMEvalKit."""
    cells = {str(i): p for i, p in zip(frame["index"], pictures, strict=True) if p is not None}
    images = {}
    for index, picture in cells.items():
        if picture.length <= REFERENCE_LENGTH and (named := cells.get(picture.cell())) is not None:
            picture = named
            if picture.length <= REFERENCE_LENGTH:
                raise UserError(f"{path}: the picture of index {index} refers to a row that has none itself")
        images[index] = picture
    return images


def _row(record: dict[str, Any], images: dict[str, Picture]) -> Row:
    fields = {str(k): v for k, v in record.items() if v is not None and v == v}
    index = str(record["index"])
    return Row(id=index, index=record["index"], fields=fields, picture=images.get(index))


def _cluster(benchmark: Benchmark, row: Row) -> str:
    """The key of what is resampled together."""
    if benchmark.cluster == "circular-group":
        return str(row.fields.get("g_index", int(row.index) % CIRCLE))
    if benchmark.cluster == "image_path":
        return str(row.fields.get("image_path", row.id))
    if benchmark.cluster == "image":
        return row.picture.digest if row.picture is not None else row.id
    if benchmark.cluster == "hallusion-set":
        return f"{row.fields.get('l2-category')}_{row.id.split('_')[3]}"
    return row.id


def _check_rows(benchmark: Benchmark, path: Path, rows: list[Row], has_answers: bool) -> None:
    """What a scoring formula takes for granted, checked before hours of inference."""
    if not has_answers:
        if benchmark.kind != "mcq-circular":
            raise UserError(f"{path} has no answers, and {benchmark.name} has no server that takes submissions")
    else:
        for row in rows:
            _check_answer(benchmark, path, row)
    if benchmark.kind == "mcq-circular":
        present = {row.id for row in rows}
        for row in rows:
            if row.cluster not in present:
                raise UserError(f"{path}: index {row.id} is a rotation of {row.cluster}, which the file does not hold")
    if benchmark.dataset == "MME":
        _check_mme(path, rows)


def _check_answer(benchmark: Benchmark, path: Path, row: Row) -> None:
    answer = row.fields.get("answer")
    where = f"{path}: the row with index {row.id}"
    if answer is None:
        raise UserError(f"{where} has no answer")
    if benchmark.kind == "yes-no" and answer not in ("Yes", "No"):
        raise UserError(f"{where} has the answer {str(answer)[:40]!r}, expected Yes or No")
    if benchmark.kind in ("mcq", "mcq-circular"):
        options = row.options
        if benchmark.dataset.startswith("MMMU") and "A" not in options:
            return  # an open question: VLMEvalKit turns it into two options when scoring
        if str(answer) not in options:
            raise UserError(
                f"{where} has the answer {str(answer)[:40]!r}, which is not one of its options {', '.join(options)}"
            )


def _check_mme(path: Path, rows: list[Row]) -> None:
    from armor_eval.stats.composite import MME_PERCEPTION, MME_REASONING

    pairs: dict[tuple[str, str], int] = {}
    for row in rows:
        category = str(row.fields.get("category"))
        if category not in MME_PERCEPTION + MME_REASONING:
            raise UserError(f"{path}: {category!r} is not one of MME's 14 categories (the total would leave it out)")
        key = category, str(row.fields.get("image_path"))
        pairs[key] = pairs.get(key, 0) + 1
    odd = next((key for key, count in pairs.items() if count != 2), None)
    if odd is not None:
        raise UserError(f"{path}: MME asks two questions of a picture, {odd[0]} / {odd[1]} has {pairs[odd]}")
