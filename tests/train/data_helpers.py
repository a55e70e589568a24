"""Conversations and pictures for the data tests: good ones, and one of every bad kind."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from PIL import Image


def image(color=(200, 30, 30), size=(32, 32), kind="png") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, kind)
    return out.getvalue()


def human(value):
    return {"from": "human", "value": value}


def gpt(value):
    return {"from": "gpt", "value": value}


BAD = {  # the list of bad records, each with the rule that must count it
    "not_json": "{broken",
    "no_turns": json.dumps({"id": "a", "conversations": [gpt("hello")]}),
    "unknown_role": json.dumps({"id": "b", "conversations": [human("hi"), {"from": "narrator", "value": "x"}]}),
    "too_many_image_marks": json.dumps(
        {"id": "c", "conversations": [human("<image><image>?"), gpt("x")], "image": "a.png"}
    ),
    "too_few_image_marks": json.dumps({"id": "d", "conversations": [human("?"), gpt("x")], "images": ["a.png"]}),
    "missing_image": json.dumps({"id": "e", "conversations": [human("<image>?"), gpt("x")], "images": ["gone.png"]}),
    "empty_answer": json.dumps({"id": "g", "conversations": [human("hi"), gpt(" \n")]}),
    "unknown_type": json.dumps({"id": "f", "type": "t2i", "conversations": [human("hi"), gpt("x")]}),
}


def write_corpus(folder: Path) -> Path:
    """A file of four good conversations, then one of every bad kind."""
    for name, color in (("a", (220, 40, 40)), ("b", (40, 80, 220))):
        (folder / f"{name}.png").write_bytes(image(color))
    good = [
        {"id": "1", "conversations": [human("hello"), gpt("hello, how can i help you?")]},
        {"id": "2", "conversations": [human("<image>\nwhat shape is red?"), gpt("circle")], "image": "a.png"},
        {"id": "3", "conversations": [human("draw a red circle."), gpt("<image>")], "images": ["a.png"]},
        {"id": "4", "conversations": [human("draw it and say."), gpt("here is it.\n<image>")], "images": ["b.png"]},
    ]
    return write_lines(folder / "conversations.jsonl", [*good, *BAD.values()])


def write_lines(path: Path, records: list) -> Path:
    """JSON lines; a record that is a text already is written as it is."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    """A tar of samples: key -> extension -> bytes."""
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
