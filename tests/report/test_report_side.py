"""Section 6.2: several models asked, judged, and shown side by side in the page, as a table and as a figure."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from armor_eval.cli import main
from armor_eval.models.mock import MockModel
from armor_eval.report.loading import load_runs
from armor_eval.report.side import columns, side_doc, side_section, write_side_figure
from armor_eval.runs.bundle import read_bundle

RULES = {"redraw": (4, 3), "circle": (5, 2), "triangle": (9, 9)}
"""Prompt -> (text, image) grade; a nine is on no scale."""


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    lines = [
        {"item": id, "probe": "grades", "reply": f"[Text: {a}; Image: {b}; Quality: 1; Synergy: 1]", "judge": "jay"}
        for id, (a, b) in RULES.items()
    ]
    (tmp_path / "replies.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "replies.jsonl"


def test_the_page_the_table_and_the_figure(tmp_path, monkeypatch, capsys, replies):
    """One model talks between two images and wants to run a script, the other only draws; one grade is out of range."""
    image = Image.new("RGB", (8, 8), (1, 200, 3))

    def respond(self, conversations, seeds, decoding):
        wild = ["<script>x</script> $x_", image, "then\u202e", image]
        return [wild if self.pattern == "A" else [image] for _ in conversations]

    monkeypatch.setattr(MockModel, "respond", respond)
    page = tmp_path / "s.html"
    argv = ["modality", "side-by-side", "--model", "mock:A", "--model", "mock:B", "--profile", "shapes"]
    assert main([*argv, "--judge", f"replies:{replies}", "--out", str(page)]) == 1, "a grade is missing"
    text = page.read_text()
    assert "<script>x" not in text and "&lt;script&gt;x" in text and "then[U+202E]" in text
    section = text.partition("sides")[2].partition("</table>")[0]
    assert section.count("<tr>") == 4 and section.count("drawn image") == 3 * (2 + 1)
    assert re.search(r"script&gt; \$x_</p><img [^>]+><p>then", section), "images stand where the model put them"
    assert "text 4, image 3, quality 1, synergy 1, mean 2.25" in section
    assert "text 0, image 3, quality 1, synergy 0, mean 1" in section, "it only draws"
    assert section.count("no grade: unread: [Text: 9; Image: 9") == 2
    views = load_runs([tmp_path / "s-runs"])
    assert [column.title for column in columns(views)] == [
        f"mock:{name}, armor-rubric-v1 by jay" for name in ("A", "B")
    ], "what is graded is shown once"
    doc = side_doc(views)
    assert len(doc.lines) == 6 and any("2 of" in note or "is partial" in note for note in doc.notes)
    figure = (tmp_path / "s.pdf").read_bytes()
    assert figure.startswith(b"%PDF") and b"CreationDate" not in figure
    assert write_side_figure(views, tmp_path / "again.pdf").read_bytes() == figure, "equal for equal runs"
    assert main(["report", str(tmp_path / "s-runs"), "--out", str(tmp_path / "r.html")]) == 0
    assert "section 6.2, side by side" in (tmp_path / "r.html").read_text()
    capsys.readouterr()


def test_without_a_judge_and_without_such_runs(tmp_path, capsys):
    page = tmp_path / "s.html"
    argv = ["modality", "side-by-side", "--model", "mock", "--profile", "official", "--out", str(page)]
    assert main(argv) == 0
    assert "needs an image (--image)" in capsys.readouterr().err
    run, items, _ = read_bundle(tmp_path / "s-runs" / "mock" / "side-by-side")
    assert len(items) == 2 and run.profile == "official" and "claims" not in run.extras, "three prompts prove nothing"
    views = load_runs([tmp_path / "s-runs"])
    assert side_doc(views) is None and "grades" not in side_section(views)[1]
    assert side_section([]) is None and write_side_figure([], tmp_path / "none.pdf") is None
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert main([*argv, "--image", str(tmp_path / "bad.png")]) == 2
    assert main([*argv, "--model", "mock"]) == 2 and "one name" in capsys.readouterr().err


def test_an_image_that_a_record_names_outside_of_its_folder_is_not_shown(tmp_path):
    page = tmp_path / "s.html"
    assert main(["modality", "side-by-side", "--model", "mock", "--profile", "shapes", "--out", str(page)]) == 0
    folder = tmp_path / "s-runs" / "mock" / "side-by-side"
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    lines[0]["output_images"] = ["../../../secret.png"]
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "drawn image that cannot be read" in side_section(load_runs([folder]))[1]
