"""`armor-eval understanding`: the benchmarks of the paper's Table 2, through VLMEvalKit's data formats and scoring."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from armor_eval.cli import common
from armor_eval.cli.understanding_score import Judged, JudgeUrl, ReadAs, Thoughts, score_file
from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from armor_eval.compare.retention import Retention
    from armor_eval.engine import Finished, Processes, Settings
    from armor_eval.engine.batches import BatchSize
    from armor_eval.models.base import AnswersQuestions
    from armor_eval.tasks.understanding.cells import Reading
    from armor_eval.tasks.understanding.declare import Benchmark
    from armor_eval.tasks.understanding.judge import Judge
    from armor_eval.tasks.understanding.task import Options
    from armor_eval.tasks.understanding.thinking import Thinking


understanding = typer.Typer(no_args_is_help=True)
understanding.command("score")(score_file)


@understanding.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    bench: Annotated[
        list[str] | None,
        typer.Option("--bench", help="Benchmark, several (repeat or commas), `all`, or a FILE.toml of your own."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Folder of a checkpoint, or KIND:NAME; default armor-nano.")] = None,
    profile: common.Profile = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N units (groups, pairs ...), seeded.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/understanding/...")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the official TSV files; default $LMUData.")] = None,
    any_data: Annotated[bool, typer.Option("--any-data", help="Accept a TSV that is not the published one.")] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch TSVs that are not there from their declared addresses; resumes.")
    ] = False,
    batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto", help="Questions at once; default 16, shapes 64. auto: by length, as many as memory holds."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the subset of --limit.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; default 4096, shapes 64.")] = None,
    mask_imgbos: Annotated[bool, typer.Option("--mask-imgbos", help="Forbid drawing while answering.")] = False,
    reading: ReadAs = "keep-none",
    blind: Annotated[bool, typer.Option("--blind", help="Leave the images out: a baseline.")] = False,
    request_json: Annotated[
        str | None,
        typer.Option(help="Fields that every request to an openai: model gets, and `headers`: JSON or @FILE."),
    ] = None,
    judge: Judged = None,
    thinking: Thoughts = None,
    judge_url: JudgeUrl = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's model name.")] = None,
    judge_max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest reply of a judge; default 16 to 1024 by benchmark, 4096 for one that thinks."
        ),
    ] = None,
    judge_request_json: Annotated[str | None, typer.Option(help="As --request-json, for the judge.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also measure the model without images, and a constant answer.")
    ] = False,
    retention: Annotated[
        Path | None, typer.Option(help="Run(s) of the base model: print how much of its score is kept.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of the text; 0 = greedy, the benchmarks' protocol.")] = 0.0,
    repeats: common.Repeats = 1,
    shard: common.Shard = None,
    workers: common.Workers = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that an hf: model brings along.")
    ] = False,
    dtype: common.DType = None,
    device: common.Device = None,
    device_map: common.DeviceMap = None,
    model_args: common.ModelArgs = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print runs and scores as JSON (with --retention or --repeats: {runs, ...}).")
    ] = False,
) -> None:
    """Measure understanding. The same command again resumes an interrupted run, or shows a finished one.

    Several processes share a run: torchrun --nproc-per-node N -m armor_eval understanding ..., or accelerate launch
    --multi_gpu --num_processes N -m armor_eval understanding ...; both also on CPUs. Any number resumes any other's.

    armor-eval understanding --bench POPE --limit 100

    armor-eval understanding --bench MMB,MMMU --data DIR --model hf:OWNER/NAME --dtype bfloat16

    armor-eval understanding --bench MMVet --data DIR --model openai:http://localhost:8000/v1#NAME --judge hf:ID
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
    from armor_eval.tasks.understanding.judge import judge_spec, make_judges
    from armor_eval.tasks.understanding.task import Options

    common.quiet_libraries()
    benchmarks = choose(bench)
    if not benchmarks:
        raise UserError("--bench names nothing", "see armor-eval list")
    spec = choose_profile(profile, model)
    chosen = spec.name
    if repeats > 1 and (temperature == 0 or baselines or retention is not None):
        wrong = "these answers are greedy, and would be the same" if temperature == 0 else "and nothing beside them"
        raise UserError(f"--repeats draws seeds of a sampled run: {wrong}", "give --temperature, without --baselines")
    if shard is not None and (baselines or retention is not None):
        raise UserError("a shard is not scored: it has no baselines and no retention", "ask for them without --shard")
    settings = Settings(
        chosen,
        list(COMMAND_LINE.get()),
        Decoding(
            max_new_tokens=max_new_tokens or spec.understanding_tokens, mask_imgbos=mask_imgbos, temperature=temperature
        ),
        check_batch_size(batch_size) or spec.understanding_batch,
        parse_shard(shard),
        workers,
    )
    questions = Options(limit, seed, data, any_data, blind, check_thinking(thinking), check_reading(reading))
    if retention is not None:
        from armor_eval.compare.retention import base_of
        from armor_eval.compare.retention import retention as kept_of

        base_of(retention, [b.name for b in benchmarks])
    behind_server = common.server_options(model, request_json)
    if judge is None and judge_url is None and (judge_max_tokens is not None or judge_request_json is not None):
        raise UserError("--judge-max-tokens and --judge-request-json are for a judge", "name one with --judge")
    judges = make_judges(
        chosen,
        judge_spec(judge, judge_url, judge_model),
        benchmarks,
        longest=judge_max_tokens,
        extra=Extra.read(judge_request_json, "--judge-request-json"),
        trust_remote_code=trust_remote_code,
    )
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
        finished = []
        for at, suffix in common.suffixes(seed, repeats):
            drawn = replace(settings, decoding=settings.decoding.model_copy(update={"seed": at if temperature else 0}))
            finished += replace(suite, settings=drawn).measure(adapter, suffix)
        beside = suite.measure_baselines(adapter) if baselines else {}
    finally:
        adapter.close()
        for loaded in judges.values():
            loaded.close()
    if not processes.first or shard is not None:
        common.finish(finished, common.show_shard, as_text=True, shard=shard)
        return
    kept = None if retention is None else kept_of(retention, [one.path for one in finished])
    if json_output:
        runs = [*finished, *(one for row in beside.values() for one in row)]
        more = {}
        if kept is not None:
            more = {"retention": [*map(asdict, kept[0]), {"mean": kept[1].kept, "ci95": kept[1].ci95}]}
        common.write(common.as_json(runs, repeated=repeats > 1, **more))
    else:
        common.print_scores(finished, beside)
        if repeats > 1:
            common.print_repeats(finished)
        if kept is not None:
            print_retention(f"understanding kept, in % of {retention}", *kept)
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
        from armor_eval import Named, evaluate
        from armor_eval.tasks.understanding.task import UnderstandingTask

        questions = replace(self.questions, **changes)
        folders = {b.name: self._folder(b.name, adapter.info.name, label) for b in self.benchmarks}
        tasks = []
        for benchmark in self.benchmarks:
            shared = folders.get(benchmark.shares or "")
            judge = self.judges.get(benchmark.name)
            task = UnderstandingTask(benchmark, self.settings.profile, questions, judge=judge, shared=shared)
            tasks.append(Named(benchmark.name, task, self.settings))
        shown = common.bars(self.show_progress)
        return evaluate(
            adapter,
            tasks,
            folders.__getitem__,
            processes=self.processes,
            progress=lambda name: shown(f"{name} {label}".strip()),
        )

    def measure_baselines(self, adapter: AnswersQuestions) -> dict[str, list[Finished]]:
        """Benchmark -> the model without images, and a constant answer: what a score must be held against."""
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
        from armor_eval.runs.bundle import run_folder

        asked, shard = self.questions, self.settings.shard
        if self.out is not None:
            base = run_folder(self.out, bench)
        else:
            name = "".join(
                [
                    bench,
                    "" if asked.limit is None else f"-limit{asked.limit}-seed{asked.seed}",
                    "-blind" if asked.blind else "",
                    "-thoughts" if asked.thinking == "keep" else "",
                    "" if asked.reading == "keep-none" else f"-{asked.reading}",
                    "" if shard is None else common.shard_name(shard_text(shard)),
                ]
            )
            base = Path("runs") / "understanding" / f"{common.short_name(model)}-{self.settings.profile}" / name
        return base.with_name(base.name + (f"-{label}" if label and label[0] != "@" else label))


