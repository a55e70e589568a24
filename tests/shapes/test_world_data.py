"""Holds the generated benchmark files: their declared content, official layouts, and that words alone tell nothing."""

import base64
import collections
import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from armor_eval.shapes import geneval, modality, truth, understanding
from armor_model.base.errors import UserError
from trainer.shapes import language, questions, requests, world

YES_NO = ("MME", "HallusionBench", "POPE")


def written_sha256(path):
    """`content_sha256` of a written TSV, images decoded."""
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)

    def read(column, cell):
        if column != "image" or len(cell) <= 64:
            return cell
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(cell))).convert("RGB"))

    columns = list(frame.columns)
    rows = ([read(c, v) for c, v in zip(columns, row, strict=True)] for row in frame.itertuples(index=False))
    return understanding.content_sha256(columns, rows)


@pytest.fixture(scope="module")
def rows():
    return {name: understanding.rows_for(name) for name in understanding.BUILDERS}


@pytest.mark.parametrize("name", understanding.BUILDERS)
def test_content_is_the_declared_one(name, rows, tmp_path):
    declared = understanding.declared()[name]
    assert understanding.rows_sha256(rows[name]) == declared["sha256"], "a frozen file changed"
    assert len(rows[name]) == declared["rows"] and len({row["index"] for row in rows[name]}) == declared["rows"]
    understanding.write_tsv(rows[name], tmp_path / "x.tsv")
    assert written_sha256(tmp_path / "x.tsv") == declared["sha256"]
    assert declared["clusters"] >= 400


