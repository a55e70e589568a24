"""Rubric replies and judge templates: read by the official rule or not at all, and nothing of a script is run."""

import json

import pytest
from paths import SHARED

from armor_eval.tasks.suites.declare import suites
from armor_eval.tasks.suites.rubric import Rubric
from armor_eval.tasks.suites.wise import from_script
from armor_model.base.errors import UserError

WISE, WISE_VERIFIED = (Rubric.model_validate(suites()[name].options["rubric"]) for name in ("wise", "wise-verified"))
STUB = SHARED / "suites" / "fixtures" / "wise_stub"
SCRIPT = '''
import os
os.remove("never")
def messages_of(item, picture):
    """Builds them."""
    return [
        {"role": "system", "content": [{"type": "text", "text": "You grade."}]},
        {"role": "user", "content": [
            {"type": "text", "text": f"""Grade {{0, 1}}.
ASKED: "{item['Prompt']}"
MEANT: "{item['Explanation']}" """},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        ]},
    ]
'''


@pytest.mark.parametrize(
    ("reply", "bit"),
    [
        ("Score: 1", 1),
        ("**Score**: 0", 0),
        ("score 1", 1),
        ("<think>Score: 0, surely</think>\nScore: 1", 1),
        ("First, Score: 0. Then Score: 1.", 0),
        ("It is fine.\n1\n", 1),
        ("1\n0", None),
        ("Score: 2", None),
        ("Score: 10", None),
        ("", None),
        ("<think>Score: 1", None),
    ],
)
def test_the_verified_bit(reply, bit):
    assert WISE_VERIFIED.read(reply) == (None if bit is None else {"Score": bit})


@pytest.mark.parametrize(
    ("reply", "digits"),
    [
        ("Consistency: 2\nRealism: 1\nAesthetic Quality: 0", (2, 1, 0)),
        ("**consistency**：2 **Realism** 1, AESTHETIC QUALITY:2", (2, 1, 2)),
        ("Consistency: 0\nRealism: 1\nAesthetic Quality: 0\nConsistency: 2", (2, 1, 0)),
        ("2\n1\n0\n", (2, 1, 0)),
        ("2\n1", None),
        ("Consistency: 2\nRealism: 1", None),
        ("Consistency: 9\nRealism: 1\nAesthetic Quality: 0", None),
    ],
)
def test_the_three_digits(reply, digits):
    found = WISE.read(reply)
    assert (None if found is None else tuple(found.values())) == digits


def test_weights_end_at_one():
    assert WISE.score(dict.fromkeys(WISE.fields, 2)) == pytest.approx(1)
    assert WISE.score({"Consistency": 1, "Realism": 0, "Aesthetic Quality": 0}) == pytest.approx(0.35)


@pytest.mark.skipif(not STUB.is_dir(), reason="../shared/suites is not here")
@pytest.mark.parametrize(("name", "rubric"), [("legacy", WISE), ("verified", WISE_VERIFIED)])
def test_the_official_means(name, rubric):
    expected = json.loads((STUB / "expected.json").read_text())[name]
    rows = [json.loads(line) for line in (STUB / f"{name}_scores.jsonl").read_text().splitlines()]
    keys = {field: field.lower().replace(" ", "_") for field in rubric.fields}
    scores = [rubric.score({field: row[key] for field, key in keys.items()}) for row in rows]
    assert sum(scores) / len(scores) == pytest.approx(expected["overall"], abs=1e-12)
    assert sum(scores[:400]) / 400 == pytest.approx(expected["categories"]["CULTURE"], abs=1e-12)


def test_a_script_is_read_and_not_run(tmp_path):
    file = tmp_path / "judge.py"
    file.write_text(SCRIPT)
    template = from_script(file, "messages_of", "item", {"Prompt", "Explanation"})
    assert template.system == "You grade."
    assert template.text == 'Grade {0, 1}.\nASKED: "{Prompt}"\nMEANT: "{Explanation}" '


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("{item['Prompt']}", "{os.getcwd()}", "neither text nor a field"),
        ("{item['Prompt']}", "{item['Prompt']!r}", "neither text nor a field"),
        ("{item['Prompt']}", "{item['Prompt']:>5}", "neither text nor a field"),
        ("{item['Prompt']}", "{secret['Prompt']}", "neither text nor a field"),
        ("{item['Prompt']}", "{item['Answer']}", "expected user, image and Explanation, Prompt"),
        ('"type": "image_url"', '"type": "video"', "a part of type 'video'"),
        ("def messages_of", "def other", "has no function messages_of"),
        ("return [", "return make([", "is not a Python script"),
        ('"You grade."', "open('x').read()", "neither text nor a field"),
        ("Grade {{0, 1}}", "Grade {{Prompt}}", "neither text nor a field"),
        ('"role": "system"', '"role": "assistant"', "a message of 'assistant'"),
    ],
)
def test_what_is_no_template_is_refused_in_one_line(tmp_path, before, after, why):
    file = tmp_path / "judge.py"
    file.write_text(SCRIPT.replace(before, after))
    with pytest.raises(UserError, match=why.replace("(", r"\(")):
        from_script(file, "messages_of", "item", {"Prompt", "Explanation"})
