"""`armor-eval list`: what can be measured, and which models can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

BESIDE = (
    ("geneval", "drawing: the official prompts of GenEval, or the shapes world's", "overall, the mean of six tasks"),
    ("modality", "the choice of text, image or both; --multi-turn: from its own answers", "requests answered as asked"),
    ("interleaved", "answers of text and images in the shapes world, compared exactly", "answers that are all right"),
    ("judge", "free answers by rubric or in pairs, by a judge; and what the judge looks at", "mean grade, or wins"),
    ("ablate-heads", "forward switching against one head: the paper's Figures 7 and 8", "loss curves, text kept"),
    ("ablate-stages", "which parts are trained: the paper's Tables 4 and 5", "understanding and drawing by scheme"),
)
"""Measuring commands beside understanding: name, what is measured, reported number."""


def listing(json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """All that can be measured, with data set, split and reported number; then the kinds of `--model`.

    armor-eval list --json
    """
    import json

    from armor_eval.cli import common
    from armor_eval.models.registry import BUNDLED, KINDS
    from armor_eval.tasks.suites.declare import suites
    from armor_eval.tasks.understanding.declare import benchmarks

    declared, drawn = benchmarks().values(), suites().values()
    if json_output:
        listed = [{**b.model_dump(mode="json"), "command": f"understanding --bench {b.name}"} for b in declared]
        listed += [
            {"name": name, "title": what, "number": number, "command": name, "in_paper": False}
            for name, what, number in BESIDE
        ]
        listed += [{**s.model_dump(mode="json"), "command": f"draw --suite {s.name}"} for s in drawn]
        common.write(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    stars = ["" if b.in_paper else " (not in all)" for b in declared]
    kinds = [(kind.shows, kind.help) for kind in KINDS.values()]
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[str]]]] = {
        "understanding --bench ... (all = those of the paper's Table 2)": (
            ("name", "data set", "split", "judge", "reported number"),
            [(b.name + star, b.dataset, b.split, b.judge, b.number) for b, star in zip(declared, stars, strict=True)],
        ),
        "draw --suite ... (geneval too)": (
            ("name", "suite", "kind of judge", "its own judge"),
            [(s.name, s.title, s.judge, s.own_judge or "-") for s in drawn],
        ),
        "armor-eval ... (commands of their own)": (("command", "what is measured", "reported number"), BESIDE),
        "--model ...": (
            ("say", "what it is"),
            [
                (BUNDLED, "the bundled checkpoint (default)"),
                ("FOLDER", "a checkpoint that armor-model or armor-train wrote"),
                ("ORG/NAME[@REVISION]", "one of the Hugging Face hub"),
                *kinds,
            ],
        ),
    }
    for title, (head, rows) in tables.items():
        doc = common.Doc("list", title, "", list(head), text_columns=len(head), wide=True)
        for row in rows:
            doc.add(row)
        common.print_doc(common.console(), doc)
