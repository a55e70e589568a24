"""From what `--model` says to an adapter. Adding a kind of model is one line in KINDS.

armor-eval list
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.models.base import AnswersQuestions, DrawsImages, RespondsFreely
from armor_eval.models.options import honoured, names
from armor_eval.profiles import BUNDLED
from armor_eval.runs.schema import Profile
from armor_model.base.errors import UserError, did_you_mean
from armor_model.hub import is_id

if TYPE_CHECKING:
    from armor_eval.models.base import Model

EVERYTHING = (AnswersQuestions, DrawsImages, RespondsFreely)
TASKS = {AnswersQuestions: "answer questions", DrawsImages: "draw", RespondsFreely: "answer with text and images"}
"""Protocol -> what a model that lacks it cannot do, in a user's words."""


@dataclass(frozen=True)
class Kind:
    target: str
    """module:function(rest, profile, *, ...) -> adapter. The options that it names are those that it honours."""
    shows: str
    help: str
    does: tuple[type, ...]
    """The protocols of models.base that its adapters have: what else is asked of them is refused before they load."""


KINDS: dict[str, Kind] = {
    "hf": Kind(
        "armor_eval.models.hf:load",
        "hf:ID[@REVISION]",
        "any transformers image-text-to-text model",
        (AnswersQuestions,),
    ),
    "vlmeval": Kind(
        "armor_eval.vlmevalkit.zoo:load", "vlmeval:NAME", "an entry of VLMEvalKit's zoo", (AnswersQuestions,)
    ),
    "openai": Kind(
        "armor_eval.models.openai:load",
        "openai:URL#NAME",
        "an OpenAI-compatible server (vLLM, SGLang ...), drawing too",
        EVERYTHING,
    ),
    "mock": Kind(
        "armor_eval.models.mock:load", "mock[:PATTERN]", "a seeded stand-in, for tests and baselines", EVERYTHING
    ),
    "diffusers": Kind(
        "armor_eval.models.diffusers:load", "diffusers:ID", "a diffusers text-to-image pipeline", (DrawsImages,)
    ),
    "janus": Kind(
        "armor_eval.models.janus:load", "janus:ID", "Janus-Pro through transformers, drawing", (DrawsImages,)
    ),
    "emu3": Kind("armor_eval.models.emu3:load", "emu3:ID", "Emu3 through transformers, drawing", (DrawsImages,)),
}
"""Prefix before the colon -> how to load it."""


def load(
    spec: str | None, profile: Profile, *, does: type | None = None, own_device: str | None = None, **options: object
) -> Any:
    """The adapter for a model specification; UserError where it names none, or cannot do what is asked.

    None and `armor-nano` are the bundled checkpoint, `KIND:...` one of KINDS, anything else a checkpoint's folder or
    its hub id.
    `does`: the protocol of models.base that will be used. `options`: what a user asked for (see options.GENERIC).
    `own_device`: this process's own device among several; it is used where none was asked for and the model computes
    here.
    """
    loader, first = check(spec, profile, does)
    used = honoured(loader, f"--model {spec or BUNDLED}", options)
    if own_device and not {"device", "device_map"} & used.keys() and names(loader, "device"):
        used["device"] = own_device
    return loader(*first, **used)


def check(
    spec: str | None, profile: Profile, does: type[Model] | None = None
) -> tuple[Callable[..., object], tuple[object, ...]]:
    """What loads the model, and its positional arguments; nothing is loaded, and no hub is asked. UserError where the
    specification names no model, or a kind that lacks the protocol `does`."""
    kind = KINDS.get((spec or "").partition(":")[0])
    if does is not None and kind is not None and does not in kind.does:
        able = [k.shows for k in KINDS.values() if does in k.does]
        raise UserError(f"--model {spec} cannot {TASKS[does]}", f"expected {BUNDLED}, FOLDER, {', '.join(able)}")
    return _loader(spec, profile)


def _loader(spec: str | None, profile: Profile) -> tuple[Callable[..., object], tuple[object, ...]]:
    """The function that loads the model, and its positional arguments."""
    if spec is None or spec == BUNDLED:
        from armor_eval.models.armor import load_bundled

        return load_bundled, (BUNDLED,)
    kind, _, rest = spec.partition(":")
    if kind in KINDS:
        module, function = KINDS[kind].target.split(":")
        return getattr(importlib.import_module(module), function), (rest, profile)
    folder = Path(spec).expanduser()
    if not folder.exists() and not is_id(spec):
        near = did_you_mean(kind, [BUNDLED, *KINDS])
        shows = ", ".join([BUNDLED, "FOLDER", "ORG/NAME[@REVISION]", *(k.shows for k in KINDS.values())])
        raise UserError(f"no model {spec!r}: not a folder and not a known kind{near}", f"expected one of: {shows}")
    from armor_eval.models.armor import load_folder

    return load_folder, (folder, spec, profile)
