"""Chat: order, pictures as files and as input, drawn ones in the history, repeatable, mistakes cost a line."""

import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from armor_model import ArmorError, GenerationSettings, bundled, save
from armor_model.chat import Chat
from armor_model.cli import main

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
    shown = [part["image"] for part in chat.history[2]["content"] if part["type"] == "image"]
    assert shown == [str(chat.out / "turn-001-0.png")] * 2 and not chat.waiting


def test_a_drawn_image_is_looked_at_with_the_next_message(start, pair):
    """By its codes where it was drawn, through the vision tower where it is asked about; only the newest is."""
    chat, (model, processor) = start(), pair
    run(chat, "draw a red circle", "what is it ?", "/reset", "what is there ?")
    assert [part["type"] for part in chat.history[0]["content"]] == ["text"], "nothing of before /reset"
    run(chat, "what is it ?")
    row = processor.encode_one(chat.history)
    [drawn] = [part for part in chat.history[1]["content"] if part["type"] == "image"]
    first = row.ids.index(model.config.first_code_id + drawn["codes"][0])
    assert [i - model.config.first_code_id for i in row.ids[first : first + 16]] == drawn["codes"]
    [seen] = row.tiles
    assert seen.equal(processor.cut(drawn["image"]))
    assert row.ids.index(model.config.image_token_id) > first


def test_twenty_turns_with_drawings_in_a_small_context(make_model, tmp_path, monkeypatch):
    """The oldest turns go, and that is said; no turn is silent, none fails, and the model never reads too much."""
    from armor_model.generation.engine import Engine

    model, processor = make_model(text={"max_position_embeddings": 220})
    read, admit = [], Engine._admit
    monkeypatch.setattr(Engine, "_admit", lambda self, batch, new: (read.extend(new), admit(self, batch, new))[1])
    chat = Chat(model, processor, SETTINGS, tmp_path, 3)
    shown = []
    for turn in range(20):
        told = []
        lines = [("draw a red circle", "what is it ?", "and a picture of it")[turn % 3]]
        chat.run(lines, told.append, lambda path: (shown.append(path), path)[1])
        assert told and not any(line.startswith("!") for line in told), told
        assert told[0].startswith("[the ") == (len(chat.history) <= 2 * turn and "forgotten" in told[0])
        assert any(str(path) in line for line in told for path in shown[-1:])
    assert len(shown) == 20
    records = [json.loads(line) for line in (tmp_path / "transcript.jsonl").read_text().splitlines()]
    forgotten = sum(record["forgotten"] for record in records)
    assert forgotten > 5 and len(chat.history) == 2 * (20 - forgotten)
    assert max(len(request.ids) for _, request in read) + 16 + 2 + SETTINGS.max_new_tokens <= 220


def test_an_answer_that_was_cut_says_so(start):
    chat = start()
    chat.settings = GenerationSettings(max_new_tokens=3, temperature=1.0, allow_images=False)
    told = [run(chat, "what is it ?") for _ in range(4)]
    records = [json.loads(line) for line in (chat.out / "transcript.jsonl").read_text().splitlines()]
    cut = [record["stats"]["finish"] == "length" for record in records]
    assert any(cut) and [lines[-1].startswith("[cut: ") for lines in told] == cut


def test_help_lists_every_command_and_save_writes_the_conversation(start, pair):
    chat = start()
    file = chat.out / "talk.json"
    told = run(
        chat, "/help", "draw a red circle", f"/save {file}", f"/save {file}", "/save", "/save nowhere/x", "/nope"
    )
    assert [line.split()[0] for line in told[0].splitlines()[:-1]] == ["/image", "/save", "/reset", "/help", "/quit"]
    assert f"[the conversation is in {file}]" in told
    assert [line.startswith("! ") for line in told[-4:]] == [True] * 4 and "there already" in told[-4]
    saved = json.loads(file.read_text())
    assert saved == chat.history and pair[1].encode_one(saved).ids == pair[1].encode_one(chat.history).ids


def test_small_drawings_are_enlarged_where_the_terminal_shows_none(tmp_path):
    from armor_model.chat import ImageScreen

    Image.new("RGB", (32, 16), "red").save(tmp_path / "small.png")
    Image.new("RGB", (256, 200), "red").save(tmp_path / "big.png")
    screen = ImageScreen(None)
    large = screen.show(tmp_path / "small.png")
    assert large == tmp_path / "small-large.png" and Image.open(large).size == (256, 128)
    assert screen.show(tmp_path / "big.png") == tmp_path / "big.png"


