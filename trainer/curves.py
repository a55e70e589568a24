"""Loss curves of training runs from their `log.jsonl`: one panel a stage, one colour a loss, one line a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from armor_model.base.errors import UserError
from armor_model.base.parsing import json_of, read_table

LOSS = "loss/"


def find_logs(run: Path) -> dict[str, Path]:
    """Stage -> log of a run's folder: its own, or those of the stages in it (`armor-train nano --work`). Its own stage
    is what its run record says; without one it has no name."""
    if (run / "log.jsonl").is_file():
        record = run / "run.json"
        return {str(read_table(record).get("benchmark", "")) if record.exists() else "": run / "log.jsonl"}
    logs = {path.parent.name: path for path in sorted(run.glob("*/log.jsonl"))}
    if not logs:
        raise UserError(f"{run} holds no log.jsonl, nor does a folder in it")
    return logs


def read_losses(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Loss -> its (step, mean since the last point); a line cut by a kill is left out."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json_of(line)
            losses = {k: float(v) for k, v in record.items() if k.startswith(LOSS)}
            step = int(record["step"])
        except (ValueError, OverflowError, KeyError, TypeError, AttributeError):
            continue
        for name, value in losses.items():
            curves.setdefault(name.removeprefix(LOSS), []).append((step, value))
    if not curves:
        raise UserError(f"{log} holds no losses")
    return curves


def draw_curves(runs: Sequence[Path], out: Path) -> list[str]:
    """Write the image; the stages it shows. The format is the file name's (svg, png, pdf).

    Raises UserError where a run has no log, or the format is unknown.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logs = [find_logs(run) for run in runs]
    stages = list(dict.fromkeys(stage for by_stage in logs for stage in by_stage))
    columns, rows = min(3, len(stages)), -(-len(stages) // 3)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    if out.suffix.removeprefix(".") not in figure.canvas.get_supported_filetypes():
        raise UserError(f"{out.name}: no format for an image; name it .svg, .png or .pdf")
    colors: dict[str, str] = {}
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, stage in zip(panels, stages, strict=False):
        for by_stage in logs:
            for name, points in read_losses(by_stage[stage]).items() if stage in by_stage else ():
                color = colors.setdefault(name, f"C{len(colors) % 10}")
                axes.plot(*zip(*points, strict=True), color=color, linewidth=1, alpha=0.8)
        axes.set(title=stage, xlabel="step", ylabel="loss, nats a token", yscale="log")
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(stages) :]:
        axes.remove()
    handles = [figure.axes[0].plot([], [], color=color, label=name)[0] for name, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, max(1, len(colors))), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    return stages
