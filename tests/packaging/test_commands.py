"""One hand: every command of the three programs has the same help, options, exit codes, and examples that parse."""

from __future__ import annotations

import shlex
from functools import lru_cache

import pytest
from typer.core import TyperGroup, TyperOption

from armor_eval import __version__
from armor_eval import cli as eval_cli
from armor_model import cli as model_cli
from armor_model.base.help import commands, dressed, examples
from trainer import cli as train_cli

MAINS = {"armor-eval": eval_cli.main, "armor-model": model_cli.main, "armor-train": train_cli.main}
TREES = {"armor-model": model_cli.app, "armor-train": train_cli.app}


@lru_cache
def tree_of(program: str, selected: str | None) -> TyperGroup:
    """The tree that runs: armor-eval imports only the command that was typed."""
    return eval_cli.build_app(selected) if program == "armor-eval" else dressed(TREES[program], program)


def every_command():
    for program in TREES:
        yield from ((program, *found) for found in commands(tree_of(program, None)))
    yield "armor-eval", (), tree_of("armor-eval", None)
    for name in eval_cli.COMMANDS:
        yield from (("armor-eval", *found) for found in commands(tree_of("armor-eval", name).commands[name], (name,)))


EVERY = [*every_command()]
CASES = pytest.mark.parametrize(
    ("program", "path", "command"), EVERY, ids=["-".join([program, *path]) for program, path, _ in EVERY]
)


def test_the_walk_finds_all_of_them():
    found = {" ".join([program, *path]) for program, path, _ in EVERY}
    assert {"armor-eval geneval score", "armor-model chat", "armor-train stage", "armor-train nano"} < found
    assert {name for names in eval_cli.GROUPS.values() for name in names} == {*eval_cli.COMMANDS}
    assert len(found) == len(EVERY) >= 50


@CASES
def test_help(program, path, command, capsys):
    assert MAINS[program]([*path, "-h"]) == 0
    short = capsys.readouterr().out
    assert short.startswith(f"Usage: {' '.join([program, *path])} ")
    assert "Exit codes: 0 " in short and "\nExamples:\n" in short
    prose = short.split("\n\n")[1]
    assert prose[0].isupper() and prose.rstrip()[-1] in ".?:", "says in a sentence what it does"
    assert max(map(len, short.splitlines())) <= 160


@CASES
def test_bare(program, path, command, capsys):
    """What needs to be told something shows its help and ends with 2; what can run as it is needs nothing."""
    if command.no_args_is_help:
        assert MAINS[program]([*path]) == 2
        told = capsys.readouterr()
        assert told.err.startswith(f"Usage: {' '.join([program, *path])} ") and not told.out
    else:
        assert not [p.name for p in command.params if p.required]


@CASES
def test_options_mean_the_same_everywhere(program, path, command):
    options = {name: p for p in command.params if isinstance(p, TyperOption) and not p.hidden for name in p.opts}
    silent = [name for name, p in options.items() if not p.help]
    assert not silent
    types = {
        name: p.display_type(command.make_context(path[-1] if path else program, [], resilient_parsing=True))
        for name, p in options.items()
    }
    if "--out" in options:
        words = options["--out"].help.lower()
        assert types["--out"] == "<path>" and any(one in words for one in ("folder", "directory", "lies")), words
    if "--out-file" in options:
        assert types["--out-file"] == "<path>" and "--out" not in options
        assert [p.opts for p in command.params if getattr(p, "hidden", False)] == [["--out"]], "the old spelling works"
    if "--seed" in options:
        assert types["--seed"].startswith("<int") and options["--seed"].default in (0, None)
    for name in ("--device", "--dtype"):
        assert name not in options or (types[name] == "<str>" and options[name].default is None)
    for p in options.values():
        assert p.name not in ("json_output", "as_json") or p.opts == ["--json"]


NO_JSON = {
    *(
        "armor-model chat",
        "armor-model serve",
        "armor-eval view",
        "armor-eval reward",
    ),  # they talk until they are ended
    *("armor-eval report", "armor-eval modality side-by-side", "armor-train curves"),  # a page or an image
    "armor-eval tables",  # --format
    "armor-eval merge",  # goes on as the command that measured, with that command's options
    *("armor-eval vlmeval", "armor-eval lm-eval"),  # another program's command line
    *("armor-eval geneval prompts", "armor-eval geneval score"),  # JSON lines already
    *("armor-eval geneval train-detector", "armor-eval baseline save"),  # write files; nothing was measured
}
"""Commands without --json: they print no result."""
NO_DEVICE = {
    *("armor-eval vlmeval", "armor-eval lm-eval"),  # --checkpoint only
    *("armor-model export", "armor-model export-internvl"),  # copy tensors
    *(
        "armor-train stage",
        "armor-train base",
        "armor-train vqgan",
    ),  # accelerate's launcher says where, --precision how
    "armor-train tokenize",  # --device; images are tokenised in fp32, so that codes do not depend on the machine
    "armor-eval ablate-heads",
}
"""Commands with a --model that take no --device and --dtype."""


@CASES
def test_options_are_where_they_make_sense(program, path, command):
    name, options = " ".join([program, *path]), {name for p in command.params for name in p.opts}
    runs = not isinstance(command, TyperGroup) or command.invoke_without_command
    assert ("--json" in options) == (runs and name not in NO_JSON)
    if "--model" in options and runs and name not in NO_DEVICE:
        assert {"--device", "--dtype"} <= options
    if {"--model", "--json"} <= options:
        assert "--out" in options or "--out-file" in options, "what it made is kept"
    if "--limit" in options:
        assert "--seed" in options, "a part is chosen by a seed"


@CASES
def test_examples_parse(program, path, command):
    """Each example is typed: its command is there, its options are known, nothing required is missing."""
    lines = examples(command, program)
    assert lines, "no example"
    for line in lines:
        words = shlex.split(line.partition(" # ")[0])[1:]
        found, parent = tree_of(program, words[0]), None
        while words and isinstance(found, TyperGroup) and words[0] in found.commands:
            parent = found.make_context(found.name, [], parent=parent, resilient_parsing=True)
            found, words = found.commands[words[0]], words[1:]
        found.make_context(found.name, words, parent=parent)
        assert not isinstance(found, TyperGroup) or found.invoke_without_command, line


@pytest.mark.parametrize("program", MAINS)
def test_programs(program, capsys):
    main = MAINS[program]
    assert main([]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"Usage: {program} ") and "--install-completion" in told
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"{program} {__version__}\n"
    assert main(["nonsense"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{program}: ") and told.count("\n") == 1


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("armor-eval", "power --ben", "--bench"),
        ("armor-eval", "geneval sc", "score"),
        ("armor-model", "ch", "chat"),
        ("armor-train", "stage --optimi", ""),
    ],
)
def test_shells_complete(program, words, expected, monkeypatch, capsys):
    monkeypatch.setenv(f"_{program.upper().replace('-', '_')}_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"{program} {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    with pytest.raises(SystemExit):
        MAINS[program]([])
    assert capsys.readouterr().out.strip() == expected
