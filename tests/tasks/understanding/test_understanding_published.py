"""Published files are read for what they are: cells, the two readings of them, and rows that cannot be used."""

import base64
from pathlib import Path

import pytest
from harness_data import hallusion, llavabench, measure, mmbench, mme, mmmu, png, pope, seed_bench, task_of, write
from paths import SHARED

from armor_eval.cli import main
from armor_eval.models.base import Answer
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.understanding.declare import choose
from armor_eval.vlmevalkit import official

CASES = SHARED / "cases" / "understanding"
LOST = ("None", "NA", "N/A", "n/a", "null", "nan", "NULL", "NaN")
"""Words that pandas reads as missing."""


class Says(MockModel):
    """The gold letter of each row, or one text for all; keeps what it was asked."""

    def __init__(self, texts):
        super().__init__("says")
        self._texts, self.asked = texts, {}

    def answer(self, questions, decoding):
        self.asked |= {q.id: q for q in questions}
        return [Answer(text=self._texts if isinstance(self._texts, str) else self._texts[q.id]) for q in questions]


def put(frame, bench, folder):
    return write(frame, folder / choose([bench])[0].official.file)


def measured(bench, frame, tmp_path, model, **changes):
    """(finished, its metrics by name, its items by id) of a run on the frame, or on the file that is given."""
    name = f"{bench}{len(list(tmp_path.iterdir()))}"
    if not isinstance(frame, Path):
        frame = put(frame, bench, tmp_path / name / "data")
    done = measure(bench, model, tmp_path / name / "run", frame, **changes)
    items = {it.id: it for it in read_bundle(done.path)[1]}
    return done, {m.name: m for m in done.scores.metrics}, items


def gold(frame):
    return {str(i): str(a).strip().upper() for i, a in zip(frame["index"], frame["answer"], strict=True)}


def with_lost_words():
    """SEED-Bench rows with an option that pandas loses: right in every second row, wrong in the others."""
    frame = seed_bench(2 * len(LOST))
    for row, word in enumerate(w for w in LOST for _ in range(2)):
        right = frame.loc[row, "answer"]
        frame.loc[row, right if row % 2 == 0 else "ABCD"["ABCD".index(right) - 1]] = word
    return frame


def test_an_option_that_is_a_word_for_nothing_is_kept_shown_and_right(tmp_path):
    frame = with_lost_words()
    model = Says(gold(frame))
    done, metrics, items = measured("SEED", frame, tmp_path, model)
    assert metrics["accuracy"].value == 100.0 and done.run.status == "complete"
    assert done.run.protocol["reading"] == "keep-none"
    assert all("\nA. " in it.prompt and "\nD. " in it.prompt for it in items.values())
    other = metrics["accuracy, reading vlmeval"]
    assert (other.value, other.primary) == (50.0, False)  # by VLMEvalKit's reading every second right option is lost
    assert other.note == "the same answers; it touches 16 rows, 8 of them score differently"
    assert "the reading (keep-none) touches 16 rows, e.g. 0 (A: 'None')" in done.run.extras["notes"]


def test_the_other_reading_asks_without_the_option_as_vlmevalkit_0_0_20_does(tmp_path):
    frame = with_lost_words()
    done, metrics, items = measured("SEED", frame, tmp_path, Says(gold(frame)), reading="vlmeval")
    assert metrics["accuracy"].value == 50.0 and done.run.status == "complete"
    assert done.run.protocol["reading"] == "vlmeval"
    assert not any(word in items[str(2 * n)].prompt.split() for n, word in enumerate(LOST))
    assert metrics["accuracy, reading keep-none"].value == 100.0


def test_a_run_of_one_reading_is_not_taken_up_by_the_other(tmp_path, capsys):
    path = put(with_lost_words(), "SEED", tmp_path / "d")
    argv = ["understanding", "--bench", "SEED", "--model", "mock", "--data", str(path), "--any-data"]
    argv += ["--out", str(tmp_path / "r"), "--reading"]
    assert main([*argv, "keep-none"]) == 0
    assert main([*argv, "vlmeval"]) == 2
    assert "protocol differs" in capsys.readouterr().err
    assert main([*argv, "keep-nome"]) == 2
    assert "did you mean keep-none" in capsys.readouterr().err


