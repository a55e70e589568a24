"""`armor-eval doctor` and `list`: what this machine has, what a real run would miss, and what can be measured. Neither
imports torch or vlmeval."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Annotated

import typer

COMMAND = "needs: "
"""What a row of a command begins with."""
EXTRAS = {"lora": ["peft"], "lm-eval": ["lm-eval"], "view": ["starlette", "uvicorn"], "serve": ["starlette", "uvicorn"]}
"""The extra of pyproject.toml -> its packages."""
EVERY = ("torch", "torchvision", "transformers", "ms-vlmeval", "pandas", "armor-nano")
NEEDS: dict[str, tuple[str, ...]] = {
    "demo, suite, understanding, geneval, draw, modality, ablate-* of the shapes world": (*EVERY, "mmdet"),
    "understanding, vlmeval of published data": (*EVERY, "official "),
    "geneval --profile official": (*EVERY, "mmdet", "open-clip-torch", "weights "),
    "draw of published suites": (*EVERY, "suite "),
    "lm-eval": (*EVERY, "extra lm-eval"),
    "view": ("extra view",),
    "reward of the shapes world": ("torch", "torchvision", "mmdet", "extra serve"),
    "armor-model serve": ("torch", "transformers", "armor-nano", "extra serve"),
    "armor-train --lora": ("torch", "transformers", "extra lora"),
    "--judge openai:URL#NAME of api.openai.com": ("OPENAI_API_KEY",),
}
"""Commands -> the beginnings of the rows that they need."""
SINGLY = ("official ", "suite ")
"""Rows of which a command runs with any: single benchmarks, single suites."""


def doctor(
    data: Annotated[Path | None, typer.Option(help="Folder of TSV files: check each by its md5.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Check environment, versions, shims, accelerator, disk, data, weights, and what each command still needs.

    With --data also every published file in that folder, whole or not.

    Exit codes: 0 the embedded profile can run and no file is damaged, 1 it cannot or one is, 2 wrong input.

    armor-eval doctor --data DIR
    """
    from armor_eval.cli import common
    from armor_eval.report.doc import Shown

    rows = [
        *_environment(),
        *_packages(),
        *_extras(),
        *_shims(),
        *_hardware(),
        *_data(data),
        *_weights(),
        *_suites(),
        *_keys(),
    ]
    rows += _commands(rows)
    broken = [row for row in rows if row["state"] == "broken"]
    if json_output:
        common.write(json.dumps(rows, indent=1))
    else:
        for head, of_commands in (("what", False), ("command", True)):
            doc = common.Doc(
                "doctor", "", "", [head, "state", "still needs" if of_commands else "found"], text_columns=3
            )
            for row in rows:
                if row["what"].startswith(COMMAND) == of_commands:
                    name = row["what"].removeprefix(COMMAND)
                    doc.add([name, Shown(row["state"], verdict=row["state"]), row["found"]])
            common.print_doc(common.console(), doc)
    if broken:
        raise typer.Exit(1)


def _row(what: str, state: str, found: str) -> dict[str, str]:
    return {"what": what, "state": state, "found": found}


def _environment() -> list[dict[str, str]]:
    from armor_eval import __version__
    from armor_eval.runs.provenance import git_commit

    commit = git_commit()
    return [
        _row("armor-eval", "ok", __version__ + (f" at {commit[:12]}" if commit else "")),
        _row("Python", "ok" if sys.version_info >= (3, 11) else "broken", platform.python_version()),
    ]


def _packages() -> list[dict[str, str]]:
    from armor_eval.runs.provenance import packages

    found = packages()
    rows = []
    needed = ("torch", "torchvision", "transformers", "ms-vlmeval", "mmdet", "diffusers", "open-clip-torch", "pandas")
    for name in needed:
        rows.append(_row(name, "ok" if name in found else "broken", found.get(name, "not installed: pip install .")))
    return rows


def _extras() -> list[dict[str, str]]:
    """Packages that single commands need, by the extra that brings them."""
    return [
        _row(
            f"extra {extra}", *(("missing", f"pip install 'armor-eval[{extra}]'") if lost else ("ok", ", ".join(names)))
        )
        for extra, names in EXTRAS.items()
        for lost in [any(not _version(name) for name in names)]
    ]


