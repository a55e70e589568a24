"""`armor-eval geneval`: draw GenEval's prompts and judge the images; its prompts; re-scoring stored detections."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.cli import common
from armor_eval.cli.geneval_selftest import selftest
from armor_model.base.cli import only_given
from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from armor_eval.engine import Finished
    from armor_eval.tasks.geneval.colors import ColorJudge
    from armor_eval.tasks.geneval.detectors import Detector as GenEvalDetector
    from armor_eval.tasks.geneval.prompts import PromptSet, Vocabulary


DRAWING = (
    "model",
    "request_json",
    "dtype",
    "device_map",
    "model_args",
    "guidance",
    "image_temperature",
    "image_top_k",
    "image_top_p",
)
"""Options of drawing: without a model they would be stored as if used."""

Detector = Annotated[
    str | None, typer.Option(help="mmdet or transformers (official), embedded (shapes); default by profile.")
]
DetectorWeights = Annotated[Path | None, typer.Option(help="Mask2Former checkpoint, mmdet 2.x or 3.x.")]
ClipWeights = Annotated[Path | None, typer.Option(help="OpenAI's ViT-L-14.pt, or as safetensors.")]
DetectorBatch = Annotated[int | None, typer.Option(min=1, help="Images a detector pass; default 8, 32.")]
Guidance = Annotated[
    float | None,
    typer.Option(min=0, callback=common.finite, help="Classifier-free guidance; 1 = none, default: the model's own."),
]
ImageTopK = Annotated[int | None, typer.Option(min=0, help="0 = no limit; default: the checkpoint's, or 0.")]
ImageTopP = Annotated[
    float | None,
    typer.Option(min=0.01, max=1, callback=common.finite, help="1 = no limit; default: the checkpoint's, or 1."),
]
Compute = Annotated[
    str | None, typer.Option(help="Where model and judges run: cpu, cuda, cuda:1; default: what there is.")
]

geneval = typer.Typer(no_args_is_help=False)
geneval.command("selftest")(selftest)


@geneval.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Folder of a checkpoint, or KIND:NAME; default armor-nano.")] = None,
    profile: common.Profile = None,
    images: Annotated[Path | None, typer.Option(help="Judge images that exist: NNNNN/samples/NNNNN.png.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Another prompt file in GenEval's form; stamped.")] = None,
    detector: Detector = None,
    detector_weights: DetectorWeights = None,
    clip_weights: ClipWeights = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch missing weights into the cache.")] = False,
    samples: Annotated[int, typer.Option(min=1, help="Images a prompt; the official number is 4.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N prompts, spread over the tasks, seeded.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Base of every image's own seed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/geneval/...")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn and judged together.")] = 16,
    detector_batch: DetectorBatch = None,
    device: Compute = None,
    dtype: common.DType = None,
    device_map: common.DeviceMap = None,
    model_args: common.ModelArgs = None,
    request_json: common.RequestJson = None,
    repeats: common.Repeats = 1,
    shard: common.Shard = None,
    workers: common.Workers = None,
    guidance: Guidance = None,
    image_temperature: common.ImageTemperature = None,
    image_top_k: ImageTopK = None,
    image_top_p: ImageTopP = None,
    overlays: Annotated[bool, typer.Option("--overlays", help="Keep images with their detections drawn.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Measure drawing. The same command again resumes an interrupted run, or shows a finished one.

    armor-eval geneval --limit 12

    armor-eval geneval --model hf:OWNER/NAME --detector-weights mask2former.pth --clip-weights ViT-L-14.pt
    """
    if context.invoked_subcommand is not None:
        return
    from armor_eval import Named, evaluate
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.engine import Settings, join_processes
    from armor_eval.models import registry
    from armor_eval.models.base import Decoding, DrawsImages
    from armor_eval.profiles import choose_profile
    from armor_eval.runs.bundle import run_folder
    from armor_eval.runs.merge import parse_shard
    from armor_eval.tasks.drawn import drawn_elsewhere
    from armor_eval.tasks.geneval.folders import scan_folder
    from armor_eval.tasks.geneval.prompts import load_vocabulary, own_prompts, read_prompts
    from armor_eval.tasks.geneval.task import GenEvalTask

    common.quiet_libraries()
    common.check_repeats(repeats, image_temperature, images)
    refuse_drawing_options(context, images)
    chosen = choose_profile(profile, model if images is None else "images")
    vocabulary = load_vocabulary(chosen.name)
    asked = read_prompts(prompts, vocabulary) if prompts is not None else None
    decoding = Decoding(
        **only_given(
            guidance=guidance, image_temperature=image_temperature, image_top_k=image_top_k, image_top_p=image_top_p
        )
    )
    command, part = list(COMMAND_LINE.get()), parse_shard(shard)
    settings = Settings(chosen.name, command, decoding, batch_size, part, workers)
    kind = common.detector_name(detector, chosen.detector)
    options = common.model_options(dtype, device, device_map, model_args, **common.server_options(model, request_json))
    processes = join_processes()
    where = options.pop("device") or processes.device or common.default_device()
    found = scan_folder(images, vocabulary, asked, samples) if images is not None else None
    for note in found.notes if found else ():
        sys.stderr.write(f"armor-eval: {note}\n")
    adapter = (
        drawn_elsewhere(found)
        if found
        else registry.load(model, chosen.name, does=DrawsImages, own_device=where, **options)
    )
    given = found.prompts if found else asked or own_prompts(vocabulary)
    judge, colors = load_judges(
        given, vocabulary, kind, detector_weights, clip_weights, download, where, detector_batch
    )
    task_of = partial(GenEvalTask, given, judge, colors, images=found, samples=samples, limit=limit, seed=seed)
    tasks = [
        Named(f"geneval{suffix}", task_of(drawn_from=at, overlays=overlays), settings)
        for at, suffix in common.suffixes(seed, repeats)
    ]
    of_file = [] if prompts is None else [common.short_name(prompts.stem)]
    default = common.drawn_name(adapter.info.name, chosen.name, limit, seed, *of_file) + common.shard_name(shard)

    def folder(run: str) -> Path:
        beside = Path("runs") / "geneval" / f"{default}{run.removeprefix('geneval')}"
        return beside if out is None else run_folder(out, run)

    try:
        done = evaluate(
            adapter, tasks, folder, processes=processes, progress=common.bars(processes.first and not json_output)
        )
    finally:
        adapter.close()
    common.finish(done, show, as_text=not json_output, shard=shard)


