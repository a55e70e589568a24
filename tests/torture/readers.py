"""Every reader of untrusted input with a well-formed example of its own: what the torture feeds with bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import readings as by
from bad_inputs import Tree


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
        "image": by.as_base64(),
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
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + by.as_base64()}},
                ],
                "images": [{"b64_json": by.as_base64()}],
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


def bundle_reader(name: str) -> Reader:
    text = by.bundle_files()[name].decode()
    lines = name.endswith(".jsonl")
    tree = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    rest = {other: raw for other, raw in by.bundle_files().items() if other != name}
    return Reader(f"bundle: {name}", "jsonl" if lines else "json", name, tree, by.bundle, by.write(rest))


@cache
def readers() -> dict[str, Reader]:
    """By name."""
    tensors = by.write({"model.safetensors": b"\x02\0\0\0\0\0\0\0{}"})
    answers = [{"index": 1, "prediction": "A", "question": "q"}, {"index": 2, "prediction": "B", "question": "q"}]
    vqa = {"prompt": "a fern", "atom_count": 3, "vqa_list": [["Any ferns?", "Yes"]], "skills": ["object"]}
    declared = {
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
    made = [
        Reader("questions (TSV)", "tsv", "MMBench_DEV_EN.tsv", QUESTIONS, by.questions),
        Reader("image cell", "text", "cell.txt", f"['{by.as_base64()}', 'a.png']", by.cells),
        Reader(
            "predictions (TSV)",
            "tsv",
            "p.tsv",
            answers,
            by.call("armor_eval.tasks.understanding.predictions.layouts:read_predictions"),
        ),
        Reader(
            "predictions (CSV)",
            "csv",
            "p.csv",
            answers,
            by.call("armor_eval.tasks.understanding.predictions.layouts:read_predictions"),
        ),
        Reader(
            "predictions (JSON)",
            "json",
            "p.json",
            answers,
            by.call("armor_eval.tasks.understanding.predictions.layouts:read_predictions"),
        ),
        Reader(
            "predictions (JSON lines)",
            "jsonl",
            "p.jsonl",
            answers,
            by.call("armor_eval.tasks.understanding.predictions.layouts:read_predictions"),
        ),
        Reader(
            "predictions (xlsx)",
            "raw",
            "p.xlsx",
            by.sheet(answers),
            by.call("armor_eval.tasks.understanding.predictions.layouts:read_predictions"),
        ),
        Reader(
            "published questions",
            "jsonl",
            "coco_pope_random.json",
            [{"question_id": 1, "image": "i.jpg", "text": "Is there?", "label": "yes"}],
            by.question_file,
        ),
        Reader("judge's reply cache", "jsonl", "c.jsonl", [{"key": "k", "reply": "A"}], by.reply_cache),
        Reader(
            "recorded judge",
            "jsonl",
            "r.jsonl",
            [{"item": "0", "sample": 0, "probe": "0", "reply": "yes", "p": 0.5, "judge": "org/J"}],
            by.call("armor_eval.tasks.suites.judges.recorded:RecordedJudge"),
        ),
        Reader(
            "people's labels (JSON lines)",
            "jsonl",
            "t.jsonl",
            [{"item": "0", "sample": 0, "probe": "0", "correct": True}],
            by.call("armor_eval.tasks.suites.calibrate:read_truth"),
        ),
        Reader(
            "people's labels (CSV)",
            "csv",
            "t.csv",
            [dict(zip(PEOPLE, ["0", "1", "1", "0", "red", "", "left", "neither"], strict=True))] * 2,
            by.call("armor_eval.tasks.suites.calibrate:read_truth"),
        ),
        Reader("HTTP reply", "json", "reply.json", CHAT, by.http),
        Reader(
            "HTTP reply (events)",
            "text",
            "reply.txt",
            "".join(f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': c}}]})}\n\n" for c in "ab")
            + "data: [DONE]\n",
            by.http,
        ),
        Reader("prompts of GenEval", "jsonl", "prompts.jsonl", [PROMPT, PROMPT], by.prompts),
        Reader("detections", "jsonl", "d.jsonl", [SEEN], by.detections),
        Reader("GenEval's results", "jsonl", "r.jsonl", [OFFICIAL], by.detections),
        Reader(
            "image folder's metadata", "jsonl", "00000/metadata.jsonl", [PROMPT], by.image_folder, by.an_image_beside
        ),
        Reader(
            "suite: GenEval 2", "jsonl", "geneval2_data.jsonl", [vqa, vqa], by.suite("geneval2", "geneval2_data.jsonl")
        ),
        Reader("suite: DPG", "csv", "dpg_bench.csv", DPG_CSV, by.suite("dpg-official", "dpg_bench.csv")),
        Reader(
            "suite: LongText",
            "jsonl",
            "text_prompts.jsonl",
            [{"prompt_id": 1, "prompt": "p", "text": ["a"], "category": "sign"}],
            by.suite("longtext-en", "text_prompts.jsonl"),
        ),
        Reader(
            "suite: OneIG text",
            "csv",
            "text_content.csv",
            [{"id": "001", "text_content": "abc"}],
            by.suite("oneig-text", "text_content.csv"),
            by.write({"OneIG-Bench.csv": "category,id,prompt_en\nText_Rendering,001,a sign\n"}),
        ),
        Reader(
            "suite: OneIG questions",
            "json",
            "anime.json",
            {"001": {"question": '{"1": "a?"}', "dependency": '{"1": [0]}'}},
            by.suite("oneig-alignment", "anime.json"),
            by.write(
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
            by.suite("edit", "edits.jsonl"),
            by.write({"a.png": by.image()}),
        ),
        Reader("suite: WISE", "json", "WISE.json", wise, by.wise),
        Reader("suite: shapes VQA", "jsonl", "vqa_v1.jsonl", [{**vqa, "held_out": True}], by.shapes_vqa),
        Reader("judging script", "text", "judge.py", SCRIPT, by.template),
        Reader(
            "declared suite (TOML)",
            "toml",
            "mine.toml",
            declared,
            by.call("armor_eval.tasks.suites.declare:read_suite"),
        ),
        Reader(
            "declared benchmark (TOML)",
            "toml",
            "mine.toml",
            bench,
            by.call("armor_eval.tasks.understanding.declare:read_benchmark"),
        ),
        Reader(
            "policy (TOML)",
            "toml",
            "policy.toml",
            {"tolerance": {"%": 1.0}, "statistics": {"seed": 3}},
            by.call("armor_eval.compare.policy:load_policy"),
        ),
        Reader(
            "stage's configuration (TOML)",
            "toml",
            "run.toml",
            {"seed": 1, "optimization": {"steps": 4, "lr": 1e-4}},
            by.stage_config,
        ),
        Reader("--model-args", "text", "args.txt", 'dtype=bf16,a={"b": [1, 2]},c=1.5,d="x"', by.model_args),
        Reader("--request-json", "json", "more.json", {"top_k": 3, "headers": {"x-team": "e"}}, by.request_json),
        *map(bundle_reader, ("run.json", "scores.json", "items.jsonl")),
        Reader(
            "tokenized shards' manifest",
            "json",
            "manifest.json",
            {
                "settings": {"version": 5},
                "complete": True,
                "shards": [{"name": "0.arrow", "sha256": "0", "rows": 1, "read": 1, "dropped": {}, "examples": {}}],
            },
            by.call("trainer.data.shards:read_manifest", folder=True),
        ),
        Reader(
            "training log", "jsonl", "log.jsonl", [{"step": 1, "loss/text": 1.5}], by.call("trainer.curves:read_losses")
        ),
        Reader("safetensors", "safetensors", "model.safetensors", TENSORS, by.weights),
        Reader(
            "safetensors index",
            "json",
            "model.safetensors.index.json",
            {"weight_map": {}},
            by.call("armor_model.convert.shards:Source", folder=True),
            tensors,
        ),
        Reader(
            "checkpoint's config.json",
            "json",
            "config.json",
            ARMOR,
            by.call("armor_model.loading:check_checkpoint", folder=True),
            tensors,
        ),
        Reader("params of a config.json", "json", "config.json", by.preset(), by.parameters),
        Reader(
            "hf: config.json",
            "json",
            "config.json",
            {"model_type": "llava"},
            by.call("armor_eval.models.hf_options:check_folder", folder=True),
            tensors,
        ),
        Reader("diffusers: model_index.json", "json", "model_index.json", {"_class_name": "X"}, by.pipeline),
        *(
            Reader(f"image ({form})", "raw", f"a.{form.lower()}", by.image(form).hex(), by.pixels)
            for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")
        ),
        Reader(
            "conversations (JSON lines)", "jsonl", "c.jsonl", TURNS, by.conversations, by.write({"a.png": by.image()})
        ),
        Reader("conversations (JSON)", "json", "c.json", TURNS, by.conversations, by.write({"a.png": by.image()})),
        Reader(
            "conversations (parquet)",
            "parquet",
            "c.parquet",
            TURNS[:1],
            by.conversations,
            by.write({"a.png": by.image()}),
        ),
        Reader(
            "tars of pairs",
            "tar",
            "0.tar",
            {
                "a.png": "hex:" + by.image().hex(),
                "a.json": {"caption": "a mug", "url": "http://x/y"},
                "b.jpg": "hex:" + by.image("JPEG").hex(),
                "b.json": {"text": "b"},
            },
            by.tars,
        ),
        Reader(
            "parquet index",
            "parquet",
            "i.parquet",
            [{"URL": "http://x/y", "aesthetic": 5.5, "punsafe": 0.1}],
            by.call("trainer.data.readers:read_index"),
        ),
        Reader(
            "held-out prompts",
            "jsonl",
            "p.jsonl",
            [{"prompt": "a red mug"}, {"question": "how many?"}],
            by.held_prompts,
        ),
    ]
    return {reader.name: reader for reader in made}
