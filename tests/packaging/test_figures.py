"""Every ratio (`5.4x`) in README, docs and cards is a row of reports/bench/, and says of which size it is true."""

import json
import re

import pytest
from paths import ROOT

BENCH = ROOT / "reports" / "bench"
ROWS = [
    row for file in sorted(BENCH.glob("*.json")) for row in json.loads(file.read_text())["rows"] if row["unit"] == "x"
]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    *(f"docs/{page.name}" for page in sorted(ROOT.glob("docs/*.md"))),
    *(str(page.relative_to(ROOT)) for page in sorted(ROOT.glob("reports/**/README.md"))),
    "armor_model/pretrained/armor-nano/README.md",
]
RATIO = re.compile(r"(?<![\w.x])(\d+(?:\.\d+)?)\s?(?:x(?![\w./]|\s?\d)|times (?:as fast|faster|slower))")


def sources(ratio: str) -> list[dict]:
    """The measured rows that are this figure when they are rounded to its digits."""
    digits = len(ratio.partition(".")[2])
    return [row for row in ROWS if row["value"] is not None and f"{row['value']:.{digits}f}" == ratio]


def unsupported(text: str) -> list[str]:
    """Ratios of a page that no committed row holds, or whose paragraph does not say the row's size."""
    paragraphs = re.split(r"\n\s*\n", text)
    return [
        found[0]
        for paragraph in paragraphs
        for found in RATIO.finditer(paragraph)
        if not any(row.get("size", "\0") in " ".join(paragraph.split()) for row in sources(found[1]))
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_ratio_is_a_committed_measurement_with_its_size(page: str) -> None:
    assert unsupported((ROOT / page).read_text(encoding="utf-8")) == []


def test_a_ratio_without_source_or_size_is_found() -> None:
    row = next(row for row in ROWS if row["name"].startswith("understanding (MMB)"))
    good = f"{row['value']:.1f}x"
    assert row["size"] == "armor-nano" and unsupported(f"for armor-nano {good} the loop") == []
    assert unsupported(f"{good} the loop") == [good]  # of what?
    assert unsupported("for armor-nano 97.3x the loop, 97 times as fast") == ["97.3x", "97 times as fast"]
    assert unsupported("images of 32x32, ranks 1x8, a 0x1F and x2") == []


def test_the_cost_of_training_armor_nano_is_the_recorded_one() -> None:
    bundled = ROOT / "armor_model" / "pretrained" / "armor-nano"
    seconds = json.loads((bundled / "training.json").read_text())["cpu_seconds"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.findall(r"(\d+) CPU-minutes", text)
    assert said and {int(minutes) for minutes in said} == {round(seconds / 60)}
    card = (bundled / "README.md").read_text(encoding="utf-8")
    assert f"{round(seconds)} CPU-seconds" in card
