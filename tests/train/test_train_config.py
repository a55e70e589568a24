"""The configuration tree: file, options and --set in their order, one line for each mistake, saved and read back."""

from __future__ import annotations

import dataclasses
import json

import pytest

from armor_eval.ablations.plan import HeadsPlan
from armor_model.base.errors import UserError
from trainer.config import LoopOptions, Optimization, StageConfig, VQConfig
from trainer.configure import as_options, configure, document, field_texts, settings, to_toml
from trainer.shapes.recipe import NanoRecipe, default_recipe

FILE = """
stage = 2
data = ["shards"]
[mix]
t2i = 8
[optimization]
lr = 1e-3
batch_size = 4
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "run.toml").write_text(FILE)
    return tmp_path / "run.toml"


def test_set_wins_over_options_and_options_over_the_file(file):
    options = {("optimization", "lr"): 2e-3, ("seed",): 5}
    found = configure(StageConfig(), file, ["optimization.lr=3e-3", "mix.t2ti=7", "model=armor-nano"], options)
    assert (found.stage, found.seed, found.model) == ("2", 5, "armor-nano")
    assert (found.optimization.lr, found.optimization.batch_size) == (3e-3, 4)
    assert found.mix == {"t2i": 8, "t2ti": 7}
    assert found.loop.save_every == 500, "what the file does not name keeps its default"
    assert configure(StageConfig(), file, [], options).optimization.lr == 2e-3


@pytest.mark.parametrize("config", [StageConfig(stage="3", mix={"t2t": 4}), VQConfig(), default_recipe(3), HeadsPlan()])
def test_what_is_saved_is_read_back_equal(config, tmp_path):
    (tmp_path / "saved.toml").write_text(to_toml(config))
    assert configure(type(config)(), tmp_path / "saved.toml") == config
    json.dumps(document(config))


WRONG = {
    "optimization.lrr=1": "unknown setting optimization.lrr (did you mean lr?)",
    "optimisation.lr=1": "unknown setting optimisation (did you mean optimization?)",
    "optimization.lr=fast": "--set optimization.lr: Input should be a valid number",
    "optimization.schedule=linear": "--set optimization.schedule is one of cosine, constant, not 'linear'",
    "optimization.batch_size=0": "--set optimization.batch_size: Input should be greater than or equal to 1",
    "optimization.accumulate=3": "batch_size 4 does not split into 3 micro-batches",
    "share=0": "--share 0 is not a number above 0",
    "share=inf": "--share inf is not a number above 0",
    "optimization.betas=[0.9, 1.5]": "betas (0.9, 1.5) are not both in [0, 1)",
    "lr": "--set 'lr' is not NAME=VALUE",
    "loop.out=there": "unknown setting loop.out",
    "data.7=there": "unknown setting data.7",
    "data.0.x=there": "unknown setting data.0.x",
}


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_setting_is_one_line_that_names_it(change, file):
    with pytest.raises(UserError) as caught:
        configure(StageConfig(), file, [change])
    assert WRONG[change] in caught.value.line() and "\n" not in caught.value.line()


def test_a_wrong_file_is_named(tmp_path):
    file = tmp_path / "run.toml"
    for text, told in (
        ("stage = [", "cannot read"),
        ("[optimization]\nlrr = 1\n", "run.toml: unknown setting optimization.lrr (did you mean lr?)"),
        ("[optimization]\nlr = 'x'\n", "run.toml: optimization.lr: Input should be a valid number"),
    ):
        file.write_text(text)
        with pytest.raises(UserError) as caught:
            configure(StageConfig(), file, [], {("optimization", "lr"): 1.0})
        assert told in caught.value.line()


def test_a_recipe_is_changed_inside_its_list_of_stages():
    recipe = configure(default_recipe(), None, ["stages.4.how.lr=0.5", "pools.short=100", "version=2"])
    assert recipe.stages[4].how.lr == 0.5 and recipe.pools["short"] == 100 and recipe.version == 2
    assert recipe.stages[3] == default_recipe().stages[3]


def test_plans_of_the_last_version_are_read(tmp_path):
    """Their files held lr and batch_size beside the other fields; finished arms are found by the same identity."""
    (tmp_path / "plan.toml").write_text("lr = 1e-2\nbatch_size = 32\nsteps = 7\n")
    plan = HeadsPlan.read(tmp_path / "plan.toml", ["optimization.clip=0.5"])
    assert (plan.optimization.lr, plan.optimization.batch_size, plan.steps) == (1e-2, 32, 7)
    assert HeadsPlan().identity() == "94b22a05db468b3d"
    assert HeadsPlan.read(None, ["optimization.clip=0.5"]).identity() != HeadsPlan().identity()


@pytest.mark.parametrize("default", [StageConfig(), VQConfig(), default_recipe()], ids=lambda d: type(d).__name__)
def test_every_setting_is_documented_and_its_name_is_its_own(default):
    every = list(settings(default))
    assert all(text for *_, text in every), [path for path, *_, text in every if not text]
    names = [path[-1] for path, *_ in every]
    assert len(names) == len(set(names)), "an option is named after its field alone"


@pytest.mark.parametrize("kind", [Optimization, LoopOptions, StageConfig, VQConfig, NanoRecipe])
def test_texts_stand_under_their_fields(kind):
    assert set(field_texts(kind)) == {field.name for field in dataclasses.fields(kind)}


def test_options_are_made_from_the_tree():
    names = {p.name for p in as_options(StageConfig(), without=["stage"])}
    assert {"batch_size", "save_every", "mix", "config", "set_"} <= names
    assert not {"stage", "out_", "evaluate", "bar"} & names