def test_tsv_path_writes_once_mends_and_refuses(tmp_path, monkeypatch):
    path = understanding.tsv_path("POPE", tmp_path)
    assert path.name == "POPE.tsv" and path.parent.name == understanding.declared()["POPE"]["sha256"][:16]
    before = path.read_bytes()
    assert understanding.tsv_path("POPE", tmp_path) == path
    path.write_text("broken")
    assert understanding.tsv_path("POPE", tmp_path).read_bytes() == before
    monkeypatch.setitem(understanding.BUILDERS, "POPE", lambda: understanding.yesno.pope(1))
    path.unlink()
    with pytest.raises(UserError, match="content"):
        understanding.tsv_path("POPE", tmp_path)
    with pytest.raises(UserError, match="did you mean POPE"):
        understanding.tsv_path("POP", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        understanding.tsv_path("MME", tmp_path / "file")


def test_a_changed_pixel_changes_the_hash(rows):
    one = [dict(row) for row in rows["POPE"][:3]]
    before = understanding.rows_sha256(one)
    one[0]["image"] = world.Scene.parse("red circle@0")
    assert understanding.rows_sha256(one) != before


@pytest.mark.parametrize("name", understanding.BUILDERS)
def test_every_gold_answer_is_true(name, rows):
    scenes = {row["index"]: row["image"] for row in rows[name]}
    for row in rows[name]:
        scene = row["image"] if isinstance(row["image"], world.Scene) else scenes[row["image"]]
        answer = row.get("answer")
        if answer is None or row["category"].startswith("rec,gen") or name == "LLaVABench":
            continue
        true = truth.answer(scene, row["question"])
        said = row[answer] if answer in questions.LETTERS else answer.lower()
        assert said == true, row


def _blind_best(rows, key):
    """Share right of the best answerer that sees `key(row)` and no picture."""
    seen = collections.defaultdict(collections.Counter)
    for row in rows:
        content = row[row["answer"]] if row["answer"] in questions.LETTERS else row["answer"]
        seen[key(row)][content] += 1
    return sum(max(c.values()) for c in seen.values()) / len(rows)


@pytest.mark.parametrize("name", ["MMBench_DEV_EN", "MMBench_DEV_EN_V11", "SEEDBench_IMG", "MMMU_DEV_VAL"])
def test_choices_cannot_be_told_from_words(name, rows):
    counted = [row for row in rows[name] if row.get("split") != "dev" or name != "MMMU_DEV_VAL"]
    counted = [row for row in counted if row["index"] < 1_000_000]

    def words(row):
        return (row["question"].removeprefix("<image 1> "), tuple(sorted(row[x] or "" for x in "ABCD")))

    assert _blind_best(counted, words) == pytest.approx(110 / len(counted), abs=0.001)  # one in every block
    letters = collections.Counter(row["answer"] for row in counted)
    assert max(letters.values()) / len(counted) < 0.26
    for type in choice_types(counted):
        part = [row for row in counted if row["category"] == type]
        assert _blind_best(part, words) == pytest.approx(1 / (3 if type == "beside" else 4))


def choice_types(rows):
    return {row["category"] for row in rows}


@pytest.mark.parametrize("name", YES_NO)
def test_yes_and_no_are_even_for_every_wording(name, rows):
    weight = collections.Counter()
    for row in rows[name]:
        for category in row["category"].split(","):
            weight[row["question"], category, row["answer"]] += 1
    for text, category, _ in list(weight):
        assert weight[text, category, "Yes"] == weight[text, category, "No"], (text, category)


def test_mmbench_rotations(rows):
    groups = collections.defaultdict(list)
    for row in rows["MMBench_DEV_EN"]:
        groups[row["index"] % 1_000_000].append(row)
    for number, group in groups.items():
        options = [row[x] for row in group[:1] for x in "ABCD" if row[x]]
        assert [row["index"] // 1_000_000 for row in group] == list(range(len(options)))
        assert len({row[row["answer"]] for row in group}) == 1 and len({row["answer"] for row in group}) == len(group)
        assert all(row["image"] == number for row in group[1:])
    assert len(groups) == 429 and "answer" not in rows["MMBench_TEST_EN"][0]


def test_mme_pairs_and_hallusion_sets(rows):
    pairs = collections.defaultdict(list)
    for row in rows["MME"]:
        pairs[row["image_path"]].append(row["answer"])
    assert {tuple(sorted(pair)) for pair in pairs.values()} == {("No", "Yes")} and len(pairs) == 508
    sets = collections.defaultdict(list)
    for row in rows["HallusionBench"]:
        parts = row["index"].split("_")
        assert parts[:2] == ["VD", row["l2-category"]] and len(parts) == 6
        sets[parts[3]].append(row)
    assert {len(group) for group in sets.values()} == {4} and len(sets) == 402


def test_mmvet_covers_all_six_capabilities(rows):
    named = collections.Counter(part for row in rows["MMVet"] for part in row["category"].split(","))
    assert set(named) == {"rec", "ocr", "know", "gen", "spat", "math"} and min(named.values()) >= 40


def test_questions_stay_in_the_vocabulary(rows):
    for group in rows.values():
        texts = {str(row[k]) for row in group for k in ("question", "A", "B", "C", "D", "hint") if row.get(k)}
        assert {w for text in texts for w in language.words(text.replace("<image 1>", ""))} <= set(
            language.vocabulary()
        )


def test_geneval_prompts():
    records = geneval.records()
    counts = collections.Counter(record["tag"] for record in records)
    assert [counts[task] for task in requests.TASKS] == [4, 12, 12, 20, 48, 48]
    assert len({record["prompt"] for record in records}) == len(records) == 144
    held = collections.Counter(record["tag"] for record in records if record["held_out"])
    assert [held[task] for task in requests.TASKS] == [1, 2, 3, 4, 10, 24]
    by_prompt = {record["prompt"]: record for record in records}
    assert by_prompt["a photo of a cross left of a triangle"]["include"] == [
        {"class": "triangle", "count": 1},
        {"class": "cross", "count": 1, "position": ["left of", 0]},
    ]
    assert by_prompt["a photo of three circles"] == {
        "tag": "counting",
        "include": [{"class": "circle", "count": 3}],
        "exclude": [{"class": "circle", "count": 4}],
        "prompt": "a photo of three circles",
        "held_out": True,
    }
    assert [json.loads(line) for line in geneval.jsonl().splitlines()] == records


def test_modality_records():
    records = modality.records()
    assert collections.Counter(record["kind"] for record in records) == dict.fromkeys(modality.KINDS, modality.EACH)
    assert records == modality.records() and len({record["id"] for record in records}) == 400
    trained = {*requests.DRAW, *requests.TELL_AND_DRAW, *requests.SHOW_AND_SAY, *requests.TELL_ONLY}
    for record in records:
        assert record["cluster"].partition(": ")[2] not in trained
        assert record["expect"] == dict(zip(("text", "image"), modality.KINDS[record["kind"]], strict=True))
        marks = sum(m["content"].count("<image>") for m in record["messages"])
        assert marks == len(record["images"]) == record["kind"].startswith("ti")
        assert record["messages"][-1]["role"] == "user"
        spoken = " ".join(m["content"] for m in record["messages"]).replace("<image>", "")
        assert set(language.words(spoken)) <= set(language.vocabulary())
    forms = collections.Counter(record["form"] for record in records)
    assert forms["negation"] >= 100 and sum(record["turns"] > 1 for record in records) == 80
    given = modality.conversation(next(r for r in records if r["kind"] == "ti2t"))
    assert given[-1]["content"][0]["image"].size == (32, 32) and given[-1]["content"][1]["type"] == "text"