def test_mmmu_open_questions_and_lost_first_options_by_both_readings(tmp_path):
    frame = mmmu(8).assign(split="validation", index=[f"validation_{i}" for i in range(8)])
    frame["answer"] = frame["answer"].replace("forty two", "None")
    frame.loc[0, ["A", "answer"]] = ["None", "A"]
    done, metrics, _ = measured("MMMU", frame, tmp_path, Says(gold(frame)))
    assert metrics["validation accuracy"].value == 100.0
    # 0.0.20 makes an open question of a row whose A it lost, and loses the answer of two open ones.
    lost = metrics["validation accuracy, reading vlmeval"]
    assert lost.value < metrics["validation accuracy"].value and "touches 3 rows" in lost.note
    done, metrics, _ = measured("MMMU", frame, tmp_path, Says(gold(frame)), reading="vlmeval")
    assert done.run.status == "complete" and metrics["validation accuracy"].value == lost.value


def test_cells_that_look_like_numbers_are_asked_as_they_are_spelt(tmp_path):
    frame = seed_bench(4).astype({"question": object})
    frame["question"] = ["1984", "007", "5", "3.0"]
    frame["A"], frame["B"], frame["C"], frame["D"] = ["1", "2", "3", None], "007", "3.0", ["TRUE", "1e3", " 5", "5"]
    frame["answer"] = ["B", "C", "D", "B"]
    model = Says(gold(frame))
    done, metrics, items = measured("SEED", frame, tmp_path, model)
    assert (metrics["accuracy"].value, done.run.status) == (100.0, "complete")
    assert items["1"].prompt.split("\nAnswer")[0] == "<image>\n007\nA. 2\nB. 007\nC. 3.0\nD. 1e3"
    assert items["3"].prompt.split("\nAnswer")[0] == "<image>\n3.0\nB. 007\nC. 3.0\nD. 5"
    _, _, items = measured("SEED", frame, tmp_path, model, reading="vlmeval")
    # pandas makes numbers of whole columns: A holds a gap (2.0), B becomes 7, the questions 7.0.
    assert items["1"].prompt.split("\nAnswer")[0] == "<image>\n7.0\nA. 2.0\nB. 7\nC. 3.0\nD. 1e3"


@pytest.mark.parametrize(
    ("indices", "ids"),
    [
        (["1.0", "2.0", "3.5", "4.0"], ["1.0", "2.0", "3.5", "4.0"]),
        (["1.0", "2.0", "3.0", "4"], list("1234")),
        (["007", "08", "9", "10"], ["7", "8", "9", "10"]),
        (["1_2", "a b", "'", "print(1)"], None),
    ],
)
def test_indices_of_any_kind_reach_the_score(indices, ids, tmp_path):
    frame = seed_bench(4).assign(index=indices)
    right = dict(zip(ids or indices, frame["answer"], strict=True))
    _, metrics, items = measured("SEED", frame, tmp_path, Says(right))
    assert (metrics["accuracy"].value, list(items)) == (100.0, ids or indices)


def test_rotations_may_have_float_indices(tmp_path):
    frame = mmbench(2)
    right = gold(frame)
    _, metrics, _ = measured("MMB", frame.assign(index=[f"{i}.0" for i in frame["index"]]), tmp_path, Says(right))
    assert metrics["circular accuracy"].value == 100.0


def test_lower_case_answers_mean_the_same(tmp_path):
    frame = seed_bench(4)
    right = gold(frame)
    _, metrics, items = measured("SEED", frame.assign(answer=[" a", "b", "c", "D"]), tmp_path, Says(right))
    assert metrics["accuracy"].value == 100.0 and items["1"].gold == "B"
    assert metrics["accuracy, reading vlmeval"].value == 25.0  # there `b` is not B
    frame = pope(2)
    right = {str(i): a for i, a in zip(frame["index"], frame["answer"], strict=True)}
    frame["answer"] = [("yes", " YES ")[n % 2] if a == "Yes" else "no" for n, a in enumerate(frame["answer"])]
    _, metrics, _ = measured("POPE", frame, tmp_path, Says(right))
    assert (metrics["F1"].value, metrics["F1, reading vlmeval"].value) == (100.0, 0.0)


