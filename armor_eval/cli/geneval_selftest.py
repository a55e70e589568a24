"""`armor-eval geneval selftest`: do detector and colours see on this machine what was recorded, or what people saw?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.cli import common
from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from armor_eval.tasks.geneval.colors import ColorJudge
    from armor_eval.tasks.geneval.detectors import Detector
    from armor_eval.tasks.geneval.prompts import Vocabulary
    from armor_eval.tasks.geneval.selftest import Drift, Reference


def selftest(
    profile: Annotated[
        str | None, typer.Option(help="official, or shapes (the embedded detector), the default.")
    ] = None,
    detector: Annotated[str | None, typer.Option(help="As in geneval; default by profile.")] = None,
    detector_weights: Annotated[Path | None, typer.Option(help="Mask2Former checkpoint, mmdet 2.x or 3.x.")] = None,
    clip_weights: Annotated[Path | None, typer.Option(help="OpenAI's ViT-L-14.pt, or as safetensors.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch missing weights into the cache.")] = False,
    detector_batch: Annotated[int | None, typer.Option(min=1, help="Images a detector pass; default 8, 32.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: what there is.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Store what is seen as these weights' reference.")] = False,
    reference: Annotated[Path | None, typer.Option(help="Its file; default: in the cache, by weights.")] = None,
    people: Annotated[
        Path | None, typer.Option(help="GenEval's annotations_*.csv: agreement with people, instead. Needs --images.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="What they looked at: NNNNN/samples/NNNNN.png.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of that run; default runs/geneval/selftest-people.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was seen as JSON.")] = False,
) -> None:
    """Do detector and colours see on this machine what was recorded? Images of our own are run through them. With
    --people, how well they agree with people on the 400 images of a source.

    Exit codes: 0 they see the same, 1 they drift, 2 wrong input.

    armor-eval geneval selftest --profile shapes
    """
    from armor_eval.profiles import choose_profile
    from armor_eval.tasks.geneval import selftest as test
    from armor_eval.tasks.geneval.colors import load_colors
    from armor_eval.tasks.geneval.detectors import load_detector
    from armor_eval.tasks.geneval.prompts import load_vocabulary
    from armor_eval.tasks.geneval.verdicts import Rules

    common.quiet_libraries()
    if (people is None) != (images is None):
        raise UserError(
            "people's answers are held against the images that they looked at", "give --people and --images"
        )
    chosen = choose_profile(profile if people is None else profile or "official", None)
    vocabulary = load_vocabulary(chosen.name)
    kind = common.detector_name(detector, chosen.detector)
    if device is not None:
        from armor_model.base.devices import check_device

        check_device(device)
    where = device or common.default_device()
    judge = load_detector(
        kind, vocabulary, weights=detector_weights, download=download, device=where, batch=detector_batch
    )
    colors = load_colors(vocabulary, weights=clip_weights, download=download, device=where)
    if people is not None and images is not None:
        judge.self_check(Rules())
        return _against_people(people, images, vocabulary, judge, colors, out, json_output)
    path = reference or test.path_for({**judge.settings, **(colors.settings if colors else {})})
    if record and path == test.COMMITTED:
        raise UserError(f"the {kind} detector's reference comes with the program", "give a file as --reference")
    seen = test.look(judge, colors, vocabulary, where)
    then = None if record else test.read_reference(path, seen)
    if then is None:
        judge.self_check(Rules())
        test.write_reference(path, seen)
        sys.stderr.write(f"armor-eval: recorded {len(seen.images)} images on {where}: {path}\n")
        return
    drifts = test.compare(seen, then)
    if json_output:
        problems = {one.name: one.problems for one in drifts}
        common.write(json.dumps({"seen": seen.model_dump(mode="json"), "problems": problems}, indent=1))
    else:
        _show_drift(drifts, then, where, path)
    if any(one.problems for one in drifts):
        raise typer.Exit(1)
    judge.self_check(Rules())


def _against_people(
    people: Path,
    images: Path,
    vocabulary: Vocabulary,
    judge: Detector,
    colors: ColorJudge | None,
    out: Path | None,
    json_output: bool,
) -> None:
    """Judge the images that people looked at, into a run, and hold the verdicts against theirs."""
    from armor_eval import Named, evaluate
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.cli.judge import show as show_agreement
    from armor_eval.engine import Settings
    from armor_eval.runs.bundle import run_folder
    from armor_eval.tasks.drawn import drawn_elsewhere
    from armor_eval.tasks.geneval.folders import ImageFolder, sample_path
    from armor_eval.tasks.geneval.prompts import own_prompts
    from armor_eval.tasks.geneval.task import GenEvalTask
    from armor_eval.tasks.suites.calibrate import as_json, calibrate, read_truth

    truth = read_truth(people)
    files = {(one.prompt, one.sample): images / sample_path(one.prompt, one.sample) for one in truth.people}
    there = {pair: file for pair, file in files.items() if file.is_file()}
    if not there:
        raise UserError(f"{images} holds none of the {len(files)} images of {people.name}", "NNNNN/samples/NNNNN.png")
    found = ImageFolder(images, own_prompts(vocabulary), there)  # published without metadata: a number is its prompt
    task = GenEvalTask(found.prompts, judge, colors, images=found)
    settings = Settings(vocabulary.profile, list(COMMAND_LINE.get()))
    folder = run_folder(out or Path("runs") / "geneval" / "selftest-people", people.stem)
    shown = common.bars(not json_output)
    evaluate(drawn_elsewhere(found), [Named("geneval", task, settings)], lambda _: folder, progress=shown)
    agreement = calibrate(folder, truth)
    common.write(as_json(agreement)) if json_output else show_agreement(agreement)


def _show_drift(drifts: Sequence[Drift], then: Reference, where: str, path: Path) -> None:
    from armor_eval.tasks.geneval.verdicts import Rules

    threshold = Rules().threshold
    title = f"geneval selftest - {then.settings['detector']} on {where}"
    table = common.Doc(
        "selftest", title, "", ["image", "seen", "recorded", "score differs by", "verdict"], text_columns=3
    )
    for one in drifts:
        cells = [", ".join(f"{n} {c}" for c, n in s.counts(threshold).items()) or "-" for s in (one.now, one.then)]
        table.add([one.name, *cells, f"{one.score:.1e}", "DRIFT" if one.problems else "as recorded"])
    table.notes = [f"{one.name}: {problem}" for one in drifts for problem in one.problems]
    kept, worst = sum(not one.problems for one in drifts), max(one.score for one in drifts)
    words = f"{kept} of {len(drifts)} images as recorded, largest score difference {worst:.1e}"
    table.notes.append(f"{words}; reference of {then.device}: {path}")
    common.print_doc(common.console(), table)
