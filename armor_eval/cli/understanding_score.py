"""`armor-eval understanding score`: a file of answers that exists already, scored without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from armor_model.base.errors import UserError

Thoughts = Annotated[
    str | None, typer.Option(help="<think>...</think>: strip (default) cuts it from what is scored, keep does not.")
]
ReadAs = Annotated[
    str, typer.Option(help="keep-none (`None`, `NA` ... are text) or vlmeval (lost, as VLMEvalKit 0.0.20 does).")
]
Judged = Annotated[str | None, typer.Option(help="openai:URL#NAME (its key: OPENAI_API_KEY) or hf:ID.")]
JudgeUrl = Annotated[str | None, typer.Option(help="With --judge-model the same as --judge openai:URL#MODEL.")]


def score_file(
    bench: Annotated[str, typer.Option("--bench", help="Benchmark that the answers are to.")],
    predictions: Annotated[
        Path,
        typer.Option(help="VLMEvalKit's xlsx/tsv/json, LLaVA's, lm-eval's or plain JSONL, MMMU's or MME's folder."),
    ],
    data: Annotated[Path | None, typer.Option(help="The TSV, or a folder of them; default $LMUData.")] = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option(help="Instead of a TSV: the benchmark's own question file (repeat where it has several)."),
    ] = None,
    profile: Annotated[str, typer.Option(help="official, or shapes (embedded).")] = "official",
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/understanding/...")] = None,
    model_name: Annotated[str | None, typer.Option(help="Who answered, for tables; default: the file's name.")] = None,
    thinking: Thoughts = None,
    reading: ReadAs = "keep-none",
    judging: Annotated[int | None, typer.Option(min=1, help="Which of several recorded judgings.")] = None,
    judge: Judged = None,
    judge_url: JudgeUrl = None,
    judge_model: Annotated[
        str | None, typer.Option(help="The judge's model name; without --judge-url: of who gave the recorded replies.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Score a file of answers that exists already: counted, joined to the benchmark's rows, and no model asked.

    Exit codes: 0 done, 1 where rows lack an answer or the headline is withheld, 2 wrong input.

    armor-eval understanding score --bench MMB --predictions answers.xlsx --data DIR
    """
    from armor_eval.cli import COMMAND_LINE, common
    from armor_eval.cli.understanding import check_reading, check_thinking
    from armor_eval.profiles import choose_profile
    from armor_eval.runs.bundle import run_folder
    from armor_eval.tasks.understanding.declare import choose
    from armor_eval.tasks.understanding.judge import judge_spec, make_judges
    from armor_eval.tasks.understanding.predictions.score import Source, score_predictions

    common.quiet_libraries()
    benchmarks = choose([bench])
    if len(benchmarks) != 1:
        raise UserError(f"--bench {bench}: a file holds the answers to one benchmark", "name one, see armor-eval list")
    benchmark = benchmarks[0]
    source = Source(
        benchmark,
        predictions,
        data,
        tuple(questions or ()),
        choose_profile(profile, None).name,
        model_name,
        check_thinking(thinking),
        check_reading(reading),
        list(COMMAND_LINE.get()),
        judging,
        judge_model,
    )
    asked = None
    if judge is not None or judge_url is not None:
        spec = judge_spec(judge, judge_url, judge_model)
        asked = make_judges(source.profile, spec, benchmarks)[benchmark.name]
    default = Path("runs") / "understanding" / f"{common.short_name(source.name)}-predictions" / source.variant
    folder = default if out is None else run_folder(out, benchmark.name)
    try:
        with common.progress_bar(benchmark.name, not json_output) as progress:
            finished = score_predictions(source, folder, asked, progress)
    finally:
        if asked is not None:
            asked.close()
    common.finish([finished], lambda one: common.print_scores([one]), as_text=not json_output, shard=None)
