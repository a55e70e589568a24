"""A model behind HTTP, as OpenAI's clients speak it: `create_app`, `Service`, `ServeLimits`.

armor-model serve --port 8000
"""
