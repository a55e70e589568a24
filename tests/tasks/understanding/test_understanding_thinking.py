"""Answers that think, and our own second reading: adversarial tables, and properties that hold for every text."""

from __future__ import annotations

import math
import time
from pathlib import Path

import harness_data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armor_eval.models.base import Answer
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import Item, Run, Scores
from armor_eval.tasks.understanding import parse
from armor_eval.tasks.understanding.thinking import scored_text, strip_thoughts
from armor_model.base.errors import UserError

ANIMALS = {"A": "dog", "B": "cat", "C": "cow", "D": "horse"}
quick = {"deadline": None, "derandomize": True}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("B", "B"),
        ("  B \n", "  B \n"),
        ("", ""),
        ("<think>A, or rather C</think>B", "B"),
        ("<think>\nA\n</think>\n\nB", "B"),
        ("B <think>sure?</think>", "B"),
        ("<think>I never come to an end: A", ""),
        ("B <think>unclosed", "B"),
        ("<think>", ""),
        ("</think>", ""),
        ("the template opened it</think> B", "B"),
        ("one</think> two</think> B", "B"),
        ("<think>a</think>b<think>c</think>d", "bd"),
        ("<think>a <think> b</think>c", "c"),
        ("<think>a <think> b</think>c</think>d", "d"),
        ("<THINK>a</Think>b", "b"),
        ("<thinking>a</thinking>b", "b"),
        ("< think >a</ think >b", "b"),
        ("◁think▷a◁/think▷b", "b"),
        ("<think></think>B", "B"),
        ("I think <b>B</b>", "I think <b>B</b>"),
        ("a < think", "a < think"),
        ("<thinker>a</thinker>", "<thinker>a</thinker>"),
    ],
)
def test_thoughts_are_cut(text, left):
    assert strip_thoughts(text) == left


PLAIN = st.text(alphabet=st.characters(exclude_characters="<>◁▷"), max_size=30)


@settings(max_examples=200, **quick)
@given(answer=PLAIN, thoughts=st.lists(PLAIN, min_size=1, max_size=3), opened=st.booleans())
def test_whatever_is_thought_only_the_answer_is_left(answer, thoughts, opened):
    written = "</think>".join(f"<think>{thought}" for thought in thoughts)
    written = written if opened else written.removeprefix("<think>")
    assert strip_thoughts(f"{written}</think>{answer}") == answer.strip()
    assert strip_thoughts(answer) == answer
    assert strip_thoughts(f"<think>{answer}") == ""


def test_a_servers_reasoning_counts_as_a_thought():
    item = Item(id="1", cluster="1", prompt="", prompt_sha256="", output="B", status="ok", extras={"reasoning": "A?"})
    assert scored_text(item, "strip") == "B" and scored_text(item, "keep") == "<think>\nA?\n</think>\n\nB"
    written = item.model_copy(update={"output": "<think>A?</think>B", "extras": {}})
    assert scored_text(written, "strip") == "B" and scored_text(written, "keep") == "<think>A?</think>B"
    assert scored_text(item.model_copy(update={"output": None}), "strip") == ""


