"""What commands share: consoles, the progress bar, the table of scores."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from armor_eval.report.doc import Doc, print_doc
from armor_eval.report.doc import interval_text as interval
from armor_eval.report.doc import print_table as print_table
from armor_eval.report.doc import value_text as value
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from armor_eval.engine import Finished
    from armor_eval.report.results import Repeated
    from armor_eval.runs.schema import Metric, Run, Scores


Profile = Annotated[
    str | None, typer.Option(help="shapes (embedded) or official; default: shapes for armor-nano, else official.")
]
DType = Annotated[
    str | None, typer.Option("--dtype", help="Of the weights: auto, float32, bfloat16, float16; default by device.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="Where the model runs: cpu, cuda, cuda:1; default: what there is.")
]
DeviceMap = Annotated[
    str | None, typer.Option("--device-map", help="auto spreads an hf: model over all devices (accelerate).")
]
ModelArgs = Annotated[
    str | None,
    typer.Option(
        "--model-args", help="k=v,... of a model: attn_implementation, max_pixels, load_in_4bit, revision ..."
    ),
]
"""Options that every command with `--model` has; a model that cannot honour one refuses it."""


def finite(value: float | None) -> float | None:
    """For Typer: a range without an upper end lets inf through and, in some versions, every range lets NaN."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number")
    return value


Shard = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="Ask only this part; armor-eval merge joins the parts.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Threads that prepare requests ahead of the model; default: the cores, 2 to 8."),
]
Repeats = Annotated[
    int, typer.Option(min=1, help="So many seeds of a sampled run, from --seed on; prints the variance between them.")
]
ImageTemperature = Annotated[
    float | None,
    typer.Option(min=0, callback=finite, help="0 = the likeliest code each time; default: the checkpoint's own, or 1."),
]
RequestJson = Annotated[
    str | None,
    typer.Option(
        "--request-json", help="Fields that every request to an openai: model gets, and `headers`: JSON or @FILE."
    ),
]


def server_options(model: str | None, request_json: str | None) -> JsonObject:
    """`--request-json` as `registry.load` takes it. UserError where it is none, or the model is behind no server."""
    from armor_eval.models.endpoint import Extra

    if request_json is None:
        return {}
    extra = Extra.read(request_json)
    if not (model or "").startswith("openai:"):
        raise UserError("--request-json is for a model behind a server", "expected --model openai:URL#NAME with it")
    return {"extra": extra}


def model_options(
    dtype: str | None, device: str | None, device_map: str | None, model_args: str | None, **more: object
) -> JsonObject:
    """The options as `registry.load` takes them, read and checked. UserError, ArmorError for a device that is none."""
    from armor_eval.models.options import parse_dtype, parse_model_args

    options = {"dtype": parse_dtype(dtype), "device": device, "device_map": device_map, **more}
    options["model_args"] = parse_model_args(model_args)
    if device is not None:
        from armor_model.base.devices import check_device

        check_device(device)
    return options


def console() -> Console:
    """Standard output: results."""
    from armor_eval.report.doc import VisibleConsole

    return VisibleConsole(highlight=False)


def notices() -> Console:
    """Standard error: progress and notices, so that `--json` output stays clean."""
    from armor_eval.report.doc import VisibleConsole

    return VisibleConsole(stderr=True, highlight=False)


