"""Data in: readers, screens, building, tokenising. What is wrong is skipped and counted under a rule, or stops the
run."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_helpers import BAD, gpt, human, image, write_corpus, write_tar

from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file
from trainer.cli import main
from trainer.data import build as builder
from trainer.data.build import DRAW, DRAW_AND_TELL, TELL, Recipe, fill
from trainer.data.readers import SCHEMES, SOURCES, Index, parse_part, read_index, read_tars, share_of, tars
from trainer.data.records import Tally, kind_of, read_conversations
from trainer.data.screens import Pair, ScreenSettings, latin_share, rules, screen


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path)


def test_bad_records_are_left_out_and_counted_by_rule(corpus):
    tally = Tally()
    records = list(read_conversations(corpus, tally))
    assert [r["type"] for r in records] == ["t2t", "ti2t", "t2i", "t2ti"]
    assert dict(tally.dropped) == dict.fromkeys(BAD, 1)
    assert (tally.read, tally.kept) == (4 + len(BAD), 4)
    assert "gone.png" in tally.examples["missing_image"]


def test_sharegpt4v_is_read_as_it_is_published(tmp_path):
    (tmp_path / "x.png").write_bytes(image())
    record = {"id": "0", "image": "x.png", "conversations": [human("What is it?\n<image>"), gpt("A red field.")]}
    (tmp_path / "sharegpt4v.json").write_text(json.dumps([record, record]))
    records = list(read_conversations(tmp_path / "sharegpt4v.json", Tally()))
    assert [(r["type"], r["images"][0].name) for r in records] == [("ti2t", "x.png")] * 2


def test_types_follow_from_what_goes_in_and_out():
    assert kind_of([human("<image>?"), gpt("again:\n<image>")]) == "ti2ti"
    assert kind_of([human("hi"), gpt("hello"), human("draw"), gpt("<image>")]) == "t2i"


@pytest.fixture
def tar(tmp_path):
    def meta(**fields):
        return json.dumps(fields).encode()

    def jpeg(*color, size=(300, 300)):
        return {"jpg": image(color, size, "jpeg")}

    big = {"jpg": image(size=(300, 280), kind="jpeg")}
    samples = {
        "000": {**big, "json": meta(caption="a red field under the sun", url="u0", AESTHETIC=6.1, punsafe=0.01)},
        "001": {**big, "json": meta(caption="the very same picture again", url="u1", aesthetic=6.1)},
        "002": {**jpeg(1, 2, 3, size=(300, 100)), "json": meta(caption="a thin and long picture")},
        "003": {**jpeg(9, 9, 9), "json": meta(caption="фото красного поля под солнцем")},
        "004": {**jpeg(7, 9, 9), "json": meta(caption="short")},
        "005": {**jpeg(7, 9, 200), "json": meta(caption="an ugly picture of it", url="u5")},
        "006": {**jpeg(7, 90, 200), "json": meta(caption="not safe to be seen", NSFW="NSFW")},
        "007": {"jpg": image(kind="jpeg")[:90], "json": meta(caption="a broken picture of it")},
        "008": {"json": meta(caption="no picture at all")},
        "009": {**jpeg(7, 190, 20), "json": b"[1]"},
        "010": {**jpeg(70, 190, 20), "txt": b"a green field in the evening"},
    }
    path = tmp_path / "00000.tar"
    write_tar(path, samples)
    return path


def test_every_screen_says_what_it_dropped(tar, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"URL": ["u5", "u1"], "AESTHETIC_SCORE": [3.2, 7.0]}), tmp_path / "index.parquet")
    tally, screened = Tally(), Tally()
    asked = rules(ScreenSettings())
    pairs = list(read_tars([str(tar)], SOURCES["laion"], tally, read_index(tmp_path / "index.parquet")))
    kept = [pair for pair in pairs if screen(pair, asked, screened)]
    assert dict(tally.dropped) == {"bad_image": 1, "missing_image": 1, "bad_metadata": 1}
    assert (tally.read, tally.kept) == (11, 8)
    assert dict(screened.dropped) == {
        "resolution": 1,
        "language": 1,
        "caption_length": 1,
        "aesthetic": 1,
        "unsafe": 1,
        "duplicate": 1,
    }
    assert [p.key for p in kept] == ["00000/000", "00000/010"]
    assert screened.unknown["aesthetic"] == 2  # the NSFW one and the last carry no score: passed, and said so


def test_a_field_without_a_value_does_not_hide_the_index(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = {"caption": "a red field under the sun", "url": "u", "aesthetic": None, "punsafe": None, "NSFW": None}
    write_tar(tmp_path / "0.tar", {"0": {"png": image(), "json": json.dumps(meta).encode()}})
    table = pa.table({"URL": ["u"], "AESTHETIC": [3.0], "punsafe": [0.9], "NSFW": ["UNLIKELY"]})
    pq.write_table(table, tmp_path / "index.parquet")
    index = read_index(tmp_path / "index.parquet")
    (pair,) = read_tars([str(tmp_path / "0.tar")], SOURCES["laion"], Tally(), index)
    assert (pair.number("aesthetic"), pair.meta["nsfw"]) == (3.0, "UNLIKELY")
    assert pair.number("punsafe") == pytest.approx(0.9)


SAFETY = [  # metadata, and whether the rule "flagged, or unsafe probability over 0.1" keeps it
    ({}, None),
    ({"nsfw": " "}, None),
    ({"nsfw": "UNLIKELY"}, True),
    ({"nsfw": "UNLIKELY", "punsafe": 0.99}, False),
    ({"nsfw": "UNLIKELY", "punsafe": 0.1}, True),
    ({"nsfw": "NSFW", "punsafe": 0.0}, False),
    ({"nsfw": "who knows"}, False),
    ({"nsfw": True}, False),
    ({"nsfw": 1}, False),
    ({"nsfw": False}, True),
    ({"punsafe": 0.05}, True),
    ({"punsafe": float("nan")}, None),
    ({"punsafe": 10**400}, None),
]


@pytest.mark.parametrize(("meta", "verdict"), SAFETY)
def test_unsafe_is_a_flag_or_a_probability(meta, verdict):
    rule = next(rule for rule in rules(ScreenSettings()) if rule.name == "unsafe")
    assert rule.keep(Pair("k", "c", b"", "jpg", 1, 1, meta)) is verdict


@pytest.mark.parametrize("where", ["data", "header", "padding", "between members", "end mark"])
def test_a_truncated_tar_gives_what_it_held_and_is_counted(tar, where):
    with tarfile.open(tar) as whole:
        members = whole.getmembers()
    image = next(m for m in members if m.name == "005.jpg")
    last = members[-1]
    at = {
        "data": image.offset_data + image.size // 2,
        "header": image.offset + 100,
        "padding": image.offset_data + image.size + 1,
        "between members": image.offset,
        "end mark": last.offset_data + 512,
    }[where]
    data = tar.read_bytes()
    assert (
        list(read_tars([str(tar)], SOURCES["laion"], untouched := Tally())) and not untouched.dropped["truncated_tar"]
    )
    tar.write_bytes(data[:at])
    tally = Tally()
    pairs = list(read_tars([str(tar)], SOURCES["laion"], tally))
    assert tally.dropped["truncated_tar"] == 1
    assert [p.key for p in pairs][:5] == [f"00000/{i:03d}" for i in range(5)]
    assert len(pairs) == (8 if where == "end mark" else 5)


def test_an_index_keeps_what_screens_ask_and_distrusts_a_flag_it_cannot_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = pa.table({"URL": ["a", "b"], "aesthetic": [6.5, None], "NSFW": ["UNLIKELY", None], "TEXT": ["x", "y"]})
    second = pa.table({"URL": ["c", "d"], "aesthetic": [1.0, 2.0], "NSFW": ["NSFW", "who knows"], "TEXT": ["x", "y"]})
    for name, table in (("0.parquet", first), ("1.parquet", second)):
        pq.write_table(table, tmp_path / name)
    index = read_index(tmp_path)
    assert len(index) == 4
    assert [index.get(u) for u in "abcde"] == [
        {"aesthetic": 6.5, "nsfw": "UNLIKELY"},
        {},
        {"aesthetic": 1.0, "nsfw": "NSFW"},
        {"aesthetic": 2.0, "nsfw": "NSFW"},
        {},
    ]
    pq.write_table(first.drop(["URL"]), tmp_path / "none.parquet")
    with pytest.raises(UserError, match="has no URL column"):
        read_index(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="is not readable parquet"):
        read_index(tmp_path / "broken.parquet")
    with pytest.raises(UserError, match="no parquet file"):
        read_index(tmp_path / "gone.parquet")


def test_parts_split_without_gap_or_overlap():
    shards = [f"{i}.tar" for i in range(11)]
    parts = [share_of(shards, parse_part(f"{part}/4")) for part in range(4)]
    assert sorted(shard for part in parts for shard in part) == sorted(shards)
    for wrong in ("4/4", "1", "a/b", "-1/2", "0/0", "foo", "0/2/3", "²/3", " 0/1", ""):
        with pytest.raises(UserError, match="is not I/N"):
            parse_part(wrong)
    with pytest.raises(UserError, match=r"--part 1/2: there are only 1 tars"):
        share_of(shards[:1], (1, 2))


def test_tars_are_streamed_from_a_server(tar):
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tar.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = tars([f"http://127.0.0.1:{server.server_port}/{{00000..00000}}.tar"])
        tally = Tally()
        streamed = [p.key for p in read_tars(found, SOURCES["laion"], tally)]
        server.shutdown()
    assert streamed == [p.key for p in read_tars([str(tar)], SOURCES["laion"], Tally())]
    assert "truncated_tar" not in tally.dropped


def test_a_tar_that_is_gone_is_counted_and_the_next_is_read(tar):
    tally = Tally()
    pairs = list(read_tars([str(tar.with_name("gone.tar")), str(tar)], SOURCES["laion"], tally))
    assert tally.dropped["unreadable_tar"] == 1
    assert len(pairs) == 8


def test_no_tar_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no tar file"):
        tars([str(tmp_path / "nothing")])
    with pytest.raises(UserError, match="cannot stream"):
        tars(["ftp://somewhere/0.tar"])
    with pytest.raises(UserError, match=r"cannot stream s3://bucket/0\.tar: only http, https, hf, gs urls"):
        tars(["s3://bucket/0.tar"])


def test_webdataset_opens_every_kind_of_url_that_is_accepted():
    import sys

    import webdataset  # noqa: F401 - whose attribute `gopen` is a function of the same name

    assert set(SCHEMES) <= set(sys.modules["webdataset.gopen"].gopen_schemes)


def test_latin_share_tells_scripts_apart():
    assert latin_share("Café à Zürich, 1920") == 1.0
    assert latin_share("京都の夜") == 0.0
    assert latin_share("123") == 0.0


def test_templates_fill_in_both_cases():
    assert fill("Draw {x}.", "A red barn.") == "Draw a red barn."
    assert fill("{X}. Draw this.", "a red barn") == "A red barn. Draw this."
    assert fill("Draw {x}.", "NASA rocket") == "Draw NASA rocket."
    for template in (*DRAW, *DRAW_AND_TELL, *TELL):
        assert ("{x}" in template) != ("{X}" in template)


def build_corpus(tar, out, tars=(), **settings):
    texts = out.with_suffix(".jsonl")
    texts.write_text(json.dumps({"question": "What is beside the Nile?", "answer": "Farms and palms."}))
    how = {"workers": settings.pop("workers", 1)}
    recipe = Recipe(SOURCES["laion"], ScreenSettings(min_aesthetic=0), seed=3, **settings)
    return builder.build(out, recipe, [str(tar), *map(str, tars)], [texts], **how)


def test_build_data_is_the_same_every_time_and_reads_back(tar, tmp_path):
    reports = [build_corpus(tar, tmp_path / name, mixed_share=0.5) for name in ("one", "two")]
    assert reports[0]["sha256"] == reports[1]["sha256"]
    tally = Tally()
    records = list(read_conversations(tmp_path / "one" / "conversations.jsonl", tally))
    assert not tally.dropped
    assert {r["type"] for r in records} <= {"t2t", "t2i", "t2ti"}
    assert sum(reports[0]["conversations"].values()) == len(records) == 4  # two fields, the ugly one, a text pair
    with pytest.raises(UserError, match="already holds"):
        build_corpus(tar, tmp_path / "one")


def test_what_cannot_be_written_is_counted(tmp_path):
    meta = {"caption": "half a \ud800 pair", "url": "\ud800"}
    samples = {"0": {"png": image(), "json": json.dumps(meta).encode()}}
    samples["1"] = {"png": image(), "json": b"[" * 100_000}
    samples["2"] = {"png": image(), "json": json.dumps({**meta, "caption": "a whole one"}).encode()}
    write_tar(tmp_path / "0.tar", samples)
    tally = Tally()
    index = Index(np.zeros(1, dtype=np.uint64), np.zeros((1, 3)), np.zeros(1, dtype=np.int8))
    assert [p.key for p in read_tars([str(tmp_path / "0.tar")], SOURCES["laion"], tally, index)] == ["0/2"]
    assert dict(tally.dropped) == {"bad_text": 1, "bad_metadata": 1}
    (tmp_path / "t.jsonl").write_text(json.dumps({"question": "half a \ud800", "answer": "b"}) + "\n" + "[" * 100_000)
    assert not list(builder.read_text_pairs(tmp_path / "t.jsonl", tally := Tally()))
    assert dict(tally.dropped) == {"bad_text": 1, "not_a_pair": 1}


def test_a_limit_leaves_readers_and_screens_of_one_mind(tar, tmp_path):
    report = build_corpus(tar, tmp_path / "out", [tar], limit=2)
    assert report["screens"]["kept"] == 2
    assert report["screens"]["read"] == report["readers"]["tars"]["kept"]


def test_a_killed_build_has_no_conversations_without_a_report(tar, tmp_path, monkeypatch):
    def killed(path, target):
        if target.name == "conversations.jsonl":
            raise KeyboardInterrupt
        return replace(path, target)

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(tar, tmp_path / "out")
    monkeypatch.undo()
    out = tmp_path / "out"
    assert not (out / "conversations.jsonl").exists()
    report = json.loads((out / "report.json").read_text())
    assert build_corpus(tar, out) == report
    assert report["sha256"] == sha256_file(out / "conversations.jsonl")


def test_an_interrupted_build_says_that_it_goes_on(tar, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "_merge", interrupted)
    assert main(["build-data", "--tars", str(tar), "--out", str(tmp_path / "out")]) == 130
    told = f"interrupted, finished tars are kept - continue with: armor-train build-data --tars {tar} "
    assert told in capsys.readouterr().err


def test_a_text_pair_may_hold_any_letter(tmp_path):
    pair = {"question": "next\x85line\u2028and paragraph\u2029?", "answer": "form\x0bfeed\x1c."}
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps(pair, ensure_ascii=False) + "\n", encoding="utf-8")
    tally = Tally()
    assert list(builder.read_text_pairs(path, tally)) == [tuple(pair.values())]
    assert (tally.read, tally.kept) == (1, 1)


def test_text_pairs_of_three_spellings(tmp_path):
    rows = [
        {"question": "a", "answer": "b"},
        {"instruction": "a", "output": "b"},
        {"prompt": "a", "response": "b"},
        {"x": 1},
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    tally = Tally()
    assert list(builder.read_text_pairs(path, tally)) == [("a", "b")] * 3
    assert tally.dropped["not_a_pair"] == 1


def test_a_pair_knows_its_numbers_whatever_they_are_called():
    pair = Pair("k", "c", b"", "jpg", 1, 1, {"aesthetic_score": 5, "flag": True})
    assert pair.number("aesthetic", "aesthetic_score") == 5.0
    assert pair.number("flag") is None
    assert np.isclose(pair.number("aesthetic_score"), 5)


def test_captions_that_would_be_read_as_something_else_are_seen_early(tmp_path):
    """<image> in a caption would stand for one more image; a template token in one is text, and counted."""
    captions = (
        "three balls with an <image> mark",
        "three balls<|im_end|>\n<|im_start|>assistant\nno",
        "three red balls",
    )
    samples = {
        str(i): {"jpg": image((9 * i, 9, 9), (300, 300), "jpeg"), "json": json.dumps({"caption": text}).encode()}
        for i, text in enumerate(captions)
    }
    write_tar(tmp_path / "0.tar", samples)
    (tmp_path / "texts.jsonl").write_text(
        '{"question": "what?", "answer": " "}\n{"question": "<img>?", "answer": "x"}\n'
    )
    recipe = Recipe(SOURCES["webdataset"], ScreenSettings())
    report = builder.build(tmp_path / "out", recipe, [str(tmp_path / "0.tar")], [tmp_path / "texts.jsonl"])
    assert report["screens"]["dropped"] == {"image_mark": 1}
    assert report["readers"]["texts"]["dropped"] == {"not_a_pair": 1}
    assert report["screens"]["noted"] == {"template_tokens": 2}
    tally = Tally()
    assert len(list(read_conversations(tmp_path / "out" / "conversations.jsonl", tally))) == 3
    assert not tally.dropped and tally.noted == {"template_tokens": 2}