@pytest.mark.parametrize(
    ("text", "read"),
    [
        # plain, marked, lower-case
        ("B", "B"),
        ("b", "B"),
        ("b.", "B"),
        ("(b)", "B"),
        ("[B]", "B"),
        ("{B}", "B"),
        ("B)", "B"),
        ("**B**", "B"),
        ("__b__", "B"),
        ("'B'", "B"),
        ("`B`", "B"),
        ("$B$", "B"),
        ("B. cat", "B"),
        ("b) cat", "B"),
        ("b. cat", "B"),
        ("(b) because of its ears", "B"),
        ("B: cat", "B"),
        ("B\nbecause", "B"),
        ("**B. cat**", "B"),
        ("*(B)*", "B"),
        # boxes
        (r"\boxed{B}", "B"),
        (r"$\boxed{\text{B}}$", "B"),
        (r"\boxed{\text{(B)}}", "B"),
        (r"\boxed{\mathbf{b}}", "B"),
        (r"\boxed{\text{\textbf{B}}}", "B"),
        (r"first \boxed{A}, no: \boxed{B}", "B"),
        (r"\fboxed{B}", "B"),
        (r"\boxed{\text{B. cat}}", "B"),
        (r"\boxed {B}", "B"),
        (r"\boxed{\text{cat}}", "B"),
        (r"\boxed{A", None),
        (r"\boxed{}, so B", "B"),
        (r"x = \frac{1}{2}, \boxed{\mathrm{B}}", "B"),
        ("<|begin_of_box|>B<|end_of_box|>", "B"),
        # answer tags
        ("<answer>B</answer>", "B"),
        ("<answer> b </answer>", "B"),
        ("<think>A</think><answer>B</answer>", "B"),
        ("<answer>A</answer> no, <answer>B</answer>", "B"),
        ("<answer>(B) cat", "B"),
        ("A? <answer>\nB\n</answer>", "B"),
        (r"<answer>\boxed{B}</answer>", "B"),
        ("<Answer>The answer is B.</Answer>", "B"),
        # stated
        ("The answer is B", "B"),
        ("The answer is (B).", "B"),
        ("the answer is b.", "B"),
        ("Answer: B", "B"),
        ("answer: b", "B"),
        ("Answer: **B**", "B"),
        ("The correct answer is: **B. cat**", "B"),
        ("Therefore, B", "B"),
        ("Therefore, B.", "B"),
        ("Thus (B)", "B"),
        ("So, B.", "B"),
        ("Hence, the answer is B", "B"),
        ("A is wrong. Therefore, the correct option is B.", "B"),
        ("I would choose B", "B"),
        ("I'd go with (B).", "B"),
        ("It's a cat with ears.\n\nB", "B"),
        ("Looking at it,\n(B)", "B"),
        ("Final answer: B", "B"),
        ("The answer must be B because A barks", "B"),
        ("I think the correct choice is option B", "B"),
        ("The answer is A. Wait, no. The answer is B.", "B"),
        ("Option A barks, so the answer is B", "B"),
        ("It must be option B here", "B"),
        ("Among them **B** fits", "B"),
        ("Among them (B) fits", "B"),
        # Chinese and full width
        ("答案是B", "B"),
        ("答案是：B", "B"),
        ("答案：B", "B"),
        ("答案为B。", "B"),
        ("正确答案是（Ｂ）", "B"),
        ("（Ｂ）", "B"),
        ("Ｂ", "B"),
        ("ｂ", "B"),
        ("Ｂ．cat", "B"),
        ("故选B", "B"),
        ("因此，选B。", "B"),
        ("所以选择B", "B"),
        ("应该选B", "B"),
        ("选项B正确", "B"),
        ("答案是b", "B"),
        ("【B】", "B"),
        ("正确选项是B", "B"),
        ("答案是「B」", "B"),
        ("因此B", "B"),
        ("<think>是A吗</think>答案是B", "B"),
        # content
        ("cat", "B"),
        ("It is a cat.", "B"),
        ("It is a CAT", "B"),
        ("cats", None),
        ("dog and cat", None),
        ("not a dog", None),
        ("It is not a dog but a cat", "B"),
        # nothing, or several
        ("", None),
        ("E", None),
        ("A or B", None),
        ("A, B", None),
        ("A and B", None),
        ("A/B", None),
        ("(A) or (B)", None),
        ("The answer is A or B", None),
        ("The answer is A, B and C", None),
        ("A dog-like thing runs", "A"),
        ("A fish runs", None),
        ("a", "A"),
        ("a fish", None),
        ("the answer is a fish", None),
        ("A. dog B. cat C. cow D. horse", None),
        ("(A) dog (C) cow (D) horse", None),
        ("A. dog\nB. cat\nC. cow\nD. horse\nThe answer is B", "B"),
        ("A. dog\nB. cat\nC. cow\nD. horse\nThe picture shows nothing", None),
        ("I cannot tell", None),
        ("Is the answer B?", None),
        ("The answer is not A", None),
        ("<think>B", None),
        ("Better not", None),
        ("Dear user, nothing is there", None),
        ("Answer", None),
        ("...", None),
        ("ABCD", None),
        ("Cannot say", None),
    ],
)
def test_reading_an_option(text, read):
    assert parse.read_option(text, ANIMALS) == read


