"""`armor-eval understanding`: the benchmarks of the paper's Table 2, through VLMEvalKit's data formats and scoring."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.errors import UserError

if TYPE_CHECKING:
    from armor_eval.understanding.declare import Benchmark
    from armor_eval.understanding.judge import Judge
    from armor_eval.understanding.run import Settings

LONGEST_ANSWER = {"official": 4096, "shapes": 64}
"""InternVL's protocol; the shapes world has no answer beyond a few dozen words."""


def understanding(
    bench: Annotated[list[str], typer.Option("--bench", help="Benchmark, several (repeat or commas), or `all`.")],
    model: Annotated[str | None, typer.Option(help="Folder of a checkpoint, or KIND:NAME; default armor-nano.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="shapes (embedded) or official; default: shapes for armor-nano, else official.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N units (groups, pairs ...), seeded.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/understanding/...")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the official TSV files; default $LMUData.")] = None,
    any_data: Annotated[bool, typer.Option("--any-data", help="Accept a TSV that is not the published one.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions a batch.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the subset of --limit.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; default 4096, shapes 64.")] = None,
    mask_imgbos: Annotated[bool, typer.Option("--mask-imgbos", help="Forbid drawing while answering.")] = False,
    blind: Annotated[bool, typer.Option("--blind", help="Leave the pictures out: a baseline.")] = False,
    judge_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint of a judge; its key comes from OPENAI_API_KEY.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's model name.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print runs and scores as JSON.")] = False,
) -> None:
    """Measure understanding. The same command again resumes an interrupted run, or shows a finished one."""
    from armor_eval.cli import common
    from armor_eval.models import registry
    from armor_eval.models.base import AnswersQuestions, Decoding
    from armor_eval.understanding.declare import choose
    from armor_eval.understanding.run import Settings, run_benchmark

    common.quiet_libraries()
    benchmarks = choose(bench)
    if not benchmarks:
        raise UserError("--bench names nothing", "see armor-eval list")
    chosen = check_profile(profile, model)
    settings = Settings(
        profile=chosen,
        command=["armor-eval", *sys.argv[1:]],
        decoding=Decoding(max_new_tokens=max_new_tokens or LONGEST_ANSWER[chosen], mask_imgbos=mask_imgbos),
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        data=data,
        any_data=any_data,
        blind=blind,
    )
    judges = make_judges(chosen, judge_url, judge_model, benchmarks)
    adapter = registry.load(model, chosen)
    if not isinstance(adapter, AnswersQuestions):
        raise UserError(f"{adapter.info.name} cannot answer questions", "see armor-eval list")
    finished = []
    try:
        for benchmark in benchmarks:
            folder = out_folder(out, benchmark.name, len(benchmarks) > 1, adapter.info.name, settings)
            with common.progress_bar(benchmark.name, not json_output) as progress:
                judge = judges.get(benchmark.name)
                finished.append(run_benchmark(benchmark, adapter, folder, settings, judge=judge, progress=progress))
    finally:
        adapter.close()
        for judge in judges.values():
            judge.close()
    if json_output:
        common.write(common.as_json(finished))
    else:
        common.print_scores(finished)
    if any(one.run.status != "complete" for one in finished):
        raise typer.Exit(1)


def check_profile(profile: str | None, model: str | None) -> str:
    """The profile by name, or the model's default."""
    from armor_eval.errors import unknown_name
    from armor_eval.models.registry import default_profile

    if profile is None:
        return default_profile(model)
    if profile not in ("shapes", "official"):
        raise unknown_name("profile", profile, ["shapes", "official"])
    return profile


def make_judges(profile: str, url: str | None, name: str | None, benchmarks: list[Benchmark]) -> dict[str, Judge]:
    """Benchmark name -> judge: the endpoint for all if one is given, else the shapes world's rules for free text.

    UserError before anything is asked where a benchmark cannot be scored.
    """
    if (url is None) != (name is None):
        raise UserError("a judge needs both --judge-url and --judge-model")
    if url is not None:
        from armor_eval.models.endpoint import Endpoint
        from armor_eval.understanding.data import cache_dir
        from armor_eval.understanding.judge import EndpointJudge

        judge = EndpointJudge(Endpoint(url, name), cache_dir() / "judge")
        return {b.name: judge for b in benchmarks}
    free = [b.name for b in benchmarks if b.judge == "required"]
    if profile == "official":
        if free:
            raise UserError(
                f"{' and '.join(free)} need a judge", "give --judge-url and --judge-model, or leave them out of --bench"
            )
        return {}
    from armor_eval.understanding.judge import RuleJudge

    return {name: RuleJudge() for name in free}


def out_folder(out: Path | None, bench: str, several: bool, model: str, settings: Settings) -> Path:
    """The bundle's folder: `--out` itself for one benchmark, a folder under it for each of several.

    The default depends on what is measured alone, so that the same command finds its own run again.
    """
    from armor_eval.cli.common import short_name

    if out is not None:
        return out / bench if several else out
    name = bench
    if settings.limit is not None:
        name += f"-limit{settings.limit}-seed{settings.seed}"
    if settings.blind:
        name += "-blind"
    return Path("runs") / "understanding" / f"{short_name(model)}-{settings.profile}" / name
