"""A checkpoint's card: its own runs only, every section measured or listed as not, and what must be read with them."""

import json
from pathlib import Path

import pytest
from paths import ROOT
from report_mocks import a_training, make_items, make_run, metric, shapes_run, write_bundle

from armor_eval.cli import main
from armor_eval.report.loading import load_runs
from armor_eval.runs.comparable import HONESTY
from armor_eval.runs.schema import JudgeInfo, ModelInfo, Reservation, Run
from armor_eval.stats.composite import measure
from armor_eval.tasks.formulas import composites_for, composites_of
from armor_model.base.hashing import sha256_folder

F1 = metric("F1", 85.0, (80.0, 90.0))
F1_OF_POPE = next(composite for composite in composites_for("POPE") if composite.primary)
HELD = [Reservation(kind="judge", text="judged by another model than the suite's own")]


def card(tmp_path: Path, *arguments: str) -> dict:
    assert main(["card", *arguments, "--out", str(tmp_path / "card")]) == 0
    assert {p.suffix for p in (tmp_path / "card").iterdir()} == {".md", ".html", ".json", ".csv"}
    return json.loads((tmp_path / "card" / "card.json").read_text())


def test_the_card_of_the_bundled_model_states_what_the_committed_runs_measured(tmp_path: Path) -> None:
    given = ROOT / "reports" / "runs"
    made = card(tmp_path, "armor-nano", str(given))
    own = {
        v.run.benchmark: v.primary.value
        for v in load_runs([given])
        if v.primary and v.run.model.spec == "armor-nano" and not v.run.extras.get("blind")
    }
    shown = {
        run["benchmark"]: next(m["value"] for m in run["metrics"] if m["primary"])
        for runs in made["sections"].values()
        for run in runs
        if run["baseline"] is None
    }
    assert shown == {name: value for name, value in own.items() if not name.startswith("ablate")}
    missing = {one["what"] for one in made["not_measured"]}
    assert {"Text", "any published benchmark", "cost of training"} <= missing and "Drawing" not in missing
    page = (tmp_path / "card" / "card.md").read_text()
    assert "synthetic shapes world" in page and f"| MMB (shapes) | armor-nano | {own['MMB']:.1f} % |" in page
    verdicts = {one["key"]: one["verdict"] for one in made["claims"]["statements"]}
    (run,) = load_runs([given / "modality"])
    assert {key: f["verdict"] for key, f in run.run.extras["claims"].items()}.items() <= verdicts.items()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A complete run, an unfinished one, a suite under a reservation, training of the same weights, another model's."""
    folder = tmp_path / "runs"
    write_bundle(folder / "pope", make_run("a", protocol={"thinking": "strip-all"}), [F1], make_items(20))
    half = make_run("b", benchmark="MMMU", status="partial", status_reason="5 items are missing")
    write_bundle(folder / "mmmu", half, [metric("accuracy", 50.0, (40.0, 60.0))], make_items(20))
    suite = make_run("c", kind="suite", benchmark="some-suite", reservations=HELD)
    write_bundle(folder / "suite", suite, [metric("score", 0.5, (0.4, 0.6), unit="score")], make_items(20))
    trained = make_run("t", kind="training", benchmark="training", training=a_training())
    write_bundle(folder / "training", trained, [])
    write_bundle(folder / "other", make_run("o", model="another"), [F1], make_items(20))
    return folder


def test_reservations_protocol_cost_and_unfinished_runs_stand_on_the_card(runs: Path, tmp_path: Path) -> None:
    made = card(tmp_path, "InternVL2_5-8B", str(runs))
    assert made["reservations"][HELD[0].text] == ["some-suite"]
    assert made["reservations"]["the run is partial: 5 items are missing"] == ["MMMU"]
    assert made["training"]["images_seen"] == 204_800
    assert "o" not in {run["run_id"] for section in made["sections"].values() for run in section}
    page = (tmp_path / "card" / "card.md").read_text()
    assert "protocol of POPE" in page and "thinking strip-all" in page and "204,800" in page
    assert "not shown: runs of another" in page
    assert {"Drawing", "MMB", "Text"} <= {one["what"] for one in made["not_measured"]}


def test_a_printed_cell_is_held_against_the_run(runs: Path, tmp_path: Path) -> None:
    made = card(tmp_path, "InternVL2_5-8B", str(runs / "pope"))
    (cell,) = [c for c in made["claims"]["cells"] if c["column"] == "POPE"]
    assert cell["verdict"] in ("match", "differs") and cell["measured"]["value"] == 85.0


