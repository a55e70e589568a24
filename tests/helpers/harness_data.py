"""Small TSVs in VLMEvalKit's layouts, for tests that must not depend on the shapes exporters."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from armor_eval.engine import Finished, Settings, evaluate
from armor_eval.models.base import Decoding
from armor_eval.tasks.understanding.declare import choose
from armor_eval.tasks.understanding.task import Options, UnderstandingTask

LETTERS = "ABCD"
WORDS = ("circle", "square", "cross", "triangle", "red", "green", "blue", "yellow")


def png(seed: int, size: int = 16) -> str:
    """A seeded noisy picture as base64 (longer than the 64 characters that mean a reference)."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write(frame: pd.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_ALL)
    return path


def mmbench(groups: int = 6, rotations: int = 4, seed: int = 0) -> pd.DataFrame:
    """Groups of rotated options; every rotation but the first refers to the first one's picture."""
    rng = np.random.default_rng(seed)
    rows = []
    for g in range(1, groups + 1):
        options = list(rng.choice(WORDS, size=4, replace=False))
        for r in range(rotations):
            turned = options[-r:] + options[:-r] if r else options
            rows.append(
                {
                    "index": g + r * 1_000_000,
                    "image": png(g) if r == 0 else str(g),
                    "question": f"What is shape {g}?",
                    "hint": "Look closely." if g % 2 else None,
                    **dict(zip(LETTERS, turned, strict=True)),
                    "answer": LETTERS[turned.index(options[0])],
                    "category": f"cat{g % 2}",
                    "l2-category": "all",
                    "split": "dev",
                }
            )
    return pd.DataFrame(rows)