def quiet_libraries() -> None:
    """Our own warnings go to standard error in one line; libraries speak only of errors."""
    logging.basicConfig(level=logging.WARNING, format="armor-eval: %(message)s", stream=sys.stderr)
    for name in ("transformers", "diffusers", "accelerate", "matplotlib", "PIL", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def progress_bar(label: str, show: bool) -> Iterator[Callable[[int, int], Callable[[int, int], None]]]:
    """A bar with count, ETA and live failures on a terminal; nothing where `show` is off or it is not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    screen = notices()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, console=screen, disable=not (show and screen.is_terminal), transient=True) as bar:

        def start(total: int, done: int) -> Callable[[int, int], None]:
            task = bar.add_task(label, total=total, completed=done, failed="")
            lost = 0

            def tick(answered: int, failed: int) -> None:
                nonlocal lost
                lost += failed
                bar.update(task, advance=answered, failed=f"[red]{lost} failed" if lost else "")

            return tick

        yield start


@contextmanager
def byte_bar(label: str, show: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A transfer's bar with size, speed and ETA: call what it gives with (bytes there, bytes in all or None)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    screen = notices()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, disable=not (show and screen.is_terminal), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda there, total: bar.update(task, completed=there, total=total)


def print_scores(finished: Sequence[Finished], beside: Mapping[str, Sequence[Finished]] | None = None) -> None:
    """A row a benchmark with its primary number, and under it what a reader must know.

    `groups`: what is resampled together; `unread`: unparsed answers (count as wrong); `lost`: no verdict at all.
    `beside`: benchmark -> [blind, constant] baselines, each a column.
    """
    out, first = console(), finished[0].run
    subset = ", a subset" if first.subset is not None else ""
    controls = ("blind", "const.") if beside else ()
    doc = Doc(
        "scores",
        f"understanding - {first.model.name} - profile {first.profile}{subset}",
        "",
        ["bench", "score", "95 % interval", *controls, "n", "groups", "unread", "lost"],
    )
    for one in finished:
        metric, counts = primary(one), one.scores.counts
        others = [value(primary(other)) for other in (beside or {}).get(one.run.benchmark, ())]
        lost = counts.get("judge_failed", 0) + counts.get("error", 0)
        numbers = (metric.n, metric.clusters, counts.get("unparsed", 0), lost)
        doc.add([one.run.benchmark, value(metric), interval(metric), *others, *map(str, numbers)])
    print_doc(out, doc)
    for one in finished:
        split = f"{one.run.data.name}, {one.run.data.split}; {one.run.judge.name}"
        out.print(f"{one.run.benchmark}: {split}; {one.path}", markup=False, soft_wrap=True)
        for line in remarks(one):
            out.print(f"  {line}", markup=False, soft_wrap=True)


def metrics_doc(title: str, metrics: Iterable[Metric], first: str = "what") -> Doc:
    """A row a number with its interval and its items."""
    doc = Doc("metrics", title, "", [first, "score", "95 % interval", "n"])
    for metric in metrics:
        doc.add([metric.name, value(metric), interval(metric), str(metric.n)])
    return doc


def primary(one: Finished) -> Metric:
    """The number reported for the benchmark."""
    return next(m for m in one.scores.metrics if m.primary)


def remarks(one: Finished) -> list[str]:
    """What stands under the table: reservations, the headline's second lines, the data's notes, switches to drawing."""
    from armor_eval.runs import served
    from armor_eval.runs.comparable import reservations_of

    lines = [r.text for r in reservations_of(one.run)]
    if one.scores.blank is not None:
        lines.append(f"blank: {one.scores.blank}")
    headline = primary(one)
    if headline.note and headline.value is None:
        lines.append(headline.note)
    for metric in one.scores.metrics:
        # A second line is named `HEADLINE, WHAT`; our own reading is one only where it differs.
        same = metric.name.endswith(", our reading") and (metric.note or "").startswith("0 of")
        if metric.name.startswith(f"{headline.name}, ") and not same:
            lines.append(f"{metric.name}: {value(metric)}{f' ({metric.note})' if metric.note else ''}")
    lines += one.run.extras.get("notes", [])
    lines += asked_by(one.run.extras.get("model", {}))
    lines += served.remarks(one.run)
    if switched := one.run.extras.get("items_with_imgbos"):
        lines.append(f"{switched} answers switched to drawing (<imgbos>)")
    return lines


def asked_by(model: JsonView) -> list[str]:
    """How a model was asked, where a reader would expect otherwise."""
    lines = []
    if (form := model.get("prompt_form", "chat template").replace("\n", "\\n")) != "chat template":
        lines.append(f"asked by {form}" if "no chat" not in form else f"asked by its plain form ({form})")
    if unused := model.get("generation_config_not_used"):
        said = ", ".join(f"{name}={value}" for name, value in unused.items())
        lines.append(f"the checkpoint's own generation_config is not used: {said}")
    return lines


def as_json(finished: Sequence[Finished], *, repeated: bool = False, **beside: object) -> str:
    """The runs; with anything beside them an object that has them as `runs`."""
    runs = [as_record(one.path, one.run, one.scores) for one in finished]
    if repeated:
        beside["repeats"] = [one.record() for one in between_seeds(finished)]
    return json.dumps({"runs": runs, **beside} if beside else runs, indent=1)


def as_record(path: Path, run: Run, scores: Scores | None) -> JsonObject:
    """A run as `--json` shows it."""
    return {
        "path": str(path),
        "run": run.model_dump(mode="json"),
        "scores": scores.model_dump(mode="json") if scores else None,
    }


def suffixes(seed: int, repeats: int) -> list[tuple[int, str]]:
    """Each repeat's seed, and what its run's name ends with: nothing where there is only one."""
    return [(at, f"@{at}" if repeats > 1 else "") for at in range(seed, seed + repeats)]


def bars(show: bool) -> Callable[[str], AbstractContextManager[Any]]:
    """A progress bar by a task's name, for `armor_eval.evaluate`."""
    return lambda name: progress_bar(name, show)


def finish(
    finished: Sequence[Finished],
    show_one: Callable[[Finished], None],
    *,
    as_text: bool,
    shard: str | None,
    repeats: bool = True,
) -> None:
    """What a command of one task ends with, in the first process: its runs, the variance between them where they are
    repeats, and exit code 1 where one is partial."""
    if not finished:
        return
    if shard is not None:
        for one in finished:
            show_shard(one)
        return
    if not as_text:
        write(as_json(finished, repeated=repeats and len(finished) > 1))
    else:
        for one in finished:
            show_one(one)
        if repeats and len(finished) > 1:
            print_repeats(finished)
    if any(one.run.status != "complete" for one in finished):
        raise typer.Exit(1)


def between_seeds(finished: Sequence[Finished]) -> list[Repeated]:
    """What varies between repeats, a benchmark each."""
    from armor_eval.report.loading import RunView
    from armor_eval.report.results import by_benchmark

    return by_benchmark([RunView(one.path, one.run, one.scores) for one in finished])


def print_repeats(finished: Sequence[Finished]) -> None:
    """The table of the variance between repeats."""
    from armor_eval.report.results import repeats_doc

    print_doc(console(), repeats_doc(between_seeds(finished)))


def check_repeats(repeats: int, image_temperature: float | None, images: Path | None = None) -> None:
    """UserError where every repeat would be the same."""
    if repeats > 1 and images is not None:
        raise UserError("--repeats draws seeds of a sampled run; these images are there already", "leave --images out")
    if repeats > 1 and image_temperature == 0:
        wrong = "these images are greedy, and would be the same"
        raise UserError(f"--repeats draws seeds of a sampled run: {wrong}", "give --image-temperature above 0")


def shard_name(shard: str | None) -> str:
    """`-2of4` for `2/4`: each shard's default folder is its own."""
    return f"-{shard.replace('/', 'of')}" if shard else ""


def show_shard(one: Finished) -> None:
    """What a shard ends with: how much was asked, and that nothing is scored yet."""
    counts = ", ".join(f"{n} {status}" for status, n in one.scores.counts.items())
    write(f"{one.path}: {one.run.status_reason} ({counts})")


def drawn_name(model: str, profile: str, limit: int | None, seed: int, *more: str) -> str:
    """What the folder of a run of images is called: by all that makes it another run."""
    cut = [f"{name}{value}" for name, value in (("limit", limit), ("seed", seed)) if value]
    return "-".join([short_name(model), profile, *more, *cut])


def short_name(text: str) -> str:
    """A model's or path's name as part of a folder's name."""
    kept = "".join(c if c.isalnum() or c in "-._" else "-" for c in Path(text).name or text)
    return kept.strip("-.") or "model"


def write(text: str) -> None:
    """Plain text to standard output."""
    sys.stdout.write(visible(text) + "\n")


def default_device() -> str:
    """The accelerator where there is one."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def detector_name(asked: str | None, usual: str) -> str:
    """A detector's name, checked before anything is loaded."""
    from armor_eval.tasks.geneval.detectors import DETECTORS

    if asked is not None and asked not in DETECTORS:
        raise unknown_name("detector", asked, DETECTORS)
    return asked or usual