def test_what_is_kept_of_a_base(tmp_path: Path) -> None:
    for name, model, hit in (("base", "base", 1.0), ("own", "mine", 0.0)):
        items = [
            item.model_copy(
                update={
                    "status": "ok",
                    "score": 1.0 if i % 4 else hit,
                    "group": "existence",
                    "extras": {"answer": "Yes", "extracted": "Yes" if i % 4 or hit else "No"},
                }
            )
            for i, item in enumerate(make_items(40))
        ]
        write_bundle(tmp_path / name, make_run(name, model=model), [measure(items, F1_OF_POPE)], items)
    made = card(tmp_path, "mine", str(tmp_path / "own"), "--base", str(tmp_path / "base"))
    # F1 of the base 1, of the model with 30 of 40 found 2 x .75 / 1.75.
    assert made["kept"][0]["benchmark"] == "POPE"
    assert made["kept"][0]["kept"] == pytest.approx(100 * 1.5 / 1.75)
    assert "Kept of the base" in (tmp_path / "card" / "card.md").read_text()


def judged(run: Run) -> Run:
    return run.model_copy(update={"judge": JudgeInfo(name="jay", version="1", endpoint="local")})


def text_run(folder: Path, model: str, task: str, right: int) -> None:
    """A task's 40 documents, `right` of ten right."""
    items = [
        item.model_copy(update={"status": "ok", "score": float(i % 10 < right)})
        for i, item in enumerate(make_items(40))
    ]
    run = make_run(f"{model}-{task}", kind="text", benchmark=task, model=model, extras={"metrics": {"acc": True}})
    write_bundle(folder / task, run, [measure(items, composites_of(run)[0])], items)


def test_interleaved_suites_and_kept_text_have_rows(tmp_path: Path) -> None:
    """A model's free answers, their grades by a judge that looks at length, a suite, and text beside its base's: .5 of
    the base's .8 is 62.5 % kept. The base measured no other task, which is said."""
    known = [Reservation(kind="judge", text="the judge looks at length: 90.0 % [80.0, 95.0]")]
    leans = make_run("j", kind="interleaved", benchmark=HONESTY, model="jay", reservations=known)
    write_bundle(tmp_path / "jay", judged(leans), [metric("right against wrong", 99.0, (90.0, 100.0))])
    own = tmp_path / "own"
    second = metric("image", 2.5, (2.0, 3.0), unit="grade").model_copy(update={"primary": False})
    grades = [metric("mean", 3.25, (3.0, 3.5), unit="grade"), second]
    graded = make_run("g", kind="interleaved", benchmark="armor-rubric-v1", model="mine")
    write_bundle(own / "graded", judged(graded), grades, make_items(20))
    twin = make_run("w", kind="interleaved", benchmark="interleaved", model="mine")
    write_bundle(own / "twin", twin, [metric("all right", 12.0, (9.0, 15.0))], make_items(20))
    suite = judged(make_run("s", kind="suite", benchmark="geneval2", model="mine"))
    write_bundle(own / "suite", suite, [metric("soft tifa", 33.0, (30.0, 36.0))], make_items(20))
    text_run(tmp_path / "base", "base", "arc", 8)
    text_run(own, "mine", "arc", 5)
    text_run(own, "mine", "winogrande", 5)
    made = card(tmp_path, "mine", str(own), str(tmp_path / "jay"), "--base", str(tmp_path / "base"))
    page = (tmp_path / "card" / "card.md").read_text()
    assert "| armor-rubric-v1 (a) | mine | 3.25 |" in page and "| image | 2.50 |" in page
    assert "| interleaved | mine | 12.0 % |" in page and "| geneval2 (a) | mine | 33.0 % |" in page
    assert "judge of armor-rubric-v1: jay" in page and "judge of geneval2: jay" in page
    assert sorted(made["reservations"][known[0].text]) == ["armor-rubric-v1", "geneval2"]
    assert {(row["kind"], row["benchmark"]): row["kept"] for row in made["kept"]}["text", "arc"] == pytest.approx(62.5)
    missing = {one["what"] for one in made["not_measured"]}
    assert {"what is kept of a base's text (winogrande)", "what is kept of a base's understanding"} <= missing
    assert "Interleaved answers" not in missing and not any("questions of any kind" in what for what in missing)


def test_a_folder_is_known_by_its_content_not_by_its_name(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "step-10"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    model = ModelInfo(spec="elsewhere", name="elsewhere", fingerprint=sha256_folder(folder))
    write_bundle(tmp_path / "r", shapes_run("a", "understanding", "POPE", model=model), [F1], make_items(5))
    assert card(tmp_path, str(folder), str(tmp_path / "r"))["model"]["name"] == "elsewhere"
    (folder / "config.json").write_text('{"changed": 1}')
    assert main(["card", str(folder), str(tmp_path / "r"), "--out", str(tmp_path / "c")]) == 2
    assert "none of the runs measured" in capsys.readouterr().err


def test_two_checkpoints_of_one_name_are_refused(tmp_path: Path, capsys) -> None:
    for name in ("one", "two"):
        model = ModelInfo(spec="m", name="m", fingerprint=name * 20)
        write_bundle(tmp_path / name, make_run(name, model=model), [F1], make_items(5))
    assert main(["card", "m", str(tmp_path), "--out", str(tmp_path / "c")]) == 2
    assert "2 checkpoints named m" in capsys.readouterr().err
