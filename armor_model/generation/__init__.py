"""Generation of text, images, and both interleaved: `generate`, `stream`, `draw`, their settings and their result.

model, processor = load(folder)
request = [{"role": "user", "content": "draw a red circle"}]
[answer] = generate(model, processor, [request], GenerationSettings(), seeds=[0])
"""

from armor_model.generation.api import GenerationSettings, Response, draw, encode, generate, serve, stream
from armor_model.generation.prefixes import PrefixCache

__all__ = ["GenerationSettings", "PrefixCache", "Response", "draw", "encode", "generate", "serve", "stream"]
