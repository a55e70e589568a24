"""Over 2,000 generated inputs: each ends as a whole table, a counted item or one line, never as a silent score."""

import base64
import io

import pandas as pd
import pytest
from harness_data import measure, mmbench, mme, png, seed_bench, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from armor_eval.models.base import Answer
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.understanding import parse
from armor_eval.tasks.understanding.declare import choose
from armor_eval.tasks.understanding.images import BadImageError, decode, image_cells
from armor_eval.tasks.understanding.judge import Request, read_reply
from armor_eval.tasks.understanding.table import read_table
from armor_model.base.errors import UserError

FRAMES = {"MMB": mmbench(3), "SEED": seed_bench(4), "MME": mme(1)}
quick = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}
CELLS = st.one_of(
    st.none(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.text(max_size=12),
    st.just(""),
    st.just("nan"),
    st.sampled_from(["A", "Yes", "None", "=A", "1", "1.5", "\t", "\n", '"', "\x00", "\u202e", "[", "[1]", png(1)]),
)


@st.composite
def tables(draw):
    """A benchmark's file with a few cells, columns, rows or bytes gone wrong."""
    name = draw(st.sampled_from(list(FRAMES)))
    frame = FRAMES[name].copy().astype(object)
    for _ in range(draw(st.integers(0, 3))):
        row, column = draw(st.integers(0, len(frame) - 1)), draw(st.sampled_from(list(frame.columns)))
        frame.iloc[row, list(FRAMES[name].columns).index(column)] = draw(CELLS)
    rows = draw(st.lists(st.integers(0, len(frame) - 1), max_size=3))
    dropped = draw(st.booleans())
    frame = frame.drop(index=list(set(rows))) if dropped else pd.concat([frame, frame.iloc[rows]])
    if draw(st.integers(0, 5)) == 0:
        frame = frame.drop(columns=[draw(st.sampled_from(list(frame.columns)))])
    cut = draw(st.one_of(st.none(), st.floats(0, 1)))
    return name, frame, cut, draw(st.binary(max_size=4))


@settings(max_examples=200, **quick)
@given(case=tables())
def test_a_table_is_whole_or_refused(case, tmp_path_factory):
    name, frame, cut, tail = case
    path = tmp_path_factory.getbasetemp() / f"generated-{name}.tsv"
    try:
        write(frame, path)
    except UnicodeEncodeError:
        return
    if cut is not None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * cut)] + tail)
    benchmark = choose([name])[0]
    try:
        table = read_table(benchmark, path, need_published=False)
    except UserError as error:
        assert "\n" not in error.line()
        return
    ids = [row.id for row in table.rows]
    usable = [row for row in table.rows if row.problem is None]
    assert len(ids) == len(set(ids)) and len(usable) == len(table.frame) > 0
    assert all("\n" not in row.problem for row in table.rows if row.problem is not None)
    for row in usable:
        assert row.cluster and str(row.fields["question"])
        if benchmark.scoring.constant == "Yes":
            assert row.fields["answer"] in ("Yes", "No")
        elif table.has_answers:
            assert str(row.fields["answer"]) in row.options


@settings(max_examples=500, **quick)
@given(data=st.binary(max_size=400), cut=st.integers(0, 400), flip=st.integers(0, 255), raw=st.booleans())
def test_a_image_is_rgb_or_a_bad_image(data, cut, flip, raw):
    if raw:
        encoded = base64.b64encode(data).decode()
    else:
        good = bytearray(base64.b64decode(png(3, 8)))
        good[cut % len(good)] ^= flip
        encoded = base64.b64encode(bytes(good[: max(1, cut)] if flip % 3 == 0 else good)).decode()
    try:
        image = decode(encoded)
    except BadImageError as error:
        assert str(error)
        return
    assert image.mode == "RGB" and image.width > 0


@settings(max_examples=300, **quick)
@given(text=st.one_of(st.text(max_size=60), st.text(max_size=30).map(lambda t: f"{t}.png")))
def test_any_text_as_an_image_cell(text, tmp_path_factory):
    try:
        for cell in image_cells(text):
            decode(cell, tmp_path_factory.getbasetemp())
    except BadImageError:
        pass


