"""The commands under torture: small inputs made here, what each leaves for good, and what its result is."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import shutil
import sys
import tarfile
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torture_core import Target

from armor_model.base.files import DRAFT
from armor_model.base.hashing import sha256_file, sha256_text

QUESTIONS, PROMPTS, CONVERSATIONS, STEPS = 24, 12, 24, 6


def make_targets(work: Path, names: Sequence[str]) -> list[Target]:
    """The named commands, their inputs made under `work` in a process that then ends: this one must start no thread."""
    if unknown := [name for name in names if name not in TARGETS]:
        raise SystemExit(f"unknown command {unknown[0]!r}; known: {', '.join(TARGETS)}")
    inputs = work / "inputs"
    (work / "warm").mkdir(parents=True, exist_ok=True)
    in_a_child(lambda: make_inputs(inputs))
    targets = [TARGETS[name](inputs) for name in names]
    preload(targets, work / "warm")
    return targets


def in_a_child(work: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit("the inputs could not be made")


def preload(targets: Sequence[Target], work: Path) -> None:
    """Import here what every command imports when it runs, so that a child forked from here starts at once."""
    import torch

    from armor_eval.base.mmcv import prepare_mmcv

    prepare_mmcv()  # as the commands do before they import mmdet or vlmeval
    for target in targets:
        modules = work / f"{target.name}.modules"

        def once(target: Target = target, modules: Path = modules) -> None:
            shutil.rmtree(work / target.name, ignore_errors=True)
            target.main(target.argv(work / target.name))
            modules.write_text("\n".join(sys.modules))

        in_a_child(once)
        for name in modules.read_text().split("\n"):
            if not name.startswith("__"):
                with suppress(Exception):  # some are made under a name that cannot be imported
                    importlib.import_module(name)
    torch.set_num_threads(1)
    if (threads := threading.enumerate())[1:]:
        raise SystemExit(f"an import started {threads[1:]}: a fork would lack it")


# ---- inputs


def make_inputs(root: Path) -> None:
    """Once: what is there already is of an earlier torture, and the same."""
    if (root / "whole").exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    root.chmod(0o755)
    sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("helpers", "model")]
    from harness_data import mmbench, write

    write(mmbench(QUESTIONS // 4), root / "tsv" / "MMBench_DEV_EN.tsv")
    _conversations(root / "talk")
    _tars(root / "tars")
    (root / "texts.jsonl").write_text(
        "".join(json.dumps({"question": f"what is {i}?", "answer": f"number {i}"}) + "\n" for i in range(40))
    )
    _base(root / "base")
    from trainer.cli import main

    words = [str(root / "talk" / "conversations.jsonl"), "--model", "armor-nano"]
    if main(["tokenize", *words, "--out", str(root / "shards")]):
        raise SystemExit("no shards")
    (root / "whole").touch()


def _image(number: int, size: int = 32) -> bytes:
    from PIL import Image

    file, color = io.BytesIO(), (number * 37 % 256, number * 91 % 256, number * 53 % 256)
    image = Image.new("RGB", (size, size), color)
    image.putpixel((number % size, number // size), (255, 255, 255))
    image.save(file, "png")
    return file.getvalue()


def _conversations(folder: Path) -> None:
    folder.mkdir()
    records = []
    for i in range(CONVERSATIONS):
        (folder / f"{i}.png").write_bytes(_image(i))
        asked, said, images = (
            ("hello", f"hello, how can i help you with {i}?", []),
            ("<image>\nwhat shape is red?", "circle", [f"{i}.png"]),
            ("draw a red circle.", "<image>", [f"{i}.png"]),
            ("draw it and say.", "here is it.\n<image>", [f"{i}.png"]),
        )[i % 4]
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
        records.append({"id": str(i), "conversations": turns, **({"images": images} if images else {})})
    (folder / "conversations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def _tars(folder: Path, shards: int = 2, each: int = 20) -> None:
    folder.mkdir()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(each):
                number = shard * each + i
                parts = {"png": _image(number, 256), "json": json.dumps({"prompt": f"a plain area, {number}"}).encode()}
                for extension, content in parts.items():
                    info = tarfile.TarInfo(f"{number:09d}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def _base(folder: Path) -> None:
    """A small model in the published InternVL layout."""
    import convert_reference as reference
    from safetensors.torch import save_file

    from armor_model import build_word_tokenizer

    tokenizer = build_word_tokenizer(
        [
            "what",
            "is",
            "there",
            "?",
            ".",
            ",",
            "a",
            "red",
            "circle",
            "the",
            "image",
            "draw",
            "picture",
            "of",
            "and",
            "not",
            "it",
        ]
    )
    config = reference.config("qwen2", vocab=len(tokenizer))
    state = reference.checkpoint(config)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")


# ---- what lies on the disk


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole JSON lines of a file; a line cut by a kill is none."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="surrogatepass").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def journal(name: str, out: Path) -> list[tuple[str, str]]:
    """Items with a verdict or an answer; one that failed is asked again."""
    items = lines(out / name / "items.jsonl")
    return [(i["id"], repr((i["output"], i["output_images"]))) for i in items if i["status"] != "error"]


def scored(name: str, out: Path) -> Any:
    """Every item as scored, without the seconds it took, and the scores."""
    items = [{k: v for k, v in item.items() if k != "seconds"} for item in lines(out / name / "items.jsonl")]
    status = json.loads((out / name / "run.json").read_text())["status"]
    images = sorted(sha256_file(p) for p in (out / name).glob("images/*.png"))
    scores = json.loads((out / name / "scores.json").read_text())
    return sorted(items, key=lambda item: item["id"]), scores, status, images


def steps(out: Path) -> list[tuple[str, str]]:
    """Checkpoints are pruned and logs cut back to the last one: what stays for good is that steps were reached."""
    last = max((int(p.name[-8:]) for p in (out / "checkpoints").glob("step-*")), default=0)
    logged = [line for line in lines(out / "log.jsonl") if line["step"] <= last]
    return [(f"step {line['step']}", repr(losses(line))) for line in logged]


def losses(line: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line.items() if k.startswith("loss/") or k in ("step", "gradient_norm", "cost/tokens")}


def trained(out: Path) -> Any:
    """The log without its times, the weights' hash and the optimizer's."""
    record = json.loads((out / "run.json").read_text())
    weights = sha256_file(next((out / "model").glob("model*.safetensors")))
    return [losses(line) for line in lines(out / "log.jsonl")], weights, record["status"], record["training"]["tokens"]


def trained_alike(ours: Any, theirs: Any) -> bool:
    """Equal up to the rounding of sums in another order, which Adam carries on (tests/train/test_train_processes)."""
    return (
        ours[2:] == theirs[2:]
        and len(ours[0]) == len(theirs[0])
        and all(
            a.keys() == b.keys() and all(math.isclose(a[k], b[k], rel_tol=5e-3, abs_tol=1e-6) for k in a)
            for a, b in zip(ours[0], theirs[0], strict=True)
        )
    )


def shards(out: Path) -> list[tuple[str, str]]:
    path = out / "manifest.json"
    entries = json.loads(path.read_text())["shards"] if path.exists() else []
    return [(e["name"], e["sha256"] if sha256_file(out / e["name"]) == e["sha256"] else "damaged") for e in entries]


def files(out: Path, last: str) -> list[tuple[str, str]]:
    """Every file's hash where the one that is written last is there; else nothing is finished."""
    if not (out / last).exists():
        return []
    kept = [p for p in sorted(out.rglob("*")) if p.is_file() and not p.name.startswith((DRAFT, ".lock"))]
    return [(str(p.relative_to(out)), sha256_file(p)) for p in kept]


