"""Writes tables to a folder, each file replaced as a whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.report import formats
from armor_eval.report.doc import Doc
from armor_eval.report.loading import RunView
from armor_model.base.errors import UserError
from armor_model.base.files import write_file
from armor_model.base.text import escape

if TYPE_CHECKING:
    from armor_eval.report.plots import Plot

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:1rem;color-scheme:light dark}}table{{border-collapse:collapse}}
th,td{{padding:.2rem .5rem;text-align:left;border-bottom:1px solid #8886}}td.num{{text-align:right}}
.scroll{{overflow-x:auto}}</style></head>
<body>{body}</body></html>
"""


def write_tables(docs: Sequence[Doc], out: Path, wanted: Sequence[str], notices: Sequence[str] = ()) -> list[Path]:
    """tables.md, tables.tex (+ one fragment a table), tables.csv (a record a cell, + a grid a table), tables.html."""
    out.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []

    def write(name: str, text: str) -> None:
        write_file(out / name, text)
        paths.append(out / name)

    if "md" in wanted:
        notes = "".join(f"> {escape(n, quote=False)}\n>\n" for n in notices)
        write("tables.md", "\n".join(["# Paper against measured\n", notes, *(formats.markdown(d) for d in docs)]))
    if "tex" in wanted:
        write("tables.tex", formats.latex_document(docs))
        for doc in docs:
            write(f"{doc.key}.tex", formats.latex(doc))
    if "csv" in wanted:
        write("tables.csv", formats.csv_cells(docs))
        for doc in docs:
            write(f"{doc.key}.csv", formats.csv_grid(doc))
    if "html" in wanted:
        notes = "".join(f"<li>{escape(n)}</li>" for n in notices)
        listed = f"<ul>{notes}</ul>" if notes else ""
        write("tables.html", _PAGE.format(title="Tables", body=listed + "".join(formats.html(d) for d in docs)))
    return paths


def write_documents(docs: Sequence[Doc], out: Path, name: str, title: str, plots: Sequence[Plot] = ()) -> list[Path]:
    """NAME.md, NAME.html, a CSV a table, and the plots, which the page holds and which stand as SVG files beside it."""
    out.mkdir(parents=True, exist_ok=True)
    plot_paths = [_write_plot(plot, out) for plot in plots]
    images = "".join(f"![{escape(p.title)}]({path.name})\n\n" for p, path in zip(plots, plot_paths, strict=True))
    figures = "".join(f"<figure>{p.svg}<figcaption>{escape(p.title)}</figcaption></figure>" for p in plots)
    files = {
        f"{name}.md": f"# {title}\n\n{images}" + "\n".join(formats.markdown(doc) for doc in docs),
        f"{name}.html": _PAGE.format(
            title=escape(title), body=f"<h1>{escape(title)}</h1>{figures}" + "".join(map(formats.html, docs))
        ),
        **{f"{doc.key}.csv": formats.csv_grid(doc) for doc in docs},
    }
    for file, text in files.items():
        write_file(out / file, text)
    return [*plot_paths, *(out / file for file in files)]


def _write_plot(plot: Plot, out: Path) -> Path:
    """An SVG file, black on white."""
    path = out / f"{_file_name(plot.title)}.svg"
    box = plot.svg[plot.svg.index('viewBox="') + 9 :].partition('"')[0].split()
    ground = f'<rect width="{box[2]}" height="{box[3]}" fill="#fff"/>'
    head, _, rest = plot.svg.partition(">")
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" color="#000"', 1)
    text = f"<title>{escape(plot.title)}</title><desc>{escape(plot.text)}</desc>"
    write_file(path, f"{head}>{text}{ground}{rest}")
    return path


def write_figures(views: Sequence[RunView], out: Path) -> list[Path]:
    """Every plot as an SVG file of its own, black on white, every run's contact sheets as PNG, section 6.2 as PDF."""
    from armor_eval.report.loading import inside
    from armor_eval.report.plots import plots
    from armor_eval.report.side import write_side_figure

    out.mkdir(parents=True, exist_ok=True)
    paths = [_write_plot(plot, out) for plot in plots(views)]
    side = write_side_figure(views, out / "section-6-2.pdf")
    paths += [side] if side is not None else []
    for view in views:
        for figure in view.run.extras.get("figures", []):
            source = inside(view.path, str(figure["path"]))
            if source is not None and source.suffix == ".png":
                path = out / f"{_file_name(view.run.kind)}-{_file_name(str(figure['name']))}.png"
                shutil.copyfile(source, path)
                paths.append(path)
    return paths


ARCHIVED = ("run.json", "scores.json", "series.jsonl")
"""What tables and plots read of a bundle; items and their images stay behind, so that results fit into git."""


def archive(views: Sequence[RunView], out: Path) -> list[Path]:
    """Copy heads, curves and sheets of bundles to `out/RUN_FOLDER`. Raises UserError for equal folder names."""
    from armor_eval.report.loading import inside

    names = [v.path.resolve().name for v in views]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UserError(f"two of the runs lie in folders named {twice!r}", "archive them to different places")
    targets = []
    for view, name in zip(views, names, strict=True):
        target = out / name
        target.mkdir(parents=True, exist_ok=True)
        archived = [f for f in ARCHIVED if (view.path / f).is_file()]
        archived += [str(f["path"]) for f in view.run.extras.get("figures", []) if inside(view.path, str(f["path"]))]
        for file in archived:
            (target / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(view.path / file, target / file)
        targets.append(target)
    return targets


def _file_name(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60].strip("-")