def _shims() -> list[dict[str, str]]:
    """Whether the two import shims will act, judged from metadata: the imports themselves take seconds."""
    torch_version, vision = _version("torch"), _version("torchvision")
    cpu_only = "+cpu" in torch_version or _cuda_of_torch() is None
    shim = cpu_only and "+cpu" not in vision
    mmcv = util.find_spec("mmcv")
    compiled = any(list(Path(folder).glob("_ext*.so")) for folder in (mmcv and mmcv.submodule_search_locations) or ())
    return [
        _row("torchvision beside a CPU torch", "note", "the shim may act" if shim else "no shim needed"),
        _row("mmcv._ext", "note", "compiled, the shim stays out" if compiled else "the shim acts"),
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _cuda_of_torch() -> str | None:
    """torch.version.cuda, read from its file."""
    spec = util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("cuda"):
            value = line.split("=")[-1].strip().strip("'\"")
            return None if value == "None" else value
    return None


def _hardware() -> list[dict[str, str]]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    rows = [
        _row("CPU cores, memory", "ok", f"{os.cpu_count()}, {memory:.0f} GiB"),
        _row("free disk here", "ok" if free > 5 else "missing", f"{free:.0f} GiB"),
    ]
    tool = shutil.which("nvidia-smi")
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"] if tool else None
    done = subprocess.run(query, capture_output=True, text=True, check=False) if query else None
    if done is not None and done.returncode == 0:
        rows.append(_row("GPU", "ok", "; ".join(done.stdout.strip().splitlines())))
    else:
        rows.append(_row("GPU", "missing", "none: armor-nano runs on a CPU, InternVL2.5-8B needs one"))
    return rows


def _data(checked: Path | None) -> list[dict[str, str]]:
    """The published files: by name in VLMEvalKit's folder, by md5 in one that is given."""
    from armor_eval.tasks.understanding.data import lmu_data, state_of
    from armor_eval.tasks.understanding.declare import benchmarks
    from armor_model.base.errors import UserError

    rows = [_bundled()]
    if checked is not None:
        if not checked.is_dir():
            raise UserError(f"--data {checked} is not a folder")
        own = [b for b in benchmarks().values() if b.shares is None]
        return [*rows, *(_row(f"official {b.name}", *state_of(b, checked)) for b in own)]
    folder = lmu_data()
    for b in benchmarks().values():
        if b.in_paper and b.shares is None:
            there = (folder / b.official.file).is_file()
            found = str(folder / b.official.file) if there else f"{b.official.file} is not in {folder}"
            rows.append(_row(f"official {b.name}", "ok" if there else "missing", found))
    return rows


def _weights() -> list[dict[str, str]]:
    """Weights of GenEval's judges, whose hash is checked where they are used, and models in Hugging Face's cache."""
    from armor_eval.tasks.geneval.weights import declared
    from armor_model.base.cache import cache_dir

    rows = []
    for name in ("mask2former", "clip"):
        entry = declared(name)
        file = cache_dir() / entry.file
        how = f"{entry.file} ({entry.size}): {entry.option} FILE, or armor-eval geneval --download"
        rows.append(_row(f"weights {name}", *(("ok", str(file)) if file.is_file() else ("missing", how))))
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in hub.glob("models--*"))
    listed = ", ".join(models) or f"none in {hub}: hf:ID fetches a model on first use, if there is a network"
    return [*rows, _row("models in the cache", "ok" if models else "note", listed)]


def _suites() -> list[dict[str, str]]:
    """The published files of the suites of drawing."""
    from armor_eval.profiles import OFFICIAL
    from armor_eval.tasks.suites.declare import find_file, suites
    from armor_model.base.errors import UserError

    rows = []
    for suite in suites().values():
        if suite.profile == OFFICIAL:
            try:
                there = ("ok", ", ".join(str(find_file(suite, file)) for file in suite.files))
            except UserError as error:
                there = ("missing", error.line())
            rows.append(_row(f"suite {suite.name}", *there))
    return rows


