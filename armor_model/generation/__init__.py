"""Generation of text, pictures, and both interleaved: `generate`, `stream`, `draw`, their settings and their result.

model, processor = load(folder)
request = [{"role": "user", "content": "draw a red circle"}]
[answer] = generate(model, processor, [request], GenerationSettings(), seeds=[0])
"""

from armor_model.generation.api import draw, generate, stream
from armor_model.generation.settings import GenerationSettings, Response

__all__ = ["GenerationSettings", "Response", "draw", "generate", "stream"]
