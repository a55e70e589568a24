"""Writes a table (`Doc`) as Markdown, LaTeX booktabs, CSV or HTML; all text is escaped, model names are untrusted."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from armor_eval.report.doc import Doc, Line, Shown
from armor_eval.runs.comparable import reservations_of
from armor_model.base.text import escape, visible

if TYPE_CHECKING:
    from armor_eval.report.claims import Cell

_MD = re.compile(r"([\\`*_{}\[\]|#])")
_MD_RANKS = {"best": ("**", "**"), "second": ("<u>", "</u>"), None: ("", "")}
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
}


def markdown(doc: Doc) -> str:
    """A GitHub table under a heading; best in bold, second best underlined."""
    lines = [f"## {_md(doc.title)}", "", _md(doc.caption), "", *markdown_grid(doc)]
    if doc.notes:
        lines += ["", *(f"- {_md(n)}" for n in doc.notes)]
    return "\n".join(lines) + "\n"


def markdown_grid(doc: Doc, text: Callable[[str], str] | None = None, align: bool = False) -> list[str]:
    """The table alone, line by line; `text` escapes a cell, `align` puts numbers to the right."""
    text = text or _md
    marks = ["--:" if align and doc.holds_numbers(i) else "---" for i in range(len(doc.head))]
    lines = [_md_row([text(h) for h in doc.head]), _md_row(marks)]
    for line in doc.lines:
        if line.kind == "group":
            lines.append(_md_row([f"**{text(line.cells[0].text)}**", *[""] * (len(doc.head) - 1)]))
        else:
            lines.append(_md_row([text(c.text).join(_MD_RANKS[c.rank]) for c in line.cells]))
    return lines


def _md(text: str) -> str:
    return escape(_MD.sub(r"\\\1", " ".join(text.split())), quote=False)


def _md_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def latex(doc: Doc) -> str:
    """A table environment in booktabs style; needs booktabs and graphicx."""
    count = len(doc.head)
    columns = "p{0.17\\linewidth}" * count if doc.wide else "l" * doc.text_columns + "r" * (count - doc.text_columns)
    body = [f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}", "\\toprule", _tex_row(map(_tex, doc.head)), "\\midrule"]
    first = True
    for line in doc.lines:
        if line.kind == "group":
            if not first:
                body.append("\\midrule")
            body.append(f"\\multicolumn{{{count}}}{{@{{}}l@{{}}}}{{\\emph{{{_tex(line.cells[0].text)}}}}} \\\\")
        else:
            body.append(_tex_row(_tex_cells(line)))
        first = False
    body += ["\\bottomrule", "\\end{tabular}"]
    if not doc.wide:
        body = ["\\resizebox{\\linewidth}{!}{%", *body, "}"]
    notes = [f"\\par\\smallskip\\footnotesize\\raggedright {_tex(n)}" for n in doc.notes]
    label = re.sub(r"[^a-z0-9]+", "-", doc.key.lower())
    head = ["\\begin{table}[p]", "\\centering\\scriptsize", f"\\caption{{{_tex(doc.title)}. {_tex(doc.caption)}}}"]
    return "\n".join([*head, f"\\label{{tab:{label}}}", *body, *notes, "\\end{table}", ""])


def latex_document(docs: Sequence[Doc]) -> str:
    """A document that holds all tables and compiles with pdflatex alone."""
    head = [
        "\\documentclass[a4paper,landscape]{article}",
        "\\usepackage[T1]{fontenc}",
        "\\usepackage[utf8]{inputenc}",
        "\\usepackage{textcomp,booktabs,graphicx}",
        "\\usepackage[margin=1.5cm]{geometry}",
        "\\begin{document}",
    ]
    return "\n".join([*head, *(latex(d) + "\\clearpage" for d in docs), "\\end{document}", ""])


def _tex(text: str) -> str:
    """Escaped for pdflatex; a character it has no glyph for is named by its code point."""
    out = []
    for ch in " ".join(text.split()):
        if ch in _LATEX:
            out.append(_LATEX[ch])
        elif " " <= ch <= "~" or "\u00c0" <= ch <= "\u00ff":
            out.append(ch)
        else:
            out.append(f"[U+{ord(ch):04X}]")
    return "".join(out)


def _tex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _tex_cells(line: Line) -> list[str]:
    tex = []
    for cell in line.cells:
        text = _tex(cell.text)
        if text.startswith("["):
            text = "{}" + text  # after a row's end LaTeX would read the bracket as an option
        mark = {"best": "textbf", "second": "underline", None: ""}[cell.rank]
        tex.append(f"\\{mark}{{{text}}}" if mark else text)
    return tex


CSV_COLUMNS: dict[str, Callable[[Cell], object]] = {
    "row": lambda c: c.row,
    "column": lambda c: c.column,
    "printed": lambda c: c.printed or "",
    "measured": lambda c: repr(c.metric.value) if c.metric and c.metric.value is not None else "",
    "ci95_low": lambda c: c.metric.ci95[0] if c.metric and c.metric.ci95 else "",
    "ci95_high": lambda c: c.metric.ci95[1] if c.metric and c.metric.ci95 else "",
    "n": lambda c: c.metric.n if c.metric else "",
    "clusters": lambda c: c.metric.clusters if c.metric else "",
    "unit": lambda c: c.metric.unit if c.metric else "",
    "verdict": lambda c: c.verdict,
    "gap": lambda c: "" if c.gap is None else f"{c.gap:.6g}",
    "why": lambda c: c.why,
    "reservations": lambda c: "; ".join(r.text for r in reservations_of(c.run)) if c.run else "",
    "run_id": lambda c: c.run.run_id if c.run else "",
    "profile": lambda c: c.run.profile if c.run else "",
    "model": lambda c: c.run.model.name if c.run else "",
    "data": lambda c: c.run.data.name if c.run else "",
    "command": lambda c: " ".join(c.run.command) if c.run else "",
}
"""What a record of `tables.csv` holds behind its table's name."""