@geneval.command("prompts")
def print_prompts(profile: Annotated[str, typer.Option(help="official (553) or shapes (144).")] = "official") -> None:
    """Print the prompts as JSON lines; the official ones byte for byte as published.

    armor-eval geneval prompts --profile official
    """
    from armor_eval.profiles import choose_profile
    from armor_eval.tasks.geneval.prompts import load_vocabulary, own_prompts, to_jsonl

    vocabulary = load_vocabulary(choose_profile(profile, None).name)
    sys.stdout.write(to_jsonl(own_prompts(vocabulary).records))


@geneval.command("score")
def score_detections(
    detections: Annotated[Path, typer.Option(help="Stored detections, one JSON object an image.")],
    threshold: Annotated[
        float, typer.Option(min=0, max=1, callback=common.finite, help="A detection counts if its score is above.")
    ] = 0.3,
    counting_threshold: Annotated[
        float, typer.Option(min=0, max=1, callback=common.finite, help="The same for counting prompts.")
    ] = 0.9,
    max_objects: Annotated[int, typer.Option(min=1, help="Detections kept a class.")] = 16,
    position_threshold: Annotated[
        float, typer.Option(min=0, callback=common.finite, help="Share of sizes that is no relation.")
    ] = 0.1,
) -> None:
    """Judge stored detections, or the official evaluator's results, again: a JSON line an image with `correct` and
    `reason`; the summary goes to stderr.

    armor-eval geneval score --detections runs/geneval/NAME/detections.jsonl --threshold 0.4
    """
    from armor_eval.tasks.geneval.detections import score_file
    from armor_eval.tasks.geneval.prompts import TASKS
    from armor_eval.tasks.geneval.verdicts import Rules

    rules = Rules(threshold, counting_threshold, max_objects, position_threshold)
    right: dict[str, list[bool]] = {}
    equal: dict[bool, list[bool]] = {True: [], False: []}
    for line in score_file(detections, rules):
        sys.stdout.write(json.dumps(line) + "\n")
        right.setdefault(line["tag"], []).append(line["correct"])
        if "recorded" in line:
            equal[line["from_boxes"]].append(line["recorded"] == line["correct"])
    if not right:
        raise UserError(f"{detections} holds no images", "give the detections.jsonl of a geneval run")
    means = {tag: sum(found) / len(found) for tag, found in right.items()}
    shown = ", ".join(f"{tag} {means[tag]:.3f} (n {len(right[tag])})" for tag in TASKS if tag in means)
    overall = f"; overall {sum(means.values()) / len(TASKS):.4f}" if len(means) == len(TASKS) else ""
    sys.stderr.write(f"{shown}{overall}\n")
    if boxes := equal[True]:
        sys.stderr.write(f"verdicts of the file that follow from its boxes: {sum(boxes)} of {len(boxes)} equal\n")
    if named := equal[False]:
        many = f"{sum(named)} of {len(named)}"
        sys.stderr.write(f"verdicts that need colours, rebuilt from its reasons: {many} consistent\n")


