"""Every reader of untrusted input with a well-formed example of its own: what the torture feeds with bad ones."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bad_inputs import Tree
from PIL import Image


@dataclass(frozen=True)
class Reader:
    """One way that a file or a reply comes in."""

    name: str
    kind: str
    """Its format: a name of `bad_inputs.ENCODERS`."""
    file: str
    """What the file is called; its folder may hold more, see `beside`."""
    example: Tree
    read: Callable[[Path], object]
    beside: Callable[[Path], object] = lambda folder: None
    """Writes what lies beside the file."""


def _image(form: str = "PNG", size: int = 12) -> bytes:
    image = Image.radial_gradient("L").resize((size, size)).convert("RGB")
    image.putpixel((1, 1), (200, 3, 90))
    out = io.BytesIO()
    image.save(out, format=form)
    return out.getvalue()


def _base64(form: str = "PNG") -> str:
    return base64.b64encode(_image(form)).decode()


# ---- questions, answers, judges


def _questions(path: Path) -> None:
    from armor_eval.tasks.understanding.declare import choose
    from armor_eval.tasks.understanding.table import read_table
    from armor_model.base.images import BadImageError

    table = read_table(choose(["MMB"])[0], path, need_published=False)
    for row in table.rows:
        with suppress(BadImageError):  # costs the item
            row.images()


def _cells(path: Path) -> None:
    """One image cell, and the answers that are lists."""
    from armor_eval.tasks.families.extracted import listed
    from armor_eval.tasks.families.short import is_plain
    from armor_eval.tasks.understanding.images import decode, image_cells
    from armor_eval.tasks.understanding.mmmu import gold_answers
    from armor_model.base.images import BadImageError

    cell = path.read_bytes().decode("utf-8", "replace")
    gold_answers(cell), listed(cell), is_plain(cell)
    with suppress(BadImageError):
        for one in image_cells(cell):
            decode(one, path.parent)


def _predictions(path: Path) -> object:
    from armor_eval.tasks.understanding.predictions.layouts import read_predictions

    return read_predictions(path)


def _question_file(path: Path) -> object:
    from armor_eval.tasks.understanding.declare import choose
    from armor_eval.tasks.understanding.predictions.questions import read_questions

    return read_questions(choose(["POPE"])[0], [path])


def _reply_cache(path: Path) -> object:
    from armor_eval.tasks.understanding.judge import ReplyCache

    return ReplyCache(path).get("k")


def _recorded(path: Path) -> object:
    from armor_eval.tasks.suites.judges.recorded import RecordedJudge

    return RecordedJudge(path)


def _truth(path: Path) -> object:
    from armor_eval.tasks.suites.calibrate import read_truth

    return read_truth(path)


def _http(path: Path) -> None:
    """A reply as the endpoint opens it, read as an answer, as a drawing and as an error."""
    from armor_eval.models import replies
    from armor_eval.models.endpoint import Endpoint
    from armor_eval.models.openai_images import _only_image, decoded, parts_of
    from armor_eval.models.transport import EndpointError

    text = path.read_bytes().decode("utf-8", "replace")
    try:
        payload, status, words = _endpoint(Endpoint)._open(SimpleNamespace(text=text, status=200, headers={}))
        json.dumps(payload)
        _endpoint(Endpoint)._refusal(status, words, SimpleNamespace(headers={"retry-after": words[:20]}))
    except EndpointError:
        return
    for read in (
        lambda: [decoded(data) for kind, data in parts_of(replies.read_chat(payload).message) if kind == "image"],
        lambda: decoded(_only_image(payload)["b64_json"]),
    ):
        with suppress(EndpointError, KeyError):
            read()


@cache
def _endpoint(kind: Any) -> Any:
    return kind("http://localhost:9/v1", "m")


# ---- drawing


def _prompts(path: Path) -> object:
    from armor_eval.tasks.geneval.prompts import read_prompts
    from armor_eval.tasks.geneval.vocabulary import load_vocabulary

    return read_prompts(path, load_vocabulary("official"))


def _detections(path: Path) -> object:
    from armor_eval.tasks.geneval.detections import score_file
    from armor_eval.tasks.geneval.verdicts import Rules

    return list(score_file(path, Rules()))


def _image_folder(path: Path) -> object:
    from armor_eval.tasks.geneval.folders import scan_folder
    from armor_eval.tasks.geneval.vocabulary import load_vocabulary

    return scan_folder(path.parent.parent, load_vocabulary("official"), None, 1)


def _an_image_beside(folder: Path) -> None:
    (folder / "samples").mkdir()
    (folder / "samples" / "0000.png").write_bytes(_image())


def _suite(name: str, changed: str = "") -> Callable[[Path], object]:
    def read(path: Path) -> object:
        from armor_eval.tasks.suites.declare import suites

        suite = suites()[name]
        files = [path if file.name == changed else path.parent / file.name for file in suite.files]
        return suite.model_copy(update={"prompts": None}).read(files, "0")

    return read


def _write(files: dict[str, Any]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else str(content).encode())

    return write


def _template(path: Path) -> object:
    from armor_eval.tasks.suites.templates import from_script

    return from_script(path, "build_evaluation_messages", "prompt_data", {"Prompt"})


# ---- declarations and options


def _declared_suite(path: Path) -> object:
    from armor_eval.tasks.suites.declare import read_suite

    return read_suite(path)


def _declared_benchmark(path: Path) -> object:
    from armor_eval.tasks.understanding.declare import read_benchmark

    return read_benchmark(path)


def _policy(path: Path) -> object:
    from armor_eval.compare.policy import load_policy

    return load_policy(path)


def _stage_config(path: Path) -> object:
    from trainer.config import StageConfig
    from trainer.configure import configure

    return configure(StageConfig(), path)


def _model_args(path: Path) -> object:
    from armor_eval.models.options import parse_model_args

    return parse_model_args(path.read_bytes().decode("utf-8", "surrogateescape"))


def _request_json(path: Path) -> object:
    from armor_eval.models.endpoint import Extra

    return Extra.read(f"@{path}")


# ---- bundles and what training leaves


def _bundle(path: Path) -> None:
    from armor_eval.compare.sources import find
    from armor_eval.report.loading import load_run
    from armor_eval.runs.bundle import read_bundle

    load_run(path.parent)
    read_bundle(path.parent)
    find(path.parent)


def _preset() -> dict[str, Any]:
    from armor_model.presets import preset_dict

    return json.loads(json.dumps(preset_dict("internvl2_5-1b")))


@cache
def _bundle_files() -> dict[str, bytes]:
    import tempfile

    from stats_runs import write_bundle

    with tempfile.TemporaryDirectory() as folder:
        made = write_bundle(Path(folder) / "run", [1, 0, 1, 1])
        return {file.name: file.read_bytes() for file in made.iterdir()}


def _bundle_reader(name: str) -> Reader:
    text = _bundle_files()[name].decode()
    lines = name.endswith(".jsonl")
    tree = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    rest = {other: raw for other, raw in _bundle_files().items() if other != name}
    return Reader(f"bundle: {name}", "jsonl" if lines else "json", name, tree, _bundle, _write(rest))


def _manifest(path: Path) -> object:
    from trainer.data.shards import read_manifest

    return read_manifest(path.parent)


def _curves(path: Path) -> object:
    from trainer.curves import read_losses

    return read_losses(path)


# ---- checkpoints and images


def _weights(path: Path) -> None:
    from armor_model.convert.shards import Source

    source = Source(path)
    for name in source.tensors:
        source.read(name)


def _weights_index(path: Path) -> object:
    from armor_model.convert.shards import Source

    return Source(path.parent)


def _checkpoint(path: Path) -> object:
    from armor_model.loading import check_checkpoint

    return check_checkpoint(path.parent)


def _parameters(path: Path) -> object:
    from armor_model.cli import params

    return params(config=str(path.parent), as_json=True)


def _hf_folder(path: Path) -> object:
    from armor_eval.models.hf import check_folder

    return check_folder(path.parent)


def _pipeline(path: Path) -> object:
    from armor_eval.models.diffusers import DiffusersModel

    return DiffusersModel(str(path.parent), None, None, None, {})


def _pixels(path: Path) -> None:
    from armor_eval.tasks.understanding.images import decode, shown
    from armor_model.base.images import BadImageError, decoded
    from armor_model.images import image_size, open_image

    raw = path.read_bytes()
    for read in (lambda: open_image(raw), lambda: open_image(raw, drawn=True), lambda: image_size(raw)):
        _one_line(read)
    with suppress(BadImageError):
        decode(base64.b64encode(raw).decode())
        with decoded(raw) as image:
            shown(image)


def _one_line(read: Callable[[], object]) -> None:
    from armor_model.base.errors import ArmorError

    with suppress(ArmorError):
        read()


# ---- training data


def _conversations(path: Path) -> None:
    from trainer.data.records import Tally, read_conversations

    tally = Tally()
    kept = list(read_conversations(path, tally))
    assert tally.read == len(kept) + sum(tally.dropped.values()), "a record is neither kept nor counted"


def _tars(path: Path) -> None:
    from trainer.data.readers import SOURCES, read_tars
    from trainer.data.records import Tally

    tally = Tally()
    kept = list(read_tars([str(path)], SOURCES["webdataset"], tally))
    assert len(kept) == tally.kept, "a pair is kept and not counted"


def _index(path: Path) -> object:
    from trainer.data.readers import read_index

    return read_index(path)


def _held_prompts(path: Path) -> object:
    from trainer.data.contamination import Prompts, read_prompts

    return Prompts(read_prompts(path), 0.8).find("a red mug")


TURNS = [
    {
        "id": "1",
        "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a mug"}],
        "image": "a.png",
    },
    {
        "id": "2",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
            {"role": "assistant", "content": "good day"},
        ],
    },
    {"id": 3, "type": "understand", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]},
]
QUESTIONS = [
    {
        "index": i,
        "image": _base64(),
        "question": f"which {i}?",
        "hint": "look",
        "A": "one",
        "B": "two",
        "C": "three",
        "D": "four",
        "answer": "A",
        "category": "c",
        "l2-category": "all",
        "split": "dev",
    }
    for i in (1, 2, 1_000_001)
]
INCLUDE = [{"class": "dog", "count": 1, "color": "red"}]
PROMPT = {"tag": "colors", "include": INCLUDE, "exclude": [], "prompt": "a photo of a red dog"}
SEEN = {"image": "0/0", "metadata": PROMPT, "detections": {"dog": [[0, 0, 9, 9, 0.9]]}, "colors": {"dog": ["red"]}}
OFFICIAL = {
    "filename": "00000/samples/0000.png",
    "tag": "colors",
    "prompt": PROMPT["prompt"],
    "correct": True,
    "reason": "",
    "metadata": json.dumps(PROMPT),
    "details": json.dumps({"dog": [[0, 0, 9, 9, 0.9]]}),
}
CHAT = {
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "reasoning_content": "hm",
                "refusal": None,
                "content": [
                    {"type": "text", "text": "B"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + _base64()}},
                ],
                "images": [{"b64_json": _base64()}],
            },
        }
    ],
    "usage": {"completion_tokens": 3},
}
TENSORS = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "b": {"dtype": "BF16", "shape": [16], "data_offsets": [32, 64]},
}
ARMOR: dict[str, Any] = {"model_type": "armor"}
DPG_CSV = [
    {
        "item_id": f"a{n}",
        "text": "caption",
        "proposition_id": str(n),
        "dependency": "0",
        "tuple": "entity - whole (x)",
        "question_natural_language": "a mug?",
    }
    for n in (1, 2)
]
PEOPLE = (
    "Input.prompt_id",
    "Input.image_id",
    "Answer.task-count-0",
    "Answer.task-count-1",
    "Answer.task-color-0",
    "Answer.task-color-1",
    "Answer.task-position-x",
    "Answer.task-position-y",
)
SCRIPT = """
def build_evaluation_messages(prompt_data, image):
    return [{"role": "system", "content": "judge"},
            {"role": "user", "content": [{"type": "text", "text": f"of {prompt_data['Prompt']}"},
                                         {"type": "image_url", "image_url": {"url": image}}]}]
