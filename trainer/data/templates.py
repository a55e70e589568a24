"""Wordings of requests for building drawing conversations out of captions: the paper's "self-constructed" share.

`{x}` is the caption, its first letter lowered and its full stop taken off where it stands inside a sentence.
"""

from __future__ import annotations

import numpy as np

DRAW = (
    "Please draw an image of {x} for me.",
    "Draw {x}.",
    "Generate an image of {x}.",
    "Could you generate an image of {x} for me?",
    "Please help me draw a picture of {x}.",
    "Can you draw {x}?",
    "I would like a picture of {x}.",
    "Show me {x}.",
    "Create an image that shows {x}.",
    "Make a picture of {x}, please.",
    "Paint {x} for me.",
    "I want to see {x}. Can you draw it?",
    "Give me an illustration of {x}.",
    "Produce an image: {x}.",
    "{X}. Draw this.",
    "Draw the following: {x}.",
    "Only draw, no text: {x}.",
    "An image of {x}, please.",
    "Visualize {x}.",
    "{X}.",
)
"""Asks for a picture alone."""

DRAW_AND_TELL = (
    "Draw {x} and describe what you drew.",
    "Can you draw {x} and tell me about it?",
    "Please make an image of {x}, with a short description.",
    "Show me {x} and explain what can be seen.",
    "Generate a picture of {x} and write a caption for it.",
    "I would like a picture of {x} together with a few words about it.",
    "Illustrate {x} and describe the picture in one sentence.",
    "Describe {x} and draw it.",
    "Tell me what {x} looks like, and draw a picture.",
    "What would {x} look like? Can you draw an image to depict it for me?",
)
"""Asks for words and a picture."""

TELL = ("{X}.", "Here is the picture: {x}.", "This image shows {x}.", "The picture depicts {x}.", "You can see {x}.")
"""The words of an answer that also draws; the picture follows."""


def fill(template: str, caption: str) -> str:
    """Put a caption into a template: `{x}` inside a sentence, `{X}` at its start."""
    bare = caption.strip().rstrip(".").strip()
    inside = bare if bare[1:2].isupper() else bare[:1].lower() + bare[1:]  # an acronym keeps its capitals
    return template.replace("{X}", bare[:1].upper() + bare[1:]).replace("{x}", inside)


def choose(rng: np.random.Generator, templates: tuple[str, ...]) -> str:
    return templates[int(rng.integers(len(templates)))]