def digest(state: Callable[[Path], list[tuple[str, str]]], out: Path) -> str:
    pairs = state(out)
    return sha256_text(json.dumps(pairs)) if pairs else "nothing"


# ---- the commands


def _eval(words: Sequence[str], out: Path) -> list[str]:
    return [*words, "--out", str(out)]


def _main(module: str) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        return importlib.import_module(module).main(argv)

    return run


def understanding(inputs: Path) -> Target:
    words = ["understanding", "--bench", "MMB", "--data", str(inputs / "tsv"), "--any-data", "--batch-size", "2"]
    served = lambda out, url: _eval([*words, "--model", f"openai:{url}#m"], out)  # noqa: E731
    return Target(
        "understanding",
        _main("armor_eval.cli"),
        partial(_eval, [*words, "--model", "mock:slow0.02"]),
        partial(journal, "MMB"),
        partial(scored, "MMB"),
        processes=True,
        server=served,
    )


def geneval(inputs: Path) -> Target:
    words = ["geneval", "--model", "mock", "--profile", "shapes", "--limit", str(PROMPTS), "--samples", "2"]
    return Target(
        "geneval",
        _main("armor_eval.cli"),
        partial(_eval, [*words, "--batch-size", "2"]),
        partial(journal, "geneval"),
        partial(scored, "geneval"),
        processes=True,
    )


def modality(inputs: Path) -> Target:
    words = ["modality", "--model", "mock", "--profile", "shapes", "--limit", "6", "--batch-size", "2"]
    return Target(
        "modality",
        _main("armor_eval.cli"),
        partial(_eval, words),
        partial(journal, "modality"),
        partial(scored, "modality"),
        processes=True,
    )


def stage(inputs: Path) -> Target:
    words = [
        "stage",
        "--stage",
        "3",
        "--model",
        "armor-nano",
        "--data",
        str(inputs / "shards"),
        "--mix",
        "t2t=4,ti2t=4,t2i=4,t2ti=4",
        "--batch-size",
        "2",
        "--steps",
        str(STEPS),
        "--lr",
        "1e-3",
        "--log-every",
        "1",
        "--save-every",
        "1",
        "--resume",
    ]
    return Target(
        "stage", _main("trainer.cli"), partial(_eval, words), steps, trained, processes=True, same=trained_alike
    )


def tokenize(inputs: Path) -> Target:
    words = ["tokenize", str(inputs / "talk" / "conversations.jsonl"), "--model", "armor-nano", "--shard-size", "3"]
    return Target("tokenize", _main("trainer.cli"), partial(_eval, words), shards, partial(digest, shards))


def build_data(inputs: Path) -> Target:
    """A finished folder is refused, exit code 2: it is not written over."""
    words = [
        "build-data",
        "--tars",
        str(inputs / "tars"),
        "--texts",
        str(inputs / "texts.jsonl"),
        "--source",
        "text-to-image-2m",
        "--min-aesthetic",
        "0",
    ]
    state = partial(files, last="conversations.jsonl")
    return Target("build-data", _main("trainer.cli"), partial(_eval, words), state, partial(digest, state), again=2)


def build(inputs: Path) -> Target:
    state = partial(files, last="config.json")
    words = ["build", "--base", str(inputs / "base"), "--adapter-layers", "1"]
    return Target("build", _main("armor_model.cli"), partial(_eval, words), state, partial(digest, state), again=2)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "understanding": understanding,
    "geneval": geneval,
    "modality": modality,
    "stage": stage,
    "tokenize": tokenize,
    "build-data": build_data,
    "build": build,
}
