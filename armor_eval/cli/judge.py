"""`armor-eval judge`: grades of interleaved answers, and how good the judge is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from armor_eval.cli import common

if TYPE_CHECKING:
    from armor_eval.engine import Finished
    from armor_eval.report.doc import Doc
    from armor_eval.tasks.suites.calibrate import Calibration

judge = typer.Typer(no_args_is_help=True)


@judge.callback()
def root() -> None:
    """Judges of images: how far they can be trusted.

    armor-eval judge calibrate --judge RUN --against labels.jsonl
    """


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
    score corrected for the judge's errors (Rogan-Gladen).

    armor-eval judge calibrate --judge RUN --against labels.jsonl
    """
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


@judge.command("answers")
def answers(
    answers: Annotated[Path, typer.Option(help="JSON lines: id, question, answer, image (a path, a list, or empty).")],
    judge: Annotated[str, typer.Option(help="hf:ID, openai:URL#NAME or replies:FILE.")],
    rubric: Annotated[
        str, typer.Option(help="armor-rubric-v1; synjudge with --prompt; ueval-official or ueval-lmms-eval.")
    ] = "armor-rubric-v1",
    prompt: Annotated[
        Path | None, typer.Option(help="The judge's published words, where we may not ship them.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="UEval's questions with their rubrics.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/judged/...")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers judged together.")] = 16,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Grade answers of text and images that are there already: text, image, quality and synergy, 0 to 5. What is
    missing is 0 by rule, a reply that no rule reads is no grade and withholds the mean.

    armor-eval judge answers --answers answers.jsonl --judge hf:OWNER/JUDGE
    """
    from armor_eval.tasks.interleaved.judged import JudgedTask
    from armor_eval.tasks.interleaved.rubrics import RUBRICS, words_of
    from armor_eval.tasks.interleaved.ueval import PROTOCOLS, UEvalTask
    from armor_model.base.errors import UserError, unknown_name

    known = (*RUBRICS, *PROTOCOLS)
    if rubric not in known:
        raise unknown_name("rubric", rubric, known)
    if (rubric in PROTOCOLS) != (data is not None):
        raise UserError(
            f"{rubric} {'needs' if data is None else 'has no'} questions of its own", "--data FILE is UEval's only"
        )
    name = f"{answers.stem}-{rubric}"
    if data is not None:
        questions = data
        _grade(
            lambda grader: UEvalTask(answers, questions, rubric, prompt, grader),
            name,
            judge,
            out,
            batch_size,
            json_output,
        )
        return
    words, published = words_of(RUBRICS[rubric], prompt)
    _grade(
        lambda grader: JudgedTask(answers, RUBRICS[rubric], words, published, grader),
        name,
        judge,
        out,
        batch_size,
        json_output,
    )


@judge.command("pairs")
def pairs(
    answers: Annotated[Path, typer.Option(help="The candidate's answers, as of `judge answers`.")],
    against: Annotated[Path, typer.Option(help="Another model's answers to the same questions, by id.")],
    judge: Annotated[str, typer.Option(help="hf:ID, openai:URL#NAME or replies:FILE.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/judged/...")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs judged together.")] = 16,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Which of two models answers better with text and images? Each pair is judged in both orders; how often these
    agree, and how often the first answer wins, stand beside the wins.

    armor-eval judge pairs --answers a.jsonl --against b.jsonl --judge hf:OWNER/JUDGE
    """
    from armor_eval.tasks.interleaved.pairs import PairsTask

    name = f"{answers.stem}-against-{against.stem}"
    _grade(lambda grader: PairsTask(answers, against, grader), name, judge, out, batch_size, json_output)


def _grade(
    task_of: Callable[[Any], Any], name: str, judge: str, out: Path | None, batch_size: int, json_output: bool
) -> None:
    """Have a judge look at answers that are there already, and show what it says."""
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.engine import Settings, evaluate
    from armor_eval.models.base import Decoding
    from armor_eval.profiles import OFFICIAL
    from armor_eval.tasks.geneval.task import DrawnElsewhere
    from armor_eval.tasks.suites.judges import load_judge

    common.quiet_libraries()
    grader = load_judge(judge, OFFICIAL)
    try:
        task = task_of(grader)
        folder = out or Path("runs") / "judged" / f"{name}-{common.short_name(grader.info.name)}"
        settings = Settings(OFFICIAL, list(COMMAND_LINE.get()), Decoding(), batch_size)
        finished = evaluate(task, DrawnElsewhere(task.model), folder, settings)
    finally:
        grader.close()
    common.finish([one for one in [finished] if one is not None], _show_grades, as_text=not json_output, shard=None)


def _show_grades(done: Finished) -> None:
    out, run = common.console(), done.run
    against = f" against {run.extras['against']}" if "against" in run.extras else ""
    title = f"{run.benchmark} - {run.model.name}{against} - judged by {run.judge.name}"
    common.print_doc(out, common.metrics_doc(title, done.scores.metrics))
    given = ", ".join(f"{name} {count}" for name, count in sorted(run.extras.get("given", {}).items()))
    for line in [*([f"answers of: {given}"] if given else []), *common.remarks(done), str(done.path)]:
        out.print(line, markup=False, soft_wrap=True)


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
