"""Published files of WISE, LongText and OneIG: read into items, or one line that names the place."""

import gzip
import json
from collections import Counter

import pytest
from paths import SHARED

from armor_eval.tasks.suites.declare import read_data, suites
from armor_model.base.errors import UserError

PUBLISHED = SHARED / "suites" / "data" / "longtext"
WISE = {"Prompt": "a sweet of spring", "Explanation": "a {cake}", "Category": "x", "Subcategory": "y", "prompt_id": 7}
LONG = {"prompt_id": 3, "prompt": "a sign", "text": ["OPEN"], "category": "sign", "length": "short", "text_length": 1}
ASKED = {"question": json.dumps({"1": "Is it a cat?", "2": "Is it red?"}), "dependency": '{"1": [0], "2": [1]}'}
PROMPTS = (
    "category,id,prompt_en,type,prompt_length,class\n"
    'Portrait,000,"a ""man""\nsits",NP,short,None\nAnime_Stylization,000,a cat,NP,short,None\n'
    "Text_Rendering,000,a sign,NP,short,None\nKnowledge_Reasoning,000,a law,NP,short,None\n"
)
SCRIPT = """
def build_evaluation_messages(prompt_data, picture):
    return [
        {"role": "user", "content": [
            {"type": "text", "text": f"Grade {prompt_data['Prompt']} as {prompt_data['Explanation']}"},
            {"type": "image_url", "image_url": {"url": picture}},
        ]},
    ]
"""


def read(name: str, folder, **files: str | bytes):
    """The suite's items of files with these contents; names are the declared ones' stems."""
    paths = []
    for file in suites()[name].files:
        path = folder / file.name
        content = files[path.stem.replace("-", "_")]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        paths.append(path)
    return suites()[name].read(paths, "0" * 64)


def jsonl(*rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_wise_tells_the_judge_what_the_model_is_not_told(tmp_path):
    rows = [WISE | {"prompt_id": i} for i in (1000, 400, 401)]
    data = read("wise-verified", tmp_path, merge=json.dumps(rows), vllm_eval=SCRIPT)
    assert [(item.id, item.group) for item in data.items] == [
        ("400", "culture"),
        ("401", "time"),
        ("1000", "chemistry"),
    ]
    assert data.items[0].prompt == "a sweet of spring" and data.items[0].fields["Explanation"] == "a {cake}"
    assert data.template == "Grade {Prompt} as {Explanation}" and data.system is None
    files = dict.fromkeys(("cultural_common_sense", "spatio_temporal_reasoning", "natural_science"), "[]")
    files["natural_science"] = json.dumps([WISE | {"prompt_id": 568}])
    (item,) = read("wise", tmp_path, gpt_eval=SCRIPT, **files).items
    assert (item.id, item.group) == ("568", "space")


def test_longtext_keeps_each_text_and_pads_its_ids(tmp_path):
    rows = [LONG, LONG | {"prompt_id": 100, "text": ["A\u2028B", "C"]}]
    first, second = read("longtext-en", tmp_path, text_prompts=jsonl(*rows)).items
    assert (first.id, first.prompt, first.group) == ("0003", "a sign", "sign") and second.id == "0100"
    assert json.loads(second.fields["target"]) == ["A\u2028B", "C"]


def test_oneig_reads_json_in_json_and_csv_in_quotes(tmp_path):
    files = {"anime": {"000": ASKED}, "human": {"000": ASKED}, "object": {}}
    data = read("oneig-alignment", tmp_path, OneIG_Bench=PROMPTS, **{k: json.dumps(v) for k, v in files.items()})
    assert [(item.id, item.prompt) for item in data.items] == [("anime/000", "a cat"), ("human/000", 'a "man"\nsits')]
    probes = data.items[0].probes
    assert [(p.text, p.accept, p.parents) for p in probes] == [
        ("Is it a cat?", ("Yes",), ()),
        ("Is it red?", ("Yes",), ("1",)),
    ]
    text = "\ufeffid,text_content\n000,\"['A', 'B\\n']\"\n"
    (item,) = read("oneig-text", tmp_path, OneIG_Bench=PROMPTS, text_content=text).items
    assert dict(item.fields) == {"target": "['A', 'B\\n']"} and item.prompt == "a sign"
    long = f"id,text_content\n000,{'word ' * 61}\n"
    (item,) = read("oneig-text", tmp_path, OneIG_Bench=PROMPTS, text_content=long).items
    assert item.max_new_tokens == 256


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="../shared/suites is not here")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_published_longtext_is_known_by_its_hash(tmp_path, language):
    """160 prompts, 20 a category, ids with the two gaps that the suite has by design."""
    suite = suites()[f"longtext-{language}"]
    file = tmp_path / suite.files[0].name
    file.write_bytes(gzip.decompress((PUBLISHED / f"{file.name}.gz").read_bytes()))
    data = read_data(suite, [tmp_path], download=False)
    gaps = {*range(80, 100), *range(140, 160)}
    assert [int(item.id) for item in data.items] == [i for i in range(200) if i not in gaps]
    assert Counter(item.group for item in data.items) == dict.fromkeys(suite.groups, 20)
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(UserError, match=r"is not the published text_prompts\w*.jsonl of longtext"):
        read_data(suite, [tmp_path], download=False)


@pytest.mark.parametrize(
    ("merge", "why"),
    [
        ("{}", "prompt_id: Field required"),
        ("[", "not JSON"),
        (b"\xff", "is not UTF-8"),
        ("[" * 100_000, "not JSON"),
        ("[]", "holds no items"),
        (json.dumps([WISE, {"Prompt": "x"}]), "entry 2: prompt_id: Field required"),
        (json.dumps([WISE, WISE]), "item 7 is there twice"),
        (json.dumps([WISE | {"prompt_id": 1001}]), "there is no prompt 1001: ids are 1 to 1000"),
    ],
)
def test_a_mistake_in_wise_is_one_line(tmp_path, merge, why):
    with pytest.raises(UserError) as error:
        read("wise-verified", tmp_path, merge=merge, vllm_eval=SCRIPT)
    assert why in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (jsonl(LONG, LONG), "item 0003 is there twice"),
        (jsonl(LONG | {"text": []}), "line 1: text: List should have at least 1 item"),
        ("\n", "holds no items"),
        ('{"prompt_id": 1}\n{', "line 1: prompt: Field required"),
        (jsonl(LONG | {"category": "moon"}), "unknown group 'moon'"),
    ],
)
def test_a_mistake_in_longtext_is_one_line(tmp_path, rows, why):
    with pytest.raises(UserError) as error:
        read("longtext-en", tmp_path, text_prompts=rows)
    assert why in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("anime", "why"),
    [
        ([], "expected a JSON object of ids, got list"),
        ({"000": ASKED | {"dependency": '{"1": [3]}'}}, "question 1 hangs on 3, which is not there"),
        ({"000": ASKED | {"dependency": '{"1": [2], "2": [1]}'}}, "hang on each other in a circle"),
        ({"000": ASKED | {"question": "{"}}, "anime.json 000: question: Invalid JSON"),
        ({"001": ASKED}, "001 is no prompt of the class anime"),
    ],
)
def test_a_mistake_in_oneig_is_one_line(tmp_path, anime, why):
    with pytest.raises(UserError) as error:
        read("oneig-alignment", tmp_path, OneIG_Bench=PROMPTS, anime=json.dumps(anime), human="{}", object="{}")
    assert why in str(error.value) and "\n" not in str(error.value)
