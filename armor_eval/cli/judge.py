"""`armor-eval judge calibrate`: how good is the judge?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.cli import common

if TYPE_CHECKING:
    from armor_eval.report.doc import Doc
    from armor_eval.tasks.suites.calibrate import Calibration

judge = typer.Typer(no_args_is_help=True, help="Judges of images: how far they can be trusted.", rich_markup_mode=None)


@judge.callback()
def root() -> None:
    """Judges of images: how far they can be trusted."""


@judge.command("calibrate")
def calibrate(
    judge: Annotated[
        str,
        typer.Option(help="The judge's run (folder of draw or geneval), or hf:ID ...: asked about AGAINST's images."),
    ],
    against: Annotated[
        Path, typer.Option(help="Recorded verdicts: a run's folder, GenEval's annotations (.csv), or JSON lines.")
    ],
    score: Annotated[Path | None, typer.Option(help="Another run of the same judge, whose score is corrected.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="The suite's published file, where the judge is asked now.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the judge's new run lies, AGAINST-JUDGE in it.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Agreement of a judge with recorded official or human answers, by task, with intervals, Cohen's kappa, and the
    score corrected for the judge's errors (Rogan-Gladen)."""
    from armor_eval.tasks.suites.calibrate import as_json, read_truth
    from armor_eval.tasks.suites.calibrate import calibrate as hold

    common.quiet_libraries()
    truth = read_truth(against)
    folder = Path(judge) if Path(judge).is_dir() else _ask(judge, against, data or [], out)
    found = hold(folder, truth, score, seed)
    if json_output:
        common.write(as_json(found))
        return
    show(found)


def _ask(spec: str, against: Path, data: list[Path], out: Path | None) -> Path:
    """Have a judge look at the images of a suite's run, with the same questions; the folder of the new run."""
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.engine import Settings, evaluate
    from armor_eval.models.base import Decoding
    from armor_eval.runs.bundle import read_bundle, run_folder
    from armor_eval.tasks.geneval.layout import IMAGES
    from armor_eval.tasks.suites.declare import of_run
    from armor_eval.tasks.suites.files import read_data
    from armor_eval.tasks.suites.images import scan_images
    from armor_eval.tasks.suites.judges import load_judge
    from armor_eval.tasks.suites.task import SuiteTask, drawn_elsewhere
    from armor_model.base.errors import UserError

    if not against.is_dir():
        raise UserError(
            f"--judge {spec} is no folder, and {against} holds no images to ask it about",
            "judge the images first (armor-eval draw or geneval, --images DIR), then give that run with --judge",
        )
    run, items, _ = read_bundle(against)
    if run.kind != "suite":
        raise UserError(f"{against} holds no questions for {spec}", "expected the folder of a run of armor-eval draw")
    suite = of_run(run)
    read = read_data(suite, data, False)
    there = {item.id.rpartition("/")[0] for item in items}
    chosen = [at for at, item in enumerate(read.items) if item.id in there]
    samples = int(run.protocol["samples"])
    images = scan_images(against / IMAGES, suite, read.items, chosen, samples, None)
    asked = load_judge(spec, suite.profile)
    try:
        task = SuiteTask(suite, read, asked, chosen, images=images, subset=run.subset, samples=samples)
        name = f"{against.resolve().name}-{common.short_name(asked.info.name)}"
        folder = run_folder(out or against.resolve().parent, name)
        settings = Settings(suite.profile, list(COMMAND_LINE.get()), Decoding(), 16, None)
        evaluate(task, drawn_elsewhere(against / IMAGES, images.files), folder, settings)
    finally:
        asked.close()
    return folder


def show(found: Calibration) -> None:
    out = common.console()
    common.print_doc(out, _table(found))
    lost, unjudged = found.unmatched
    lines = [*found.notes]
    lines += [f"{lost} verdicts of the judge have no recorded one"] if lost else []
    lines += [f"{unjudged} recorded verdicts were not judged"] if unjudged else []
    lines += [f"{row.task}: corrected score {row.corrected.note}" for row in found.rows if row.corrected.note]
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def _table(found: Calibration) -> Doc:
    from armor_eval.report.doc import Doc

    head = [
        "task",
        "n",
        "agrees",
        "95 % interval",
        "kappa",
        "sens.",
        "spec.",
        "judge says",
        "corrected",
        "95 % interval",
    ]
    doc = Doc("calibration", f"{found.judge} against {found.truth}", "", head)
    for row in found.rows:
        rates = ["-" if rate is None else f"{100 * rate:.1f} %" for rate in (row.sensitivity, row.specificity)]
        doc.add(
            [
                row.task,
                str(row.pairs),
                common.value(row.agreement),
                common.interval(row.agreement),
                common.value(row.kappa),
                *rates,
                f"{row.seen:.1f} %",
                common.value(row.corrected),
                common.interval(row.corrected),
            ]
        )
    return doc