def seed_bench(n: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for i in range(n):
        options = list(rng.choice(WORDS, size=4, replace=False))
        rows.append(
            {
                "index": i,
                "image": png(i // 2),
                "question": f"Which word fits {i}?",
                **dict(zip(LETTERS, options, strict=True)),
                "answer": LETTERS[i % 4],
                "category": f"type{i % 3}",
            }
        )
    return pd.DataFrame(rows)


def mmmu(n: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = []
    for i in range(n):
        open_question = i % 4 == 3
        options = [None] * 4 if open_question else list(rng.choice(WORDS, size=4, replace=False))
        several = i % 5 == 0
        rows.append(
            {
                "index": i,
                "image": str([png(i), png(i + 100)]) if several else png(i),
                "image_path": str([f"{i}_1.png", f"{i}_2.png"]) if several else f"{i}.png",
                "question": f"<image 1> and <image 2>: what is {i}?" if several else f"<image 1> What is {i}?",
                **dict(zip(LETTERS, options, strict=True)),
                "answer": "forty two" if open_question else LETTERS[i % 4],
                "category": f"subject{i % 3}",
                "l2-category": "field",
                "split": "validation" if i % 6 else "dev",
            }
        )
    return pd.DataFrame(rows)


def mme(pairs: int = 2) -> pd.DataFrame:
    categories = ("OCR", "color", "count", "code_reasoning", "text_translation")
    rows = []
    for category in categories:
        for p in range(pairs):
            for k, answer in enumerate(("Yes", "No")):
                rows.append(
                    {
                        "index": len(rows),
                        "image": png(len(rows) // 2),
                        "question": f"Is it {category} {p} {k}? Please answer yes or no.",
                        "answer": answer,
                        "category": category,
                        "image_path": f"{category}/{p}.png",
                    }
                )
    return pd.DataFrame(rows)


def pope(images: int = 4) -> pd.DataFrame:
    rows = []
    for i in range(images):
        for k in range(4):
            rows.append(
                {
                    "index": len(rows),
                    "image": png(i),
                    "question": f"Is there a {WORDS[k]} in the image?",
                    "answer": "Yes" if k % 2 else "No",
                    "category": "adversarial,popular" if k == 0 else "random",
                }
            )
    return pd.DataFrame(rows)


def hallusion(sets: int = 3) -> pd.DataFrame:
    rows = []
    for s in range(sets):
        for figure in range(2):
            for question in range(2):
                rows.append(
                    {
                        "index": f"VD_figure_1_{s}_{figure}_{question}",
                        "image": png(s * 2 + figure),
                        "question": f"Is claim {question} right in set {s}?",
                        "answer": "Yes" if (figure + question) % 2 else "No",
                        "category": "VD",
                        "l2-category": "figure" if s % 2 else "chart",
                    }
                )
    return pd.DataFrame(rows)


def mmvet() -> pd.DataFrame:
    kinds = ("rec,know", "ocr,math", "gen,spat", "rec", "ocr,spat", "math,gen")
    rows = [
        {
            "index": f"v1_{i}",
            "image": png(i),
            "question": f"How many are there, {i}?",
            "answer": str(i),
            "category": kind,
        }
        for i, kind in enumerate(kinds)
    ]
    return pd.DataFrame(rows)


def llavabench() -> pd.DataFrame:
    kinds = ("conv", "detail", "complex")
    rows = [
        {
            "index": i,
            "image": png(i // 3),
            "question": f"Describe {i}.",
            "category": kinds[i % 3],
            "caption": f"a picture {i}",
            "gpt4_ans": f"It shows picture {i}.",
            "answer": "unused",
        }
        for i in range(6)
    ]
    return pd.DataFrame(rows)


def chartqa() -> pd.DataFrame:
    """Numbers, words, and lists of either as Python source."""
    golds = ("1", "-1", "Yes", "100", "['circle', 'red']", "0", "50%", "TRUE", "B", "[1, 2.5]", "a dog runs", "B.")
    rows = [
        {
            "index": i,
            "image": png(i // 2),
            "question": f"How much is bar {i}?",
            "answer": gold,
            "split": "test_human" if i % 2 else "test_augmented",
        }
        for i, gold in enumerate(golds * 2)
    ]
    return pd.DataFrame(rows)


def ocrbench() -> pd.DataFrame:
    """Every category twice, each with two gold texts."""
    texts = ("Regular", "Irregular", "Artistic")
    kinds = (
        *(f"{kind} Text Recognition" for kind in texts),
        "Handwriting Recognition",
        "Digit String Recognition",
        "Non-Semantic Text Recognition",
        "Scene Text-centric VQA",
        "Doc-oriented VQA",
        "Key Information Extraction",
        "Handwritten Mathematical Expression Recognition",
    )
    golds = (["B"], ["Yes", "red"], ["x + 1", "1"], ["the red\\n one"], ["A B"])
    rows = [
        {"index": i, "image": png(i), "question": f"What is it, {i}?", "answer": str(golds[i % 5]), "category": kind}
        for i, kind in enumerate(kinds * 2)
    ]
    return pd.DataFrame(rows)


def mathvista() -> pd.DataFrame:
    """Choices, integers, floats, a text and a list; skills as a list and, once, as plain words."""
    tasks = ("figure question answering", "math word problem", "geometry problem solving")
    kinds = (
        ("multi_choice", "text", "red", "A"),
        ("free_form", "integer", "1", None),
        ("free_form", "float", "-1", None),
        ("multi_choice", "integer", "4", "B"),
        ("free_form", "text", "A", None),
        ("free_form", "list", "[]", None),
        ("free_form", "integer", "0", None),
        ("multi_choice", "text", "circle", "C"),
    )
    rows = [
        {
            "index": i,
            "image": png(i),
            "question": f"Hint: Please answer.\nQuestion: How much is {i}?",
            "answer": gold,
            "question_type": form,
            "answer_type": kind,
            "answer_option": letter,
            "task": tasks[i % 3],
            "choices": "['red', '4', 'circle', 'square']" if letter else "[]",
            "skills": "two words" if i == 3 else "['arithmetic reasoning', 'logical reasoning']",
        }
        for i, (form, kind, gold, letter) in enumerate(kinds * 4)
    ]
    return pd.DataFrame(rows)


def several_images(n: int = 12) -> pd.DataFrame:
    """BLINK's kind: a choice between two images."""
    return seed_bench(n).assign(image=[str([png(i), png(i + 50)]) for i in range(n)])


MAKERS = {
    "MMBench_DEV_EN": mmbench,
    "SEEDBench_IMG": seed_bench,
    "MMMU_DEV_VAL": mmmu,
    "MME": mme,
    "POPE": pope,
    "HallusionBench": hallusion,
    "MMVet": mmvet,
    "LLaVABench": llavabench,
    "AI2D_TEST": seed_bench,
    "ChartQA_TEST": chartqa,
    "OCRBench": ocrbench,
    "MathVista_MINI": mathvista,
    "MMStar": lambda: seed_bench().assign(**{"l2-category": "coarse"}),
    "BLINK": several_images,
    "RealWorldQA": lambda: seed_bench().drop(columns=["category"]),
    "ScienceQA_TEST": lambda: seed_bench().assign(hint=["Birds lay eggs.", None] * 6),
}


def write_all(folder: Path) -> Path:
    for name, make in MAKERS.items():
        write(make(), folder / f"{name}.tsv")
    return folder


def task_of(
    bench: str, data: Path | None = None, profile: str = "official", judge=None, **options
) -> UnderstandingTask:
    """A benchmark's task over a folder of TSVs that need not be the published ones."""
    return UnderstandingTask(choose([bench])[0], profile, Options(data=data, any_data=True, **options), judge=judge)


def measure(
    bench: str,
    model,
    out: Path,
    data: Path | None = None,
    *,
    profile: str = "official",
    judge=None,
    batch_size: int = 16,
    decoding: Decoding | None = None,
    **options,
) -> Finished:
    """One benchmark measured by the engine into `out`."""
    task = task_of(bench, data, profile, judge, **options)
    return evaluate(task, model, out, Settings(profile, ["x"], decoding or Decoding(), batch_size))


def the_run(out: Path) -> Path:
    """The folder of the one run that a command wrote with `--out`: OUT/NAME."""
    if (out / "run.json").is_file():
        return out
    found = [file.parent for file in out.glob("*/run.json")]
    assert len(found) == 1, f"{out} holds {len(found)} runs"
    return found[0]
