"""VLMEvalKit's own readings of answers, and its words to a judge, behind the fence of `importing`."""

from __future__ import annotations

from armor_eval.vlmevalkit.importing import scoring_function
from armor_model.base.jsons import JsonView


def matched_option(prediction: object, options: JsonView) -> str | None:
    """The letter that VLMEvalKit's rule reads (`Z`: refused), or None."""
    return scoring_function("utils", "can_infer")(str(prediction), dict(options)) or None


def read_yes_no(prediction: str) -> str:
    """Yes, No or Unknown."""
    return scoring_function("dataset.utils.yorn", "YOrN_Extraction")(prediction)


def choice_prompt(record: JsonView, options: JsonView) -> str:
    """Which option an answer means."""
    chinese = scoring_function("smp", "cn_string")(record["question"])
    return _choice_prompt("build_prompt_cn" if chinese else "build_prompt", record, options)


def blink_prompt(record: JsonView, options: JsonView) -> str:
    """The same with BLINK's examples."""
    return _choice_prompt("build_prompt_blink", record, options)


def _choice_prompt(name: str, record: JsonView, options: JsonView) -> str:
    listed = scoring_function("smp.vlm", "build_option_str")(options)
    build = scoring_function("dataset.utils.multiple_choice", name)
    return build(record["question"], listed, str(record["prediction"]))


def yes_no_prompt(record: object) -> str:
    """Whether an answer means yes or no."""
    return scoring_function("dataset.utils.yorn", "YOrN_match_prompt")(record)


def grading_prompt(record: object) -> str:
    """MM-Vet's: a grade from 0 to 1."""
    return scoring_function("dataset.utils.mmvet", "build_mmvet_gpt4_prompt")(record)


def marking_prompt(record: object) -> str:
    """LLaVA-Bench's: marks of an answer and of the reference."""
    return scoring_function("dataset.utils.llavabench", "build_prompt")(record)


def relaxed(record: JsonView) -> bool:
    """ChartQA's relaxed correctness of an answer beside the gold one, or any of a list of them."""
    line = {**record, "answer": str(record["answer"]), "prediction": str(record["prediction"])}
    process_line = scoring_function("dataset.utils.vqa_eval", "process_line")
    return any(map(bool, process_line(line, method="relaxed_accuracy")["match"]))


def extraction_prompt(record: JsonView) -> str:
    """MathVista's: the answer to type out of a model's text."""
    return scoring_function("dataset.utils.mathvista", "build_mathvista_gpt4_prompt")(record)


def already_right(record: JsonView) -> object:
    """What MathVista's rule reads without a judge: any letter, but a number only where it is the right one and not 0;
    else something false."""
    return scoring_function("dataset.utils.mathvista", "post_check")(record, prefetch=True)


def extracted_right(record: JsonView) -> bool:
    """Whether what was extracted (`res`) is the answer, by MathVista's rule."""
    return bool(scoring_function("dataset.utils.mathvista", "post_check")(record, prefetch=False))
