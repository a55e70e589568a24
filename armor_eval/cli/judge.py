"""`armor-eval judge`: grades of interleaved answers, and how good the judge is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.cli import common, judge_options
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
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
        Path | None,
        typer.Option(
            help="Recorded verdicts: a run's folder, GenEval's annotations (.csv), or JSON lines. Without: what the "
            "judge looks at when it compares answers of text and images."
        ),
    ] = None,
    score: Annotated[Path | None, typer.Option(help="Another run of the same judge, whose score is corrected.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="The suite's published file, where the judge is asked now.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the judge's new run lies: AGAINST-JUDGE in it, else the run itself.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    judge_dtype: judge_options.DType = None,
    judge_args: judge_options.Args = None,
    judge_json: judge_options.Json = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Agreement of a judge with recorded official or human answers, by task, with intervals, Cohen's kappa, and the
    score corrected for the judge's errors (Rogan-Gladen). Without --against: does it look at place, length or author
    of an answer, on a fixed set of pairs? What it looks at stands with every number of a run that is given the folder
    with --calibration.

    armor-eval judge calibrate --judge RUN --against labels.jsonl

    armor-eval judge calibrate --judge hf:OWNER/JUDGE --out runs/judge
    """
    from armor_eval.tasks.suites.calibrate import as_json, read_truth
    from armor_eval.tasks.suites.calibrate import calibrate as hold

    common.quiet_libraries()
    options = judge_options.judge_options(judge_dtype, judge_args, judge_json)
    if against is None:
        _look_at_leanings(judge, options, score is not None or bool(data), out, json_output)
        return
    truth = read_truth(against)
    if Path(judge).is_dir() and (data or out or any(options.values())):
        raise UserError(
            f"--judge {judge} is a run: its judge is not asked again", "leave --data, --out and --judge-... out"
        )
    folder = Path(judge) if Path(judge).is_dir() else _ask(judge, options, against, data or [], out)
    found = hold(folder, truth, score, seed)
    if json_output:
        common.write(as_json(found))
        return
    show(found)


def _look_at_leanings(spec: str, options: JsonObject, more: bool, out: Path | None, json_output: bool) -> None:
    """Have a judge compare the pairs of the fixed set."""
    from armor_eval.cli import judging
    from armor_eval.runs.comparable import HONESTY
    from armor_eval.tasks.interleaved.honesty import HonestyTask

    if more or Path(spec).is_dir():
        raise UserError("nothing to hold the judge against", "give --against, or a judge (hf:ID ...) and nothing else")
    finished = judging.run(
        lambda judge: HonestyTask(judge, spec),
        spec,
        options,
        lambda name: out or Path("runs") / "judges" / f"{HONESTY}-{name}",
        batch_size=16,
    )
    common.finish([finished], judging.show, as_text=not json_output, shard=None)


def _ask(spec: str, options: JsonObject, against: Path, data: list[Path], out: Path | None) -> Path:
    """Have a judge look at the images of a suite's run, with the same questions; the folder of the new run."""
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.engine import Settings, evaluate
    from armor_eval.models.base import Decoding
    from armor_eval.runs.bundle import read_bundle, run_folder
    from armor_eval.tasks.drawn import IMAGES, drawn_elsewhere
    from armor_eval.tasks.suites.declare import of_run, read_data
    from armor_eval.tasks.suites.images import scan_images
    from armor_eval.tasks.suites.judges import load_judge
    from armor_eval.tasks.suites.task import SuiteTask

    if not against.is_dir():
        raise UserError(
            f"--judge {spec} is no folder, and {against} holds no images to ask it about",
            "judge the images first (armor-eval draw or geneval, --images DIR), then give that run with --judge",
        )
    run, items, _ = read_bundle(against)
    if run.kind != "suite":
        how = "expected the folder of a run of armor-eval draw"
        if run.kind == "interleaved":
            how = f"judge its answers (armor-eval judge answers --answers {against}), then give that run with --judge"
        raise UserError(f"{against} holds no questions for {spec}", how)
    suite = of_run(run)
    read = read_data(suite, data, False)
    there = {item.id.rpartition("/")[0] for item in items}
    chosen = [at for at, item in enumerate(read.items) if item.id in there]
    samples = int(run.protocol["samples"])
    images = scan_images(against / IMAGES, suite, read.items, chosen, samples, None)
    asked = load_judge(spec, suite.profile, **options)
    try:
        task = SuiteTask(suite, read, asked, chosen, images=images, subset=run.subset, samples=samples)
        name = f"{against.resolve().name}-{common.short_name(asked.info.name)}"
        folder = run_folder(out or against.resolve().parent, name)
        settings = Settings(suite.profile, list(COMMAND_LINE.get()), Decoding(), 16, None)
        evaluate(task, drawn_elsewhere(images), folder, settings)
    finally:
        asked.close()
    return folder


Answers = Annotated[
    Path,
    typer.Option(
        "--answers",
        help="JSON lines (id, question, answer, image: a path, a list, or empty), a run of interleaved or modality, or "
        "OpenING's MODEL_output folder.",
    ),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Published questions: UEval's with their rubrics, OpenING's with images.")
]
Grader = Annotated[str, typer.Option("--judge", help="hf:ID, openai:URL#NAME or replies:FILE.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run; default runs/judged/...")]


