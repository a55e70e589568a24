"""Export of run bundles to other people's formats: one record builder (`record`), one function a target.

    armor-eval export RUN... --to eee --org "My lab" --relationship first_party --out shared

Every target is a function of records alone and calls no network. What must be read with a number - reservations, the
protocol label, the profile - is in every target's output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from armor_eval.export import eee, hub, inspect_log, lm_eval, tables
from armor_eval.export.record import Options, Record, build
from armor_eval.report.loading import RunView
from armor_model.base.errors import unknown_name
from armor_model.base.files import make_folder

Target = Callable[[Sequence[Record], Path, Options], list[Path]]
"""Records, folder, options -> what was written. Raises UserError for a run that the target cannot state."""

TARGETS: dict[str, Target] = {
    "eee": eee.export,
    "hf": hub.eval_results,
    "model-index": hub.model_index,
    "inspect": inspect_log.export,
    "lm-eval": lm_eval.export,
    "csv": tables.as_csv,
    "parquet": tables.as_parquet,
    "wandb": tables.wandb,
    "mlflow": tables.mlflow,
}


def export(
    views: Sequence[RunView], target: str, out: Path, options: Options, *, partial: bool = False
) -> tuple[list[Record], list[Path]]:
    """Write runs in a target's format; returns their records and the files. Raises UserError, see `record.build`."""
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)
    records = build(views, partial=partial)
    return records, TARGETS[target](records, make_folder(out), options)
