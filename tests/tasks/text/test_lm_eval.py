"""lm-evaluation-harness with ARMOR registered, on a task file of invented rows. Needs `lm_eval` (extra `lm-eval`)."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import ModelInfo
from armor_eval.tasks.text.record import write_bundles
from armor_eval.tasks.text.runner import translated
from armor_model import bundled
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.jsons import JsonObject

ROWS = [
    {"question": "is there a red circle in the picture?", "choices": ["yes", "no"], "gold": 0},
    {"question": "how many circles are there?", "choices": ["two", "red", "no"], "gold": 0},
    {"question": "what color is the square?", "choices": ["3", "blue"], "gold": 1},
    {"question": "what shape is red?", "choices": ["circle", "yes"], "gold": 0},
    {"question": "are all shapes red?", "choices": ["yes", "square"], "gold": 0},
]
COMMON = (
    "dataset_path: json\ndataset_kwargs:\n  data_files: {{test: {data}}}\ntest_split: test\n"
    "doc_to_text: '{{{{question}}}}'\n"
)
CHOICE = (
    "output_type: multiple_choice\ndoc_to_target: gold\ndoc_to_choice: choices\n"
    "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
)
WRITTEN = (
    "output_type: generate_until\ndoc_to_target: '{{choices[gold]}}'\n"
    "generation_kwargs: {until: ['\\n'], max_gen_toks: 6}\nmetric_list:\n  - metric: exact_match\n"
)


def test_a_hub_model_is_asked_in_lm_evals_own_words() -> None:
    assert translated(["run", "--model", "hf:a/b@main", "--tasks", "t"]) == [
        "run",
        "--model",
        "hf",
        "--model_args",
        "pretrained=a/b,revision=main",
        "--tasks",
        "t",
    ]
    assert translated(["run", "--model", "ARMOR"]) == ["run", "--model", "ARMOR"]
    with pytest.raises(UserError, match="do not go together"):
        translated(["--model", "hf:a", "--model_args", "x=1"])


def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["lm-eval", "--", "run", "--model", "ARMOR", "--tasks", "t"]) == 2
    assert "armor-eval[lm-eval]" in capsys.readouterr().err


def results(lost: bool = False) -> JsonObject:
    """What lm-eval returns of two tasks, as far as it is recorded."""
    rows = []
    for id, right in enumerate((1.0, 0.0, 1.0)):
        common = {
            "doc_id": id,
            "arguments": [[f"question {id}", " yes"]],
            "target": "yes",
            "resps": [[(-1.5, True)]],
            "filtered_resps": [f"answer {id}"],
        }
        plain = {"filter": "none", "metrics": ["acc"], "acc": math.nan if lost and id == 1 else right}
        rows += [common | plain, common | {"filter": "strict", "metrics": ["f1"], "f1": right / 2}]
    return {
        "samples": {"one": rows, "none": []},
        "configs": {"one": {"num_fewshot": 2, "doc_to_text": "{{q}}", "generation_kwargs": {"max_gen_toks": 3}}},
        "n-samples": {"one": {"effective": 3, "original": 9}},
        "higher_is_better": {"one": {"acc": True, "f1": True}},
        "versions": {"one": 1.0},
        "chat_template": None,
    }


MODEL = ModelInfo(spec="hf:a/b", name="b", fingerprint="f" * 64)


@pytest.fixture
def any_lm_eval(monkeypatch) -> None:
    """Its version is all that a record takes from the package itself."""
    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(__version__="0.4.13"))


def test_results_become_a_run_of_the_engine(any_lm_eval, tmp_path) -> None:
    for _ in range(2):  # again: replaced, since lm-eval has asked everything again
        [folder] = write_bundles(results(), MODEL, tmp_path, ["armor-eval", "lm-eval"])
    run_, items, scores = read_bundle(folder)
    assert folder.name == "one" and (run_.status, run_.kind, run_.profile) == ("complete", "text", "official")
    assert run_.model == MODEL and run_.protocol == {"few-shot": "2", "chat template": "without"}
    assert run_.decoding == {"generation": {"max_gen_toks": 3}} and run_.scorer.settings["task version"] == "1.0"
    assert (run_.subset.items, run_.subset.of_items) == (3, 9) and run_.seal is not None
    got = [(item.id, item.score, item.output) for item in items]
    assert got == [("0", 1.0, "answer 0"), ("1", 0.0, "answer 1"), ("2", 1.0, "answer 2")]
    found = {metric.name: (metric.value, metric.primary) for metric in scores.metrics}
    assert found == {"acc": (pytest.approx(2 / 3), True), "f1, strict": (pytest.approx(1 / 3), False)}


def test_a_document_without_a_number_withholds_the_headline(any_lm_eval, tmp_path) -> None:
    [folder] = write_bundles(results(lost=True), MODEL, tmp_path, ["armor-eval"])
    run_, _, scores = read_bundle(folder)
    assert run_.status == "partial" and scores.counts == {"ok": 2, "error": 1} and "1 of 3 documents" in scores.withheld
    assert [metric.value for metric in scores.metrics if metric.primary] == [None]
    with pytest.raises(RunFailed, match="no samples"):
        write_bundles({"samples": {"one": []}}, MODEL, tmp_path / "none", [])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is an optional extra")
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    common = COMMON.format(data=folder / "rows.jsonl")
    (folder / "choice.yaml").write_text(f"task: invented_choice\n{common}{CHOICE}")
    (folder / "written.yaml").write_text(f"task: invented_written\n{common}{WRITTEN}")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A tiny random Llama under armor-nano's words."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from armor_model import load_processor

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = load_processor(bundled("armor-nano")).tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(out: Path, tasks: Path, *words: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "armor_eval",
            "lm-eval",
            "--out",
            str(out),
            "--",
            "run",
            *words,
            "--tasks",
            "invented_choice,invented_written",
            "--include_path",
            str(tasks),
            "--device",
            "cpu",
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_bundles_hold_lm_evals_own_numbers(tasks, llama, tmp_path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    run(tmp_path, tasks, "--model", f"hf:{llama}")
    names = ["invented_choice", "invented_written"]
    manager = TaskManager(include_path=str(tasks))
    own = lm_eval.simple_evaluate(
        model="hf", model_args=f"pretrained={llama}", tasks=names, task_manager=manager, device="cpu"
    )
    for name, metric in (
        ("invented_choice", "acc"),
        ("invented_choice", "acc_norm"),
        ("invented_written", "exact_match"),
    ):
        run_, items, scores = read_bundle(tmp_path / name)
        assert run_.status == "complete" and len(items) == len(ROWS) and run_.kind == "text"
        found = next(m for m in scores.metrics if m.name.split(",")[0] == metric)
        assert found.value == next(v for k, v in own["results"][name].items() if k.split(",")[0] == metric)


@pytest.mark.slow
def test_armor_runs_and_its_likelihoods_are_its_text_heads(tasks, tmp_path) -> None:
    import torch

    from armor_eval.tasks.text.lm import ArmorLM
    from armor_model import load

    run(tmp_path, tasks, "--model", "ARMOR", "--batch_size", "4")
    run_, items, scores = read_bundle(tmp_path / "invented_choice")
    assert run_.model.name == "armor-nano" and len(items) == 5 and scores.withheld is None
    assert {m.clusters for m in scores.metrics} == {5}
    written = {item.id: item.output for item in read_bundle(tmp_path / "invented_written")[1]}
    assert any(written.values())

    model, processor = load(bundled("armor-nano"))
    lm = ArmorLM(bundled("armor-nano"), batch_size=4)
    for row, item in zip(ROWS, sorted(items, key=lambda item: int(item.id)), strict=True):
        replies = []
        for choice in row["choices"]:
            context, whole = (
                processor.tokenizer(t, add_special_tokens=False)["input_ids"]
                for t in (row["question"], f"{row['question']} {choice}")
            )
            with torch.inference_mode():
                hidden = model.backbone(model.embed(torch.tensor([whole])))
                logs = model.text_logits(hidden)[0, :, : model.config.vocab_size].log_softmax(-1)
            replies.append(sum(float(logs[k - 1, whole[k]]) for k in range(len(context), len(whole))))
        best = max(range(len(replies)), key=replies.__getitem__)
        assert item.score == float(best == row["gold"])
    from lm_eval.api.instance import Instance

    text = ROWS[0]["question"]
    asked = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
    assert math.isfinite(lm.loglikelihood_rolling([asked])[0])
