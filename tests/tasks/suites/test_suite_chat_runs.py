"""`armor-eval draw` on WISE, LongText, OneIG and edits, end to end: invented files, images and recorded replies."""

import base64
import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from scripted_server import Asked, Reply, ScriptedServer, chat

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.suites import declare

SCRIPT = """
raise SystemExit("this script is never run")

def build_evaluation_messages(prompt_data, picture):
    return [
        {"role": "system", "content": [{"type": "text", "text": "You grade."}]},
        {"role": "user", "content": [
            {"type": "text", "text": f"ASKED {prompt_data['Prompt']} MEANT {prompt_data['Explanation']}"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        ]},
    ]
"""
WISE = [{"prompt_id": i, "Prompt": f"riddle {i}", "Explanation": f"answer {i}"} for i in (1, 2, 401, 900)]
LONG = [{"prompt_id": i, "prompt": f"sign {i}", "text": ["OPEN", "24-hour"], "category": "sign"} for i in (0, 1)]
ASKED = {"question": json.dumps({"1": "Is it a cat?", "2": "Is it red?"}), "dependency": '{"1": [0], "2": [1]}'}
PROMPTS = (
    "category,id,prompt_en\nAnime_Stylization,000,a red cat\nAnime_Stylization,001,a cat\nText_Rendering,000,a sign\n"
)


@pytest.fixture
def suite(monkeypatch, tmp_path):
    """Writes invented files of a suite and has their hashes for the published ones; returns the options for them."""

    def prepare(name: str, contents: dict[str, str]) -> list[str]:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for file, text in contents.items():
            (folder / file).write_text(text, encoding="utf-8")
        known = declare.suites()
        hashed = [
            file.model_copy(update={"sha256": hashlib.sha256(contents[file.name].encode()).hexdigest()})
            for file in known[name].files
        ]
        changed = {**known, name: known[name].model_copy(update={"files": hashed})}
        monkeypatch.setattr(declare, "suites", lambda: changed)
        return ["draw", "--suite", name, "--data", str(folder), "--out", str(tmp_path / "runs")]

    return prepare


def images_in(folder: Path, *names: str, size: int = 8) -> Path:
    folder.mkdir(exist_ok=True)
    for shade, name in enumerate(names):
        image = Image.new("RGB", (size, size), (40 + shade, 90, 120))
        image.putpixel((0, 0), (250, 250, 250))
        image.save(folder / f"{name}.png")
    return folder


def replies_in(file: Path, *lines: tuple, judge: str = "someone") -> str:
    """Lines of (item, sample, probe, reply)."""
    rows = [dict(zip(("item", "sample", "probe", "reply"), line, strict=True)) | {"judge": judge} for line in lines]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"replies:{file}"


def numbers(folder: Path) -> dict[str, float]:
    return {metric.name: metric.value for metric in read_bundle(folder)[2].metrics}


VERIFIED = {"merge.json": json.dumps(WISE), "vllm_eval.py": SCRIPT}