def test_lines_are_kept_for_their_owner_alone(tmp_path):
    """Two conversations at once keep the lines of both; a cache folder that is no folder costs nothing."""
    readline = pytest.importorskip("readline")
    from armor_model.chat import line_history

    file = tmp_path / "cache" / "chat-history"
    readline.clear_history()
    with line_history(file):
        readline.add_history("draw a red circle")
    readline.clear_history()
    with line_history(file):
        assert readline.get_history_item(1) == "draw a red circle"
        with file.open("a") as other:
            other.write("of another\n")
        readline.add_history("what is it ?")
    assert file.read_text().splitlines() == ["draw a red circle", "of another", "what is it ?"]
    assert file.stat().st_mode & 0o777 == 0o600
    (tmp_path / "taken").write_text("")
    with line_history(tmp_path / "taken" / "chat-history"):
        readline.add_history("x")
    readline.clear_history()


def test_mistakes_cost_one_line(start, tmp_path):
    chat = start()
    (tmp_path / "note.png").write_text("no image")
    told = run(chat, "/image nowhere.png", f"/image {tmp_path / 'note.png'}", "/what", "a " * 2000, "draw", "/reset")
    assert told[0].startswith("! no image at") and "not an image" in told[1] and "/help" in told[2]
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


def test_ctrl_c_at_the_prompt_promises_no_resume(pair, tmp_path, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("armor_model.cli.open_model", lambda *_: pair)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", interrupted)
    assert main(["chat", "--out", str(tmp_path / "o")]) == 130
    out, err = capsys.readouterr()
    assert out.endswith("beside messages.\n\n"), "what was being typed ends its line"
    assert f"interrupted, answers are kept - a new conversation: armor-model chat --out {tmp_path}" in err


@pytest.mark.slow
@pytest.mark.parametrize("sixels", [False, True])
def test_a_person_at_a_terminal(tmp_path, monkeypatch, sixels):
    """It says that it loads, keeps lines, and draws on terminals that say they can (where the extra is installed)."""
    if sixels:
        pytest.importorskip("textual_image", reason="images in terminals need pip install 'armor-eval[chat]'")
    from terminal import Terminal

    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TERM", "xterm")
    words = [sys.executable, "-m", "armor_model", "chat", "--image-temperature", "0", "--out", str(tmp_path / "o")]
    person = Terminal(words)
    person.until("loading armor-nano ...")
    if sixels:
        person.press(b"\x1b[?62;4c")  # an answer that waits already when it is asked: no race with its 0.1 s
    person.until("/help lists")
    person.until("> ")
    for line, answer in (("/help", "/save FILE"), ("draw a red circle.", ".png]")):
        person.press(f"{line}\n".encode())
        person.until(answer)
    person.press(b"/quit\n")
    code, shown = person.end()
    assert code == 0, shown
    assert ("\x1bP" in shown) == sixels and ("-large.png]" in shown) != sixels
    assert (tmp_path / "cache/chat-history").read_text() == "/help\ndraw a red circle.\n/quit\n"


@pytest.mark.slow
def test_questions_about_own_drawings_need_the_image(tmp_path):
    """armor-nano, 20 drawings with three questions each: looked at, as chat has it, and by their codes alone."""
    from armor_model import generate, load
    from trainer.shapes.world import COLOR_NAMES, SHAPES

    model, processor = load(bundled("armor-nano"))
    things = [(color, shape) for color in COLOR_NAMES for shape in SHAPES][:20]
    talks = [[{"role": "user", "content": f"draw a {color} {shape}."}] for color, shape in things]
    drawn = generate(model, processor, talks, GenerationSettings(force_image=True, max_images=1, max_new_tokens=24))
    right = {}
    for looked_at in (False, True):
        asked, answers = [], []
        for (color, shape), (other, else_), talk, answer in zip(
            things, [*things[7:], *things[:7]], talks, drawn, strict=True
        ):
            shown = [{"type": "image", "image": image} for image in answer.images if looked_at]
            for text, expected in (
                (f"is there a {color} {shape} in the image? answer yes or no.", "yes"),
                (f"is there a {other} {else_} in the image? answer yes or no.", "no"),
                (f"what color is the {shape}?", color),
            ):
                message = {"role": "user", "content": [*shown, {"type": "text", "text": text}]}
                asked.append([*talk, answer.message(), message])
                answers.append(expected)
        told = generate(model, processor, asked, GenerationSettings(max_new_tokens=8, allow_images=False))
        right[looked_at] = sum(t.text.lower().startswith(a) for t, a in zip(told, answers, strict=True))
    assert right[True] >= 54 > right[False] + 10, right