@geneval.command("train-detector")
def train_detector(
    out: Annotated[Path, typer.Option(help="Folder for the weights and their card.")],
    steps: Annotated[int, typer.Option(min=1, help="Of 16 images each.")] = 2300,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, scenes and order.")] = 0,
) -> None:
    """Train the embedded detector on renders of the shapes world: about 15 CPU-minutes on one thread.

    armor-eval geneval train-detector --steps 2300 --out runs/detector
    """
    from armor_eval.profiles import EMBEDDED, profile_of
    from armor_model.base.files import make_folder

    make_folder(out)
    trainer = profile_of(EMBEDDED).part("train_detector")
    trainer.train_and_save(out, trainer.Recipe(steps=steps, seed=seed))


def load_judges(
    given: PromptSet,
    vocabulary: Vocabulary,
    kind: str,
    detector_weights: Path | None,
    clip_weights: Path | None,
    download: bool,
    where: str,
    batch: int | None,
) -> tuple[GenEvalDetector, ColorJudge | None]:
    """(detector, colour judge or None where no prompt names a colour)."""
    from armor_eval.tasks.geneval.colors import load_colors
    from armor_eval.tasks.geneval.detectors import load_detector

    judge = load_detector(kind, vocabulary, weights=detector_weights, download=download, device=where, batch=batch)
    if not any(need.color for meta in given.metadata for need in meta.include):
        return judge, None
    return judge, load_colors(vocabulary, weights=clip_weights, download=download, device=where)


def refuse_drawing_options(context: typer.Context, images: Path | None) -> None:
    """UserError where images exist and an option of drawing was given."""
    if images is not None and (unused := [name for name in DRAWING if _given(context, name)]):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise UserError(f"--images judges images that exist: leave {options} out")


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def show(finished: Finished) -> None:
    from armor_eval.runs.protocols import declared, protocol_of

    run, scores = finished.run, finished.scores
    subset = ", a subset" if run.subset is not None else ""
    title = f"geneval - {run.model.name} - profile {run.profile}{subset}"
    table = common.Doc("geneval", title, "", ["", "score", "95 % interval", "images", "prompts"])
    for metric in sorted(scores.metrics, key=lambda m: (m.name.startswith("held-out"), m.name.endswith("overall"))):
        numbers = (common.value(metric), common.interval(metric), str(metric.n), str(metric.clusters))
        table.add([metric.name, *numbers])
    label = protocol_of(run)
    parts = ", ".join(f"{part} {value}" for part, value in label.items() if part != "protocol")
    table.notes = [*common.remarks(finished), f"protocol {label['protocol']}: {parts}"]
    if run.profile == "official":
        table.notes.append(f"GenEval's known limits: {'; '.join(declared().limits)}")
    table.notes += [m.note for m in scores.metrics if m.primary and m.note and m.value is not None]
    table.notes += run.extras.get("notes", [])
    timing = run.extras.get("timing", {})
    if timing.get("pictures"):
        parts = ", ".join(
            f"{k.removesuffix('_seconds')} {v:.1f} s" for k, v in timing.items() if k.endswith("_seconds")
        )
        rate, memory = timing["pictures_per_second"], run.peak_memory_bytes / 2**30
        table.notes.append(f"{rate:.1f} images a second ({parts}); peak memory {memory:.1f} GiB")
    table.notes.append(f"{finished.path} (images in images/, contact sheets in sheets/, detections.jsonl)")
    common.print_doc(common.console(), table)