def test_wise_verified(suite, tmp_path, capsys):
    command = suite("wise-verified", VERIFIED)
    images = images_in(tmp_path / "images", "1", "2", "401", "900")
    lines = [(str(i), 0, "1", f"Score: {bit}") for i, bit in ((1, 1), (2, 0), (401, 1), (900, 1))]
    judge = replies_in(tmp_path / "replies.jsonl", *lines, judge="Qwen/Qwen3.5-35B-A3B")
    assert main([*command, "--images", str(images), "--judge", judge]) == 0, capsys.readouterr().err
    run, items, scores = read_bundle(tmp_path / "runs" / "wise-verified")
    assert numbers(tmp_path / "runs" / "wise-verified")["overall"] == 0.75
    assert {m.name: m.value for m in scores.metrics if m.name in ("culture", "time")} == {"culture": 0.5, "time": 1.0}
    assert run.reservations == [] and run.protocol["protocol"] == "wise-verified" and run.status == "complete"
    assert items[0].prompt == "riddle 1" and items[0].extras["probes"][0]["reply"] == "Score: 1"
    said = capsys.readouterr().out
    assert "0.750" in said and "official calculator" in said
    assert main(["tables", str(tmp_path / "runs"), "--table", "published-wise-verified"]) == 0
    assert "NanoBanana-Pro" in capsys.readouterr().out
    assert main(["tables", str(tmp_path / "runs"), "--table", "official-suite"]) == 0
    assert "wise-verified (overall, score)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("left_out", "reply", "why"),
    [
        ("401", "Score: 1", "1 of 4 images have no score"),  # a missing image
        (None, "I would say one", "1 of 4 images have no score"),  # an unread reply
        (None, None, "1 of 4 images have no score"),  # no reply at all
    ],
)
def test_what_wise_cannot_read_withholds_the_headline(suite, tmp_path, capsys, left_out, reply, why):
    command = suite("wise-verified", VERIFIED)
    images = images_in(tmp_path / "images", *(i for i in ("1", "2", "401", "900") if i != left_out))
    lines = [(str(i), 0, "1", "Score: 1") for i in (1, 2, 900)] + ([("401", 0, "1", reply)] if reply else [])
    judge = replies_in(tmp_path / "replies.jsonl", *lines)
    assert main([*command, "--images", str(images), "--judge", judge]) == 1
    run, items, scores = read_bundle(tmp_path / "runs" / "wise-verified")
    assert scores.withheld == why and numbers(tmp_path / "runs" / "wise-verified")["overall"] is None
    assert len(items) == 4 and [r.kind for r in run.reservations] == ["judge"]  # `someone` is not the suite's judge


def test_a_served_judge_is_asked_as_the_script_asks_and_again_where_it_says_nothing(suite, tmp_path, capsys):
    """The exact messages, three tries at temperature 0, and thoughts that are no answer."""
    command = suite("wise-verified", VERIFIED)
    images = images_in(tmp_path / "images", "1", "2", "401", "900")
    tries: Counter[str] = Counter()

    def judge(asked: Asked) -> Reply:
        tries[asked.text] += 1
        if "riddle 2 " in asked.text:
            return chat("cannot tell")
        return chat("<think>Score: 0?</think>\n**Score**: 1" if tries[asked.text] > 1 else "well")

    with ScriptedServer(judge) as server:
        url = f"openai:{server.url}#Qwen/Qwen3.5-35B-A3B"
        more = ["--judge-json", '{"chat_template_kwargs": {"enable_thinking": false}}', "--batch-size", "2"]
        assert main([*command, "--images", str(images), "--judge", url, *more]) == 1
        bodies = [one.body for one in server.asked]
    system, user = bodies[0]["messages"]
    assert system == {"role": "system", "content": "You grade."}
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]
    assert sorted(tries) == [f"ASKED riddle {i} MEANT answer {i}" for i in (1, 2, 401, 900)]
    assert sorted(tries.values()) == [2, 2, 2, 3]
    assert {(b["temperature"], b["max_tokens"], str(b["chat_template_kwargs"])) for b in bodies} == {
        (0, 500, "{'enable_thinking': False}")
    }
    run, items, scores = read_bundle(tmp_path / "runs" / "wise-verified")
    assert [item.status for item in items] == ["ok", "judge_failed", "ok", "ok"] and run.reservations == []
    assert items[1].reason == "unread: 'cannot tell'" and scores.withheld == "1 of 4 images have no score"
    assert run.judge.prompt_sha256 and run.scorer.settings["request"]


def test_another_script_or_prompt_file_is_refused(suite, tmp_path, capsys):
    command = suite("wise-verified", VERIFIED)
    (tmp_path / "data" / "vllm_eval.py").write_text(SCRIPT.replace("You grade.", "You judge."))
    images = images_in(tmp_path / "images", "1")
    assert main([*command, "--images", str(images), "--judge", "replies:nowhere"]) == 2
    said = capsys.readouterr().err
    assert "vllm_eval.py is not the published" in said and said.count("\n") == 1


