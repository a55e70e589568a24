"""Tokenised shards: what they hold, what is made again after a kill or damage, and what is refused."""

from __future__ import annotations

import copy
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_helpers import BAD, gpt, human, image, write_corpus, write_lines

from armor_model.base.errors import ArmorError, UserError
from armor_model.base.hashing import sha256_file
from trainer.data.records import RULES, Tally, encode, read_conversations, sides, to_messages
from trainer.data.shards import MANIFEST, Shards
from trainer.data.tokenizing import tokenize


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path)


@pytest.fixture(scope="module")
def processor():
    from trainer.shapes.recipe import build, default_recipe

    return build(default_recipe())[1]


def test_shards_hold_what_direct_encoding_gives(corpus, tmp_path, processor):
    manifest = tokenize(corpus, tmp_path / "shards", processor, "nano", shard_size=3)
    assert [s["rows"] for s in manifest["shards"]] == [3, 1, 0, 0]
    assert manifest["complete"]
    pools = Shards([tmp_path / "shards"], processor).pools()
    assert {k: len(v) for k, v in pools.items()} == {"t2t": 1, "ti2t": 1, "t2i": 1, "t2ti": 1}
    for record in read_conversations(corpus, Tally()):
        seen, drawn = sides(record)
        codes = [processor.image_codes([p])[0] for p in drawn]
        want = encode(processor, record["type"], to_messages(record, seen, codes))
        got = pools[record["type"]][0]
        for name in ("input_ids", "text_labels", "image_labels"):
            assert torch.equal(getattr(got, name), getattr(want, name)), name
        assert got.prompt_span == want.prompt_span
        assert (got.pixels is None) == (want.pixels is None)
        assert got.pixels is None or all(map(torch.equal, got.pixels(), want.pixels))