def encoded(image: Image.Image, form: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def test_images_of_every_kind():
    rgb = Image.new("RGB", (4, 3), (10, 200, 30))
    sixteen = Image.new("I;16", (4, 3), 65535)
    frames = [rgb, Image.new("RGB", (4, 3), "black")]
    cases = {
        "png": encoded(rgb, "PNG"),
        "16-bit": encoded(sixteen, "PNG"),
        "1x1": encoded(Image.new("L", (1, 1)), "PNG"),
        "cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "palette": encoded(rgb.convert("P"), "PNG"),
        "alpha": encoded(rgb.convert("RGBA"), "PNG"),
        "two-tone": encoded(rgb.convert("1"), "PNG"),
        "animated": encoded(rgb, "GIF", save_all=True, append_images=frames),
        "float": encoded(rgb.convert("F"), "TIFF"),
    }
    found = {name: decode(text) for name, text in cases.items()}
    assert all(image.mode == "RGB" for image in found.values())
    assert found["16-bit"].getpixel((0, 0)) == (255, 255, 255) and found["png"].getpixel((0, 0)) == (10, 200, 30)
    assert decode(encoded(Image.new("1", (10_000, 10_000)), "PNG")).size == (10_000, 10_000)
    for bad in ("", "====", "!!!!", encoded(rgb, "PNG")[:40], encoded(Image.new("1", (14_000, 14_000)), "PNG")):
        with pytest.raises(BadImageError):
            decode(bad)


@settings(max_examples=400, **quick)
@given(text=st.text(max_size=80), options=st.dictionaries(st.sampled_from("ABCD"), CELLS, max_size=4))
def test_our_reading_never_fails_and_never_invents(text, options):
    assert parse.read_yes_no(text) in ("Yes", "No", None)
    assert parse.read_option(text, options) in (*options, None)


@settings(max_examples=300, **quick)
@given(text=st.text(max_size=40), kind=st.sampled_from(["graded", "ratio", "yes-no"]))
def test_a_judges_reply_is_in_range_or_unusable(text, kind):
    usable = read_reply(Request("1", "p", kind), text)
    if usable is None:
        return
    if kind == "graded":
        assert 0 <= float(usable) <= 1
    elif kind == "ratio":
        assert all(1 <= float(n) <= 10 for n in usable.split())
    else:
        assert usable in ("Yes", "No", "Unknown")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes, no doubt", "Yes"),
        ("Y", "Yes"),
        ("no", "No"),
        ("N.", "No"),
        ("There is a dog", None),
        ("", None),
        ("**Yes**", "Yes"),
        ("It is not, so no.", "No"),
        ("I would say yes", "Yes"),
        ("yes or no?", None),
        ("not", "No"),
        ("<think>no</think> yes", "Yes"),
        ("\\boxed{No}", "No"),
        ("nobody", None),
        ("Yesterday", None),
    ],
)
def test_reading_yes_and_no(text, read):
    assert parse.read_yes_no(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("B", "B"),
        ("(B) because A is wrong", "B"),
        ("B. cat", "B"),
        ("**C**", "C"),
        ("A fish runs", None),
        ("The answer is D.", "D"),
        ("A and B", None),
        ("", None),
        ("cat", "B"),
        ("a red cat", "B"),
        ("cats", None),
        ("dog and cat", None),
        ("Answer: (C)", "C"),
        ("\\boxed{A}", "A"),
        ("E", None),
        ("B\nbecause", "B"),
    ],
)
def test_reading_an_option(text, read):
    assert parse.read_option(text, {"A": "dog", "B": "cat", "C": "cow", "D": "horse"}) == read


class Says(MockModel):
    def __init__(self, texts):
        super().__init__("says")
        self._texts = texts

    def answer(self, questions, decoding):
        return [Answer(text=self._texts[int(q.id) % len(self._texts)]) for q in questions]


@settings(max_examples=12, **quick)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=12))
def test_any_answers_are_scored_or_counted(texts, tsv_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("any")
    for bench in ("SEED", "POPE"):
        done = measure(bench, Says(texts), out / bench, tsv_folder)
        items = read_bundle(out / bench)[1]
        assert sum(done.scores.counts.values()) == len(items) == done.scores.expected_items
        for item in items:
            assert (item.score is None) == (item.status in ("error", "judge_failed"))
            assert item.status != "unparsed" or item.score == 0.0


def test_odd_images_are_answered_or_counted_by_a_real_model(tiny_checkpoint, tmp_path):
    from armor_eval.models import registry
    from armor_eval.models.base import Decoding

    rgb = Image.new("RGB", (16, 16), "red")
    fine = {
        "16-bit": encoded(Image.new("I;16", (16, 16), 40_000), "PNG"),
        "1x1": encoded(Image.new("L", (1, 1)), "BMP"),
        "cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "wide": encoded(Image.new("RGB", (4000, 1)), "PNG"),
        "animated": encoded(rgb, "GIF", save_all=True, append_images=[Image.new("RGB", (16, 16), "blue")]),
    }
    huge = encoded(Image.new("1", (12_000, 9_000)), "PNG")
    bad = {"truncated": png(1)[:80], "text": "no picture at all " * 8, "108 megapixels": huge}
    images = [*fine.values(), *bad.values()]
    frame = seed_bench(len(images)).assign(image=images)
    write(frame, tmp_path / "SEEDBench_IMG.tsv")
    model = registry.load(str(tiny_checkpoint), "official")
    done = measure("SEED", model, tmp_path / "r", tmp_path, decoding=Decoding(max_new_tokens=4))
    model.close()
    items = {it.id: it for it in read_bundle(tmp_path / "r")[1]}
    assert len(items) == len(images) and done.run.status == "partial"
    status = {name: items[str(i)].status for i, name in enumerate([*fine, *bad])}
    assert {name for name, said in status.items() if said == "error"} == set(bad)
    assert all(items[str(len(fine) + i)].reason for i in range(len(bad)))