def test_longtext(suite, tmp_path, capsys):
    command = suite("longtext-en", {"text_prompts.jsonl": "".join(json.dumps(row) + "\n" for row in LONG)})
    names = [f"{i:04d}_{k}" for i in (0, 1) for k in (1, 2, 3, 4)]
    images = images_in(tmp_path / "images", *names)
    read = {0: "open 24hour", 1: "OPEN", 2: "No text recognized.", 3: "24-hour"}
    lines = [(f"{i:04d}", k, "1", read[k]) for i in (0, 1) for k in range(4)]
    judge = replies_in(tmp_path / "replies.jsonl", *lines, judge="Qwen/Qwen2.5-VL-7B-Instruct")
    assert main([*command, "--images", str(images), "--judge", judge]) == 0, capsys.readouterr().err
    found = numbers(tmp_path / "runs" / "longtext-en")
    assert found["text score"] == found["sign"] == 0.5
    _, _, scores = read_bundle(tmp_path / "runs" / "longtext-en")
    assert next(m for m in scores.metrics if m.primary).clusters == 2
    fewer = [*command[:-1], str(tmp_path / "fewer"), "--samples", "2", "--images", str(images), "--judge", judge]
    assert main(fewer) == 0
    run, items, _ = read_bundle(tmp_path / "fewer" / "longtext-en")
    assert len(items) == 4 and run.protocol["protocol"] == "custom"


def test_wise_legacy_weighs_three_digits(suite, tmp_path, capsys):
    parts = {"cultural_common_sense": WISE[:2], "spatio-temporal_reasoning": WISE[2:3], "natural_science": WISE[3:]}
    files = {f"{name}.json": json.dumps(rows) for name, rows in parts.items()} | {"gpt_eval.py": SCRIPT}
    command = suite("wise", files)
    images = images_in(tmp_path / "images", "1", "2", "401", "900")
    given = {"1": (2, 2, 2), "2": (0, 0, 0), "401": (1, 0, 2), "900": (2, 1, 0)}
    lines = [(i, 0, "1", "Consistency: {}\nRealism: {}\nAesthetic Quality: {}".format(*d)) for i, d in given.items()]
    judge = replies_in(tmp_path / "replies.jsonl", *lines, judge="gpt-4o-2024-05-13")
    assert main([*command, "--images", str(images), "--judge", judge]) == 0, capsys.readouterr().err
    found = numbers(tmp_path / "runs" / "wise")
    assert found["overall"] == pytest.approx((1 + 0 + (0.7 + 0.2) / 2 + (1.4 + 0.2) / 2) / 4)
    assert found["physics"] == pytest.approx(0.8) and found["Consistency"] == pytest.approx(5 / 8)


def test_the_chinese_suites(suite, tmp_path, capsys):
    row = {"prompt_id": 0, "prompt": "p", "text": ["每日 新鲜"], "category": "sign"}
    contents = {
        "OneIG-Bench-ZH.csv": "category,id,prompt_cn\nText_Rendering,000,p\n",
        "text_content_zh.csv": "id,text_content\n000,每日 新鲜\n",
    }
    for name, item, files, score in (
        ("longtext-zh", "0000", {"text_prompts_zh.jsonl": json.dumps(row)}, 3 / 4),
        ("oneig-text-zh", "text/000", contents, 1 - 1 * (1 - 0) * (1 - 3 / 4) / 50),
    ):
        command = suite(name, files)
        images = images_in(tmp_path / name, *(f"{item.replace('/', '_')}_{k}" for k in (1, 2, 3, 4)))
        judge = replies_in(tmp_path / f"{name}.jsonl", *((item, k, "1", "每日 新") for k in range(4)))
        assert main([*command, "--images", str(images), "--judge", judge]) == 0, capsys.readouterr().err
        assert numbers(tmp_path / "runs" / name)["text score"] == pytest.approx(score)


