"""Chat: order, pictures as files and as input, drawn ones in the history, repeatable, mistakes cost a line."""

import json

import pytest
from PIL import Image

from armor_model import ArmorError, GenerationSettings, bundled, save
from armor_model.chat import Chat

SETTINGS = GenerationSettings(max_new_tokens=6, temperature=1.0, force_image=True, max_images=1)


@pytest.fixture
def start(pair, tmp_path):
    def make(name="chat", seed=3):
        (tmp_path / name).mkdir()
        return Chat(*pair, SETTINGS, tmp_path / name, seed)

    return make


def run(chat, *lines):
    told = []
    chat.run(lines, told.append)
    return told


def test_images_are_saved_in_order_and_stay_in_the_history(start, pair):
    chat = start()
    told = run(chat, "draw a red circle", "", "what is it ?", "/quit", "never said")
    files = sorted(chat.out.glob("*.png"))
    assert [f.name for f in files] == ["turn-001-0.png", "turn-002-0.png"]
    assert told[0] == f"[{files[0]}]" and Image.open(files[0]).size == (32, 32)
    assert [m["role"] for m in chat.history] == ["user", "assistant"] * 2
    ids = pair[1].encode_one(chat.history).ids
    assert ids.count(pair[0].config.imgbos_id) == 2
    records = [json.loads(line) for line in (chat.out / "transcript.jsonl").read_text().splitlines()]
    assert [r["user"] for r in records] == ["draw a red circle", "what is it ?"]


def test_same_seed_same_conversation(start):
    lines = ("draw a red circle", "and a picture of it")
    one, two = start("a"), start("b")
    run(one, *lines), run(two, *lines)
    same = [[p.get("codes") or p.get("text") for m in c.history[1::2] for p in m["content"]] for c in (one, two)]
    assert same[0] == same[1] and same[0]


def test_a_drawn_image_is_accepted_as_input(start):
    chat = start()
    run(chat, "draw a red circle")
    told = run(chat, f"/image {chat.out / 'turn-001-0.png'}", "what is there ?")
    assert "goes with the next message" in told[0]
    assert chat.history[2]["content"][0]["type"] == "image" and not chat.waiting


def test_mistakes_cost_one_line(start, tmp_path):
    chat = start()
    (tmp_path / "note.png").write_text("no image")
    told = run(chat, "/image nowhere.png", f"/image {tmp_path / 'note.png'}", "/what", "a " * 2000, "draw", "/reset")
    assert told[0].startswith("! no image at") and "not an image" in told[1] and "/reset" in told[2]
    assert "context" in told[3] and told[4].startswith("[") and told[-1] == "[a new conversation]"
    assert not chat.history


def test_a_second_session_keeps_the_first_ones_images(start, pair):
    """In the same folder file names count on; seeds begin again."""
    first = start()
    run(first, "draw a red circle", "and a picture of it")
    second = Chat(*pair, SETTINGS, first.out, 3)
    run(second, "draw a red circle")
    assert sorted(f.name for f in first.out.glob("*.png")) == [f"turn-00{n}-0.png" for n in (1, 2, 3)]
    assert second.history[1]["content"][0]["codes"] == first.history[1]["content"][0]["codes"]
    records = [json.loads(line) for line in (first.out / "transcript.jsonl").read_text().splitlines()]
    assert len({r["parts"][0]["image"] for r in records}) == 3


def test_bytes_that_are_no_text_cost_one_line(pair, tmp_path):
    from typer.testing import CliRunner

    from armor_model.cli import app

    save(*pair, tmp_path / "m")
    arguments = ["chat", "--model", str(tmp_path / "m"), "--out", str(tmp_path / "o"), "--max-new-tokens", "3"]
    done = CliRunner().invoke(app, arguments, input=b"red \xff\n/image \xff.png\n/image\na red circle\n")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "valid Unicode" in lines[0] and "no image at" in lines[1] and "needs the path" in lines[2]
    assert len((tmp_path / "o" / "transcript.jsonl").read_text().splitlines()) == 1


def test_command_line_chat(pair, tmp_path):
    from typer.testing import CliRunner

    from armor_model.cli import app

    save(*pair, tmp_path / "m")
    arguments = ["chat", "--model", str(tmp_path / "m"), "--out", str(tmp_path / "o"), "--max-new-tokens", "3"]
    done = CliRunner().invoke(app, arguments, input="a red circle\n/quit\n")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "o" / "transcript.jsonl").exists()


def test_bundled_names_what_is_there():
    with pytest.raises(ArmorError, match="bundled"):
        bundled("gpt")
