"""Scores prediction files with VLMEvalKit's own `evaluate`, in a process where nothing of ours is loaded.

    python official_process.py JOBS.json RESULTS.json

The three things it mends are those without which no number comes out: torchvision beside a CPU torch, an import of
LLaVABench's from one level too low, and imports of packages that are left out of the install.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path


def headline(dataset: str, said) -> float:
    if dataset == "MME":
        return float(said["perception"].iloc[0]) + float(said["reasoning"].iloc[0])
    if dataset == "HallusionBench":
        row = said[said["split"] == "Overall"].iloc[0]
        return (float(row["aAcc"]) + float(row["fAcc"]) + float(row["qAcc"])) / 3
    if dataset == "POPE":
        return float(said[said["split"] == "Overall"]["Overall"].iloc[0])
    if dataset == "MMVet":
        return float(said[said["Category"] == "Overall"]["acc"].iloc[0])
    if dataset == "MathVista_MINI":
        return float(said[said["Task&Skill"] == "Overall"]["acc"].iloc[0])
    if dataset == "OCRBench":
        return float(said["Final Score"])
    if dataset.startswith("ChartQA"):
        return float(said["Overall"].iloc[0])
    if dataset == "LLaVABench":
        return float(said[said["split"] == "overall"]["Relative Score (main)"].iloc[0])
    if dataset.startswith("MMMU"):
        return 100 * float(said[said["split"] == "validation"]["Overall"].iloc[0])
    assert len(said) == 1
    return 100 * float(said["Overall"].iloc[0])


def prompts(rows: list) -> list[str]:
    """VLMEvalKit's InternVL prompt of each row: build_prompt and reorganize_prompt, without a model behind them."""
    from vlmeval.vlm.internvl.internvl_chat import InternVLChat
    from vlmeval.vlm.internvl.utils import reorganize_prompt

    chat = InternVLChat.__new__(InternVLChat)
    chat.use_mpo_prompt = chat.use_cot = False
    chat._use_custom_prompt, chat.cot_prompt = True, None
    chat.dump_image = lambda line, dataset: line["__pictures__"]
    out = []
    for dataset, line in rows:
        message = chat.build_prompt(line, dataset)
        out.append(reorganize_prompt(message, sum(m["type"] == "image" for m in message), dataset=dataset))
    return out


def main(jobs_file: str, results_file: str) -> None:
    from armor_eval.vlmevalkit.left_out import stand_ins
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    with stand_ins():
        import vlmeval.smp
        import vlmeval.smp.log
        from vlmeval.dataset import DATASET_CLASSES, build_dataset

    sys.modules["vlmeval.dataset.smp"] = vlmeval.smp
    sys.modules["vlmeval.dataset.smp.log"] = vlmeval.smp.log
    results = []
    for job in json.loads(Path(jobs_file).read_text()):
        name = job["dataset"]
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(job["tsv"], f"{folder}/{name}.tsv")
            os.environ["LMUData"] = folder  # noqa: SIM112 - VLMEvalKit's spelling
            for owner in DATASET_CLASSES:
                getattr(owner, "DATASET_MD5", {}).pop(name, None)
            dataset = build_dataset(name)
            if job.get("prompts"):
                from vlmeval.smp import toliststr

                rows = []
                for i in range(len(dataset.data)):
                    line = dict(dataset.data.iloc[i])
                    line["__pictures__"] = [f"{n}.png" for n, _ in enumerate(toliststr(line["image"]))]
                    rows.append((name, line))
                results.append(dict(zip([str(r["index"]) for _, r in rows], prompts(rows), strict=True)))
                continue
            file = f"{folder}/armor_{name}.tsv"
            shutil.copy(job["predictions"], file)
            said = dataset.evaluate(file, model=job["judge"], nproc=2)
            results.append(headline(name, said))
    Path(results_file).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