def test_bom_crlf_and_quoted_newlines(tmp_path):
    frame = seed_bench(3)
    frame["question"] = ["one\nline", 'a "quoted"\tword', "tail\r\nbelow"]
    path = put(frame, "SEED", tmp_path / "d")
    text = path.read_bytes()
    head, _, rest = text.partition(b"\n")
    path.write_bytes(b"\xef\xbb\xbf" + head + b"\r\n" + rest.replace(b'"\n"', b'"\r\n"'))
    _, metrics, items = measured("SEED", path, tmp_path, Says(gold(frame)))
    assert metrics["accuracy"].value == 100.0
    assert [it.prompt.split("\nA. ")[0] for it in items.values()] == [f"<image>\n{q}" for q in frame["question"]]


def test_image_cells_of_every_kind(tmp_path):
    one, two = png(1), png(2)
    frame = seed_bench(10)
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "sub" / "one.png").write_bytes(base64.b64decode(one))
    (tmp_path / "outside.png").write_bytes(base64.b64decode(one))
    frame["image"] = [
        one,
        f"data:image/png;base64,{one}",
        "sub/one.png",
        str([one, two]),
        "0",
        str(["0", "sub/one.png", two]),
        "[]",
        "../outside.png",
        "sub/none.png",
        "https://example.org/one.png",
    ]
    model = Says(gold(frame))
    done, _, items = measured("SEED", put(frame, "SEED", tmp_path / "d"), tmp_path, model)
    pixels = {i: [p.tobytes() for p in q.parts if not isinstance(p, str)] for i, q in model.asked.items()}
    first, second = pixels["3"]
    assert first != second
    assert [pixels[str(i)] for i in (0, 1, 2, 4)] == [[first]] * 4
    assert pixels["5"] == [first, first, second] and pixels["6"] == []
    reasons = {i: it.reason for i, it in items.items() if it.status == "error"}
    assert set(reasons) == {"7", "8", "9"} and done.run.status == "partial"
    assert "1 rows have an empty list of images and are asked without any" in done.run.extras["notes"]
    assert "out of the data folder" in reasons["7"] and "no image at" in reasons["8"] and "fetched" in reasons["9"]


def test_references_lead_over_rows_and_a_ring_costs_its_rows(tmp_path):
    frame = seed_bench(6)
    frame["image"] = [png(1), "0", "1", "4", "3", "99"]
    model = Says(gold(frame))
    _, _, items = measured("SEED", frame, tmp_path, model)
    assert {q.parts[0].tobytes() for q in model.asked.values()} == {model.asked["0"].parts[0].tobytes()}
    assert [items[str(i)].status for i in range(6)] == ["ok", "ok", "ok", "error", "error", "error"]
    assert "refers back" in items["3"].reason and "not base64" in items["5"].reason


def test_a_stretch_of_bare_references_keeps_its_spelling(tmp_path):
    frame = seed_bench(600)  # pandas reads 256 rows at a time, and makes numbers of a column that holds nothing else
    frame["index"] = [f"{n:04d}x" if n % 2 else f"{n:04d}" for n in range(600)]
    frame["image"] = [png(3), *["0000"] * 599]
    table = task_of("SEED", put(frame, "SEED", tmp_path / "d")).table
    assert {row.image_cell.digest for row in table.rows} == {table.rows[0].image_cell.digest}