@pytest.mark.parametrize(
    ("text", "options", "read"),
    [
        ("It is 3.5 m", {"A": "3", "B": "5", "C": "3.5"}, "C"),
        ("-5", {"A": "5", "B": "7"}, None),
        ("1,000 people", {"A": "000", "B": "1,000"}, "B"),
        ("about 30", {"A": "3", "B": "30"}, "B"),
        ("图中是红色的", {"A": "红色", "B": "蓝色"}, "A"),
        ("不是红色", {"A": "红色", "B": "蓝色"}, None),
        ("a red cat", {"A": "cat", "B": "red cat"}, "B"),
        ("I think so", {k: f"x{k}" for k in "ABCDEFGHI"}, None),
        ("The answer is I", {k: f"x{k}" for k in "ABCDEFGHI"}, "I"),
        ("B", {"A": "x"}, None),
        ("B", {}, None),
        ("Therefore, I think (B)", {k: f"x{k}" for k in "ABCDEFGHI"}, "B"),
        ("None", {"A": "None", "B": "dog"}, "A"),
        ("A. dog", {"A": "dog", "B": "cat"}, "A"),
        ("5", {"A": 5, "B": 7.5}, "A"),
    ],
)
def test_reading_other_options(text, options, read):
    assert parse.read_option(text, options) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes", "Yes"),
        ("yes.", "Yes"),
        ("Y", "Yes"),
        ("y", "Yes"),
        ("**Yes**", "Yes"),
        ("Yes, no doubt", "Yes"),
        ("No", "No"),
        ("n", "No"),
        ("N.", "No"),
        ("nope", "No"),
        ("**No.**", "No"),
        ("'no'", "No"),
        ("False", "No"),
        ("True", "Yes"),
        ("Correct.", "Yes"),
        ("Incorrect", "No"),
        ("Sure", "Yes"),
        ("Of course", "Yes"),
        ("Certainly not", "No"),
        ("Definitely not.", "No"),
        ("Of course not", "No"),
        ("Not at all", "No"),
        ("Not really", "No"),
        ("Not in the image", "No"),
        ("There is no dog", "No"),
        ("It is not, so no.", "No"),
        ("I would say yes", "Yes"),
        ("Therefore, yes", "Yes"),
        ("The answer is no.", "No"),
        ("Answer: Yes", "Yes"),
        ("Yes at first sight, but the answer is no", "No"),
        (r"\boxed{\text{Yes}}", "Yes"),
        (r"\boxed{no}", "No"),
        ("<answer>no</answer>", "No"),
        ("<think>yes</think>no", "No"),
        ("Ｙｅｓ", "Yes"),
        ("Ｎｏ．", "No"),
        ("是", "Yes"),
        ("是的，有一只狗", "Yes"),
        ("不是", "No"),
        ("否", "No"),
        ("没有", "No"),
        ("答案是：否", "No"),
        ("答案：是", "Yes"),
        ("有", "Yes"),
        ("错误", "No"),
        ("正确", "Yes"),
        ("不正确", "No"),
        ("Answer yes or no: yes", "Yes"),
        ("Yes or no? No.", "No"),
        ("Not sure, but I think yes", "Yes"),
        ("No doubt: yes", "Yes"),
        ("not yes", "No"),
        ("The answer is not yes", "No"),
        # what says neither
        ("Not sure", None),
        ("Not sure.", None),
        ("I'm not sure", None),
        ("Not entirely certain", None),
        ("not clear", None),
        ("Yes and no", None),
        ("Yes and no.", None),
        ("No and yes", None),
        ("yes or no?", None),
        ("Yes/No", None),
        ("Neither yes nor no", None),
        ("Yes & no", None),
        ("No idea", None),
        ("No way to tell", None),
        ("N/A", None),
        ("n/a", None),
        ("I cannot say yes", None),
        ("I can't tell", None),
        ("I do not know", None),
        ("Unable to determine", None),
        ("Not enough information", None),
        ("It is impossible to say", None),
        ("There is a dog", None),
        ("", None),
        ("nobody", None),
        ("Yesterday", None),
        ("Maybe", None),
        ("no comment", None),
        ("Not necessarily", None),
        ("不确定", None),
        ("无法判断", None),
        ("是否有狗", None),
        ("<think>yes", None),
        ("Noon", None),
        ("Y-axis", None),
        ("notable", None),
        ("not no", None),
        ("There is no doubt that it rains", None),
        ("Is the answer yes?", None),
    ],
)
def test_reading_yes_and_no(text, read):
    assert parse.read_yes_no(text) == read


WRAPPED = st.sampled_from(
    [
        "{}",
        "({})",
        "**{}**",
        "\\boxed{{{}}}",
        "\\boxed{{\\text{{{}}}}}",
        "<answer>{}</answer>",
        "The answer is {}.",
        "Therefore, {}",
        "答案是{}",
        "（{}）",
        "Answer: ({})",
        "Some thoughts first.\n{}",
        "**Answer:** {}",
    ]
)
THOUGHTS = st.sampled_from(["", "<think>A or C? The answer is D.</think>", "I take A, no, C.</think>\n"])
WIDE = {ord(c): ord(c) + 0xFEE0 for c in "ABCDabcd"}


