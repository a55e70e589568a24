"""Measures every class of transformers' image-text-to-text mapping and writes the table of docs/models.md.

PYTHONPATH=. python tests/models/families/table.py [MODEL_TYPE ...]     # all, or only these rows
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- hf: families, written by tests/models/families/table.py -->", "<!-- end of hf: families -->"
STATUS = {"works": "works", "alone": "works, one row at a time", "not": "does not work", "unbuilt": "not measured"}
HEAD = ("model type", "class", "hf:", "asked by", "why, and limits")


def measure(scratch: Path, kinds: list[str] | None = None, say: Any = None) -> dict[str, dict[str, str]]:
    """Model type -> {class, status, form, why}."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MODELS

    from armor_model.base.runtime import quiet_transformers

    quiet_transformers()
    rows = {}
    for kind in kinds or MODELS:
        rows[kind] = {"class": MODELS[kind], **_row(kind, scratch / kind)}
        shutil.rmtree(scratch / kind, ignore_errors=True)
        if say is not None:
            say(kind, rows[kind])
    return rows


def _row(kind: str, folder: Path) -> dict[str, str]:
    from probe import judge
    from tiny import build

    if reason := explained(kind).get("unbuilt"):
        return {"status": STATUS["unbuilt"], "form": "", "why": reason}
    try:
        build(kind, folder)
    except Exception as error:  # a class that cannot be built small is a row of the table
        why = explained(kind).get("not") or f"cannot be built small: {_brief(error)}"
        return {"status": STATUS["unbuilt"], "form": "", "why": why}
    said = judge(folder)
    form = said.get("form", "")
    broken = next((said[way] for way in ("loads", "image", "marks") if said.get(way) != "yes"), None)
    if broken is not None:
        return {"status": STATUS["not"], "form": form, "why": explained(kind).get("not") or _brief(broken)}
    limits = [explained(kind).get("alone", "")]
    limits += ["one image a question"] if said["two images"] != "yes" else []
    limits += ["not without an image"] if said["text alone"] != "yes" else []
    status = {"yes": "works", "rows are asked one by one": "alone"}.get(said["batch"])
    if status is None:
        return {"status": STATUS["not"], "form": form, "why": explained(kind).get("not") or _brief(said["batch"])}
    return {"status": STATUS[status], "form": form, "why": "; ".join(filter(None, limits))}


def explained(kind: str) -> dict[str, str]:
    """Why a family does not work, in words: {status key: reason}."""
    from specials import WHY

    return WHY.get(kind, {})


def _brief(error: object) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    return re.sub(r"\S*/(?=\w+ cannot be asked)", "", text)[:160]


def read_table(page: Path = PAGE) -> dict[str, dict[str, str]]:
    """The rows that docs/models.md holds."""
    text = page.read_text()
    inside = text[text.index(BEGIN) : text.index(END)]
    rows = {}
    for line in inside.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) == len(HEAD):
            rows[cells[0].strip("`")] = dict(
                zip(
                    ("class", "status", "form", "why"),
                    (c.strip("`") if i == 0 else c for i, c in enumerate(cells[1:])),
                    strict=True,
                )
            )
    return rows


def write_table(rows: dict[str, dict[str, str]], page: Path = PAGE) -> None:
    """Replace what stands between the marks."""
    import transformers

    counts = ", ".join(f"{sum(r['status'] == s for r in rows.values())} {s}" for s in STATUS.values())
    lines = [
        BEGIN,
        "",
        f"transformers {transformers.__version__}, {len(rows)} model types: {counts}.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|" + "---|" * len(HEAD),
        *(f"| `{k}` | `{r['class']}` | {r['status']} | {r['form']} | {r['why']} |" for k, r in sorted(rows.items())),
        "",
        END,
    ]
    text = page.read_text()
    page.write_text(text[: text.index(BEGIN)] + "\n".join(lines) + text[text.index(END) + len(END) :])


def main(kinds: list[str]) -> None:
    """Measure and write row by row, so that nothing measured is lost."""
    rows = read_table() if kinds else {}

    def keep(kind: str, row: dict[str, str]) -> None:
        sys.stderr.write(f"{kind}: {row['status']}; {row['form']}; {row['why']}\n")
        rows[kind] = row
        write_table(rows)

    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), kinds or None, keep)


if __name__ == "__main__":
    main(sys.argv[1:])
