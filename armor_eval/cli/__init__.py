"""The command `armor-eval`: a command's module is imported only when it runs (`--help` imports none of them).

To add a command, write `armor_eval/cli/<name>.py` with a function (its parameters become options, the Typer way) or a
`typer.Typer` with sub-commands, and add one line to COMMANDS.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextvars import ContextVar

import typer
from typer.core import TyperGroup

from armor_model.base.cli import run_app
from armor_model.base.errors import did_you_mean
from armor_model.base.help import completing, dressed, program

ABOUT = """Measure any multimodal model: understanding, drawing, and what the numbers allow one to say.

    armor-eval demo

    armor-eval understanding --bench POPE --limit 100

    armor-eval compare armor-nano runs/candidate
    """

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("armor_eval.cli.suite:demo", "A short tour on the embedded profile: no network, GPU or key."),
    "understanding": ("armor_eval.cli.understanding:understanding", "Measure understanding through VLMEvalKit."),
    "geneval": ("armor_eval.cli.geneval:geneval", "Measure drawing: GenEval's prompts, detectors and verdicts."),
    "reward": ("armor_eval.cli.serving:reward", "GenEval's judge over HTTP, as a reward for training."),
    "draw": ("armor_eval.cli.draw:draw", "Measure drawing by suites of questions: GenEval 2, DPG, your own ..."),
    "suite": ("armor_eval.cli.suite:suite", "All that a file names of one model, then tables and a page."),
    "judge": ("armor_eval.cli.judge:judge", "How good is the judge? Its agreement with recorded answers."),
    "vlmeval": ("armor_eval.cli.runners:vlmeval", "VLMEvalKit's own runner, with ARMOR registered in it."),
    "lm-eval": ("armor_eval.cli.runners:lm_eval", "lm-evaluation-harness, with ARMOR registered: is text kept?"),
    "list": ("armor_eval.cli.doctor:listing", "Benchmarks, splits and where their data comes from."),
    "doctor": ("armor_eval.cli.doctor:doctor", "What this machine has, and what a real run would miss."),
    "modality": ("armor_eval.cli.modality:modality", "Does it answer with text, an image or both, as asked?"),
    "interleaved": ("armor_eval.cli.interleaved:interleaved", "Are text and image right, and do they agree?"),
    "tables": ("armor_eval.cli.report:tables", "The paper's tables beside what was measured, a verdict a cell."),
    "report": ("armor_eval.cli.report:report", "One self-contained HTML page: verdicts, tables, plots, every item."),
    "view": ("armor_eval.cli.serving:view", "All runs of a folder in a browser, with full images, and live."),
    "ablate-heads": ("armor_eval.cli.ablate:ablate_heads", "Forward switching against one head (Figures 7, 8)."),
    "merge": ("armor_eval.cli.suite:merge", "Join the parts that --shard measured, and score them."),
    "compare": ("armor_eval.cli.compare:compare", "The regression gate: is the candidate worse than the base?"),
    "baseline": ("armor_eval.cli.compare:baseline", "Save, list and show baselines that fit in git."),
    "power": ("armor_eval.cli.compare:power", "How many items show a drop, or what drop can be seen."),
    "export": ("armor_eval.cli.report:export", "Runs for other tools: EEE, Hugging Face, inspect, CSV, W&B ..."),
    "card": ("armor_eval.cli.report:card", "One page of one checkpoint: what it can, what it cost, what is not known."),
    "history": ("armor_eval.cli.report:history", "A score over commits and dates, with intervals."),
    "ablate-stages": ("armor_eval.cli.ablate:ablate_stages", "What each training scheme keeps (Tables 4, 5)."),
}
"""Name -> (module:object, the line that `--help` shows)."""

GROUPS = {
    "Measure": (
        *("demo", "understanding", "geneval", "draw", "modality", "interleaved", "suite", "merge"),
        *("vlmeval", "lm-eval"),
    ),
    "Compare": ("compare", "baseline", "power", "history", "judge"),
    "Show and share": ("tables", "report", "view", "card", "export"),
    "Ablations": ("ablate-heads", "ablate-stages"),
    "This machine": ("list", "doctor", "reward"),
}
"""Panel of `--help` -> its commands."""

GATE = "compare"
"""Its exit code 1 says `regression`: whatever else goes wrong in it ends with 2."""

USES_REST = {"vlmeval", "lm-eval"}
"""Commands that pass everything after their name on, unparsed."""


COMMAND_LINE: ContextVar[tuple[str, ...]] = ContextVar("command_line", default=())
"""What was typed, program included: recorded in every run, and said where a run can be continued."""


def build_app(selected: str | None) -> TyperGroup:
    """The command tree with the selected command imported and every other one known by name and help line only."""
    app = program(ABOUT)
    panels = {name: panel for panel, names in GROUPS.items() for name in names}
    for name in panels:
        target, line = COMMANDS[name]
        if name != selected:
            app.command(name, help=line, rich_help_panel=panels[name])(_not_imported)
            continue
        # Its own help says more than the line.
        module, attribute = target.split(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
            continue
        rest = {"allow_extra_args": True, "ignore_unknown_options": True} if name in USES_REST else None
        app.command(name, context_settings=rest, no_args_is_help=name in USES_REST)(found)
    return dressed(app, "armor-eval")


def _not_imported() -> None:
    raise AssertionError("a command that was not selected cannot run")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the run failed or is partial, 2 wrong input, 130 Ctrl-C,
    143 SIGTERM.

    `compare` has codes of its own, see there.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    COMMAND_LINE.set(("armor-eval", *argv))
    typed = completing("armor-eval")
    selected = next((a for a in typed or argv if not a.startswith("-")), None)
    if selected is not None and selected not in COMMANDS and not typed:
        near = did_you_mean(selected, COMMANDS)
        sys.stderr.write(f"armor-eval: unknown command {selected!r}{near} - see armor-eval --help\n")
        return 2
    return run_app(
        lambda **call: build_app(selected)(**call),
        "armor-eval",
        argv,
        failed=2 if selected == GATE else 1,
        kept=", nothing is lost",
    )
