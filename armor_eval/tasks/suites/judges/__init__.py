"""`--judge`: from a specification to a judge. Adding a kind of judge is one line in JUDGES."""

from __future__ import annotations

import importlib

from armor_eval.runs.schema import Profile
from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.judges.base import Judge
from armor_model.base.errors import UserError, did_you_mean

JUDGES: dict[str, tuple[str, str]] = {
    "hf": ("armor_eval.tasks.suites.judges.hf:load", "hf:ID[@REVISION]"),
    "openai": ("armor_eval.tasks.suites.judges.served:load", "openai:URL#NAME"),
    "replies": ("armor_eval.tasks.suites.judges.recorded:load", "replies:FILE"),
    "shapes-detector": ("armor_eval.shapes.editing:load_judge", "shapes-detector"),
    "armor": ("armor_eval.tasks.suites.judges.armor:load", "armor:FOLDER or armor:armor-nano"),
    "scene": ("armor_eval.tasks.suites.judges.scene:load", "scene (embedded world only)"),
    "mplug": ("armor_eval.tasks.suites.judges.mplug:load", "mplug"),
}
"""Word before the colon -> (module:function(rest, profile, **options) -> Judge, how it is typed)."""


def load_judge(spec: str, profile: Profile, **options: object) -> Judge:
    """The judge of a specification. UserError where it names none."""
    kind, _, rest = spec.partition(":")
    if kind not in JUDGES:
        shows = ", ".join(shows for _, shows in JUDGES.values())
        raise UserError(f"no judge {spec!r}{did_you_mean(kind, JUDGES)}", f"expected one of: {shows}")
    module, function = JUDGES[kind][0].split(":")
    judge: Judge = getattr(importlib.import_module(module), function)(rest, profile, **options)
    return judge


def spec_for(suite: Suite, asked: str | None, say: str) -> str:
    """The judge asked for, or the suite's default. UserError where there is none; `say`: how one is given."""
    if (spec := asked or suite.default_judge) is None:
        own = f"; its own judge is {suite.own_judge}" if suite.own_judge else ""
        raise UserError(f"{suite.name} needs a judge{own}", f"say {say} hf:ID, openai:URL#NAME or replies:FILE")
    return spec
