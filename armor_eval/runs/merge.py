"""Joins the shards of a run: `--shard 1/4` to `4/4` of one command, measured as a job array, become one bundle.

armor-eval merge runs/mmb-1of4 runs/mmb-2of4 runs/mmb-3of4 runs/mmb-4of4 --out runs/mmb
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from armor_eval.runs.bundle import SAME_RUN, folder_name, read_head, refuse_nesting, refuse_used_folder
from armor_eval.runs.journal import read_journal, rewrite_journal, write_run
from armor_eval.runs.schema import Item, Run
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import read_table, toml_of

_OWN = re.compile(r"--(?:shard|out|bench|suite)(=.*)?")
"""Options of a shard's command line that the joined run has otherwise or not at all."""


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`2/4` -> (1, 4): zero-based index and number of shards. UserError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard {text} is no part of a whole", "expected I/N with I from 1 to N, e.g. --shard 2/4")
    return int(match[1]) - 1, int(match[2])


def merge(shards: Sequence[Path], out: Path) -> Run:
    """Write the joined journal and images into `out/BENCHMARK`, not yet scored: the run's own command does that.

    UserError where a shard is missing, unfinished, given twice, or of another run.
    """
    if not shards:
        raise UserError("no shards given", "give the folders that --shard wrote")
    runs = {folder: read_head(folder)[0] for folder in map(_only_run, shards)}
    _check_whole(runs)
    first = next(iter(runs.values()))
    command, out = _whole_command(first, out), out / folder_name(first.benchmark)
    refuse_nesting(out)
    refuse_used_folder(out)
    items: dict[str, Item] = {}
    for folder in runs:
        journal, _ = read_journal(folder / "items.jsonl")
        doubled = next((i for i in journal if i in items), None)
        if doubled is not None:
            raise UserError(f"item {doubled!r} is in two shards", "they were cut from different data or batch sizes")
        items |= journal
    joined = first.model_copy(
        update={
            "status": "running",
            "status_reason": None,
            "command": command,
            "started": min(run.started for run in runs.values()),
            "wall_seconds": sum(run.wall_seconds for run in runs.values()),
            "cpu_seconds": sum(run.cpu_seconds for run in runs.values()),
            "peak_memory_bytes": max(run.peak_memory_bytes for run in runs.values()),
            "extras": {name: value for name, value in first.extras.items() if name != "shard"} | _served(runs.values()),
            "reservations": list({r.kind: r for run in runs.values() for r in run.reservations}.values()),
            "finished": None,
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    for folder in runs:
        for kept in ("images", "overlays"):
            if (folder / kept).is_dir():
                shutil.copytree(folder / kept, out / kept, dirs_exist_ok=True)
    rewrite_journal(out / "items.jsonl", items.values())
    return write_run(out, joined, seal=False)


def _served(runs: Iterable[Run]) -> JsonObject:
    """What the servers of all shards wanted said otherwise, as an extra; empty where there was no server."""
    joined: JsonObject = {}
    for run in runs:
        for name, value in run.extras.get("served", {}).items():
            joined[name] = {**joined.get(name, {}), **value}
    return {"served": joined} if joined else {}


def _bench_word(run: Run) -> str:
    """How the command names what the run measured: by its name, or by the user's file that declares it."""
    declared = run.extras.get("declared") or run.extras.get("suite", {})
    name = declared.get("name", run.benchmark)
    if "outside" not in declared:
        return str(name)
    words = [word for typed in run.command for word in re.sub("^--(bench|suite)=", "", typed).split(",")]
    files = [Path(word) for word in words if word.endswith(".toml") and Path(word).is_file()]
    named = [file for file in files if read_table(file, toml_of).get("name") == name]
    if not named:
        raise UserError(f"the file that declares {name} is not where the shards' command says", " ".join(words))
    return str(named[0])


def _only_run(folder: Path) -> Path:
    """The folder itself where it is a run, else the one run below it (`--out FOLDER` writes FOLDER/NAME)."""
    if (folder / "run.json").is_file():
        return folder
    below = sorted(file.parent for file in folder.glob("*/run.json"))
    if len(below) != 1:
        raise UserError(f"{folder} holds {len(below)} runs", "give the folder of one shard of one benchmark")
    return below[0]


def _check_whole(runs: dict[Path, Run]) -> None:
    """All N shards of one run, each once and each finished."""
    parts: dict[int, Path] = {}
    first_folder, first = next(iter(runs.items()))
    of = first_place[1] if (first_place := parse_shard(first.extras.get("shard"))) else 0
    for folder, run in runs.items():
        place = parse_shard(run.extras.get("shard"))
        if place is None:
            raise UserError(f"{folder} is no shard", "only runs of --shard I/N are joined")
        if run.status != "partial":
            raise UserError(f"{folder} is not finished ({run.status})", "run its command again first")
        if place[0] in parts:
            raise UserError(f"{folder} and {parts[place[0]]} are the same shard")
        for name, get in SAME_RUN.items():
            if name != "shard" and get(run) != get(first):
                raise UserError(f"{folder} is of another run than {first_folder}: {name} differs")
        if place[1] != of:
            raise UserError(f"{folder} is of {place[1]} shards, {first_folder} of {of}")
        parts[place[0]] = folder
    missing = [str(i + 1) for i in range(of) if i not in parts]
    if missing:
        raise UserError(f"shards missing of {of}: {', '.join(missing)}", "give all of them")


def _whole_command(run: Run, out: Path) -> list[str]:
    """The command line of the whole run: no --shard, of several benchmarks this one, and where the joined run lies."""
    kept, skip = [], False
    for word in run.command:
        own = _OWN.fullmatch(word)
        if own is None and not skip:
            kept.append(word)
        skip = own is not None and own[1] is None
    option = next((o for o in ("--bench", "--suite") if any(word.startswith(o) for word in run.command)), None)
    bench = [option, _bench_word(run)] if option else []
    return [*kept, *bench, "--out", str(out)]