def test_tokenize_goes_on_behind_the_finished_shards(corpus, tmp_path, processor):
    out = tmp_path / "shards"
    whole = tokenize(corpus, out, processor, "nano", shard_size=2)
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps({**manifest, "shards": manifest["shards"][:1], "complete": False}))
    first = (out / "shard-000000.parquet").stat().st_mtime_ns
    (out / "shard-000001.parquet").unlink()
    again = tokenize(corpus, out, processor, "nano", shard_size=2)
    assert [s["sha256"] for s in again["shards"]] == [s["sha256"] for s in whole["shards"]]
    assert (out / "shard-000000.parquet").stat().st_mtime_ns == first


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_manifest(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["settings"].update(changes)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_other_settings_are_refused(corpus, tmp_path, processor):
    out = tmp_path / "shards"
    tokenize(corpus, out, processor, "nano")
    with pytest.raises(UserError, match=r"other settings \(shard_size differ"):
        tokenize(corpus, out, processor, "nano", shard_size=7)
    edit_manifest(out, codebook_size=9)
    with pytest.raises(UserError, match="codebook_size 9, this one has 128"):
        Shards([out], processor)
    edit_manifest(out, version=1)
    for call in (lambda: Shards([out], processor), lambda: tokenize(corpus, out, processor, "nano")):
        with pytest.raises(UserError, match="by an earlier version; tokenize again into another directory"):
            call()


def other_codes(processor):
    with torch.no_grad():
        processor.vq.codebook.weight[0, 0] += 0.01


def other_words(processor):
    processor.tokenizer.add_tokens(["zeppelin"])


def other_splitting(processor):
    from tokenizers import pre_tokenizers

    processor.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()


OTHERS = {  # a change of the processor, and the setting that tells
    "codes": (other_codes, "vq_sha256"),
    "words": (other_words, "tokenizer_sha256"),
    "splitting": (other_splitting, "tokenizer_sha256"),
    "max_tiles": (lambda p: setattr(p.settings, "max_tiles", 6), "max_tiles"),
    "thumbnail": (lambda p: setattr(p.settings, "use_thumbnail", False), "use_thumbnail"),
    "prompt": (lambda p: setattr(p.settings, "system_prompt", "internvl"), "system_prompt"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_model_that_reads_otherwise_is_refused(corpus, tmp_path, processor, what):
    change, setting = OTHERS[what]
    out = tmp_path / "shards"
    tokenize(corpus, out, processor, "nano")
    other = copy.deepcopy(processor)
    change(other)
    with pytest.raises(UserError, match=f"was tokenised for a model with {setting} ") as caught:
        Shards([out], other)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=rf"other settings \({setting} differ"):
        tokenize(corpus, out, other, "nano")


def test_every_load_of_a_folder_reads_alike(corpus, tmp_path):
    """The bundled file stores fp16; what a stage saves is fp32. A tokenizer's last call must not count."""
    from armor_model import bundled, load_processor

    first = load_processor(bundled("armor-nano"))
    tokenize(corpus, tmp_path / "shards", first, "nano")
    first.save_pretrained(tmp_path / "saved")
    for folder in (bundled("armor-nano"), tmp_path / "saved"):
        again = load_processor(folder)
        again.tokenizer(["a red", "circle"], padding=True, truncation=True, max_length=2)
        assert len(Shards([tmp_path / "shards"], again).pools()) == 4


def test_without_an_image_tokenizer_only_drawings_are_refused(corpus, tmp_path, processor):
    blind = copy.deepcopy(processor)
    blind.vq = None
    lines = corpus.read_text().splitlines()
    talk = write_lines(tmp_path / "talk.jsonl", lines[:2])
    for name, by, reader in (("one", blind, processor), ("two", processor, blind), ("three", blind, blind)):
        tokenize(talk, tmp_path / name, by, "nano")
        assert sorted(Shards([tmp_path / name], reader).pools()) == ["t2t", "ti2t"]
    tokenize(corpus, tmp_path / "all", processor, "nano")
    with pytest.raises(UserError, match="hold drawn images, and this model has no image tokenizer"):
        Shards([tmp_path / "all"], blind)
    with pytest.raises(ArmorError, match="no image tokenizer"):
        tokenize(corpus, tmp_path / "none", blind, "nano")


@pytest.mark.parametrize("harm", [flip_a_byte, lambda path: path.unlink()], ids=["damaged", "missing"])
def test_a_bad_shard_stops_the_run_and_tokenizing_again_repairs_it(corpus, tmp_path, processor, harm):
    out = tmp_path / "shards"
    whole = tokenize(corpus, out, processor, "nano", shard_size=1)
    harm(out / "shard-000001.parquet")
    before = (out / "shard-000000.parquet").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"shard-000001\.parquet is missing, or its sha256 differs") as caught:
        Shards([out], processor)
    assert "run the same armor-train tokenize again" in str(caught.value)
    assert tokenize(corpus, out, processor, "nano", shard_size=1) == whole
    assert (out / "shard-000000.parquet").stat().st_mtime_ns == before
    assert sum(map(len, Shards([out], processor).pools().values())) == 4


def test_a_killed_repair_is_not_complete(corpus, tmp_path, processor, monkeypatch):
    from trainer.data import tokenizing

    out = tmp_path / "shards"
    tokenize(corpus, out, processor, "nano", shard_size=1)
    flip_a_byte(out / "shard-000000.parquet")
    write = tokenizing.write_manifest

    def killed(*args):
        write(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizing, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        tokenize(corpus, out, processor, "nano", shard_size=1)
    with pytest.raises(UserError, match="is not complete"):
        Shards([out], processor)


def test_a_image_that_disappears_takes_no_other_record_with_it(tmp_path, processor):
    """Killed behind the first shard; a picture of it is then removed. Every other record must still come."""
    records = []
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(image((40 * i, 0, 0)))
        turns = [human(f"draw {i}"), gpt("<image>")]
        records.append({"id": str(i), "conversations": turns, "images": [f"{i}.png"]})
    corpus, out = write_lines(tmp_path / "c.jsonl", records), tmp_path / "shards"
    whole = tokenize(corpus, out, processor, "nano", shard_size=2)
    manifest = {**whole, "shards": whole["shards"][:1], "complete": False}
    (out / MANIFEST).write_text(json.dumps(manifest))
    for gone in (0, 5):
        (tmp_path / f"{gone}.png").unlink()
    again = tokenize(corpus, out, processor, "nano", shard_size=2)
    ids = [i for e in again["shards"] for i in pq.read_table(out / e["name"])["id"].to_pylist()]
    assert ids == ["0", "1", "2", "3", "4"]
    assert (again["read"]["read"], again["read"]["kept"]) == (6, 5)
    assert again["read"]["dropped"] == {"missing_image": 1}
    assert len(Shards([out], processor).pools()["t2i"]) == 5


def test_the_tally_is_of_the_whole_file_after_a_kill(corpus, tmp_path, processor):
    out = tmp_path / "shards"
    whole = tokenize(corpus, out, processor, "nano", shard_size=4)
    assert (whole["read"]["read"], whole["read"]["kept"]) == (4 + len(BAD), 4)
    assert whole["read"]["dropped"] == dict.fromkeys(sorted(BAD), 1)
    (out / MANIFEST).write_text(json.dumps({**whole, "shards": whole["shards"][:2], "complete": False}))
    assert tokenize(corpus, out, processor, "nano", shard_size=4) == whole


def test_what_cannot_be_encoded_is_counted_under_its_rule(tmp_path, processor):
    (tmp_path / "a.png").write_bytes(image())
    (tmp_path / "broken.png").write_bytes(image()[:60])
    records = [
        {"conversations": [human("hello"), gpt("hello")]},
        {"conversations": [human("<image>?"), gpt("x")], "image": "broken.png"},
        {"conversations": [human("draw"), gpt("<image>")], "image": "broken.png"},
        {"conversations": [human("<image> \ud800?"), gpt("x")], "image": "a.png"},
        {"conversations": [human("hello " * 50), gpt("hello")]},
    ]
    corpus = write_lines(tmp_path / "c.jsonl", records)
    found = tokenize(corpus, tmp_path / "shards", processor, "nano", max_length=40)["read"]
    assert found["dropped"] == {"bad_image": 2, "bad_text": 1, "too_long": 1}
    assert set(found["dropped"]) | set(BAD) == set(RULES)


def test_shards_of_texts_alone_are_read(tmp_path, processor):
    corpus = write_lines(tmp_path / "c.jsonl", [{"conversations": [human("hello"), gpt("hello")]}])
    tokenize(corpus, tmp_path / "shards", processor, "nano")
    assert Shards([tmp_path / "shards"], processor).pools()["t2t"][0].pixels is None


def test_a_file_of_nothing_good_is_one_line(tmp_path, processor):
    corpus = write_lines(tmp_path / "c.jsonl", ["{broken", BAD["no_turns"]])
    for _ in range(2):
        with pytest.raises(UserError, match=r"was kept: of 2 records, dropped no_turns 1, not_json 1$"):
            tokenize(corpus, tmp_path / "shards", processor, "nano")
    with pytest.raises(UserError, match="no conversations in"):
        Shards([tmp_path / "shards"], processor)


@pytest.mark.parametrize("text", ['{"settings": {', "[]", '{"shards": []}', '{"settings": {"version": 2}}', "7"])
def test_a_broken_manifest_is_one_line_and_its_advice_helps(corpus, tmp_path, processor, text):
    out = tmp_path / "shards"
    tokenize(corpus, out, processor, "nano")
    (out / MANIFEST).write_text(text)
    for call in (lambda: Shards([out], processor), lambda: tokenize(corpus, out, processor, "nano")):
        with pytest.raises(UserError, match="is damaged: delete it and run armor-train tokenize again"):
            call()
    (out / MANIFEST).unlink()
    tokenize(corpus, out, processor, "nano")
    assert Shards([out], processor).pools()


IDS = {  # the head, an id that it cannot say (behind the vocabulary), what the line says
    "beyond the last code by the visual head": (2, 3 + 128, "visual head's"),
    "imgbos by the visual head": (2, 0, "visual head's"),
    "imgpad by the visual head": (2, 2, "visual head's"),
    "text by the visual head": (2, -1, "visual head's"),
    "imgend by the text head": (1, 1, "text head's"),
    "a code by the text head": (1, 3, "text head's"),
    "beyond the last code": (0, 3 + 128, "the vocabulary and the codebook"),
    "no such head": (3, 0, "a head that does not exist"),
}


@pytest.mark.parametrize("case", IDS)
def test_an_id_that_its_head_cannot_say_is_refused(corpus, tmp_path, processor, case):
    head, offset, message = IDS[case]
    out = tmp_path / "shards"
    tokenize(corpus, out, processor, "nano")
    shard = out / "shard-000000.parquet"
    rows = pq.read_table(shard).to_pylist()
    rows[2]["input_ids"][-4], rows[2]["heads"][-4] = processor.settings.vocab_size + offset, head
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(shard)), shard)
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["shards"][0]["sha256"] = sha256_file(shard)
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=message):
        Shards([out], processor)


def test_an_image_to_look_at_that_is_gone_stops_before_training(corpus, tmp_path, processor, caplog):
    out = tmp_path / "shards"
    tokenize(corpus, out, processor, "nano")
    (tmp_path / "b.png").unlink()  # drawn: its codes are in the shards
    assert Shards([out], processor).pools()
    (tmp_path / "a.png").unlink()
    with pytest.raises(
        UserError, match=r"^1 of 1 images to look at are missing, the first is [^.]*/a.png - --image-root"
    ):
        Shards([out], processor)
    assert Shards([out], processor, bad_images=1.0).pools()  # training replaces as large a share of them
    assert "1 of 1 images to look at are missing" in caplog.text
