"""What the served schema allows and JSON Schema cannot rule out, put right in schemathesis' valid requests alone."""

import schemathesis

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4"
    "z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
)


@schemathesis.hook
def before_call(context, case, kwargs):
    """The last message is the user's, and an image's address is one of an image."""
    if not (case.meta and case.meta.generation.mode.is_positive and isinstance(case.body, dict)):
        return
    messages = case.body.get("messages")
    if messages is None:
        return
    for message in messages:
        content = message.get("content")
        for part in [*(content if isinstance(content, list) else []), *(message.get("images") or [])]:
            if "image_url" in part:
                part["image_url"]["url"] = PIXEL
    if messages[-1]["role"] != "user":
        messages.append({"role": "user", "content": "draw a red circle"})
