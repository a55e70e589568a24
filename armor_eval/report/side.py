"""The paper's section 6.2: its prompts, and what each model answered, side by side with a judge's grades.

In every page whose runs were asked these prompts (`armor-eval modality side-by-side`), as a table, and as a PDF.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.report.doc import Doc, number
from armor_eval.report.loading import RunView, inside
from armor_eval.runs.comparable import reservations_of
from armor_eval.runs.schema import Item
from armor_eval.tasks.modality import SECTION
from armor_eval.tasks.modality.layouts import IMAGE
from armor_model.base.text import escape, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

TITLE = "The paper's section 6.2, side by side"
SIDE = 256
"""Pixels of an image in the page."""
MOST_IMAGES = 4
"""Of one answer, in the figure."""
CELL, HEAD, GAP = (2.6, 2.9), 0.4, 0.06
"""Inches of a cell of the figure, of the line of titles, and around what stands in a cell."""
LETTERS = 40
"""Characters of a line in a cell."""


@dataclass(frozen=True)
class Column:
    """One model's answers, graded or not."""

    view: RunView
    items: dict[str, Item]

    @property
    def title(self) -> str:
        judge = self.view.run.judge.name
        graded = f", {self.view.run.benchmark} by {judge}" if _is_graded(self.view) else ""
        return f"{self.view.who}{graded}"


def _is_graded(view: RunView) -> bool:
    return view.run.judge.endpoint != "none"


def columns(views: Sequence[RunView]) -> list[Column]:
    """A column a graded run, and one for a run that nobody graded; none where no run was asked these prompts."""
    runs = [view for view in views if view.run.data.name == SECTION]
    graded = {(v.run.model.fingerprint, tuple(v.run.seeds.items())) for v in runs if _is_graded(v)}
    chosen = [v for v in runs if _is_graded(v) or (v.run.model.fingerprint, tuple(v.run.seeds.items())) not in graded]
    all_columns = [Column(view, {item.id: item for item in view.items()}) for view in chosen]
    return [column for column in all_columns if column.items]  # an archived run has none


def _prompts(run_columns: Sequence[Column]) -> dict[str, tuple[Column, Item]]:
    """Each prompt's first item with the column that holds it."""
    prompts: dict[str, tuple[Column, Item]] = {}
    for column in run_columns:
        for id, item in column.items.items():
            prompts.setdefault(id, (column, item))
    return prompts


def grades(item: Item) -> str:
    """A judge's numbers, or why there are none."""
    if item.status != "ok":
        return f"no grade: {item.reason}" if item.status == "judge_failed" else str(item.reason)
    numbers = item.extras.get("numbers", {})
    return ", ".join(f"{name} {number(float(value), 2).removesuffix('.00')}" for name, value in numbers.items())


def side_doc(views: Sequence[RunView]) -> Doc | None:
    """A row a prompt and run with its grades; what must be known of the judge below. None without graded runs."""
    graded = [column for column in columns(views) if _is_graded(column.view)]
    if not graded:
        return None
    head = ["Prompt", "Model", "Judge", "Given", "Grades"]
    doc = Doc("section-6-2", TITLE, "Grades of a judge, none of them the paper's.", head, text_columns=5, wide=True)
    for id, (_, first) in _prompts(graded).items():
        for column in graded:
            if (item := column.items.get(id)) is not None:
                run = column.view.run
                judge = f"{run.judge.name}, {run.benchmark}"
                doc.add([_asked(first), column.view.who, judge, str(item.parsed or "-"), grades(item)])
    doc.notes = _notes(graded)
    return doc


def _notes(run_columns: Sequence[Column]) -> list[str]:
    return [f"{column.title}: {r.text}" for column in run_columns for r in reservations_of(column.view.run)]


def _asked(item: Item) -> str:
    return item.prompt.replace(IMAGE, "").strip()


def side_section(views: Sequence[RunView]) -> tuple[str, str] | None:
    """(heading, HTML) of the answers side by side, all text escaped, images inlined; None where there are none."""
    run_columns = columns(views)
    if not run_columns:
        return None
    head = "".join(f"<th scope='col'>{escape(column.title)}</th>" for column in run_columns)
    rows = []
    for id, (owner, first) in _prompts(run_columns).items():
        sources = "".join(_img(owner.view.path, name, "given image") for name in first.images)
        cells = "".join(f"<td>{_answer(column, id)}</td>" for column in run_columns)
        rows.append(f"<tr><th scope='row'>{sources}<p>{escape(_asked(first))}</p></th>{cells}</tr>")
    notes = "".join(f"<li>{escape(line)}</li>" for line in _notes(run_columns))
    table = f"<table><thead><tr><th scope='col'>prompt</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return TITLE, f"<div class='scroll sides'>{table}</div>{f'<ul>{notes}</ul>' if notes else ''}"