"""


@cache
def readers() -> dict[str, Reader]:
    """By name."""
    tensors = _write({"model.safetensors": b"\x02\0\0\0\0\0\0\0{}"})
    answers = [{"index": 1, "prediction": "A", "question": "q"}, {"index": 2, "prediction": "B", "question": "q"}]
    vqa = {"prompt": "a fern", "atom_count": 3, "vqa_list": [["Any ferns?", "Yes"]], "skills": ["object"]}
    suite = {
        "name": "mine",
        "title": "t",
        "judge": "vqa_prob",
        "loader": "geneval2:read",
        "reduction": "soft_tifa",
        "images": "{prompt}",
        "template": "{question}",
        "own_judge": "org/J",
        "skills": ["object"],
        "groups": ["3"],
        "files": [{"name": "data.jsonl"}],
    }
    bench = {
        "name": "Mine",
        "title": "t",
        "dataset": "Mine",
        "family": "mme",
        "order": 3,
        "official": {"file": "Mine.tsv", "rows": 3},
        "prompt": {"form": "question", "suffix": " Answer."},
    }
    wise = [{"prompt_id": n, "Prompt": "p", "Explanation": "e"} for n in (1, 2)]
    wise_files = _write({"cultural_common_sense.json": "[]", "vlm.py": SCRIPT})
    made = [
        Reader("questions (TSV)", "tsv", "MMBench_DEV_EN.tsv", QUESTIONS, _questions),
        Reader("image cell", "text", "cell.txt", f"['{_base64()}', 'a.png']", _cells),
        Reader("predictions (TSV)", "tsv", "p.tsv", answers, _predictions),
        Reader("predictions (CSV)", "csv", "p.csv", answers, _predictions),
        Reader("predictions (JSON)", "json", "p.json", answers, _predictions),
        Reader("predictions (JSON lines)", "jsonl", "p.jsonl", answers, _predictions),
        Reader("predictions (xlsx)", "raw", "p.xlsx", _sheet(answers), _predictions),
        Reader(
            "published questions",
            "jsonl",
            "coco_pope_random.json",
            [{"question_id": 1, "image": "i.jpg", "text": "Is there?", "label": "yes"}],
            _question_file,
        ),
        Reader("judge's reply cache", "jsonl", "c.jsonl", [{"key": "k", "reply": "A"}], _reply_cache),
        Reader(
            "recorded judge",
            "jsonl",
            "r.jsonl",
            [{"item": "0", "sample": 0, "probe": "0", "reply": "yes", "p": 0.5, "judge": "org/J"}],
            _recorded,
        ),
        Reader(
            "people's labels (JSON lines)",
            "jsonl",
            "t.jsonl",
            [{"item": "0", "sample": 0, "probe": "0", "correct": True}],
            _truth,
        ),
        Reader(
            "people's labels (CSV)",
            "csv",
            "t.csv",
            [dict(zip(PEOPLE, ["0", "1", "1", "0", "red", "", "left", "neither"], strict=True))] * 2,
            _truth,
        ),
        Reader("HTTP reply", "json", "reply.json", CHAT, _http),
        Reader(
            "HTTP reply (events)",
            "text",
            "reply.txt",
            "".join(f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': c}}]})}\n\n" for c in "ab")
            + "data: [DONE]\n",
            _http,
        ),
        Reader("prompts of GenEval", "jsonl", "prompts.jsonl", [PROMPT, PROMPT], _prompts),
        Reader("detections", "jsonl", "d.jsonl", [SEEN], _detections),
        Reader("GenEval's results", "jsonl", "r.jsonl", [OFFICIAL], _detections),
        Reader("image folder's metadata", "jsonl", "00000/metadata.jsonl", [PROMPT], _image_folder, _an_image_beside),
        Reader(
            "suite: GenEval 2", "jsonl", "geneval2_data.jsonl", [vqa, vqa], _suite("geneval2", "geneval2_data.jsonl")
        ),
        Reader("suite: DPG", "csv", "dpg_bench.csv", DPG_CSV, _suite("dpg-official", "dpg_bench.csv")),
        Reader(
            "suite: LongText",
            "jsonl",
            "text_prompts.jsonl",
            [{"prompt_id": 1, "prompt": "p", "text": ["a"], "category": "sign"}],
            _suite("longtext-en", "text_prompts.jsonl"),
        ),
        Reader(
            "suite: OneIG text",
            "csv",
            "text_content.csv",
            [{"id": "001", "text_content": "abc"}],
            _suite("oneig-text", "text_content.csv"),
            _write({"OneIG-Bench.csv": "category,id,prompt_en\nText_Rendering,001,a sign\n"}),
        ),
        Reader(
            "suite: OneIG questions",
            "json",
            "anime.json",
            {"001": {"question": '{"1": "a?"}', "dependency": '{"1": [0]}'}},
            _suite("oneig-alignment", "anime.json"),
            _write(
                {
                    "OneIG-Bench.csv": "category,id,prompt_en\nAnime_Stylization,001,a\n",
                    "human.json": "{}",
                    "object.json": "{}",
                }
            ),
        ),
        Reader(
            "suite: edits",
            "jsonl",
            "edits.jsonl",
            [{"id": "1", "source": "a.png", "instruction": "make it red", "kind": "color"}],
            _suite("edit", "edits.jsonl"),
            _write({"a.png": _image()}),
        ),
        Reader("suite: WISE", "json", "WISE.json", wise, _wise, wise_files),
        Reader("suite: shapes VQA", "jsonl", "vqa_v1.jsonl", [{**vqa, "held_out": True}], _shapes_vqa),
        Reader("judging script", "text", "judge.py", SCRIPT, _template),
        Reader("declared suite (TOML)", "toml", "mine.toml", suite, _declared_suite),
        Reader("declared benchmark (TOML)", "toml", "mine.toml", bench, _declared_benchmark),
        Reader("policy (TOML)", "toml", "policy.toml", {"tolerance": {"%": 1.0}, "statistics": {"seed": 3}}, _policy),
        Reader(
            "stage's configuration (TOML)",
            "toml",
            "run.toml",
            {"seed": 1, "optimization": {"steps": 4, "lr": 1e-4}},
            _stage_config,
        ),
        Reader("--model-args", "text", "args.txt", 'dtype=bf16,a={"b": [1, 2]},c=1.5,d="x"', _model_args),
        Reader("--request-json", "json", "more.json", {"top_k": 3, "headers": {"x-team": "e"}}, _request_json),
        *map(_bundle_reader, ("run.json", "scores.json", "items.jsonl")),
        Reader(
            "tokenized shards' manifest",
            "json",
            "manifest.json",
            {
                "settings": {"version": 5},
                "complete": True,
                "shards": [{"name": "0.arrow", "sha256": "0", "rows": 1, "read": 1, "dropped": {}, "examples": {}}],
            },
            _manifest,
        ),
        Reader("training log", "jsonl", "log.jsonl", [{"step": 1, "loss/text": 1.5}], _curves),
        Reader("safetensors", "safetensors", "model.safetensors", TENSORS, _weights),
        Reader(
            "safetensors index", "json", "model.safetensors.index.json", {"weight_map": {}}, _weights_index, tensors
        ),
        Reader("checkpoint's config.json", "json", "config.json", ARMOR, _checkpoint, tensors),
        Reader("params of a config.json", "json", "config.json", _preset(), _parameters),
        Reader("hf: config.json", "json", "config.json", {"model_type": "llava"}, _hf_folder, tensors),
        Reader("diffusers: model_index.json", "json", "model_index.json", {"_class_name": "X"}, _pipeline),
        *(
            Reader(f"image ({form})", "raw", f"a.{form.lower()}", _image(form).hex(), _pixels)
            for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")
        ),
        Reader("conversations (JSON lines)", "jsonl", "c.jsonl", TURNS, _conversations, _write({"a.png": _image()})),
        Reader("conversations (JSON)", "json", "c.json", TURNS, _conversations, _write({"a.png": _image()})),
        Reader(
            "conversations (parquet)", "parquet", "c.parquet", TURNS[:1], _conversations, _write({"a.png": _image()})
        ),
        Reader(
            "tars of pairs",
            "tar",
            "0.tar",
            {
                "a.png": "hex:" + _image().hex(),
                "a.json": {"caption": "a mug", "url": "http://x/y"},
                "b.jpg": "hex:" + _image("JPEG").hex(),
                "b.json": {"text": "b"},
            },
            _tars,
        ),
        Reader(
            "parquet index", "parquet", "i.parquet", [{"URL": "http://x/y", "aesthetic": 5.5, "punsafe": 0.1}], _index
        ),
        Reader(
            "held-out prompts", "jsonl", "p.jsonl", [{"prompt": "a red mug"}, {"question": "how many?"}], _held_prompts
        ),
    ]
    return {reader.name: reader for reader in made}


def _sheet(rows: list[dict[str, Any]]) -> str:
    from openpyxl import Workbook

    book, out = Workbook(), io.BytesIO()
    for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
        book.active.append(row)
    book.save(out)
    return out.getvalue().hex()


def _wise(path: Path) -> object:
    from armor_eval.tasks.suites.rows import json_rows
    from armor_eval.tasks.suites.wise import WiseRow

    return json_rows(WiseRow, str(path), path.read_bytes())


def _shapes_vqa(path: Path) -> object:
    from armor_eval.tasks.suites import shapes_vqa
    from armor_eval.tasks.suites.declare import suites

    return shapes_vqa.read([path], suites()["geneval2"])
