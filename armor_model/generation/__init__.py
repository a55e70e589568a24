"""Generation of text, pictures, and both interleaved: `generate`, `draw`, their settings and their result.

from armor_model import load, generate, GenerationSettings
model, processor = load(folder)
[answer] = generate(model, processor, [[{"role": "user", "content": "draw a red circle"}]], GenerationSettings(), seeds=[0])
"""

from armor_model.generation.api import draw, generate
from armor_model.generation.settings import GenerationSettings, Response

__all__ = ["GenerationSettings", "Response", "draw", "generate"]
