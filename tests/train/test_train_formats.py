"""Chat messages and parquet as input, dialogues with several images, and captions that repeat a benchmark's prompts."""

from __future__ import annotations

import copy
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_helpers import gpt, human, image, write_lines, write_tar
from PIL import Image

from armor_model import bundled, load_processor
from armor_model.base.errors import UserError
from trainer.cli import main
from trainer.data.records import IMAGE, Tally, read_conversations
from trainer.data.screens import Prompts, read_prompts
from trainer.data.shards import Shards
from trainer.data.tokenizing import tokenize


@pytest.fixture
def images(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(image((10 * ord(name) % 250, 9, 9)))
    return tmp_path


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def text(words):
    return {"type": "text", "text": words}


MESSAGES = [  # chat messages, and the turns and images that they are
    ({"messages": [user("hi"), assistant("hello")]}, [human("hi"), gpt("hello")], []),
    (
        {"messages": [user([{"type": "image", "image": "a.png"}, text("what is it?")]), assistant([text("red")])]},
        [human("<image>what is it?"), gpt("red")],
        ["a.png"],
    ),
    (
        {"messages": [user([{"type": "image"}, text("?")]), assistant("red")], "images": ["b.png"]},
        [human("<image>?"), gpt("red")],
        ["b.png"],
    ),
    (
        {"messages": [user([{"type": "image_url", "image_url": {"url": "c.png"}}]), assistant("red")]},
        [human("<image>"), gpt("red")],
        ["c.png"],
    ),
    (
        {
            "messages": [{"role": "system", "content": "be brief"}, user("draw"), assistant("<image>")],
            "images": ["d.png"],
        },
        [{"from": "system", "value": "be brief"}, human("draw"), gpt("<image>")],
        ["d.png"],
    ),
]


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_chat_messages_are_the_records_that_they_mean(images, form):
    rows = copy.deepcopy([{"id": str(i), "images": None, **record} for i, (record, _, _) in enumerate(MESSAGES)])
    path = images / f"c.{form}"
    if form == "jsonl":
        write_lines(path, rows)
    elif form == "json":
        path.write_text(json.dumps(rows))
    else:
        for row in rows:  # one schema for all rows: contents are lists of parts
            for message in row["messages"]:
                if isinstance(message["content"], str):
                    message["content"] = [text(message["content"])]
        pq.write_table(pa.Table.from_pylist(rows), path)
    tally = Tally()
    records = list(read_conversations(path, tally))
    assert not tally.dropped
    assert [(r["conversations"], [p.name for p in r["images"]]) for r in records] == [m[1:] for m in MESSAGES]


BAD = {  # broken messages, and the rule that counts them
    "a tool": ([user("hi"), {"role": "tool", "content": "x"}], "unknown_role"),
    "no text": ([user(None), assistant("x")], "no_turns"),
    "audio": ([user([{"type": "audio"}]), assistant("x")], "no_turns"),
    "no object": (["hi"], "no_turns"),
    "an image of the web": ([user([{"type": "image", "url": "https://x/a.png"}]), assistant("x")], "missing_image"),
    "bytes in the row": ([user([{"type": "image", "image": {"bytes": "aGk="}}]), assistant("x")], "missing_image"),
    "an image too few": ([user([{"type": "image"}]), assistant("x")], "too_many_image_marks"),
}


@pytest.mark.parametrize("case", BAD)
def test_messages_that_cannot_be_read_are_counted_under_their_rule(images, case):
    messages, rule = BAD[case]
    tally = Tally()
    assert not list(read_conversations(write_lines(images / "c.jsonl", [{"messages": messages}]), tally))
    assert dict(tally.dropped) == {rule: 1}


def test_a_parquet_of_conversations_and_one_that_is_none(images):
    rows = [{"id": "1", "conversations": [human("<image>?"), gpt("red")], "images": ["a.png"]}]
    pq.write_table(pa.Table.from_pylist(rows), images / "c.parquet")
    assert [r["type"] for r in read_conversations(images / "c.parquet", Tally())] == ["ti2t"]
    (images / "no.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="is not readable parquet"):
        list(read_conversations(images / "no.parquet", Tally()))


def test_images_inside_of_a_parquet_file_are_read_and_kept(images):
    """As `datasets` writes a column of images: to look at, to draw, and one that is none."""
    inside = [{"bytes": image((200, 9, 40 * i)), "path": "its name.png"} for i in range(3)]
    rows = [
        {"id": "1", "conversations": [human("<image>?"), gpt("red")], "images": inside[:1]},
        {"id": "2", "conversations": [human("draw"), gpt("<image>")], "images": inside[1:2]},
        {"id": "3", "conversations": [human("<image>?"), gpt("red")], "images": [{"bytes": b"none", "path": None}]},
        {"id": "4", "conversations": [human("<image>?"), gpt("red")], "images": inside[2:]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), images / "c.parquet")
    processor = load_processor(bundled("armor-nano"))
    found = tokenize(images / "c.parquet", images / "s", processor, "nano", shard_size=3)
    assert found["read"]["dropped"] == {"bad_image": 1} and found["read"]["kept"] == 3
    assert sorted(p.name for p in (images / "s").glob("*.tar")) == ["shard-000000.tar", "shard-000001.tar"]
    pools = Shards([images / "s"], processor).pools()
    for example, row in zip(pools["ti2t"], (0, 2), strict=True):
        assert torch.equal(example.pixels()[0], processor.cut(Image.open(io.BytesIO(inside[row]["bytes"]))))
    assert (pools["t2i"][0].image_labels >= processor.first_code_id).sum() == processor.codes_per_image


def test_a_dialogue_with_images_on_both_sides_is_tokenised_whole(images):
    talk = [human("<image>\nlike this?"), gpt("no:\n<image>"), human("and <image> this?"), gpt("<image>\nyes")]
    record = {"id": "d", "conversations": talk, "images": ["a.png", "b.png", "c.png", "d.png"]}
    processor = load_processor(bundled("armor-nano"))
    found = tokenize(write_lines(images / "c.jsonl", [record]), images / "s", processor, "nano")
    assert found["read"]["kept"] == 1
    (example,) = Shards([images / "s"], processor).pools()["ti2ti"]
    assert len(example.pixels()) == 2, "those to look at; those to draw are codes"
    drawn = (example.input_ids == processor.imgbos_id).sum()
    assert drawn == 2 and (example.image_labels >= processor.first_code_id).sum() == 2 * processor.codes_per_image
    assert example.prompt_span is None and IMAGE not in processor.decode_text(example.input_ids.tolist())


PROMPTS = Prompts(["a photo of a bench", "a photo of two red apples and a clock", "a photo of a bench", "dog"])
REPEATS = {
    "A photo of a bench.": ("exact", "a photo of a bench"),
    "  a PHOTO of a bench ": ("exact", "a photo of a bench"),
    "a photo of two red apples and a clock, 4k": ("near", "a photo of two red apples and a clock"),
    "a photo of a bench in a park by the sea at dawn": None,  # contains one, and says more
    "two red apples beside a clock": None,
    "a photo of the sea": None,
    "Dog!": ("exact", "dog"),
    "a dog": None,
    "": None,
    "...": None,
}


@pytest.mark.parametrize("caption", REPEATS)
def test_a_caption_repeats_a_prompt_exactly_or_nearly(caption):
    assert len(PROMPTS) == 3
    assert PROMPTS.find(caption) == REPEATS[caption]


def test_every_prompt_of_geneval_is_found_as_itself_and_with_a_word_more():
    from armor_eval.tasks.geneval.prompts import official_prompts

    texts = [record["prompt"] for record in official_prompts().records]
    prompts = Prompts(texts)
    assert all(prompts.find(text) == ("exact", text) for text in texts)
    assert all(prompts.find(f"{text} outdoors")[0] == "near" for text in texts if len(text.split()) > 4)


def test_prompts_come_from_lines_or_json_lines(tmp_path):
    (tmp_path / "a.txt").write_text("a bench\n\n two dogs \n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "a bench", "tag": "x"}\n{"question": "how many?"}\n')
    assert read_prompts(tmp_path / "a.txt") == ["a bench", "two dogs"]
    assert read_prompts(tmp_path / "b.jsonl") == ["a bench", "how many?"]
    for content, said in (
        ("", "holds no prompts"),
        ("{broken", "line 1 is no JSON"),
        ('{"x": 1}', "line 1 has no prompt"),
    ):
        (tmp_path / "c.jsonl").write_text(content)
        with pytest.raises(UserError, match=said):
            read_prompts(tmp_path / "c.jsonl")
    with pytest.raises(UserError, match="cannot read the prompts"):
        read_prompts(tmp_path / "none")


@pytest.mark.parametrize("drop", [False, True])
def test_build_data_reports_what_repeats_a_prompt_and_drops_it_where_asked(tmp_path, capsys, drop):
    captions = ("A photo of a bench", "a photo of two red apples and a clock, 4k", "a wooden boat on a lake")
    samples = {
        str(i): {"png": image((70 * i, 9, 9), (300, 300)), "txt": caption.encode()}
        for i, caption in enumerate(captions)
    }
    write_tar(tmp_path / "0.tar", samples)
    (tmp_path / "p.txt").write_text("a photo of a bench\na photo of two red apples and a clock\n")
    words = ["build-data", "--tars", tmp_path / "0.tar", "--prompts", tmp_path / "p.txt", "--out", tmp_path / "out"]
    assert main([*map(str, words), "--json", *["--drop-contaminated"] * drop]) == 0
    report = json.loads(capsys.readouterr().out)
    counts = {"contaminated_exact": 1, "contaminated_near": 1}
    assert report["screens"]["kept"] == (1 if drop else 3)
    assert report["screens"]["dropped"] == (counts if drop else {})
    assert report["screens"]["noted"] == ({} if drop else counts)
    assert [c[1:] for c in report["contaminated"]] == (
        [] if drop else [["exact", "a photo of a bench"], ["near", "a photo of two red apples and a clock"]]
    )
    assert report["settings"]["prompts"]["number"] == 2


def test_dropping_needs_prompts(tmp_path, capsys):
    assert main(["build-data", "--tars", str(tmp_path), "--drop-contaminated", "--out", str(tmp_path / "o")]) == 2
    assert "--drop-contaminated needs --prompts" in capsys.readouterr().err


def intersyn(*turns):
    """A record as InterSyn's generator writes it, of (human, gpt, caption, image)."""
    said = [
        turn
        for human_, gpt_, caption, image in turns
        for turn in (human(human_), {"from": "gpt", "value": gpt_, "caption": caption, "image": image})
    ]
    return {"id": "q", "topic": "sea", "conversations": said}


TALK = [("Draw a buoy?", "Here.", "a buoy", "a.png"), ("And at dusk?", "There.", "a buoy at dusk", "b.png")]
UNDRAWN = [("Why?", "It failed.", "a pier", ""), ("And?", None, "a dock", "c.png"), ("So?", "Yes.", None, "d.png")]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_intersyns_dialogues_are_answers_of_text_and_image_and_turns_without_one_are_left_out(images, form):
    if form == "jsonl":
        path = write_lines(images / "c.jsonl", [intersyn(*TALK), intersyn(*TALK[:1], *UNDRAWN), intersyn(*UNDRAWN)])
    else:
        rows = []
        for turns in (TALK, TALK[:1] + UNDRAWN, UNDRAWN):
            row = {"id": "q", "topic": "sea"}
            for k in range(1, 6):
                values = turns[k - 1] if k <= len(turns) else (None,) * 4
                row |= {f"{name}{k}": value for name, value in zip(("human", "gpt", "caption"), values, strict=False)}
                row[f"image{k}"] = {"bytes": (images / values[3]).read_bytes(), "path": None} if values[3] else None
            rows.append(row)
        pq.write_table(pa.Table.from_pylist(rows), path := images / "c.parquet")
    tally = Tally()
    whole, part = read_conversations(path, tally)
    said = [human("Draw a buoy?"), gpt("Here.\n<image>"), human("And at dusk?"), gpt("There.\n<image>")]
    assert (whole["type"], whole["conversations"], len(whole["images"])) == ("t2ti", said, 2)
    assert part["conversations"] == said[:2] and len(part["images"]) == 1
    assert dict(tally.dropped) == {"no_turns": 1} and tally.noted["turns_left_out"] == 1


def test_a_dialogue_of_several_drawn_images_is_tokenised_with_all_of_them(images):
    processor = load_processor(bundled("armor-nano"))
    found = tokenize(write_lines(images / "c.jsonl", [intersyn(*TALK)]), images / "s", processor, "nano")
    assert found["read"]["kept"] == 1
    (example,) = Shards([images / "s"], processor).pools()["t2ti"]
    assert (example.input_ids == processor.imgbos_id).sum() == 2
    assert (example.image_labels >= processor.first_code_id).sum() == 2 * processor.codes_per_image
