"""`armor-eval compare`, the regression gate; `power`, what drop it could see; `baseline`, baselines that fit in git.

Exit codes of compare: 0 pass, 1 regression, 2 usage or crash, 3 incomplete, 4 not comparable, 5 inconclusive with
--strict.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from armor_eval.cli import common
from armor_model.base.files import write_file

ROOT = Path("reports/baselines")
"""Where baselines lie unless --baselines says otherwise: relative to the folder the command runs in."""

Root = Annotated[Path, typer.Option("--baselines", help="Where saved baselines lie.")]


def compare(
    base: Annotated[str, typer.Argument(help="Run folder, folder of runs, or the name of a saved baseline.")],
    candidate: Annotated[str, typer.Argument(help="Run folder or folder of runs.")],
    policy: Annotated[Path | None, typer.Option(help="TOML; default: policy.toml of the base, else built in.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Runs of the model both were made from: judge also what is kept of its scores.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="INCONCLUSIVE exits 5.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.json, compare.md, junit.xml and compare.html.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the Markdown summary here.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the page of changed items here.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print compare.json instead of the table.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the TSV files, for the page's question images; default: $LMUData.")
    ] = None,
    baselines: Root = ROOT,
) -> int:
    """Compare two runs of the same items and say whether the candidate is worse.

    Exit codes: 0 pass or inconclusive, 1 regression, 2 wrong input or an error of the program, 3 incomplete run, 4 not
    comparable, 5 inconclusive with --strict.

    armor-eval compare armor-nano runs/candidate --out runs/compare

    armor-eval compare BASE_RUN CANDIDATE_RUN --strict --json
    """
    from armor_eval.compare import baseline as files
    from armor_eval.compare import formats
    from armor_eval.compare.gate import compare as run_gate
    from armor_eval.compare.policy import load_policy

    common.quiet_libraries()
    base_path, beside = files.resolve(base, baselines)
    candidate_path, _ = files.resolve(candidate, baselines)
    original = files.resolve(reference, baselines)[0] if reference else None
    used = policy or beside
    name = str(used) if used else "defaults"
    found = run_gate(base_path, candidate_path, load_policy(used), name, strict, original)
    if json_output:  # the verdict first: a full disk does not take it away
        common.write(found.model_dump_json(indent=1))
    else:
        formats.show(found, common.console())
    written = {
        "compare.json": (None, lambda: found.model_dump_json(indent=1) + "\n"),
        "compare.md": (markdown, lambda: formats.markdown(found)),
        "junit.xml": (junit, lambda: formats.junit_xml(found)),
        "compare.html": (html, lambda: formats.page(found, data)),
    }
    for name, (asked, render) in written.items():
        targets = {p for p in (asked, out / name if out else None) if p is not None}
        made = render() if targets else ""
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, made)
    return found.exit_code


def power(
    bench: Annotated[str, typer.Option("--bench", help="Benchmark, e.g. MMB.")],
    drop: Annotated[float | None, typer.Option("--drop", help="True drop to be seen, in the number's unit.")] = None,
    clusters: Annotated[
        int | None, typer.Option(min=2, help="Groups to plan for; default: the published size.")
    ] = None,
    changed: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of groups in which equal models differ; default 0.1.")
    ] = None,
    runs: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two runs to read sizes and changes from, instead.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Plan a comparison: the drop that it can show with 80 % power, and how many items would show a smaller one.

    armor-eval power --bench MMB --drop 2

    armor-eval power --bench POPE --runs runs/base/POPE runs/candidate/POPE
    """
    from armor_eval.compare.policy import CHANGED
    from armor_eval.compare.policy import plan as planned

    plan = planned(bench, drop, clusters, CHANGED if changed is None else changed, runs)
    common.write(json.dumps(plan.as_dict(), indent=1) if json_output else plan.in_words())


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
    from armor_eval.compare import baseline as files
    from armor_eval.compare.policy import DEFAULT_TOLERANCE, load_policy

    target, sources = files.save(name, run, baselines, policy, force)
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    wide = load_policy(target / files.POLICY).tolerance.items() - DEFAULT_TOLERANCE.items()
    for benchmark, tolerance in sorted(wide):
        common.write(f"{target / files.POLICY}: a drop of {tolerance:g} is tolerated in {benchmark}")
    common.write(f"{target}: {len(sources)} runs, {sum(len(s.items) for s in sources):,} items, {size / 1e6:.2f} MB")


@baseline.command("list")
def listing(
    baselines: Root = ROOT, json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """The saved baselines.

    armor-eval baseline list
    """
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
        common.write(json.dumps(records, indent=1))
    elif not known:
        common.write(f"no baselines in {baselines}")
    else:
        for one in records:
            common.write(f"{one['name']}: {', '.join(one['models'])}; {', '.join(one['benchmarks'])}")


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

    from armor_eval.compare import baseline as files
    from armor_eval.compare.policy import load_policy
    from armor_eval.compare.sources import find

    path, policy = files.resolve(name, baselines)
    kept = load_policy(policy)
    if json_output:
        runs = [common.as_record(s.path, s.run, s.scores) for s in find(path)]
        common.write(json.dumps({"runs": runs, "policy": kept.model_dump(mode="json")}, indent=1))
        return
    head = ["benchmark", "value", "95 % interval", "items", "data", "commit", "model"]
    doc = common.Doc("baseline", "", "", head, text_columns=len(head))
    for source in find(path):
        run = source.run
        for metric in source.scores.metrics if source.scores else []:
            if metric.primary:
                score = (run.benchmark, common.value(metric), common.interval(metric), str(metric.n))
                whose = f"{run.model.name} {run.model.fingerprint[:8]}"
                doc.add([*score, run.data.sha256[:8], (run.git_commit or "-")[:8], whose])
    out = common.console()
    common.print_doc(out, doc)
    out.print(Text(f"policy {policy or 'defaults'}: {kept.model_dump_json(exclude_defaults=True)}"), soft_wrap=True)
