"""The protocol label: every name that circulates as GenEval is told apart, by content, and two are never compared."""

import gzip
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from geneval_world import RECORDS, write_folder
from paths import HELPERS, SHARED

from armor_eval.cli import main
from armor_eval.compare.gate import compare
from armor_eval.compare.policy import Policy
from armor_eval.engine import Settings
from armor_eval.engine.run import run_record
from armor_eval.models.base import Decoding
from armor_eval.runs import protocols
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import ModelInfo, Run
from armor_eval.shapes.train_detector import CARD, PRETRAINED
from armor_eval.tasks.geneval.colors import ClipColors
from armor_eval.tasks.geneval.detectors import Mask2FormerDetector
from armor_eval.tasks.geneval.folders import ImageFolder
from armor_eval.tasks.geneval.prompts import load_vocabulary, official_prompts, prompt_set, read_prompts
from armor_eval.tasks.geneval.task import GenEvalTask
from armor_eval.tasks.geneval.verdicts import Rules

OFFICIAL = load_vocabulary("official")
VARIANTS = SHARED / "suites" / "data" / "geneval_variants"


class Judge:
    """Stands for a detector or a colour judge: only its settings are looked at."""

    def __init__(self, settings):
        self.settings = settings


class Drawer:
    """Of a model only what its run's record says is looked at."""

    info = ModelInfo(spec="m", name="m", fingerprint="f")

    def settings(self, decoding):
        return {}


def judges(weights="c9d0c4f2" + "1" * 56, clip="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"):
    """(detector, colours) with the settings that the real classes write; neither reads any weights."""
    colors = ClipColors(OFFICIAL, {"colors_weights_sha256": clip}, "cpu", pytest.fail)
    return Mask2FormerDetector("mmdet", OFFICIAL, Path("x.pth"), weights), colors


def label(prompts, judges, decoding=Decoding(), **options):
    task = GenEvalTask(prompts, *judges, **options)
    return run_record(task, Drawer(), Settings("official", ["x"], decoding)).protocol


def test_the_paper_s_number_is_named_and_every_departure_is():
    official = official_prompts()
    whole = {
        "protocol": "geneval",
        "prompts": "official",
        "samples": "4",
        "guidance": "the model's own",
        "detector": "geneval",
    }
    assert label(official, judges()) == whole
    assert label(official, judges("743b7d99" + "2" * 56)) == whole  # the same training under mmdet 2.x's names
    folder = ImageFolder(Path("x"), official, {})
    assert label(official, judges(), images=folder) == {**whole, "guidance": "not stated"}
    assert label(official, judges(), Decoding(guidance=7.5)) == {**whole, "guidance": "7.5"}
    for chosen, options, part in (
        (judges(), {"samples": 2}, "samples 2 (geneval: 4)"),
        (judges(), {"rules": Rules(threshold=0.31)}, "detector custom mask2former-swin-s"),
        (judges(weights="0" * 64), {}, "detector custom mask2former-swin-s"),
        (judges(clip="0" * 64), {}, "detector custom mask2former-swin-s"),
        ((judges()[0], None), {}, "detector custom mask2former-swin-s"),
    ):
        found = label(official, chosen, **options)
        assert found["protocol"] == "custom"
        assert part in protocols.remark_of(found, "geneval") and "not the paper's number" in protocols.remark_of(
            found, "geneval"
        )


def test_one_changed_word_is_another_protocol():
    records = [dict(record) for record in official_prompts().records]
    records[7]["prompt"] += "!"
    found = label(prompt_set("mine", records), judges())
    assert found["protocol"] == "custom" and found["prompts"].startswith("custom ")
    assert found["prompts"] != label(prompt_set("x", records[:-1]), judges())["prompts"]


def test_the_declaration_holds_together():
    found = protocols.declared()
    shapes = prompt_set("shapes", list(RECORDS.values()))
    assert found.prompts["official"].content_sha256 == official_prompts().content_sha256
    assert found.prompts["official"].files[0].sha256 == official_prompts().sha256
    assert found.prompts["shapes"].content_sha256 == shapes.content_sha256
    assert found.prompts["shapes"].files[0].sha256 == shapes.sha256
    for name, one in found.protocols.items():
        assert one.prompts in found.prompts and one.detector in found.detectors, name
    assert set(asdict(Rules())) <= set(found.detectors["geneval"]) and found.limits
    card = json.loads((PRETRAINED / CARD).read_text())
    assert found.detectors["shapes"]["weights_sha256"] == [card["weights_sha256"]]


@pytest.mark.skipif(not VARIANTS.is_dir(), reason="../shared/suites/data/geneval_variants is not here")
@pytest.mark.parametrize("name, file", [("bagel-long", "bagel_long"), ("show-o2-rewritten", "showo2_rewritten")])
def test_published_rewritten_files_are_known_by_content(tmp_path, name, file):
    raw = gzip.decompress((VARIANTS / f"{file}.jsonl.gz").read_bytes())
    for text in (raw, raw.rstrip(b"\n")):
        (tmp_path / "p.jsonl").write_bytes(text)
        prompts = read_prompts(tmp_path / "p.jsonl", OFFICIAL)
        found = label(prompts, judges())
        assert found["protocol"] == found["prompts"] == name and len(prompts.records) == 553
        assert f"protocol {name}: prompts {name} (geneval: official)" in protocols.remark_of(found, "geneval")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same images judged under two protocols: two samples a prompt of three, and both of two."""
    root = tmp_path_factory.mktemp("runs")
    folder = write_folder(root / "img", list(RECORDS.values())[:3], samples=2)
    (root / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in list(RECORDS.values())[:3]))
    command = ["geneval", "--profile", "shapes", "--images", str(folder), "--prompts", str(root / "p.jsonl")]
    for samples in ("1", "2"):
        assert main([*command, "--samples", samples, "--out", str(root / samples)]) == 0
    return root


def test_compare_refuses_two_protocols_and_says_why(runs):
    found = compare(runs / "1", runs / "2", Policy())
    assert found.verdict == "NOT COMPARABLE"
    assert any("protocol differs: samples: 1 in base, 2 in candidate" in r for r in found.benchmarks[0].reasons)
    assert compare(runs / "1", runs / "1", Policy()).verdict == "PASS"


def test_a_run_states_its_protocol(runs, capsys):
    run, _, scores = read_bundle(runs / "2" / "geneval")
    assert run.protocol["protocol"] == "custom" and run.protocol["guidance"] == "not stated" and run.decoding == {}
    headline = next(m for m in scores.metrics if m.primary)
    assert headline.note.startswith("protocol custom: prompts custom ") and "samples 2 (shapes: 4)" in headline.note
    command = ["geneval", "--profile", "shapes", "--images", str(runs / "img"), "--prompts", str(runs / "p.jsonl")]
    assert main([*command, "--samples", "2", "--out", str(runs / "2")]) == 0
    assert "protocol custom: prompts custom " in capsys.readouterr().out


def test_a_run_of_before_labels_has_that_of_a_run_today():
    """The baseline of armor-nano's first release."""
    run = Run.model_validate_json((HELPERS / "geneval_run_of_before_labels.json").read_text())
    assert run.protocol == {}
    parts = {"prompts": "shapes", "samples": "4", "guidance": "the model's own", "detector": "shapes"}
    assert protocol_of(run) == {"protocol": "shapes", **parts}


def test_options_of_drawing_are_refused_where_nothing_is_drawn(tmp_path, capsys):
    assert main(["geneval", "--images", str(tmp_path), "--guidance", "1", "--image-top-k", "5"]) == 2
    assert "leave --guidance, --image-top-k out" in capsys.readouterr().err
