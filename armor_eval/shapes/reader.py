"""The tile reader: what an image of the shapes world shows, held against the request and against the answer's text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from armor_eval.tasks.modality.judging import Reading
from armor_model.base.jsons import JsonObject
from trainer.shapes.evaluation import read_images
from trainer.shapes.questions import plural
from trainer.shapes.requests import matches
from trainer.shapes.world import COLOR_NAMES, SHAPES, Scene
from trainer.shapes.world import render as render_scene

if TYPE_CHECKING:
    from PIL import Image

NAME = "shapes tile reader"


def render(scene: str) -> Image.Image:
    """The image of a scene in words."""
    return render_scene(Scene.parse(scene))


def read(image: Image.Image, content: JsonObject | None, text: str) -> Reading:
    """`content`: what the request wants to see, None where it does not say."""
    scene = read_images([image])[0]
    shown = None if content is None else scene is not None and _shows(scene, content)
    agrees = None if not text else scene is not None and agrees_with(text, scene)
    return Reading(shown, agrees, "nothing readable" if scene is None else str(scene))


def _shows(scene: Scene, content: JsonObject) -> bool:
    """A request: exactly these things, in this relation. A given image to redraw: that scene."""
    if "scene" in content:
        return str(scene) == content["scene"]
    return matches(scene, tuple(tuple(t) for t in content["things"]), content["relation"])


def agrees_with(text: str, scene: Scene) -> bool:
    """Every shape that the text names is in the image, in the colour it is given there, and at least one is named."""
    named = things_named(text)
    there = {(t.color, t.shape) for t in scene.things}
    shapes = {t.shape for t in scene.things}
    return bool(named) and all((c, s) in there if c else s in shapes for c, s in named)


def things_named(text: str) -> set[tuple[str | None, str]]:
    """(colour or None, shape) for every shape named in a text, singular or plural."""
    forms = {form: shape for shape in SHAPES for form in (shape, plural(shape))}
    longest = "|".join(sorted(forms, key=len, reverse=True))
    pattern = rf"\b(?:({'|'.join(COLOR_NAMES)}) )?({longest})\b"
    return {(color or None, forms[name]) for color, name in re.findall(pattern, text.lower())}
