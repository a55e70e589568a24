"""VLMEvalKit's own runner with ARMOR registered, in a process of its own (importing vlmeval changes the process).

python -m armor_eval.vlmevalkit.runner CHECKPOINT MAX_NEW_TOKENS published --model ARMOR --data NAME
"""

from __future__ import annotations

import logging
import os
import sys

from armor_eval.vlmevalkit.left_out import stand_ins
from armor_model.base.jsons import JsonObject

AS_ASKED = (
    "mode_infer",
    "official_submission_only_mmmu_test",
    "official_submission_only_mmt_bench",
    "evaluation_not_supported_for_dataset",
    "external_submission_required",
    "test_split_without_ground_truth",
)
"""Why VLMEvalKit leaves out the scoring of answers that it did get; its other reasons mean that nothing came out."""


def failure(status: JsonObject) -> str | None:
    """Why a combination gave no result, from what VLMEvalKit writes to its status file; None where it did, or may."""
    skipped = status.get("skip_reason")
    return status.get("error_message") or (f"skipped, {skipped}" if skipped and skipped not in AS_ASKED else None)


def main(argv: list[str]) -> int:
    """Run; 1 where a model and data set combination failed or was skipped, which VLMEvalKit itself ends with 0."""
    checkpoint, longest, data, *rest = argv
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    hide_keys()
    with stand_ins():
        import vlmeval.run as runner

    from armor_eval.vlmevalkit.model import register

    register(checkpoint or None, int(longest))
    if data == "any":
        accept_any_data()
    else:
        accept_editions()
    failures: list[str] = []
    told = runner.upsert_dataset_status

    def noted(*args: object, **kwargs: object) -> object:
        why = failure(kwargs)
        if why:
            failures.append(f"{kwargs.get('model_name')} x {kwargs.get('dataset_name')}: {why}")
        return told(*args, **kwargs)

    runner.upsert_dataset_status = noted
    sys.argv = ["vlmeval", *rest]
    runner.load_env()
    runner.main()
    for line in failures:
        sys.stderr.write(f"armor-eval: VLMEvalKit failed on {' '.join(line.split())}\n")
    return 1 if failures else 0


def accept_any_data() -> None:
    """Without the md5 of our benchmarks' files VLMEvalKit uses what is there; with it, it downloads over them."""
    from vlmeval.dataset import DATASET_CLASSES

    from armor_eval.tasks.understanding.declare import benchmarks

    for owner in DATASET_CLASSES:
        for benchmark in benchmarks().values():
            getattr(owner, "DATASET_MD5", {}).pop(benchmark.dataset, None)


def accept_editions() -> None:
    """VLMEvalKit knows one md5 a file, and downloads over any other: a file that was published twice is one of both."""
    from vlmeval.dataset import DATASET_CLASSES

    from armor_eval.tasks.understanding.data import lmu_data
    from armor_eval.tasks.understanding.declare import benchmarks
    from armor_eval.tasks.understanding.table import file_hashes

    for benchmark in benchmarks().values():
        file = lmu_data() / benchmark.official.file
        if len(benchmark.official.md5) < 2 or not file.is_file():
            continue
        _, md5 = file_hashes(file)
        for owner in DATASET_CLASSES:
            if benchmark.dataset in getattr(owner, "DATASET_MD5", {}) and benchmark.official.edition(md5) is not None:
                owner.DATASET_MD5[benchmark.dataset] = md5


def hide_keys() -> None:
    """VLMEvalKit logs its judge's key in clear: replace every key of the environment in every log record."""
    keys = [value for name, value in os.environ.items() if name.endswith("_API_KEY") and len(value) > 3]
    if not keys:
        return
    make = logging.getLogRecordFactory()

    def record(*args: object, **kwargs: object) -> logging.LogRecord:
        made = make(*args, **kwargs)
        text = made.getMessage()
        if any(key in text for key in keys):
            for key in keys:
                text = text.replace(key, "***")
            made.msg, made.args = text, ()
        return made

    logging.setLogRecordFactory(record)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
