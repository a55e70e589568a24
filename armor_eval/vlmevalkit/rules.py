"""VLMEvalKit's own readings of answers, and its words to a judge. vlmeval must have been imported (quiet_vlmeval)."""

from __future__ import annotations

from typing import Any

from armor_model.base.jsons import JsonView


def matched_option(prediction: Any, options: JsonView) -> str | None:
    """The letter that VLMEvalKit's rule reads (`Z`: refused), or None."""
    from vlmeval.utils import can_infer

    return can_infer(str(prediction), dict(options)) or None


def read_yes_no(prediction: str) -> str:
    """Yes, No or Unknown."""
    from vlmeval.dataset.utils.yorn import YOrN_Extraction

    return YOrN_Extraction(prediction)


def choice_prompt(record: JsonView, options: JsonView) -> str:
    """Which option an answer means."""
    from vlmeval.dataset.utils.multiple_choice import build_prompt, build_prompt_cn
    from vlmeval.smp import cn_string
    from vlmeval.smp.vlm import build_option_str

    build = build_prompt_cn if cn_string(record["question"]) else build_prompt
    return build(record["question"], build_option_str(options), str(record["prediction"]))


def blink_prompt(record: JsonView, options: JsonView) -> str:
    """The same with BLINK's examples."""
    from vlmeval.dataset.utils.multiple_choice import build_prompt_blink
    from vlmeval.smp.vlm import build_option_str

    return build_prompt_blink(record["question"], build_option_str(options), str(record["prediction"]))


def yes_no_prompt(record: Any) -> str:
    """Whether an answer means yes or no."""
    from vlmeval.dataset.utils.yorn import YOrN_match_prompt

    return YOrN_match_prompt(record)


def grading_prompt(record: Any) -> str:
    """MM-Vet's: a grade from 0 to 1."""
    from vlmeval.dataset.utils.mmvet import build_mmvet_gpt4_prompt

    return build_mmvet_gpt4_prompt(record)


def marking_prompt(record: Any) -> str:
    """LLaVA-Bench's: marks of an answer and of the reference."""
    from vlmeval.dataset.utils.llavabench import build_prompt

    return build_prompt(record)


def relaxed(record: JsonView) -> bool:
    """ChartQA's relaxed correctness of an answer beside the gold one, or any of a list of them."""
    from vlmeval.dataset.utils.vqa_eval import process_line

    line = {**record, "answer": str(record["answer"]), "prediction": str(record["prediction"])}
    return any(map(bool, process_line(line, method="relaxed_accuracy")["match"]))


def extraction_prompt(record: JsonView) -> str:
    """MathVista's: the answer to type out of a model's text."""
    from vlmeval.dataset.utils.mathvista import build_mathvista_gpt4_prompt

    return build_mathvista_gpt4_prompt(record)


def already_right(record: JsonView) -> Any:
    """What MathVista's rule reads without a judge: any letter, but a number only where it is the right one and not 0;
    else something false."""
    from vlmeval.dataset.utils.mathvista import post_check

    return post_check(record, prefetch=True)


def extracted_right(record: JsonView) -> bool:
    """Whether what was extracted (`res`) is the answer, by MathVista's rule."""
    from vlmeval.dataset.utils.mathvista import post_check

    return bool(post_check(record, prefetch=False))