def oneig_grids(folder: Path, names: list[str], side: int = 8) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        grid = Image.new("RGB", (2 * side, 2 * side), (200, 40, 40))
        for cell in range(4):
            grid.putpixel((cell % 2 * side, cell // 2 * side), (0, 60 * cell, 90))
        grid.save(folder / f"{name}.webp", lossless=True)
    return folder


ALIGNMENT = {
    "OneIG-Bench.csv": PROMPTS,
    "anime.json": json.dumps({"000": ASKED, "001": ASKED}),
    "human.json": "{}",
    "object.json": "{}",
}


def test_oneig_alignment_on_grids(suite, tmp_path, capsys):
    command = [*suite("oneig-alignment", ALIGNMENT), "--resolution", "8"]
    images = oneig_grids(tmp_path / "images", ["anime/000", "anime/001"])
    answers = {"000": ("Yes", "Yes"), "001": ("No", "Yes")}
    lines = [
        (f"anime/{i}", k, str(n + 1), a) for i, two in answers.items() for k in range(4) for n, a in enumerate(two)
    ]
    judge = replies_in(tmp_path / "replies.jsonl", *lines, judge="Qwen2.5-VL-7B-Instruct")
    assert main([*command, "--images", str(images), "--judge", judge]) == 0, capsys.readouterr().err
    assert numbers(tmp_path / "runs" / "oneig-alignment") == {"score": 50.0, "anime": 50.0}


def test_a_black_cell_of_a_oneig_grid_is_a_missing_image(suite, tmp_path, capsys):
    command = [*suite("oneig-alignment", ALIGNMENT), "--resolution", "8"]
    images = oneig_grids(tmp_path / "images", ["anime_000", "anime_001"])
    grid = Image.open(images / "anime_000.webp").convert("RGB")
    grid.paste((0, 0, 0), (8, 8, 16, 16))
    grid.save(images / "anime_000.webp", lossless=True)
    lines = [(f"anime/{i}", k, n, "Yes") for i in ("000", "001") for k in range(4) for n in ("1", "2")]
    judge = replies_in(tmp_path / "replies.jsonl", *lines)
    assert main([*command, "--images", str(images), "--judge", judge]) == 1
    _, items, scores = read_bundle(tmp_path / "runs" / "oneig-alignment")
    assert scores.withheld == "1 of 8 images have no score"
    assert [item.reason for item in items if item.status == "error"] == [
        "its cell of the grid is black: no image was drawn"
    ]


def test_oneig_text(suite, tmp_path, capsys):
    contents = {"OneIG-Bench.csv": PROMPTS, "text_content.csv": "id,text_content\n000,Grand Opening\n"}
    command = suite("oneig-text", contents)
    images = images_in(tmp_path / "images", *(f"text_000_{k}" for k in (1, 2, 3, 4)))
    read = ["Grand Opening", "Grand opening", "No text recognized.", "Grand"]
    lines = [("text/000", k, "1", text) for k, text in enumerate(read)]
    judge = replies_in(tmp_path / "replies.jsonl", *lines, judge="Qwen2.5-VL-7B-Instruct")
    assert main([*command, "--images", str(images), "--judge", judge]) == 0, capsys.readouterr().err
    found = numbers(tmp_path / "runs" / "oneig-text")
    distance = (0 + 1 + 13 + 8) / 4
    assert found["text score"] == pytest.approx(1 - distance * (1 - 1 / 4) * (1 - 4 / 8) / 100)


def test_a_judge_sees_jpegs_and_has_room_for_long_texts(suite, tmp_path, capsys):
    """As OneIG's script saves its cells, and 256 tokens where the target has more than 60 words."""
    prompts = "category,id,prompt_en\nText_Rendering,000,a sign\nText_Rendering,001,a page\n"
    contents = {"OneIG-Bench.csv": prompts, "text_content.csv": f"id,text_content\n000,Hello\n001,{'word ' * 61}\n"}
    command = suite("oneig-text", contents)
    images = images_in(tmp_path / "images", *(f"text_00{i}_{k}" for i in (0, 1) for k in (1, 2, 3, 4)), size=16)
    with ScriptedServer(lambda asked: chat("Hello")) as server:
        assert main([*command, "--images", str(images), "--judge", f"openai:{server.url}#Qwen2.5-VL-7B-Instruct"]) == 0
        bodies = [one.body for one in server.asked]
    assert sorted(body["max_tokens"] for body in bodies) == [128] * 4 + [256] * 4
    (image, words) = bodies[0]["messages"][-1]["content"]
    assert words["text"].startswith("Recognize the text in the image, only reply with the text content")
    sent = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2]))).convert("RGB")
    assert sent.size == (16, 16) and sent.getpixel((0, 0)) != (250, 250, 250)  # what a JPEG makes of one bright pixel


