"""Tables of pandas, as typed Python sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import pandas as pd

    from armor_model.base.jsons import JsonObject


def records(frame: pd.DataFrame) -> list[JsonObject]:
    """The rows by column name; every table of ours has texts as its columns' names."""
    return cast("list[JsonObject]", frame.to_dict("records"))