def _answer(column: Column, id: str) -> str:
    item = column.items.get(id)
    if item is None:
        return "<p><em>not asked</em></p>"
    html, images = [], list(item.output_images)
    pieces = _text(item).split(IMAGE)
    for at, piece in enumerate(pieces):
        html += [f"<p>{escape(piece.strip())}</p>"] if piece.strip() else []
        if at < len(pieces) - 1 and images:
            html.append(_img(column.view.path, images.pop(0), "drawn image"))
    html += [_img(column.view.path, name, "drawn image") for name in images]
    marks = grades(item)
    return "".join(html or ["<p><em>nothing</em></p>"]) + (f"<p class='grades'>{escape(marks)}</p>" if marks else "")


def _text(item: Item) -> str:
    """The answer's words, a mark where an image stands between them."""
    return str(item.extras.get("answer", item.output or ""))


def _img(folder: Path, name: str, label: str) -> str:
    image = _opened(folder, name)
    if image is None:
        return f"<p><em>{label} that cannot be read</em></p>"
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{label}' src='data:image/png;base64,{data}'>"


def _opened(folder: Path, name: str) -> Image.Image | None:
    """An image of a run's folder, RGB; None where it cannot be read."""
    from armor_model.base.images import BadImageError, decoded

    path = inside(folder, name)
    try:
        if path is None:
            return None
        with decoded(path.read_bytes()) as image:
            return image.convert("RGB")
    except (OSError, BadImageError):
        return None


def write_side_figure(views: Sequence[RunView], path: Path) -> Path | None:
    """The same as a PDF for a paper, equal for equal runs: a row a prompt, a column a run. None without answers."""
    run_columns = columns(views)
    if not run_columns:
        return None
    import matplotlib
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    prompts = _prompts(run_columns)
    with matplotlib.rc_context({"pdf.fonttype": 42, "font.family": "sans-serif", "text.parse_math": False}):
        across, down = len(run_columns) + 1, len(prompts)
        width, height = CELL[0] * across, CELL[1] * down + HEAD
        figure = Figure(figsize=(width, height))
        FigureCanvasPdf(figure)

        def cell(row: int, column: int) -> Axes:
            place = (column * CELL[0] + GAP, (down - 1 - row) * CELL[1] + GAP, CELL[0] - 2 * GAP, CELL[1] - 2 * GAP)
            return figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))

        for row, (id, (owner, first)) in enumerate(prompts.items()):
            _paint(cell(row, 0), owner.view.path, first.images, _asked(first), "")
            for at, column in enumerate(run_columns, 1):
                item = column.items.get(id)
                if item is None:
                    _paint(cell(row, at), column.view.path, [], "not asked", "")
                else:
                    words = " ".join(_text(item).replace(IMAGE, " ").split())
                    _paint(cell(row, at), column.view.path, item.output_images, words, grades(item))
        for at, column in enumerate(run_columns, 1):
            title = textwrap.fill(visible(column.title), LETTERS)
            figure.text((at * CELL[0] + GAP) / width, 1 - GAP / height, title, va="top", fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    from armor_model.base.files import write_file

    write_file(path, buffer.getvalue())
    return path


def _paint(axes: Axes, folder: Path, names: Sequence[str], words: str, caption: str) -> None:
    """A cell: images above, words below, grades at the foot."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    images = [image for name in names[:MOST_IMAGES] if (image := _opened(folder, name)) is not None]
    for at, image in enumerate(images):
        width = min(0.5, 1 / len(images))
        place = axes.inset_axes((at * width, 0.5, 0.96 * width, 0.48))
        place.imshow(image, interpolation="nearest")
        place.set_axis_off()
    lines = textwrap.wrap(visible(words), LETTERS)
    cut = 9 if images else 16
    lines = lines if len(lines) <= cut else [*lines[: cut - 1], f"{lines[cut - 1][: LETTERS - 4]} ..."]
    axes.text(0, 0.47 if images else 0.98, "\n".join(lines), va="top", fontsize=7)
    axes.text(0, 0, textwrap.fill(visible(caption), LETTERS), va="bottom", fontsize=7, weight="bold")