def test_edits_of_ones_own(tmp_path, capsys):
    data = images_in(tmp_path / "data", "cat", "dog")
    rows = [{"id": name, "source": f"{name}.png", "instruction": f"make the {name} black"} for name in ("cat", "dog")]
    (data / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = images_in(tmp_path / "images", "cat", "dog")
    lines = [("cat", 0, "1", "Instruction: 10\nPreservation: 10"), ("dog", 0, "1", "Instruction: 4\nPreservation: 1")]
    judge = replies_in(tmp_path / "replies.jsonl", *lines)
    command = ["draw", "--suite", "edit", "--data", str(data), "--images", str(images), "--judge", judge]
    assert main([*command, "--out", str(tmp_path / "runs")]) == 0, capsys.readouterr().err
    found = numbers(tmp_path / "runs" / "edit")
    assert found == {"overall": pytest.approx(0.6), "Instruction": 0.7, "Preservation": 0.55}
    _, items, _ = read_bundle(tmp_path / "runs" / "edit")
    assert all((tmp_path / "runs" / "edit" / item.images[0]).is_file() for item in items)
    rows[0]["source"] = "../replies.jsonl"
    (data / "edits.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert main([*command, "--out", str(tmp_path / "other")]) == 2
    assert "no image ../replies.jsonl beside the file" in capsys.readouterr().err


def test_a_rubric_suite_from_outside_names_its_own_words_rule_and_groups(tmp_path, capsys):
    declared = """
name = "my-edits"
title = "Mine"
judge = "rubric"
loader = "edit:read"
reduction = "rubric"
template = "From {mood} to {prompt}?"
groups = ["color", "pose"]
[options.rubric]
fields = { Likeness = 1.0 }
high = 4
rule = "numbers"
[[files]]
name = "mine.jsonl"
"""
    folder = images_in(tmp_path / "mine", "a", "b")
    (folder / "my.toml").write_text(declared)
    rows = [
        {"id": i, "source": f"{i}.png", "instruction": "blue", "kind": kind, "mood": "sad"}
        for i, kind in (("a", "color"), ("b", "pose"))
    ]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["draw", "--suite", str(folder / "my.toml"), "--images", str(folder), "--out", str(tmp_path / "runs")]
    with ScriptedServer(lambda asked: chat("Likeness: 3")) as server:
        assert main([*command, "--judge", f"openai:{server.url}#any"]) == 0, capsys.readouterr().err
        assert {one.text for one in server.asked} == {"From sad to blue?"}
        assert [part["type"] for part in server.asked[0].body["messages"][-1]["content"]][:2] == ["image_url"] * 2
    assert numbers(tmp_path / "runs" / "my-edits") == {"overall": 0.75, "color": 0.75, "pose": 0.75}
    for change, why in (
        (("high = 4", "high = 0"), "options.high: Input should be greater than or equal to 1"),
        (("[options.rubric]", "[options.other]"), "the reduction rubric needs options.rubric"),
        (('reduction = "rubric"', 'reduction = "longtext"'), "options.units: Field required"),
    ):
        (folder / "my.toml").write_text(declared.replace(*change))
        assert main([*command[:-1], str(tmp_path / "again"), "--judge", "replies:x"]) == 2
        said = capsys.readouterr().err
        assert f"my.toml: {why}" in said and said.count("\n") == 1
