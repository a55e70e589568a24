"""armor-eval baseline save|list|show: named baselines that fit in git, for `armor-eval compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path("reports/baselines")
"""Where baselines lie unless --baselines says otherwise: relative to the folder the command runs in."""

Root = Annotated[Path, typer.Option("--baselines", help="Where saved baselines lie.")]

baseline = typer.Typer(no_args_is_help=True)


@baseline.callback()
def root() -> None:
    """Named baselines that fit in git, for `armor-eval compare`.

    armor-eval baseline save my-model runs/base

    armor-eval compare my-model runs/candidate
    """


@baseline.command()
def save(
    name: Annotated[str, typer.Argument(help="Letters, digits, dots, dashes, underscores.")],
    run: Annotated[Path, typer.Argument(help="Run folder or folder of runs, all complete.")],
    policy: Annotated[
        Path | None, typer.Option(help="TOML to keep beside it; default: one that its size decides.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the baseline of that name.")] = False,
    baselines: Root = ROOT,
) -> None:
    """Save runs as a baseline: scores and per-item results, no images.

    armor-eval baseline save my-model runs/base
    """
    from armor_eval.cli.common import write
    from armor_eval.compare import baseline as files
    from armor_eval.compare.policy import DEFAULT_TOLERANCE, load_policy

    target, sources = files.save(name, run, baselines, policy, force)
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    wide = load_policy(target / files.POLICY).tolerance.items() - DEFAULT_TOLERANCE.items()
    for benchmark, tolerance in sorted(wide):
        write(f"{target / files.POLICY}: a drop of {tolerance:g} is tolerated in {benchmark}")
    write(f"{target}: {len(sources)} runs, {sum(len(s.items) for s in sources):,} items, {size / 1e6:.2f} MB")


@baseline.command("list")
def listing(
    baselines: Root = ROOT, json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """The saved baselines.

    armor-eval baseline list
    """
    from armor_eval.cli.common import write
    from armor_eval.compare import baseline as files
    from armor_eval.compare.sources import find

    known = {name: find(baselines / name) for name in files.names(baselines)}
    records = [
        {
            "name": name,
            "models": sorted({s.run.model.name for s in sources}),
            "benchmarks": [s.run.benchmark for s in sources],
        }
        for name, sources in known.items()
    ]
    if json_output:
        write(json.dumps(records, indent=1))
    elif not known:
        write(f"no baselines in {baselines}")
    else:
        for one in records:
            write(f"{one['name']}: {', '.join(one['models'])}; {', '.join(one['benchmarks'])}")


@baseline.command()
def show(
    name: Annotated[str, typer.Argument(help="A saved baseline.")],
    baselines: Root = ROOT,
    json_output: Annotated[bool, typer.Option("--json", help="Print its runs, scores and policy as JSON.")] = False,
) -> None:
    """A baseline's numbers, what they were measured with, and its policy.

    armor-eval baseline show armor-nano
    """
    from rich.text import Text

    from armor_eval.cli.common import Doc, as_record, console, interval, print_doc, value, write
    from armor_eval.compare import baseline as files
    from armor_eval.compare.policy import load_policy
    from armor_eval.compare.sources import find

    path, policy = files.resolve(name, baselines)
    kept = load_policy(policy)
    if json_output:
        runs = [as_record(s.path, s.run, s.scores) for s in find(path)]
        write(json.dumps({"runs": runs, "policy": kept.model_dump(mode="json")}, indent=1))
        return
    head = ["benchmark", "value", "95 % interval", "items", "data", "commit", "model"]
    doc = Doc("baseline", "", "", head, text_columns=len(head))
    for source in find(path):
        run = source.run
        for metric in source.scores.metrics if source.scores else []:
            if metric.primary:
                cells = (
                    run.benchmark,
                    value(metric),
                    interval(metric),
                    str(metric.n),
                    run.data.sha256[:8],
                    (run.git_commit or "-")[:8],
                    f"{run.model.name} {run.model.fingerprint[:8]}",
                )
                doc.add(cells)
    out = console()
    print_doc(out, doc)
    out.print(Text(f"policy {policy or 'defaults'}: {kept.model_dump_json(exclude_defaults=True)}"), soft_wrap=True)
