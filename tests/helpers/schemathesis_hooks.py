"""What the served schema allows and JSON Schema cannot rule out, put right in schemathesis' valid requests alone."""

import schemathesis

MOST_IMAGES = 16
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4"
    "z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
)


@schemathesis.hook
def before_call(context, case, kwargs):
    """The last message is the user's, and there are at most 16 images, each of them one."""
    if not (case.meta and case.meta.generation.mode.is_positive and isinstance(case.body, dict)):
        return
    messages = case.body.get("messages")
    if messages is None:
        return
    images = 0
    for message in messages:
        content = message.get("content")
        for part in [*(content if isinstance(content, list) else []), *(message.get("images") or [])]:
            if "image_url" in part:
                part["image_url"]["url"] = PIXEL
                images += 1
    if images > MOST_IMAGES:
        del messages[:]
    if not messages or messages[-1]["role"] != "user":
        messages.append({"role": "user", "content": "draw a red circle"})
