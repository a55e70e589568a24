"""Suites with invented content: published files in the official forms, declarations beside them, recorded replies."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from PIL import Image

ROWS = [
    (
        "two teal mugs behind a fern",
        "3",
        [("How many mugs?", "two", "count"), ("Are the mugs teal?", "Yes", "attribute")],
    ),
    ("a fern", "3", [("Are there any ferns?", "Yes", "object")]),
    (
        "a dog jumping over a kite",
        "4",
        [("Is it jumping over the kite?", "Yes", "verb"), ("Any dogs?", "Yes", "object")],
    ),
]
"""(prompt, atom count, (question, answer, skill)) of an invented GenEval 2 file."""

PROBABILITIES = [[0.5, 0.08], [0.9], [0.25, 0.01]]
GENEVAL2_GM = 100 * ((0.5 * 0.08) ** 0.5 + 0.9 + (0.25 * 0.01) ** 0.5) / 3

QUESTIONS = [  # item, id, parents, category, question
    ("a0", "1", "0", "entity - whole", "a mug?"),
    ("a0", "2", "1", "attribute - color", "a teal mug?"),
    ("a0", "3", "2", "relation - spatial", "left of it?"),
    ("b0", "1", "0", "global -", "a photo?"),
    ("b0", "2", "0", "other - count", "two?"),
]
"""Rows of an invented DPG file: dropping the first takes item a0 along."""


def geneval2_suite(folder: Path, **changes: str) -> Path:
    """A declaration with its published file beside it."""
    lines = [
        {
            "prompt": p,
            "atom_count": int(n),
            "vqa_list": [[q, a] for q, a, _ in probes],
            "skills": [s for *_, s in probes],
        }
        for p, n, probes in ROWS
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return declare(
        folder,
        "mine",
        {
            "judge": '"vqa_prob"',
            "loader": '"geneval2:read"',
            "reduction": '"soft_tifa"',
            "images": '"{prompt}"',
            "template": '"{question} Answer in one word."',
            "own_judge": '"org/Judge-8B"',
            "skills": '["object", "attribute", "count", "verb"]',
            "groups": '["3", "4"]',
            **changes,
        },
        "data.jsonl",
    )


def dpg_suite(folder: Path, name: str = "corrected", rows: list[tuple[str, ...]] = QUESTIONS) -> Path:
    with (folder / "questions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language"])
        writer.writerows([(i, f"caption of {i}", n, parents, f"{kind} (x)", q) for i, n, parents, kind, q in rows])
    return dpg_declaration(folder, name, "questions.csv")


def dpg_declaration(folder: Path, name: str, file: str) -> Path:
    """One of the repository's two DPG protocols under another name, for a file of invented questions."""
    from armor_eval.base.data import benchmarks_dir

    text = (benchmarks_dir() / "suites" / f"dpg-{name}.toml").read_text()
    lines = [
        line for line in text[: text.index("[[files]]")].splitlines() if not line.startswith(("name =", "prompts ="))
    ]
    path = folder / f"{name}.toml"
    path.write_text("\n".join([f'name = "stub-{name}"', *lines, "[[files]]", f'name = "{file}"']))
    return path


def declare(folder: Path, name: str, values: dict[str, str], file: str) -> Path:
    path = folder / f"{name}.toml"
    lines = [f'name = "{name}"', 'title = "invented"', *(f"{key} = {value}" for key, value in values.items())]
    path.write_text("\n".join([*lines, "[[files]]", f'name = "{file}"']))
    return path


def replies(path: Path, lines: list[dict[str, object]]) -> str:
    """The `--judge` that reads them."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"replies:{path}"


def geneval2_replies(path: Path, judge: str = "org/Judge-8B") -> str:
    return replies(
        path,
        [
            {"item": str(i), "probe": str(k), "p": p, "reply": "yes" if p > 0.2 else "no", "judge": judge}
            for i, row in enumerate(PROBABILITIES)
            for k, p in enumerate(row)
        ],
    )


def write_images(folder: Path, names: list[str], size: tuple[int, int] = (32, 32)) -> Path:
    folder.mkdir(exist_ok=True)
    for at, name in enumerate(names):
        image = Image.linear_gradient("L").resize(size).convert("RGB")
        image.putpixel((0, 0), (at % 256, 7, 9))
        image.save(folder / f"{name}.png")
    return folder