@settings(max_examples=400, **quick)
@given(letter=st.sampled_from("ABCD"), form=WRAPPED, thoughts=THOUGHTS, wide=st.booleans(), lower=st.booleans())
def test_a_letter_is_read_in_every_dress(letter, form, thoughts, wide, lower):
    shown = letter.lower() if lower else letter
    shown = shown.translate(WIDE) if wide else shown
    assert parse.read_option(thoughts + form.format(shown), ANIMALS) == letter


@settings(max_examples=200, **quick)
@given(
    word=st.sampled_from(["Yes", "No"]),
    form=WRAPPED,
    thoughts=THOUGHTS,
    how=st.sampled_from([str, str.lower, str.upper]),
)
def test_a_yes_or_no_is_read_in_every_dress(word, form, thoughts, how):
    assert parse.read_yes_no(thoughts + form.format(how(word))) == word


@pytest.mark.parametrize("unit", ["\\boxed{", "<think>", "not ", "answer ", "A, ", "**", "(", "答案", "cannot a "])
def test_a_repetition_without_end_is_read_in_time_that_grows_with_its_length(unit):
    """Models that loop write thousands of these; quadratic, 64,000 characters took half a minute."""

    def seconds(length: int) -> float:
        """The least of three: neighbours on the same core take some of its time."""
        text, least = unit * (length // len(unit)), math.inf
        for _ in range(3):
            began = time.process_time()
            parse.read_option(text, ANIMALS)
            parse.read_yes_no(text)
            least = min(least, time.process_time() - began)
        return least

    seconds(100)
    # 16 times the text; measured 12 to 31 times, quadratic would be 256 times
    assert seconds(64_000) < 100 * max(seconds(4_000), 1e-3)


@settings(max_examples=300, **quick)
@given(text=st.text(alphabet=st.sampled_from("AaBbI ()*.{}\\<>ansYyNo是答案Ｂ\n"), max_size=60))
def test_no_text_makes_the_reading_fail_or_invent(text):
    assert parse.read_option(text, ANIMALS) in (*ANIMALS, None)
    assert parse.read_yes_no(text) in ("Yes", "No", None)
    assert parse.read_option(text + "\ufb01<think>", ANIMALS) in (*ANIMALS, None)


class Thinks(MockModel):
    """Thinks about every option, in the text or in a server's field, then says A; never ends on `open`."""

    def __init__(self, how: str) -> None:
        super().__init__("A")
        self._how = how

    def answer(self, questions, decoding):
        given = {
            "written": Answer("<think>A, B, C, D</think>\nA"),
            "field": Answer("A", extras={"reasoning": "A, B, C, D"}),
            "open": Answer("<think>A"),
            "plain": Answer("A"),
        }[self._how]
        return [given for _ in questions]


def measure(how: str, out: Path, data: Path, **changes) -> tuple[Run, list[Item], Scores]:
    harness_data.measure("SEED", Thinks(how), out, data, **changes)
    run, items, scores = read_bundle(out)
    assert scores is not None
    return run, items, scores


def test_a_model_that_thinks_is_scored_by_what_it_answers(tsv_folder, tmp_path):
    """The whole output stays in the item; what was scored stands beside it where it is something else."""
    _, _, plain = measure("plain", tmp_path / "plain", tsv_folder)
    for how, scored in (("written", "A"), ("field", None)):
        run, items, scores = measure(how, tmp_path / how, tsv_folder)
        assert scores.metrics[0].value == plain.metrics[0].value and protocol_of(run)["thinking"] == "strip"
        assert items[0].extras.get("scored_text") == scored
        assert "A, B, C, D" in (items[0].output if scored else items[0].extras["reasoning"])
        run, items, scores = measure(how, tmp_path / f"{how}-keep", tsv_folder, thinking="keep")
        assert scores.metrics[0].value != plain.metrics[0].value and protocol_of(run)["thinking"] == "keep"
        assert items[0].extras.get("scored_text") == (None if scored else "<think>\nA, B, C, D\n</think>\n\nA")


def test_thoughts_without_an_end_leave_nothing_to_score_and_the_run_says_so(tsv_folder, tmp_path):
    run, items, scores = measure("open", tmp_path / "open", tsv_folder)
    assert scores.counts["unparsed"] == len(items) and items[0].extras["scored_text"] == ""
    [unread] = [r.text for r in run.reservations if r.kind == "unread"]
    assert unread == f"{len(items)} of {len(items)} answers could not be read by the official rule and count as wrong"
    with pytest.raises(UserError, match="protocol differs"):  # a folder holds one way of scoring
        measure("open", tmp_path / "open", tsv_folder, thinking="keep")
