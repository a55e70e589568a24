"""A checkpoint in lmms-eval's loop and in ours: the same questions of MMBench, in turn, in one process, on one thread.

It runs in an environment that has lmms-eval beside this project, and prints one JSON object: CPU and wall seconds of
each turn, answers, versions. test_perf_lmms.py makes rows of it.

PYTHONPATH=. PYTHON tests/perf/lmms_turns.py --model FOLDER [--units 60] [--turns 4]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.api.task import ConfigurableMessagesTask
    from lmms_eval.models.chat.internvl_hf import InternVLHf

    from armor_eval.tasks.understanding.task import UnderstandingTask

LONGEST, BATCH = 8, 16
TASK = "armor_mmb"


def write_dataset(task: UnderstandingTask, folder: Path) -> None:
    """The benchmark as a data set on the disk: image, text and answer of each question, as ours are asked."""
    from datasets import Dataset, DatasetDict, Features, Image, Value

    from armor_eval.tasks.understanding.prompts import question_text

    units, rows = task.units(), {row.id: row for row in task.table.rows}
    columns = {
        "id": [unit.id for unit in units],
        "image": [request.parts[0] for request in task.requests(units, folder)],
        "text": [question_text(task.benchmark.prompt, rows[unit.id]) for unit in units],
        "answer": [str(rows[unit.id].fields["answer"]) for unit in units],
    }
    kinds = Features({name: Image() if name == "image" else Value("string") for name in columns})
    DatasetDict({"test": Dataset.from_dict(columns, features=kinds)}).save_to_disk(str(folder))


def their_task(folder: Path) -> ConfigurableMessagesTask:
    """The same benchmark as a task of lmms-eval's."""
    from lmms_eval.api.task import ConfigurableMessagesTask

    def first_letter(doc: dict[str, str], results: list[str]) -> dict[str, float]:
        return {"accuracy": float(results[0].strip()[:1] == doc["answer"])}

    return ConfigurableMessagesTask(
        config={
            "task": TASK,
            "dataset_path": str(folder),
            "dataset_kwargs": {"load_from_disk": True},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_visual": lambda doc: [doc["image"].convert("RGB")],
            "doc_to_text": lambda doc: doc["text"],
            "doc_to_target": "answer",
            "generation_kwargs": {"max_new_tokens": LONGEST, "temperature": 0, "num_beams": 1, "do_sample": False},
            "process_results": first_letter,
            "metric_list": [{"metric": "accuracy", "aggregation": "mean", "higher_is_better": True}],
        }
    )


def their_models(plain: Path, most_patches: int) -> tuple[InternVLHf, InternVLHf]:
    """lmms-eval's own class for an InternVL of transformers, which takes one question at a time, and the same with
    batches, which it lacks: lmms-eval's own sorting, and one `generate` a batch. In float32, as ours; theirs reads
    bfloat16, which a CPU is slower at and which gives other answers.
    """
    import torch
    from lmms_eval import utils
    from lmms_eval.api.instance import GenerationResult, Instance
    from lmms_eval.models.chat.internvl_hf import InternVLHf
    from lmms_eval.protocol import ChatMessages
    from transformers import InternVLForConditionalGeneration

    class Batched(InternVLHf):
        def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
            arguments = [request.args for request in requests]
            order = utils.Collator(arguments, lambda a: (len(a[0]), a[3]), group_fn=lambda a: a[2], grouping=True)
            results = []
            for chunk in order.get_batched(n=BATCH, batch_fn=None):
                _, to_messages, decoding, doc_ids, tasks, splits = zip(*chunk, strict=True)
                docs = self.task_dict[tasks[0]][splits[0]]
                talks = [ChatMessages(messages=to_messages[0](docs[i])) for i in doc_ids]
                messages = [talk.model_dump()["messages"] for talk in talks]
                inputs = self.processor(
                    images=[image for talk in talks for image in talk.extract_media()[0]],
                    text=self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
                    padding=True,
                    min_patches=self.min_patches,
                    max_patches=self.max_patches,
                    return_tensors="pt",
                ).to(self.device, self.model.dtype)
                tokens = self.model.generate(
                    **inputs,
                    do_sample=False,
                    max_new_tokens=decoding[0]["max_new_tokens"],
                    pad_token_id=self.pad_token_id,
                    eos_token_id=self.eot_token_id,
                )
                texts = self.processor.batch_decode(tokens[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
                results += [GenerationResult(text=text) for text in texts]
            return order.get_original(results)

    def loaded(kind: type[InternVLHf]) -> InternVLHf:
        model = kind(pretrained=str(plain), device="cpu", device_map="cpu", max_patches=most_patches)
        model._model = InternVLForConditionalGeneration.from_pretrained(plain, dtype=torch.float32).eval()
        model.clean = lambda: None  # lmms-eval throws the weights away behind a run
        return model

    return loaded(InternVLHf), loaded(Batched)


def sides(checkpoint: Path, work: Path, units: int) -> dict[str, Callable[[], dict[str, str]]]:
    """A whole run each, from the loaded model and data to scores; it gives the answers by item."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager
    from test_perf_understanding import task_of

    from armor_eval.engine import Settings, evaluate
    from armor_eval.models import registry
    from armor_eval.models.base import Decoding
    from armor_eval.runs.bundle import read_bundle
    from armor_model.convert.export import export
    from armor_model.loading import load_processor

    export(checkpoint, work / "plain")
    adapter, task, runs = registry.load(str(checkpoint), "shapes"), task_of("MMB", units), count()
    write_dataset(task, work / "data")
    one, batched = their_models(work / "plain", load_processor(checkpoint).settings.max_tiles)
    theirs, manager = their_task(work / "data"), TaskManager()

    def ask_ours(batch: int, shard: tuple[int, int] | None = None) -> dict[str, str]:
        settings = Settings("shapes", ["perf"], Decoding(max_new_tokens=LONGEST), batch_size=batch, shard=shard)
        done = evaluate(task, adapter, work / f"ours{next(runs)}", settings)
        return {item.id: item.output.strip() for item in read_bundle(done.path)[1]}

    def ask_theirs(model: InternVLHf) -> dict[str, str]:
        result = simple_evaluate(model=model, tasks=[theirs], task_manager=manager)
        return {sample["doc"]["id"]: sample["filtered_resps"][0].strip() for sample in result["samples"][TASK]}

    return {
        "ours at 1": lambda: ask_ours(1),
        "theirs at 1": lambda: ask_theirs(one),
        f"ours at {BATCH}": lambda: ask_ours(BATCH),
        f"ours at {BATCH}, not scored": lambda: ask_ours(BATCH, (0, 1)),  # a whole run as its only shard
        f"theirs at {BATCH}": lambda: ask_theirs(batched),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Ask all sides in turn, odd turns the other way round; the first turn only warms up."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--turns", type=int, default=4)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    answers: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as work, redirect_stdout(sys.stderr):
        os.environ |= {"HF_HOME": work, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        asking = sides(given.model, Path(work), given.units)
        cost: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in asking}
        for turn in range(-1, given.turns):
            for name in list(asking)[:: -1 if turn % 2 else 1]:
                cpu, wall = time.process_time(), time.perf_counter()
                answers[name] = asking[name]()
                if turn >= 0:
                    cost[name]["cpu"].append(time.process_time() - cpu)
                    cost[name]["wall"].append(time.perf_counter() - wall)
    versions = {name: version(name) for name in ("lmms-eval", "transformers", "torch")}
    json.dump({"cost": cost, "answers": answers, "versions": versions}, sys.stdout)


if __name__ == "__main__":
    main()
