"""The commands in order, on small generated files in official formats: build-data, tokenize, stages 1, 2, 3, and the
checkpoint answers; what goes wrong is one line and the right exit code."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from data_helpers import write_tar
from PIL import Image
from train_helpers import python

from trainer.cli import main


def run(capsys, *words: object) -> dict:
    """A command's `--json` document; the command has to succeed."""
    code = main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def refused(capsys, *words: object) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command that has to fail; a plan and steps may stand before it."""
    code = main([*map(str, words)])
    err = re.sub(r"(?m)^\d\d:\d\d:\d\d .*\n", "", capsys.readouterr().err)
    assert code != 0
    assert err.startswith("armor-train: ") and err.count("\n") == 1, err
    return code, err


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """What the paper's sources publish, in small: two LAION tars with their index, a text-to-image-2M tar, a
    ShareGPT4V file, text pairs. The pictures are of the shapes world, at 256 pixels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trainer.shapes.language import caption
    from trainer.shapes.world import render, sample_scene

    root = tmp_path_factory.mktemp("official")
    rng, numbers = np.random.default_rng(0), itertools.count()

    def sample() -> tuple[str, bytes]:
        """A caption and a picture that no other sample has: duplicates are dropped."""
        number = next(numbers)
        scene, file = sample_scene(rng), io.BytesIO()
        image = Image.fromarray(np.asarray(render(scene))).resize((256, 256), Image.Resampling.NEAREST)
        image.putpixel((number, 0), (0, 0, 0))
        image.save(file, "png")
        return f"picture {number} shows {caption(scene, rng)}", file.getvalue()

    (root / "laion").mkdir()
    for shard in range(2):
        rows = [sample() for _ in range(16)]
        write_tar(
            root / "laion" / f"{shard:05d}.tar",
            {
                f"{i:09d}": {"png": p, "json": json.dumps({"caption": c, "url": f"http://{shard}/{i}"}).encode()}
                for i, (c, p) in enumerate(rows)
            },
        )
    urls = [f"http://{shard}/{i}" for shard in range(2) for i in range(16)]
    scores = [4.0 if u.endswith("/0") else 6.0 for u in urls]
    pq.write_table(pa.table({"URL": urls, "AESTHETIC_SCORE": scores, "punsafe": [0.01] * 32}), root / "index.parquet")
    rows = [sample() for _ in range(16)]
    samples = {f"{i:09d}": {"png": p, "json": json.dumps({"prompt": c}).encode()} for i, (c, p) in enumerate(rows)}
    write_tar(root / "t2i.tar", samples)
    (root / "seen").mkdir()
    records = []
    for i in range(16):
        words, image = sample()
        (root / "seen" / f"{i}.png").write_bytes(image)
        turns = [{"from": "human", "value": "<image>\nwhat is in the picture?"}, {"from": "gpt", "value": words}]
        records.append({"id": str(i), "image": f"seen/{i}.png", "conversations": turns})
    (root / "sharegpt4v.json").write_text(json.dumps(records))
    pairs = [{"question": f"what is {i}?", "answer": "a number"} for i in range(16)]
    (root / "texts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    return root


@pytest.fixture(scope="module")
def shards(official, tmp_path_factory) -> list[Path]:
    """The official files after build-data and tokenize."""
    root = tmp_path_factory.mktemp("shards")
    laion = f"--tars {official}/laion --source laion --index {official}/index.parquet --texts {official}/texts.jsonl"
    other = f"--tars {official}/t2i.tar --source text-to-image-2m --min-aesthetic 0"
    for name, words in (("laion", laion), ("t2i", other)):
        assert main(["build-data", *words.split(), "--out", f"{root}/{name}"]) == 0
    found = []
    for name, file in (
        ("laion", root / "laion" / "conversations.jsonl"),
        ("t2i", root / "t2i" / "conversations.jsonl"),
        ("seen", official / "sharegpt4v.json"),
    ):
        found.append(root / f"{name}-shards")
        assert main(["tokenize", str(file), "--out", str(found[-1]), "--model", "armor-nano"]) == 0
    return found


def given(shards: list[Path]) -> list[str]:
    return [word for folder in shards for word in ("--data", str(folder))]


def test_from_official_files_to_a_checkpoint_that_answers(shards, tmp_path, capsys):
    import torch

    from armor_model import ArmorForConditionalGeneration, bundled, generate, load

    capsys.readouterr()
    report = json.loads((shards[0].parent / "laion" / "report.json").read_text())
    assert report["screens"]["dropped"] == {"aesthetic": 2}
    assert report["conversations"]["t2t"] == 16
    assert sum(report["conversations"].values()) == 16 + 30
    model = "armor-nano"
    quick = [*given(shards), "--batch-size", 8, "--steps", 6, "--lr", 1e-3, "--log-every", 2]
    sampled = ("--sample-every", 3, "--sample-prompt", "draw a red circle.", "--tensorboard")
    mixes = {"1": "t2t=8,ti2t=8,t2i=8,t2ti=8", "2": "t2i=16,t2ti=16", "3": "t2t=8,ti2t=8,t2i=8,t2ti=8"}
    results = {}
    for stage, mix in mixes.items():
        out = tmp_path / stage
        extra = sampled if stage == "2" else ()
        results[stage] = run(
            capsys, "stage", "--stage", stage, "--model", model, "--out", out, "--mix", mix, *quick, *extra
        )
        model = str(out / "model")
    assert set(results["2"]["losses"]) >= {"loss/image", "loss/image/t2i", "loss/image/t2ti", "tokens_per_second"}
    assert results["2"]["cost"]["images_seen"] == 6 * 8 and results["2"]["cost"]["device_days"] > 0
    drawn = sorted(p.name for p in (tmp_path / "2" / "samples").iterdir())
    assert drawn == [f"step-{s:08d}-00-draw-a-red-circle.png" for s in (3, 6)]
    final, processor = load(model)
    start = ArmorForConditionalGeneration.from_pretrained(bundled("armor-nano")).float()
    moved = {
        n.split(".")[0]
        for (n, a), b in zip(final.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(a.float(), b)
    }
    assert moved == {"new_embeddings", "adapter", "adapter_norm", "visual_head", "lm_head", "imgbos_head"}
    answers = generate(final, processor, [[{"role": "user", "content": "draw a red circle."}]])
    assert answers[0].parts and not answers[0].error


def test_what_a_stage_learns_from_what_and_how_often_is_the_users(shards, tmp_path, capsys):
    """Passes, parts, weights, held-out losses, an average: all in one run."""
    from safetensors.torch import load_file

    from armor_model import bundled

    told = [
        "--stage",
        3,
        "--model",
        "armor-nano",
        *given(shards[:2]),
        "--mix",
        "t2i=8,t2ti=8,t2t=8",
        "--batch-size",
        8,
        "--epochs",
        2,
        "--trains",
        "adapter",
        "--trains",
        "visual_head",
        "--alpha",
        0,
        "--beta",
        2,
        "--ema",
        0.5,
        "--eval-data",
        shards[2],
        "--eval-data",
        shards[1],
        "--eval-every",
        3,
        "--eval-limit",
        6,
        "--lr",
        1e-3,
        "--attention",
        "eager",
        "--log-every",
        1,
        "--sample-every",
        6,
        "--ask",
        "what color is it?",
        "--sample-prompt",
        "draw a red circle.",
    ]
    result = run(capsys, "stage", *told, "--out", tmp_path)
    assert result["steps"] == 6
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    judged = [line for line in log if "eval/score" in line]
    assert [line["step"] for line in judged] == [3, 6]
    assert {"eval/text/ti2t", "eval/text/t2ti", "eval/image/t2i", "eval/image/t2ti"} <= judged[0].keys()
    assert judged[0]["eval/score"] == pytest.approx(-2 * judged[0]["eval/image"])
    assert judged[1]["eval/image"] < judged[0]["eval/image"]
    saved = load_file(tmp_path / "model" / "model.safetensors")
    start = load_file(bundled("armor-nano") / "model.safetensors")
    moved = {name.split(".")[0] for name in saved if not np.array_equal(saved[name], start[name].float())}
    assert moved == {"adapter", "adapter_norm", "visual_head"}
    raw = load_file(tmp_path / "checkpoints" / "step-00000006" / "trained.safetensors")
    assert not np.array_equal(raw["visual_head.weight"], saved["visual_head.weight"]), "the average is what is saved"
    samples = {path.name.partition("-")[2]: path for path in (tmp_path / "samples").iterdir()}
    assert "00000006-00-draw-a-red-circle.png" in samples
    assert samples["00000006-01-what-color-is-it-0.txt"].read_text().strip()
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"\n# {tmp_path.name}\n" in card  # the run's name, not that of the draft that the folder was written as
    assert "| base | armor-nano |" in card and "| t2i | 16 of " in card


def test_a_preempted_stage_says_how_to_go_on(shards, tmp_path, capsys, monkeypatch):
    from trainer.optim import Optimizers

    told = [
        "stage",
        "--stage",
        2,
        "--model",
        "armor-nano",
        *given(shards),
        "--mix",
        "t2i=8,t2ti=8",
        "--batch-size",
        4,
        "--out",
        tmp_path,
    ]
    rate = Optimizers.set_step

    def asked(optimizers, step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate(optimizers, step)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizers, "set_step", asked)
        patch.setattr("sys.argv", ["armor-train", *map(str, told)])
        code = main([*map(str, told)])
    line = capsys.readouterr().err.splitlines()[-1]
    assert code == 75 and "stopped by a signal behind step 2 of 4; the last checkpoint is of step 2" in line
    again = line.split("with: armor-train ")[1].split()
    assert again == [*map(str, told), "--resume"]
    assert run(capsys, *again)["steps"] == 4


def test_tensorboard_holds_what_the_log_holds(shards, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    common = [
        "stage",
        "--stage",
        "2",
        "--model",
        "armor-nano",
        *given(shards),
        "--mix",
        "t2i=8,t2ti=8",
        "--batch-size",
        4,
        "--steps",
        4,
        "--log-every",
        1,
        "--save-every",
        2,
        "--tensorboard",
        "--sample-every",
        4,
        "--sample-prompt",
        "draw a red circle.",
    ]
    run(capsys, *common, "--out", tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for name in ("loss/image", "loss/image/t2ti", "tokens_per_second", "memory_bytes"):
        seen = [(e.step, e.value) for e in board.Scalars(name)]
        assert seen == [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in log if name in r]
    assert board.Images("samples/00-draw-a-red-circle")[0].step == 4


def test_a_tokenizer_is_trained_from_images_and_draws(official, tmp_path, capsys):
    from armor_model import draw, load

    images = official / "seen"
    (images / "broken.png").write_bytes(b"no picture")
    try:
        result = run(capsys, "vqgan", "--images", images, "--out", tmp_path / "vq", "--steps", 60, "--foreground", 5)
    finally:
        (images / "broken.png").unlink()
    assert (result["pictures"], result["dropped"]) == (16, 1)
    assert result["psnr"] > 15 and result["codes_used"] > 8
    assert result["losses"][-1][1] < result["losses"][0][1] / 2
    model, processor = load(tmp_path / "vq")
    assert draw(model, processor, ["draw a red circle."])[0].size == (32, 32)
    assert refused(capsys, "vqgan", "--images", images, "--out", tmp_path / "vq")[0] == 2
    assert "no images" in refused(capsys, "vqgan", "--images", tmp_path / "vq", "--out", tmp_path / "x")[1]


def test_the_base_learns_from_questions_and_texts(shards, tmp_path, capsys):
    where = ["--model", "armor-nano", *given(shards), "--batch-size", 8]
    code, line = refused(capsys, "base", *where, "--out", tmp_path / "no")
    assert code == 2 and "--data holds no refuse" in line
    result = run(
        capsys, "base", *where, "--out", tmp_path / "run", "--mix", "t2t=16,ti2t=16", "--steps", 12, "--lr", 1e-3
    )
    assert result["stage"] == "base"
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss/text"] < log[0]["loss/text"]


BAD = {  # what was typed: exit code, and what the line has to say
    "--stage 4": (2, "unknown stage '4'"),
    "--stage one-stag-10": (2, "did you mean one-stage-10"),
    "--stage 2 --mix t2i=0": (2, "--mix: 't2i=0' is not t2i=COUNT"),
    "--stage 2 --mix cats=9": (2, "unknown type 'cats'"),
    "--stage 2 --share 0": (2, "--share 0 is not a number above 0"),
    "--stage 2 --precision fp16": (2, "--precision is one of fp32, bf16"),
    "--stage 2 --sample-every 5": (2, "need both"),
    "--stage 2 --batch-size 0": (2, "batch-size"),
    "--stage 2 --mix t2i=4 --batch-size 8": (2, "one pass holds 4 conversations, fewer than a batch of 8"),
    "--stage 2 --shard --mix t2i=8 --batch-size 4": (2, "nothing to shard with one process"),
    "--stage 2 --shard --replicas 2 --mix t2i=8 --batch-size 4": (2, "nothing to shard with one process"),
    "--stage 2 --attention flash_attention_2 --pack-to 512": (2, "--pack-to does not go with"),
    "--stage 2 --attention flash_attention_2": (2, "--attention flash_attention_2: no GPU, or its package"),
    "--stage 2 --replicas 2": (2, "--replicas 2 needs --shard"),
    "--stage 2 --eval-every 5": (2, "--eval-every 5 needs --eval-data"),
    "--stage 2 --profile offical": (2, "--profile is one of official, shapes, not 'offical'"),
    "--stage 2 --condition-dropout 2": (2, "is not in [0, 1)"),
    "--stage 2 --accumulate 3 --mix t2i=8 --batch-size 4": (2, "does not split into 3 micro-batches"),
    "--stage 2 --pack-to 5 --mix t2i=8 --batch-size 4": (2, "does not fit into a packed row of 5"),
}


@pytest.mark.parametrize("typed", BAD)
def test_a_wrong_option_is_one_line(shards, tmp_path, capsys, typed):
    code, line = refused(capsys, "stage", *typed.split(), "--model", "armor-nano", "--out", tmp_path, *given(shards))
    assert (code, BAD[typed][1] in line) == (BAD[typed][0], True), line


def test_wrong_data_and_models_are_one_line(shards, tmp_path, capsys):
    where = ["--model", "armor-nano", "--out", tmp_path / "run"]
    assert "no directory of shards" in refused(capsys, "stage", "--stage", 2, *where, "--data", tmp_path / "x")[1]
    assert "has no manifest.json" in refused(capsys, "stage", "--stage", 2, *where, "--data", tmp_path)[1]
    gone = ["--model", tmp_path / "none", "--out", tmp_path / "run", *given(shards)]
    assert "no checkpoint folder" in refused(capsys, "stage", "--stage", 2, *gone)[1]
    assert "cannot use" in refused(capsys, "tokenize", tmp_path / "c.jsonl", "--out", tmp_path / "s", *where[:2])[1]
    line = refused(capsys, "tokenize", tmp_path / "c.jsonl", "--out", tmp_path / "s")[1]
    assert "missing option --model" in line and "or armor-nano" in line
    assert "nothing to build from" in refused(capsys, "build-data", "--out", tmp_path / "b")[1]


NOTHING = {  # what was typed to build-data, what the line has to say
    "--texts T --part foo": "--part 'foo' is not I/N",
    "--texts T --part 2/2": "--part '2/2' is not I/N",
    "--texts T --part 1/2": "texts and dialogues belong to part 0",
    "--tars s3://bucket/{000..009}.tar": "cannot stream s3://bucket",
    "--texts E": "texts dropped not_a_pair 2",
    "--tars O/t2i.tar --min-side 5000": "screens dropped resolution 16",
}


@pytest.mark.parametrize("typed", NOTHING)
def test_build_data_that_builds_nothing_is_one_line(official, tmp_path, capsys, typed):
    (tmp_path / "empty.jsonl").write_text("{}\n{broken\n")
    places = {"T": official / "texts.jsonl", "E": tmp_path / "empty.jsonl", "O/t2i.tar": official / "t2i.tar"}
    words = [places.get(word, word) for word in typed.split()]
    code, line = refused(capsys, "build-data", *words, "--out", tmp_path / "b")
    assert code == 2 and NOTHING[typed] in line
    assert not (tmp_path / "b" / "conversations.jsonl").exists()


def test_build_data_and_tokenize_say_what_they_read_and_why_they_dropped(official, tmp_path, capsys):
    words = ["--texts", official / "texts.jsonl", "--part", "00/2"]
    report = run(capsys, "build-data", *words, "--out", tmp_path / "b")
    assert (report["part"], report["readers"]["texts"]["read"], report["readers"]["texts"]["kept"]) == ("0/2", 16, 16)
    report = run(capsys, "build-data", "--tars", official / "t2i.tar", "--min-aesthetic", 0, "--out", tmp_path / "t")
    assert (report["readers"]["tars"]["read"], report["readers"]["tars"]["kept"]) == (16, 16)
    with (tmp_path / "b" / "conversations.jsonl").open("a") as file:
        file.write("{broken\n")
    capsys.readouterr()
    assert (
        main(
            [
                "tokenize",
                str(tmp_path / "b" / "conversations.jsonl"),
                "--out",
                str(tmp_path / "s"),
                "--model",
                "armor-nano",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "16 of 17 conversations in 1 shards, for armor-nano" in out
    assert "dropped 1 not_json: a line that is no JSON object" in out


def test_a_checkpoint_of_another_model_is_not_resumed(shards, tmp_path, capsys):
    """Same shapes, other frozen weights: only the fingerprint can tell. The run keeps its own training's record."""
    import torch

    from armor_model import bundled, load, save

    common = ["stage", "--stage", "2", *given(shards), "--mix", "t2i=8", "--batch-size", 4, "--steps", 2]
    run(capsys, *common, "--model", "armor-nano", "--out", tmp_path / "run")
    model, processor = load(bundled("armor-nano"))
    with torch.no_grad():
        model.lm_head.weight += 0.01
    save(model, processor, tmp_path / "other")
    kept = {file: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}
    assert {"run.json", "config.toml", "log.jsonl"} <= {file.name for file in kept}
    code, line = refused(capsys, *common, "--model", tmp_path / "other", "--out", tmp_path / "run", "--resume")
    assert code == 2 and "belongs to another run: frozen weights is " in line
    assert all(file.read_bytes() == before for file, before in kept.items())
    run(capsys, *common, "--model", "armor-nano", "--out", tmp_path / "run", "--resume")  # done already: exports again


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "torch.distributed.run --standalone --nproc-per-node 2",
        "accelerate.commands.launch --use_fsdp --num_processes 2",
    ],
    ids=["torchrun", "accelerate"],
)
def test_two_processes_from_the_shell_killed_and_resumed(launcher, shards, tmp_path, capsys):
    """torchrun (DDP) and accelerate's launcher (FSDP2), without MPI; the launcher is killed with all it started."""
    where = ["--stage", 2, "--model", "armor-nano", *given(shards), "--mix", "t2i=16,t2ti=16", "--batch-size", 8]
    where += ["--steps", 40, "--log-every", 1, "--save-every", 1, "--out", tmp_path / "two", "--resume"]
    port = [] if "standalone" in launcher else ["--main_process_port", 0]  # a free one, either way
    command = ["-m", *launcher.split(), *port, "-m", "trainer", "stage", *where]
    first = python(*command)
    log = tmp_path / "two" / "log.jsonl"
    end = time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert first.poll() is None, first.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    import psutil

    for process in [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]:
        process.send_signal(signal.SIGKILL)
    first.wait()
    second = python(*command)
    text = second.communicate(timeout=600)[0]
    assert second.returncode == 0, text
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert (result["processes"], result["sharded"], result["steps"]) == (2, "fsdp" in launcher, 40)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 41))
    one = [*map(str, where)]
    one[one.index(str(tmp_path / "two"))] = str(tmp_path / "one")
    run(capsys, "stage", *one)
    from safetensors.torch import load_file

    two, alone = (load_file(tmp_path / d / "model" / "model.safetensors") for d in ("two", "one"))
    assert two.keys() == alone.keys()
    for name, value in alone.items():
        assert np.allclose(two[name].float(), value.float(), atol=3e-3), name


def test_nothing_of_a_users_is_replaced(tmp_path, capsys, monkeypatch):
    """A folder with something in it is refused before anything is trained."""
    notes, model = tmp_path / "mine" / "notes.txt", tmp_path / "run" / "model"
    notes.parent.mkdir()
    notes.write_text("years of work")
    Image.new("RGB", (32, 32)).save(notes.with_name("a.png"))
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (tmp_path / "shards").mkdir()
    stage = ["stage", "--stage", "2", "--model", model, "--data", tmp_path / "shards", "--out", model.parent]
    for words, said in (
        (["vqgan", "--images", notes.parent, "--out", notes.parent], "is not empty"),
        (["vqgan", "--images", notes.parent, "--out", notes], "cannot write into"),
        (["vqgan", "--images", notes.parent, "--out", tmp_path / "new", "--lr", "nan"], "--lr is above 0"),
        (stage, "is there already"),
        ([*stage, "--resume"], "is there already"),
        (["nano", "--out", tmp_path / "new", "--scale", "nan"], "--scale is above 0"),
        (["curves", tmp_path, "--out", notes / "a.svg"], "holds no log.jsonl"),
    ):
        code, line = refused(capsys, *words)
        assert code == 2 and said in line, (words, line)
    (model.parent / "checkpoints").mkdir()
    code, line = refused(capsys, *stage, "--resume")
    assert code == 2 and "where this run writes" in line
    assert notes.read_text() == "years of work" and (model / "config.json").exists()


def test_a_target_that_can_not_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "texts.jsonl").write_text('{"human": "hello", "gpt": "hello"}\n')
    words = ["build-data", "--texts", tmp_path / "texts.jsonl", "--out", tmp_path / "file" / "data"]
    code, line = refused(capsys, *words)
    assert code == 2 and line.startswith("armor-train: cannot use ")


def test_without_a_command_the_usage_is_printed_as_it_is(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err.count("\n") > 10
