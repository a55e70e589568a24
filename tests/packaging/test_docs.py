"""docs/architecture.md names files that exist, and the layers it states are those that import-linter holds."""

import re

from paths import ROOT


def test_every_file_of_the_walks_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"`((?:armor_eval|armor_model|trainer)/[\w/]+\.py)`", text)
    assert len(files) > 30
    assert [file for file in files if not (ROOT / file).is_file()] == []
