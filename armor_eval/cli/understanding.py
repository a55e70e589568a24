"""`armor-eval understanding`: the benchmarks of the paper's Table 2, through VLMEvalKit's data formats and scoring."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from armor_eval.cli import common
from armor_eval.cli.understanding_score import score_file
from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from armor_eval.engine import Finished, Processes, Settings
    from armor_eval.models.base import AnswersQuestions
    from armor_eval.runs.schema import Profile
    from armor_eval.tasks.understanding.cells import Reading
    from armor_eval.tasks.understanding.declare import Benchmark
    from armor_eval.tasks.understanding.judge import Judge
    from armor_eval.tasks.understanding.task import Options
    from armor_eval.tasks.understanding.thinking import Thinking


understanding = typer.Typer(no_args_is_help=False, add_completion=False, rich_markup_mode=None)
understanding.command("score")(score_file)


@understanding.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    bench: Annotated[
        list[str] | None,
        typer.Option("--bench", help="Benchmark, several (repeat or commas), `all`, or a FILE.toml of your own."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Folder of a checkpoint, or KIND:NAME; default armor-nano.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="shapes (embedded) or official; default: shapes for armor-nano, else official.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N units (groups, pairs ...), seeded.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/understanding/...")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the official TSV files; default $LMUData.")] = None,
    any_data: Annotated[bool, typer.Option("--any-data", help="Accept a TSV that is not the published one.")] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch TSVs that are not there from their declared addresses; resumes.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Questions a batch; default 16, shapes 64.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the subset of --limit.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; default 4096, shapes 64.")] = None,
    mask_imgbos: Annotated[bool, typer.Option("--mask-imgbos", help="Forbid drawing while answering.")] = False,
    reading: Annotated[
        str, typer.Option(help="keep-none (`None`, `NA` ... are text) or vlmeval (lost, as VLMEvalKit 0.0.20 does).")
    ] = "keep-none",
    blind: Annotated[bool, typer.Option("--blind", help="Leave the pictures out: a baseline.")] = False,
    request_json: Annotated[
        str | None,
        typer.Option(help="Fields that every request to an openai: model gets, and `headers`: JSON or @FILE."),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="openai:URL#NAME (its key: OPENAI_API_KEY) or hf:ID.")] = None,
    thinking: Annotated[
        str | None, typer.Option(help="<think>...</think>: strip (default) cuts it from what is scored, keep does not.")
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="With --judge-model the same as --judge openai:URL#MODEL.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's model name.")] = None,
    judge_max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest reply of a judge; default 16 to 1024 by benchmark, 4096 for one that thinks."
        ),
    ] = None,
    judge_request_json: Annotated[str | None, typer.Option(help="As --request-json, for the judge.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also measure the model without pictures, and a constant answer.")
    ] = False,
    retention: Annotated[
        Path | None, typer.Option(help="Run(s) of the base model: print how much of its score is kept.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Ask only this part; armor-eval merge joins the parts.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that an hf: model brings along.")
    ] = False,
    dtype: common.DType = None,
    device: common.Device = None,
    device_map: common.DeviceMap = None,
    model_args: common.ModelArgs = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print runs and scores as JSON (with --retention: {runs, retention}).")
    ] = False,
) -> None:
    """Measure understanding. The same command again resumes an interrupted run, or shows a finished one.

    Several processes share a run: torchrun --nproc-per-node N -m armor_eval understanding ..., or accelerate launch
    --multi_gpu --num_processes N -m armor_eval understanding ...; both also on CPUs. Any number resumes any other's.
    """
    if context.invoked_subcommand is not None:
        return
    if bench is None:
        raise UserError("Missing option '--bench'", "see armor-eval understanding --help")
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.engine import Settings, join_processes
    from armor_eval.models import registry
    from armor_eval.models.base import AnswersQuestions, Decoding
    from armor_eval.models.endpoint import Extra
    from armor_eval.profiles import choose_profile
    from armor_eval.runs.merge import parse_shard
    from armor_eval.tasks.understanding.data import locate
    from armor_eval.tasks.understanding.declare import choose
    from armor_eval.tasks.understanding.judges import judge_spec
    from armor_eval.tasks.understanding.task import Options

    common.quiet_libraries()
    benchmarks = choose(bench)
    if not benchmarks:
        raise UserError("--bench names nothing", "see armor-eval list")
    spec = choose_profile(profile, model)
    chosen = spec.name
    if shard is not None and (baselines or retention is not None):
        raise UserError("a shard is not scored: it has no baselines and no retention", "ask for them without --shard")
    settings = Settings(
        chosen,
        list(COMMAND_LINE.get()),
        Decoding(max_new_tokens=max_new_tokens or spec.understanding_tokens, mask_imgbos=mask_imgbos),
        batch_size or spec.understanding_batch,
        parse_shard(shard),
    )
    questions = Options(limit, seed, data, any_data, blind, check_thinking(thinking), check_reading(reading))
    if retention is not None:
        from armor_eval.tasks.understanding.retention import base_of

        base_of(retention, [b.name for b in benchmarks])
    behind_server = common.server_options(model, request_json)
    if judge is None and judge_url is None and (judge_max_tokens is not None or judge_request_json is not None):
        raise UserError("--judge-max-tokens and --judge-request-json are for a judge", "name one with --judge")
    judges = make_judges(
        chosen, judge_spec(judge, judge_url, judge_model), benchmarks, longest=judge_max_tokens,
        extra=Extra.read(judge_request_json, "--judge-request-json"), trust_remote_code=trust_remote_code,
    )  # fmt: skip
    processes = join_processes()
    if download:
        if spec.guest is not None:
            raise UserError("--download fetches published files", "add --profile official")
        fetch_missing(benchmarks, data, processes, show=not json_output)
    registry.check(model, chosen, AnswersQuestions)
    for benchmark in benchmarks:
        locate(benchmark, chosen, data)
    brings_code = trust_remote_code and ((model or "").startswith("hf:") or not (judge or "").startswith("hf:"))
    options = common.model_options(dtype, device, device_map, model_args, trust_remote_code=brings_code)
    adapter = registry.load(
        model, chosen, does=AnswersQuestions, own_device=processes.device, **options, **behind_server
    )
    suite = Suite(benchmarks, questions, settings, judges, processes, out, not json_output and processes.first)
    try:
        finished = suite.measure(adapter)
        beside = suite.measure_baselines(adapter) if baselines else {}
    finally:
        adapter.close()
        for judge in judges.values():
            judge.close()
    if not processes.first:
        return
    if shard is not None:
        for one in finished:
            common.show_shard(one)
        return
    if json_output:
        runs = common.as_json([*finished, *(one for row in beside.values() for one in row)])
        if retention is not None:
            runs = json.dumps({"runs": json.loads(runs), "retention": retention_json(retention, finished)}, indent=1)
        common.write(runs)
    else:
        common.print_scores(finished, beside)
        if retention is not None:
            print_retention(retention, finished)
    if any(one.run.status != "complete" for one in finished):
        raise typer.Exit(1)


def fetch_missing(benchmarks: list[Benchmark], data: Path | None, processes: Processes, show: bool) -> None:
    """What `--download` does, by the first process; the others wait."""
    from armor_eval.tasks.understanding.data import download

    if processes.first:
        for benchmark in benchmarks:
            with common.byte_bar(benchmark.official.file, show) as progress:
                download(benchmark, data, progress)
    processes.wait()


@dataclass(frozen=True)
class Suite:
    """The benchmarks of one command, and where their bundles go."""

    benchmarks: list[Benchmark]
    questions: Options
    settings: Settings
    judges: dict[str, Judge]
    processes: Processes
    out: Path | None
    show_progress: bool

    def measure(self, adapter: AnswersQuestions, label: str = "", **changes: Any) -> list[Finished]:
        """Every benchmark with one model; MME's answers serve MME-P. `label` names a baseline's folders."""
        from armor_eval.engine import evaluate
        from armor_eval.tasks.understanding.task import UnderstandingTask

        questions = replace(self.questions, **changes)
        folders = {b.name: self._folder(b.name, adapter.info.name, label) for b in self.benchmarks}
        finished = []
        for benchmark in self.benchmarks:
            task = UnderstandingTask(
                benchmark, self.settings.profile, questions,
                judge=self.judges.get(benchmark.name), shared=folders.get(benchmark.shares or ""),
            )  # fmt: skip
            with common.progress_bar(f"{benchmark.name} {label}".strip(), self.show_progress) as progress:
                finished.append(
                    evaluate(
                        task, adapter, folders[benchmark.name], self.settings, processes=self.processes,
                        progress=progress,
                    )
                )  # fmt: skip
        return [one for one in finished if one is not None]

    def measure_baselines(self, adapter: AnswersQuestions) -> dict[str, list[Finished]]:
        """Benchmark -> the model without pictures, and a constant answer: what a score must be held against."""
        from armor_eval.models.mock import MockModel

        blind = self.measure(adapter, "blind", blind=True)
        constant: list[Finished] = []
        for answer in dict.fromkeys(b.scoring.constant for b in self.benchmarks):
            same = replace(self, benchmarks=[b for b in self.benchmarks if b.scoring.constant == answer])
            constant += same.measure(MockModel(answer), "constant")
        by_name = {one.run.benchmark: one for one in constant}
        return {one.run.benchmark: [one, by_name[one.run.benchmark]] for one in blind}

    def _folder(self, bench: str, model: str, label: str) -> Path:
        """`--out/BENCH`, also for a single benchmark; baselines stand beside.

        The default depends on what is measured alone, so that the same command finds its own run again.
        """
        from armor_eval.engine.run import shard_text

        questions = self.questions
        if self.out is not None:
            base = common.run_folder(self.out, bench)
        else:
            name = bench
            if questions.limit is not None:
                name += f"-limit{questions.limit}-seed{questions.seed}"
            if questions.blind:
                name += "-blind"
            if questions.thinking == "keep":
                name += "-thoughts"
            if questions.reading != "keep-none":
                name += f"-{questions.reading}"
            if self.settings.shard is not None:
                name += common.shard_name(shard_text(self.settings.shard))
            base = Path("runs") / "understanding" / f"{common.short_name(model)}-{self.settings.profile}" / name
        return base.with_name(f"{base.name}-{label}") if label else base


def retention_json(base: Path, finished: list[Finished]) -> list[dict[str, Any]]:
    """A record a benchmark, then the mean."""
    from armor_eval.tasks.understanding.retention import retention

    rows, mean = retention(base, [one.path for one in finished])
    return [asdict(row) for row in rows] + [{"mean": mean.kept, "ci95": mean.ci95}]


def print_retention(base: Path, finished: list[Finished]) -> None:
    """How much of the base run's scores is kept, per benchmark and in the mean."""
    from armor_eval.tasks.understanding.retention import retention

    rows, mean = retention(base, [one.path for one in finished])
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=f"understanding kept, in % of {base}", title_justify="left", box=SIMPLE_HEAD)
    for name in ("bench", "base", "now", "kept", "95 % interval"):
        table.add_column(name, justify="right" if name != "bench" else "left")
    for row in [*rows, mean]:
        ends = f"{row.ci95[0]:.1f} to {row.ci95[1]:.1f}" if row.ci95 else "-"
        plain = ("", "") if row is mean else (f"{row.base:.1f}", f"{row.score:.1f}")
        table.add_row(row.benchmark, *plain, f"{row.kept:.1f} %", ends)
    common.console().print(table)


