"""`make bench`: every perf test hands in its rows; at the end they stand in one table and in runs/bench.json.

What README and docs quote is kept in reports/bench/ (tests/packaging/test_figures.py): a ratio says in `size` of which
model or data it is true, in the words that the page uses; a module whose ratios share one declares it as SIZE.
"""

import json
import os
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest

ROWS = pytest.StashKey[list[dict]]()
Row = Callable[..., None]


@pytest.fixture
def bench_row(request) -> Row:
    """Call it with a name, what was measured, its unit and the target (`>= 5`, `< 3`, or None for information)."""
    rows = request.config.stash.setdefault(ROWS, [])
    common = {"size": request.module.SIZE} if hasattr(request.module, "SIZE") else {}

    def add(name: str, value: float | None, unit: str, target: str | None = None, **more: object) -> None:
        row = {"name": name, "value": value, "unit": unit, "target": target, **common, **more}
        assert "size" in row or not unit.startswith("x"), f"{name}: a ratio of what size?"
        rows.append(row)

    return add


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """armor-nano where it is bundled; else an untrained model of the same size, which is as fast."""
    from armor_model import ArmorForConditionalGeneration, ArmorProcessor, build_word_tokenizer, bundled, preset, save
    from armor_model.base.errors import ArmorError

    try:
        return bundled("armor-nano")
    except ArmorError:
        from trainer.shapes.language import vocabulary

        tokenizer = build_word_tokenizer(vocabulary())
        config = preset("armor-nano", vocab_size=len(tokenizer))
        folder = tmp_path_factory.mktemp("nano")
        save(ArmorForConditionalGeneration(config).eval(), ArmorProcessor.for_config(tokenizer, config), folder)
        return folder


@pytest.fixture(scope="session")
def large(tmp_path_factory) -> Path:
    """An untrained model that reads an image as 256 tokens."""
    from test_perf_floor import MEDIUM

    from armor_model import ArmorForConditionalGeneration, ArmorProcessor, build_word_tokenizer, preset, save
    from armor_model.presets import preset_dict
    from trainer.shapes.language import vocabulary

    tokenizer = build_word_tokenizer(vocabulary())
    vision = preset_dict("tiny")["vision_config"] | {"image_size": [448, 448], "patch_size": [14, 14]}
    vision |= {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024}
    shape = {"num_adapter_layers": 3, "codebook_size": 8192, "vision_config": vision, "image_seq_length": 256}
    config = preset("tiny", len(tokenizer), MEDIUM, **shape)
    model = ArmorForConditionalGeneration(config).eval()
    assert 123.5 < sum(p.numel() for p in model.parameters()) / 1e6 < 124.5
    folder = tmp_path_factory.mktemp("large")
    save(model, ArmorProcessor.for_config(tokenizer, config), folder)
    return folder


def pytest_terminal_summary(terminalreporter, config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("side by side, in one run")
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        value = "not measured" if row["value"] is None else f"{row['value']:.3g} {row['unit']}"
        value += f" for {row['size']}" if "size" in row else ""
        more = ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in row.items()
            if k not in ("name", "value", "unit", "target", "size")
        )
        target = f"(target {row['target']})" if row["target"] else ""
        terminalreporter.write_line(f"{row['name']:<{width}}  {value:<32} {target:<16} {more}".rstrip())
    out = Path(os.environ.get("ARMOR_BENCH_OUT", "runs")) / "bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    made = {"date": date.today().isoformat(), "cpus": os.cpu_count(), "torch": version("torch")}
    out.write_text(json.dumps({**made, "rows": rows}, indent=1) + "\n")
    terminalreporter.write_line(f"written to {out}")
