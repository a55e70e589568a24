"""Does a model answer with text, an image or both, as it was asked to? The aim of the paper's stage 1."""

LINE = (
    '{"id": "1", "kind": "t2i", "messages": [{"role": "user", "content": "Draw a cat."}], '
    '"expect": {"text": false, "image": true}}'
)
"""The shortest line of a file of requests, for help and errors."""
SECTION = "section-6.2"
"""The data of a run that was asked the prompts of the paper's section 6.2."""
