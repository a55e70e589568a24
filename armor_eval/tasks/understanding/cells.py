"""The cells of a published TSV as text, and its two readings: ours keeps `None`, VLMEvalKit 0.0.20 loses it."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Literal, cast, get_args

if TYPE_CHECKING:
    import pandas as pd

    from armor_model.base.jsons import JsonObject

Reading = Literal["keep-none", "vlmeval"]
"""`keep-none`: a cell is its text, and only an empty one is missing (as in VLMEvalKit's versions after 0.0.20).

`vlmeval`: what 0.0.20 makes of the file, with pandas' defaults: `None`, `NA`, `N/A`, `null`, `nan` ... are missing, and
a column of numbers loses its spelling (`007`, `3.0`)."""
READINGS: tuple[Reading, ...] = get_args(Reading)

OPTIONS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ASKED = ("question", "hint", *OPTIONS, "answer")
"""The columns whose text is asked or scored: where the readings differ in one, the row is touched."""
_WHOLE = re.compile(r"(-?\d+)(?:\.0*)?")


def as_vlmeval_reads(text: pd.DataFrame) -> pd.DataFrame:
    """The same rows as pandas' defaults, and so VLMEvalKit 0.0.20, make them of the file."""
    import pandas as pd

    written = io.StringIO()
    text.to_csv(written, sep="\t", index=False, quoting=csv.QUOTE_ALL)
    written.seek(0)
    return pd.read_csv(written, sep="\t")


def differing_cells(text_frame: pd.DataFrame, lossy: pd.DataFrame) -> list[str]:
    """Per row what the two readings differ in, as `D: 'None'`; an empty string where they agree."""
    notes = [""] * len(text_frame)
    for column in (c for c in ASKED if c in text_frame):
        for row, (text, value) in enumerate(zip(text_frame[column], lossy[column], strict=True)):
            if text == text and text != (str(value) if value == value else None):
                notes[row] += f"{', ' if notes[row] else ''}{column}: {text[:40]!r}"
    return notes


def whole_number(text: object) -> int | None:
    """The integer that a cell holds (`12`, `007`, `12.0`), else None."""
    match = _WHOLE.fullmatch(str(text).strip())
    return int(match[1]) if match else None


def records(frame: pd.DataFrame) -> list[JsonObject]:
    """The rows by column name; every table of ours has texts as its columns' names."""
    return cast("list[JsonObject]", frame.to_dict("records"))