def check_thinking(mode: str | None) -> Thinking:
    """What `--thinking` says; cutting is the default."""
    from armor_model.base.errors import unknown_name

    if mode not in (None, "strip", "keep"):
        raise unknown_name("--thinking", mode, ["strip", "keep"])
    return mode or "strip"


def check_reading(reading: str) -> Reading:
    """The reading of the data by name."""
    from armor_eval.tasks.understanding.cells import READINGS
    from armor_model.base.errors import unknown_name

    if reading not in READINGS:
        raise unknown_name("reading", reading, READINGS)
    return reading


def make_judges(profile: Profile, judge: str | None, benchmarks: list[Benchmark], **options: Any) -> dict[str, Judge]:
    """Benchmark name -> judge: the named one for all if there is one, else a guest profile's rules for free text.

    UserError before anything is asked where a benchmark cannot be scored. `options`: see judges.open_judge.
    """
    if judge is not None:
        from armor_eval.tasks.understanding.data import cache_dir
        from armor_eval.tasks.understanding.judges import open_judge

        opened = open_judge(judge, profile, cache_dir() / "judge", **options)
        return {b.name: opened for b in benchmarks}
    free = [b.name for b in benchmarks if b.judge == "required"]
    from armor_eval.profiles import profile_of

    spec = profile_of(profile)
    if spec.guest is None:
        if free:
            raise UserError(
                f"{' and '.join(free)} need a judge",
                "give --judge openai:URL#NAME or --judge hf:ID, or leave them out of --bench",
            )
        return {}
    return {name: spec.part("judge").RuleJudge() for name in free}