@judge.command("answers")
def answers(
    answers: Answers,
    judge: Grader,
    rubric: judge_options.Rubric = "armor-rubric-v1",
    prompt: judge_options.Words = None,
    data: Data = None,
    calibration: judge_options.Known = None,
    judge_dtype: judge_options.DType = None,
    judge_args: judge_options.Args = None,
    judge_json: judge_options.Json = None,
    out: Out = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers judged together.")] = 16,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Grade answers of text and images that are there already, each dimension of the rubric on its scale. What is
    missing is 0 by rule, a reply that no rule reads is no grade and withholds the mean.

    armor-eval judge answers --answers answers.jsonl --judge hf:OWNER/JUDGE
    """
    from armor_eval.cli import judging
    from armor_eval.tasks.interleaved.answers import read_answers

    common.quiet_libraries()
    options = judge_options.judge_options(judge_dtype, judge_args, judge_json)
    judging.check_grading(judge, rubric, prompt, data, calibration, options)
    read = read_answers(answers, questions=rubric not in judging.PROTOCOLS, data=data)
    finished = judging.run(
        lambda grader: judging.graded(read, rubric, prompt, data, calibration, grader),
        judge,
        options,
        lambda name: out or Path("runs") / "judged" / f"{_name(answers)}-{rubric}-{name}",
        batch_size,
    )
    common.finish([finished], judging.show, as_text=not json_output, shard=None)


@judge.command("pairs")
def pairs(
    answers: Answers,
    against: Annotated[Path, typer.Option(help="Another model's answers to the same questions, by id.")],
    judge: Grader,
    data: Data = None,
    calibration: judge_options.Known = None,
    judge_dtype: judge_options.DType = None,
    judge_args: judge_options.Args = None,
    judge_json: judge_options.Json = None,
    out: Out = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs judged together.")] = 16,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Which of two models answers better with text and images? Each pair is judged in both orders; how often these
    agree, and how often the first answer wins, stand beside the wins.

    armor-eval judge pairs --answers a.jsonl --against b.jsonl --judge hf:OWNER/JUDGE
    """
    from armor_eval.cli import judging
    from armor_eval.tasks.interleaved.answers import read_answers
    from armor_eval.tasks.interleaved.pairs import PairsTask

    common.quiet_libraries()
    ours, theirs = (read_answers(path, data=data) for path in (answers, against))
    finished = judging.run(
        lambda grader: PairsTask(ours, theirs, grader, judging.known_of(calibration, grader)),
        judge,
        judge_options.judge_options(judge_dtype, judge_args, judge_json),
        lambda name: out or Path("runs") / "judged" / f"{_name(answers)}-against-{_name(against)}-{name}",
        batch_size,
    )
    common.finish([finished], judging.show, as_text=not json_output, shard=None)


@judge.command("winners")
def winners(
    verdicts: Annotated[Path, typer.Argument(help="OpenING's file: a list of data_id, model_A, model_B, winner.")],
    against: Annotated[
        Path | None, typer.Option(help="Another judge's, or people's, of the same pairs: how far they agree.")
    ] = None,
    ties: Annotated[
        str, typer.Option(help="letter (a tie is for the one in its brackets), without, loss (for neither), half.")
    ] = "letter",
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Win rates of recorded pairwise verdicts, how often the first answer wins, and agreement with another judge;
    intervals resample the questions. Verdicts that are none are counted, and stand in no number.

    armor-eval judge winners intjudge_results.json --against people_results.json
    """
    from armor_eval.stats.pairwise import joined, says_first, unknown, win_rates
    from armor_eval.tasks.interleaved.pairs import TIES, read_winners
    from armor_model.base.errors import unknown_name

    if ties not in TIES:
        raise unknown_name("rule of ties", ties, TIES)
    battles = read_winners(verdicts)
    rates, odd = win_rates(battles, TIES[ties]), unknown(battles)
    place = says_first(battles)
    if not rates or place is None:
        raise UserError(f"{verdicts} holds no verdict that counts", "expected winner: A, B, Tie(A) or Tie(B)")
    both = joined(battles, read_winners(against)) if against is not None else None
    if both is not None and both.agreement is None:
        raise UserError(f"{verdicts} and {against} have no pair in common", "pairs go by data_id and the models' names")
    agreement = [both.agreement] if both is not None and both.agreement is not None else []
    metrics = [*rates.values(), place, *agreement]
    if json_output:
        more = {"no_verdict": odd, "missing": None if both is None else both.missing}
        common.write(json.dumps({"metrics": [metric.model_dump() for metric in metrics], **more}, indent=1))
        return
    out = common.console()
    common.print_doc(out, common.metrics_doc(f"{verdicts.name}, ties: {ties}", metrics))
    lines = [f"no verdict: {count} x {text!r}" for text, count in sorted(odd.items())]
    lines += [f"{both.missing} pairs are not judged by both"] if both is not None and both.missing else []
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def _name(answers: Path) -> str:
    """What a run of these answers is called after."""
    return common.short_name(answers.resolve().stem)


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
