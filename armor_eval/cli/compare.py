"""armor-eval compare BASE CANDIDATE: the regression gate. Exit codes: 0 pass, 1 regression, 2 usage or crash, 3
incomplete, 4 not comparable, 5 inconclusive with --strict. armor-eval power: what drop a comparison could see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from armor_eval.cli.baseline import ROOT


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
    baselines: Annotated[Path, typer.Option(help="Where saved baselines lie.")] = ROOT,
) -> int:
    """Compare two runs of the same items and say whether the candidate is worse.

    Exit codes: 0 pass or inconclusive, 1 regression, 2 wrong input or an error of the program, 3 incomplete run, 4 not
    comparable, 5 inconclusive with --strict.

    armor-eval compare armor-nano runs/candidate --out runs/compare

    armor-eval compare BASE_RUN CANDIDATE_RUN --strict --json
    """
    from armor_eval.cli.common import console, quiet_libraries, write
    from armor_eval.compare import formats
    from armor_eval.compare.baseline import resolve
    from armor_eval.compare.gate import compare as run_gate
    from armor_eval.compare.policy import load_policy
    from armor_model.base.files import write_file

    quiet_libraries()
    base_path, beside = resolve(base, baselines)
    candidate_path, _ = resolve(candidate, baselines)
    original = resolve(reference, baselines)[0] if reference else None
    used = policy or beside
    name = str(used) if used else "defaults"
    found = run_gate(base_path, candidate_path, load_policy(used), name, strict, original)
    if json_output:  # the verdict first: a full disk does not take it away
        write(found.model_dump_json(indent=1))
    else:
        formats.show(found, console())
    files = {
        "compare.json": (None, lambda: found.model_dump_json(indent=1) + "\n"),
        "compare.md": (markdown, lambda: formats.markdown(found)),
        "junit.xml": (junit, lambda: formats.junit_xml(found)),
        "compare.html": (html, lambda: formats.page(found, data)),
    }
    for name, (asked, render) in files.items():
        targets = {p for p in (asked, out / name if out else None) if p is not None}
        if targets:
            made = render()
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
    from armor_eval.cli.common import write
    from armor_eval.compare.policy import CHANGED, plan

    planned = plan(bench, drop, clusters, CHANGED if changed is None else changed, runs)
    write(json.dumps(planned.as_dict(), indent=1) if json_output else planned.in_words())