def csv_cells(docs: Sequence[Doc]) -> str:
    """A record a cell of the paper's tables, with its verdict. The embedded tables' numbers are in scores.json."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", *CSV_COLUMNS])
    for doc in docs:
        writer.writerows([inert(v) for v in (doc.key, *(get(c) for get in CSV_COLUMNS.values()))] for c in doc.cells)
    return out.getvalue()


def csv_grid(doc: Doc) -> str:
    """The table as it is displayed, its notes as rows of their own: a letter in a cell means nothing without them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(inert, doc.head))
    for line in doc.lines:
        if line.kind != "group":
            writer.writerow([inert(c.text) for c in line.cells])
    writer.writerows([inert(note)] for note in doc.notes)
    return out.getvalue()


def inert(value: object) -> object:
    """A text that a spreadsheet would run as a formula gets an apostrophe; signed numbers stay numbers."""
    value = visible(value) if isinstance(value, str) else value
    if (
        isinstance(value, str)
        and value
        and value[0] in "=+-@\t\r"
        and value != "-"
        and not re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value)
    ):
        return "'" + value
    return value


def html(doc: Doc) -> str:
    """A section with the table and its notes, no style of its own."""
    notes = "".join(f"<li>{escape(n)}</li>" for n in doc.notes)
    notes = f"<details><summary>{len(doc.notes)} notes and runs</summary><ul>{notes}</ul></details>" if notes else ""
    return (
        f'<section class="table" id="{escape(doc.key)}"><h3>{escape(doc.title)}</h3><p>{escape(doc.caption)}</p>'
        f"{html_grid(doc)}{notes}</section>"
    )


def html_grid(doc: Doc) -> str:
    """The table alone."""
    numbers = [' class="num"' if i >= doc.text_columns else "" for i in range(len(doc.head))]
    head = "".join(f'<th scope="col"{c}>{escape(h)}</th>' for h, c in zip(doc.head, numbers, strict=True))
    rows = []
    for line in doc.lines:
        if line.kind == "group":
            rows.append(
                f'<tr class="group"><th colspan="{len(doc.head)}" scope="rowgroup">'
                f"{escape(line.cells[0].text)}</th></tr>"
            )
            continue
        cells = "".join(_html_cell(c, i, doc) for i, c in enumerate(line.cells))
        rows.append(f'<tr class="{line.kind}">{cells}</tr>')
    wrap = "wide" if doc.wide else "grid"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(doc.title)}">'
        f'<table class="{wrap}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _html_cell(cell: Shown, index: int, doc: Doc) -> str:
    text = escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.rank == "best" else f"<u>{text}</u>" if cell.rank == "second" else text
    classes = ["num"] if index >= doc.text_columns else []
    if cell.verdict:
        classes.append("v-" + re.sub(r"[^a-z]+", "-", cell.verdict))
    title = f' title="{escape(cell.why)}"' if cell.why else ""
    tag = 'th scope="row"' if index == 0 else "td"
    return f'<{tag} class="{" ".join(classes)}"{title}>{text}</{tag.split()[0]}>'
