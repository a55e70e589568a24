"""Options of a judge, as every command that asks one takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from armor_model.base.jsons import JsonObject

Then = Annotated[
    str | None, typer.Option("--judge", help="Then have the answers graded: hf:ID, openai:URL#NAME or replies:FILE.")
]
Rubric = Annotated[
    str,
    typer.Option(
        "--rubric", help="armor-rubric-v1; synjudge with --prompt; opening-scores; ueval-official, ueval-lmms-eval."
    ),
]
Words = Annotated[
    Path | None, typer.Option("--prompt", help="The judge's published words, where we may not ship them.")
]
Known = Annotated[
    Path | None,
    typer.Option("--calibration", help="The judge's run of `judge calibrate` without --against: what it looks at."),
]
DType = Annotated[str | None, typer.Option("--judge-dtype", help="Of an hf: judge; default by device.")]
Args = Annotated[str | None, typer.Option("--judge-args", help="k=v,... of an hf: judge: max_pixels, revision ...")]
Json = Annotated[
    str | None, typer.Option("--judge-json", help="Fields that every request to an openai: judge gets: JSON or @FILE.")
]


def judge_options(dtype: str | None, args: str | None, json: str | None) -> JsonObject:
    """The options as `load_judge` takes them. UserError for one that is none."""
    from armor_eval.models.endpoint import Extra
    from armor_eval.models.options import parse_dtype, parse_model_args

    found: JsonObject = {"dtype": parse_dtype(dtype), "model_args": parse_model_args(args)}
    return found if json is None else {**found, "extra": Extra.read(json, "--judge-json")}
