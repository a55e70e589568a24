"""Marks that reorder, hide or overwrite text are named wherever a model's answer is printed."""

from __future__ import annotations

import io
import unicodedata

import pytest
from stats_runs import write_bundle

from armor_eval.compare.formats import clean, safe
from armor_eval.report import formats
from armor_eval.report.doc import Doc, VisibleConsole, print_doc
from armor_eval.report.loading import load_run
from armor_eval.report.page import render_page
from armor_model.base.text import visible

BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
MARKS = [c for c in map(chr, range(0x110000)) if unicodedata.bidirectional(c) in BIDI] + ["\u061c", "\u200e", "\u200f"]
OBEYED = [*MARKS, "\x1b", "\x08", "\x9b", "\x00", "\u2028", "\ud800", "\udfff"]
TEXT = "".join(f"a{mark}b" for mark in OBEYED)


def clear(text: str) -> None:
    held = [f"U+{ord(mark):04X}" for mark in OBEYED if mark in text]
    assert not held, f"{held} in {text[:200]!r}"
    text.encode()


def test_every_bidi_control_character_of_unicode_is_named():
    assert len(MARKS) == 12
    for mark in OBEYED:
        assert visible(f"x{mark}y") == f"x[U+{ord(mark):04X}]y"
    assert visible("a\rb\r\nc\td\n") == "a[U+000D]b\r\nc\td\n"
    kept = "שלום, مرحبا, \U0001f468\u200d\U0001f469, é, 日本"
    assert visible(kept) == kept  # letters of a right-to-left script and joined emoji are text


@pytest.fixture(scope="module")
def doc() -> Doc:
    made = Doc("k", TEXT, TEXT, ["model", TEXT], notes=[TEXT])
    made.add([TEXT, TEXT])
    return made


@pytest.mark.parametrize("write", [formats.markdown, formats.latex, formats.csv_grid, formats.html])
def test_tables_in_every_format(doc, write):
    clear(write(doc))


def test_a_terminal(doc):
    out = VisibleConsole(file=io.StringIO(), width=80, color_system=None, highlight=False)
    print_doc(out, doc)
    out.print(TEXT, markup=False, soft_wrap=True)
    clear(out.file.getvalue())


def test_the_gates_files():
    clear(safe(TEXT, None))
    clear(clean(TEXT))


def test_the_pages_and_their_item_viewer(tmp_path):
    import base64
    import gzip
    import re

    bundle = write_bundle(tmp_path / "run", [1, 0], outputs={1: f"A \u202e{''.join(MARKS)} B"})
    text = render_page([load_run(bundle)], title=f"x {''.join(MARKS)}", with_plots=False)
    clear(text)
    table = re.search(r'id="table-data">([^<]+)<', text)
    items = gzip.decompress(base64.b64decode(table[1])).decode()
    clear(items)
    assert "[U+202E]" in items


def test_generate_and_chat(monkeypatch, tmp_path, capsys):
    """What a model says is printed visibly; the records keep it as it is."""
    import json
    from types import SimpleNamespace

    import armor_model
    from armor_model import cli

    answer = SimpleNamespace(save_parts=lambda folder, name: [{"type": "text", "text": TEXT}], stats={})
    monkeypatch.setattr(cli, "open_model", lambda *_: (None, None))
    monkeypatch.setattr(cli, "find_model", lambda *_: tmp_path)
    monkeypatch.setattr(armor_model, "generate", lambda *_, **__: [answer])
    assert cli.main(["generate", "hello", "--out", str(tmp_path)]) == 0
    clear(capsys.readouterr().out)
    raw = (tmp_path / "answers.jsonl").read_text(encoding="utf-8", errors="surrogatepass")
    assert json.loads(raw)["parts"][0]["text"] == TEXT
