"""Generation of text, images, and both interleaved: `generate`, `stream`, `draw`, their settings and their result.

model, processor = load(folder)
request = [{"role": "user", "content": "draw a red circle"}]
[answer] = generate(model, processor, [request], GenerationSettings(), seeds=[0])
"""

from armor_model.generation.api import GenerationSettings, Response, draw, encode, generate, serve, stream

__all__ = ["GenerationSettings", "Response", "draw", "encode", "generate", "serve", "stream"]