def _commands(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """What each command needs of the other rows and has not got; a model's own weights and judge are not known here."""
    made = []
    for command, needs in NEEDS.items():
        lost = [row["what"] for row in rows if row["what"].startswith(needs) and row["state"] in ("missing", "broken")]
        single = needs[-1] if needs[-1] in SINGLY else None
        there = sum(row["what"].startswith(single) for row in rows) if single else 0
        parts = [what for what in lost if single and what.startswith(single)]
        state = "ok" if not lost or (parts == lost and len(parts) < there) else "missing"
        told = ", ".join(what.removeprefix(single or "") for what in lost) + (
            f" ({there - len(parts)} of {there} are there)" if parts else ""
        )
        made.append(_row(COMMAND + command, state, told or "nothing more"))
    return made


def _bundled() -> dict[str, str]:
    from armor_model import bundled
    from armor_model.base.errors import ArmorError

    try:
        return _row("armor-nano", "ok", str(bundled("armor-nano")))
    except ArmorError as error:
        return _row("armor-nano", "broken", str(error))


def _keys() -> list[dict[str, str]]:
    have = bool(os.environ.get("OPENAI_API_KEY"))
    return [_row("OPENAI_API_KEY", "ok" if have else "missing", "set" if have else "only a judge endpoint needs it")]


BESIDE = (
    ("geneval", "drawing: the official prompts of GenEval, or the shapes world's", "overall, the mean of six tasks"),
    ("modality", "the choice of text, image or both; --multi-turn: from its own answers", "requests answered as asked"),
    ("interleaved", "answers of text and images in the shapes world, compared exactly", "answers that are all right"),
    ("judge", "free answers by rubric or in pairs, by a judge; and what the judge looks at", "mean grade, or wins"),
    ("ablate-heads", "forward switching against one head: the paper's Figures 7 and 8", "loss curves, text kept"),
    ("ablate-stages", "which parts are trained: the paper's Tables 4 and 5", "understanding and drawing by scheme"),
)
"""Measuring commands beside understanding: name, what is measured, reported number."""


def listing(json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """All that can be measured, with data set, split and reported number; then the kinds of `--model`.

    armor-eval list --json
    """
    import json

    from armor_eval.cli import common
    from armor_eval.models.registry import BUNDLED, KINDS
    from armor_eval.tasks.suites.declare import suites
    from armor_eval.tasks.understanding.declare import benchmarks

    declared, drawn = benchmarks().values(), suites().values()
    if json_output:
        listed = [{**b.model_dump(mode="json"), "command": f"understanding --bench {b.name}"} for b in declared]
        listed += [
            {"name": name, "title": what, "number": number, "command": name, "in_paper": False}
            for name, what, number in BESIDE
        ]
        listed += [{**s.model_dump(mode="json"), "command": f"draw --suite {s.name}"} for s in drawn]
        common.write(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    stars = ["" if b.in_paper else " (not in all)" for b in declared]
    kinds = [(kind.shows, kind.help) for kind in KINDS.values()]
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[str]]]] = {
        "understanding --bench ... (all = those of the paper's Table 2)": (
            ("name", "data set", "split", "judge", "reported number"),
            [(b.name + star, b.dataset, b.split, b.judge, b.number) for b, star in zip(declared, stars, strict=True)],
        ),
        "draw --suite ... (geneval too)": (
            ("name", "suite", "kind of judge", "its own judge"),
            [(s.name, s.title, s.judge, s.own_judge or "-") for s in drawn],
        ),
        "armor-eval ... (commands of their own)": (("command", "what is measured", "reported number"), BESIDE),
        "--model ...": (
            ("say", "what it is"),
            [
                (BUNDLED, "the bundled checkpoint (default)"),
                ("FOLDER", "a checkpoint that armor-model or armor-train wrote"),
                ("ORG/NAME[@REVISION]", "one of the Hugging Face hub"),
                *kinds,
            ],
        ),
    }
    for title, (head, rows) in tables.items():
        doc = common.Doc("list", title, "", list(head), text_columns=len(head), wide=True)
        for row in rows:
            doc.add(row)
        common.print_doc(common.console(), doc)
