"""`armor-eval draw`: suites of prompts and questions, drawn or taken from a folder, and judged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from armor_eval.cli import common, geneval, judge_options
from armor_model.base.cli import only_given
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from armor_eval.engine import Finished, Task
    from armor_eval.runs.schema import Profile
    from armor_eval.tasks.suites.declare import Suite


def draw(
    context: typer.Context,
    suite: Annotated[list[str], typer.Option(help="A name, several with commas, or ./FILE.toml; see armor-eval list.")],
    model: Annotated[str | None, typer.Option(help="Folder of a checkpoint, or KIND:NAME; default armor-nano.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="hf:ID, openai:URL#NAME, replies:FILE, mplug; default: the suite's, if it has one."),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="A suite's published file, or a folder that holds it; repeat for several.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Judge images that exist; of several suites those in DIR/SUITE, or else in DIR.")
    ] = None,
    resolution: Annotated[int | None, typer.Option(min=1, help="Side of one image in a grid, in pixels (DPG).")] = None,
    profile: Annotated[str | None, typer.Option(help="Of the suite geneval: shapes or official.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch missing files into the cache.")] = False,
    samples: Annotated[int | None, typer.Option(min=1, help="Images a prompt; default: the suite's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N prompts, spread over the groups, seeded.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Base of every image's own seed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs, OUT/SUITE each; default runs/draw/...")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn and judged together.")] = 16,
    device: geneval.Compute = None,
    dtype: common.DType = None,
    device_map: common.DeviceMap = None,
    model_args: common.ModelArgs = None,
    request_json: common.RequestJson = None,
    repeats: common.Repeats = 1,
    judge_dtype: judge_options.DType = None,
    judge_args: judge_options.Args = None,
    judge_json: judge_options.Json = None,
    shard: common.Shard = None,
    workers: common.Workers = None,
    guidance: geneval.Guidance = None,
    image_temperature: common.ImageTemperature = None,
    image_top_k: geneval.ImageTopK = None,
    image_top_p: geneval.ImageTopP = None,
    detector: geneval.Detector = None,
    detector_weights: geneval.DetectorWeights = None,
    clip_weights: geneval.ClipWeights = None,
    detector_batch: geneval.DetectorBatch = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print runs and scores as JSON.")] = False,
) -> None:
    """Measure drawing by one or several suites; models and judges are loaded once. The same command again resumes an
    interrupted run, or shows a finished one.

    armor-eval draw --suite shapes-vqa --limit 20

    armor-eval draw --suite dpg --data DIR --model hf:OWNER/NAME --judge hf:OWNER/JUDGE
    """
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.engine import Settings, evaluate, join_processes
    from armor_eval.models.base import Decoding
    from armor_eval.runs.bundle import run_folder
    from armor_eval.runs.merge import parse_shard
    from armor_eval.tasks.suites.declare import choose

    common.quiet_libraries()
    geneval.refuse_drawing_options(context, images)
    common.check_repeats(repeats, image_temperature, images)
    chosen = choose(suite)
    decoding = Decoding(
        **only_given(
            guidance=guidance, image_temperature=image_temperature, image_top_k=image_top_k, image_top_p=image_top_p
        )
    )
    command, part, processes = list(COMMAND_LINE.get()), parse_shard(shard), join_processes()
    options = common.model_options(dtype, device, device_map, model_args, **common.server_options(model, request_json))
    where = options.pop("device") or processes.device or common.default_device()
    judging = {"device": where, **judge_options.judge_options(judge_dtype, judge_args, judge_json)}
    plan = _Plan(
        model,
        options,
        where,
        data or [],
        download,
        images,
        resolution,
        samples,
        limit,
        seed,
        profile,
        judge,
        judging,
        (detector, detector_weights, clip_weights, detector_batch),
        len(chosen) > 1,
    )
    finished: list[Finished] = []
    try:
        tasks = [plan.task(one) for one in chosen]  # every file is checked before the first image is drawn
        for at, suffix in common.suffixes(seed, repeats):
            for name, task_of, adapter, run_profile in tasks:
                settings = Settings(run_profile, command, decoding, batch_size, part, workers)
                default = Path("runs") / "draw" / common.drawn_name(adapter.info.name, run_profile, limit, seed)
                folder = run_folder(default if out is None else out, name + common.shard_name(shard) + suffix)
                with common.progress_bar(name + suffix, not json_output and processes.first) as progress:
                    done = evaluate(task_of(at), adapter, folder, settings, processes=processes, progress=progress)
                if done is not None:
                    finished.append(done)
    finally:
        plan.close()
    common.finish(finished, _show, as_text=not json_output, shard=shard, repeats=repeats > 1)


@dataclass
class _Plan:
    """What the suites of one command share: the model and the judge, each loaded once."""

    model: str | None
    options: JsonObject
    """Of the model."""
    where: str
    """Device of judges, and of the model where none was asked for."""
    data: list[Path]
    download: bool
    images: Path | None
    resolution: int | None
    samples: int | None
    limit: int | None
    seed: int
    profile: str | None
    judge: str | None
    judge_options: JsonObject
    detecting: tuple[Any, ...]
    """(detector, its weights, colour classifier's weights, batch), as asked for."""
    several: bool
    _adapter: Any = None
    _judges: JsonObject = field(default_factory=dict)

    def task(self, suite: Suite | str) -> tuple[str, Callable[[int], Task], Any, Any]:
        """(the run's name, task by the seed of its images, model or what stands for it, profile) of a suite."""
        if isinstance(suite, str):
            return self._geneval()
        from armor_eval.models.base import DrawsImages, RespondsFreely
        from armor_eval.tasks.drawn import choose_prompts, drawn_elsewhere
        from armor_eval.tasks.suites.declare import read_data
        from armor_eval.tasks.suites.images import scan_images
        from armor_eval.tasks.suites.task import SuiteTask

        with common.byte_bar(suite.name, self.download) as progress:
            items = read_data(suite, self.data, self.download, progress)
        samples = self.samples or suite.samples
        chosen, subset = choose_prompts([item.group for item in items.items], self.limit, self.seed, samples)
        found = None
        if (root := self._folder(suite.name)) is not None:
            found = scan_images(root, suite, items.items, chosen, samples, self.resolution)
            adapter = drawn_elsewhere(found)
        else:
            edits = any(item.sources for item in items.items)
            adapter = self._load(suite.profile, RespondsFreely if edits else DrawsImages)
        judge = self._judge_of(suite)

        def task_of(seed: int) -> SuiteTask:
            return SuiteTask(suite, items, judge, chosen, images=found, subset=subset, samples=samples, seed=seed)

        return task_of(self.seed).name, task_of, adapter, suite.profile

    def _geneval(self) -> tuple[str, Callable[[int], Task], Any, Any]:
        """The same run as `armor-eval geneval`."""
        from armor_eval.models.base import DrawsImages
        from armor_eval.profiles import choose_profile
        from armor_eval.tasks.drawn import drawn_elsewhere
        from armor_eval.tasks.geneval.folders import scan_folder
        from armor_eval.tasks.geneval.prompts import load_vocabulary, own_prompts
        from armor_eval.tasks.geneval.task import GenEvalTask

        root, samples = self._folder("geneval"), self.samples or 4
        chosen = choose_profile(self.profile, self.model if root is None else "images")
        vocabulary = load_vocabulary(chosen.name)
        detector, weights, clip, batch = self.detecting
        kind = common.detector_name(detector, chosen.detector)
        found = scan_folder(root, vocabulary, None, samples) if root is not None else None
        for note in found.notes if found else ():
            sys.stderr.write(f"armor-eval: {note}\n")
        adapter = drawn_elsewhere(found) if found else self._load(chosen.name, DrawsImages)
        given = found.prompts if found else own_prompts(vocabulary)
        judge, colors = geneval.load_judges(given, vocabulary, kind, weights, clip, self.download, self.where, batch)
        task_of = partial(GenEvalTask, given, judge, colors, images=found, samples=samples)
        return ("geneval", lambda at: task_of(limit=self.limit, seed=self.seed, drawn_from=at), adapter, chosen.name)

    def _folder(self, name: str) -> Path | None:
        """Where a suite's images lie: of several suites in a folder of the suite's name, if it is there."""
        own = self.images / name if self.images is not None and self.several else None
        return own if own is not None and own.is_dir() else self.images

    def _load(self, profile: Profile, does: type) -> Any:
        from armor_eval.models import registry

        if self._adapter is None:
            self._adapter = registry.load(self.model, profile, does=does, own_device=self.where, **self.options)
        return self._adapter

    def _judge_of(self, suite: Suite) -> Any:
        from armor_eval.tasks.suites.judges import load_judge, spec_for

        spec = spec_for(suite, self.judge, "--judge")
        if spec not in self._judges:
            self._judges[spec] = load_judge(spec, suite.profile, **self.judge_options)
        return self._judges[spec]

    def close(self) -> None:
        for one in (self._adapter, *self._judges.values()):
            if one is not None:
                one.close()


def _show(finished: Finished) -> None:
    if finished.run.kind == "geneval":
        return geneval.show(finished)
    run, scores = finished.run, finished.scores
    subset = ", a subset" if run.subset is not None else ""
    title = f"{run.benchmark} - {run.model.name} - judged by {run.judge.name}{subset}"
    doc = common.metrics_doc(title, sorted(scores.metrics, key=lambda metric: not metric.primary))
    lost = ", ".join(f"{count} {status}" for status, count in scores.counts.items() if status != "ok" and count)
    doc.notes = common.remarks(finished) + ([f"without a score: {lost}"] if lost else [])
    doc.notes += [f"golden numbers: {run.extras['proven']}"]
    doc.notes += [f"{finished.path} (images in images/, contact sheets in sheets/)"]
    common.print_doc(common.console(), doc)