def changed(frame, row, **cells):
    frame = frame.astype(dict.fromkeys(cells, object))
    for column, value in cells.items():
        frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("bench", "frame", "lost", "reason"),
    [
        ("MMB", changed(mmbench(3), 1, answer=None), "1000001", "has no answer"),
        ("MMB", changed(mmbench(3), 1, answer="E"), "1000001", "the answer 'E', which is not one of its options"),
        ("MMB", changed(mmbench(3), 1, question=None), "1000001", "has no question"),
        ("MMB", changed(mmbench(3), 1, index="one"), "one", "an index that is not an integer"),
        ("MMB", changed(mmbench(3), 0, index=9), "1000001", "is a rotation of 1, which the file does not hold"),
        ("MME", changed(mme(2), 0, category="odours"), "0", "'odours', not one of MME's 14"),
        ("MME", changed(mme(2), 0, image_path="OCR/1.png"), "1", "is one of 1 questions of its image"),
        ("MME", changed(mme(2), 0, image_path=None), "0", "has no image_path"),
        ("POPE", changed(pope(2), 0, answer="Maybe"), "0", "expected Yes or No"),
        ("HallusionBench", changed(hallusion(2), 0, index="VD_0"), "VD_0", "an index that is not category_subcat"),
        ("LLaVABench", changed(llavabench(), 0, category="poem"), "0", "'poem', expected conv, detail, complex"),
        ("LLaVABench", changed(llavabench(), 0, gpt4_ans=None), "0", "has no gpt4_ans"),
    ],
)
def test_a_cell_that_cannot_be_used_costs_its_row(bench, frame, lost, reason, tmp_path):
    path = put(frame, bench, tmp_path / "d")
    table = task_of(bench, path).table
    if bench == "LLaVABench":  # scored by a judge alone
        assert reason in next(row.problem for row in table.rows if row.id == lost)
        return
    model = Says(table.benchmark.scoring.constant)
    done, _, items = measured(bench, path, tmp_path, model)
    assert lost not in model.asked and len(model.asked) == len(table.frame) < len(table.rows)
    assert items[lost].status == "error" and reason in items[lost].reason
    assert done.run.status == "partial" and done.scores.counts["error"] == len(table.rows) - len(table.frame)
    assert "cannot be used and count as errors" in " ".join(done.run.extras["notes"])
    primary = next(m for m in done.scores.metrics if m.primary)
    assert primary.value is None and "withheld" in primary.note  # more than 1 % of so small a file


def test_one_row_in_two_hundred_does_not_cost_the_headline(tmp_path):
    frame = changed(seed_bench(200), 7, answer="?")
    done, metrics, _ = measured("SEED", frame, tmp_path, Says(gold(seed_bench(200))))
    assert metrics["accuracy"].value == 100.0 and metrics["accuracy"].n == 199
    assert done.run.status == "partial" and done.run.status_reason.startswith("1 of 200 items could not be answered")


def test_what_vlmevalkit_is_handed_survives_its_own_reading(tmp_path):
    frame = changed(with_lost_words(), 0, category=None)
    frame["l2-category"] = ["NA", *[None] * (len(frame) - 1)]
    table = task_of("SEED", put(frame, "SEED", tmp_path / "d")).table
    said = {row.id: ("None", "NA", "", "007", "a\tb\n", '"')[n % 6] for n, row in enumerate(table.rows)}
    with official._Work.of(table, said) as work:
        read = work.load(work.file)
    assert [str(i) for i in read["index"]] == [row.id for row in table.rows]
    for column in "ABCD":
        assert read[column].tolist() == frame[column].tolist()
    assert read["prediction"].fillna("").tolist() == list(said.values())
    assert official.score(table, said).headline is not None


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not beside this checkout")
@pytest.mark.parametrize(
    ("case", "bench"),
    [
        ("none_gold", "SEED"),
        ("mmmu_none", "MMMU"),
        ("none_option", "SEED"),
        ("none_option", "MMMU"),
        ("open_letter", "MMMU"),
        ("question_number", "SEED"),
        ("float_index", "SEED"),
    ],
)
@pytest.mark.parametrize("reading", ["keep-none", "vlmeval"])
def test_the_cases_that_failed(case, bench, reading, tmp_path):
    folder = CASES / case
    done = measure(bench, Says("A"), tmp_path / "r", folder, reading=reading)
    assert done.run.status == "complete" and done.scores.counts["error"] == 0