def print_retention(title: str, rows: list[Retention], mean: Retention) -> None:
    """How much of the base run's scores is kept, per benchmark and in the mean."""
    table = common.Doc("retention", title, "", ["bench", "base", "now", "kept", "95 % interval"])
    for row in [*rows, mean]:
        ends = f"{row.ci95[0]:.1f} to {row.ci95[1]:.1f}" if row.ci95 else "-"
        plain = ("", "") if row is mean else (f"{row.base:.1f}", f"{row.score:.1f}")
        table.add([row.benchmark, *plain, f"{row.kept:.1f} %", ends])
    common.print_doc(common.console(), table)


def check_batch_size(text: str | None) -> BatchSize | None:
    """What `--batch-size` says: a number, or `auto`."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batch-size {text} is neither a whole number from 1 on nor auto", "e.g. --batch-size 16")
    return int(text)


def check_thinking(mode: str | None) -> Thinking:
    """What `--thinking` says; cutting is the default."""
    from armor_model.base.errors import unknown_name

    modes: dict[str, Thinking] = {"strip": "strip", "keep": "keep"}
    if mode is not None and mode not in modes:
        raise unknown_name("--thinking", mode, modes)
    return modes[mode or "strip"]


def check_reading(reading: str) -> Reading:
    """The reading of the data by name."""
    from armor_eval.tasks.understanding.cells import READINGS
    from armor_model.base.errors import unknown_name

    if reading not in READINGS:
        raise unknown_name("reading", reading, READINGS)
    return reading
