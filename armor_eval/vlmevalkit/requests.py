"""Which answers go to a judge and in which words: VLMEvalKit's prompts, from a prediction file as it reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from armor_eval.tasks.understanding.cells import OPTIONS
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.judge import Request
from armor_eval.tasks.understanding.table import CIRCLE

if TYPE_CHECKING:
    import pandas as pd

LLAVA_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
"""LLaVA-Bench's published system prompt for its judge."""


def build_requests(benchmark: Benchmark, frame: pd.DataFrame) -> list[Request]:
    """The requests for a prediction file's rows, in their order. vlmeval must be imported."""
    build: dict[str, Callable] = {"graded": _graded, "ratio": _ratio, "yes-no": _yes_no}
    return build.get(benchmark.kind, _choice)(benchmark, frame)


def options_of(benchmark: Benchmark, record: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A row's options and the right letter; an open MMMU question is the choice between its answer and any other.

    Its right letter is A, but for an answer that is itself one capital letter (four of the 53 open ones): VLMEvalKit
    keeps that letter, which the two options then seldom hold (`mcq_vanilla_eval`, `MMMU_preproc`).
    """
    options = {c: record[c] for c in OPTIONS if c in record and record[c] == record[c]}
    answer = record.get("answer")
    if not benchmark.dataset.startswith("MMMU"):
        return options, str(answer)
    if "A" not in options:
        options = {"A": answer, **options, "B": "Other Answers"}
        options = {c: options[c] for c in OPTIONS if c in options and options[c] == options[c]}
    return options, answer if answer in list(OPTIONS) else "A"


def matched_option(prediction: Any, options: dict[str, Any]) -> str | None:
    """The letter that VLMEvalKit's rule reads (`Z`: refused), or None."""
    from vlmeval.utils import can_infer

    return can_infer(str(prediction), dict(options)) or None


def _graded(benchmark: Benchmark, frame: pd.DataFrame) -> list[Request]:
    from vlmeval.dataset.utils.mmvet import build_mmvet_gpt4_prompt

    return [Request(str(r["index"]), build_mmvet_gpt4_prompt(r), "graded") for _, r in frame.iterrows()]


def _ratio(benchmark: Benchmark, frame: pd.DataFrame) -> list[Request]:
    from vlmeval.dataset.utils.llavabench import build_prompt

    return [Request(str(r["index"]), build_prompt(r), "ratio", system=LLAVA_SYSTEM) for _, r in frame.iterrows()]


def _yes_no(benchmark: Benchmark, frame: pd.DataFrame) -> list[Request]:
    from vlmeval.dataset.utils.yorn import YOrN_Extraction, YOrN_match_prompt

    frame = frame.assign(prediction=[str(p) for p in frame["prediction"]])
    unread = [r for _, r in frame.iterrows() if YOrN_Extraction(r["prediction"]) == "Unknown"]
    return [Request(str(r["index"]), YOrN_match_prompt(r), "yes-no") for r in unread]


def _choice(benchmark: Benchmark, frame: pd.DataFrame) -> list[Request]:
    from vlmeval.dataset.utils.multiple_choice import build_prompt, build_prompt_cn
    from vlmeval.smp import cn_string
    from vlmeval.smp.vlm import build_option_str

    groups: dict[str, list[tuple[str, Request | None, bool]]] = defaultdict(list)
    for record in frame.to_dict("records"):
        index = str(record["index"])
        options, gold = options_of(benchmark, record)
        read = matched_option(record["prediction"], options)
        request = None
        if read is None:
            build = build_prompt_cn if cn_string(record["question"]) else build_prompt
            words = build(record["question"], build_option_str(options), str(record["prediction"]))
            request = Request(index, words, "choice", options=options)
        circular = benchmark.kind == "mcq-circular"
        key = str(record.get("g_index", int(record["index"]) % CIRCLE)) if circular else index
        groups[key].append((index, request, read is not None and read != gold))
    # A group that holds a wrong answer is lost whatever a judge says.
    open_groups = [rows for rows in groups.values() if not any(wrong for _, _, wrong in rows)]
    return [request for rows in open_groups for _, request, _ in rows if request is not None]
