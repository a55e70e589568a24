"""Messages of a conversation, as chat templates take them: their content as checked parts."""

from __future__ import annotations

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject


def is_empty(message: JsonObject) -> bool:
    """A message without an image, whose text is blank."""
    content = message.get("content")
    if isinstance(content, str | None):
        return not (content or "").strip()
    return all(part["type"] == "text" and not part["text"].strip() for part in parts_of(message))


def parts_of(message: JsonObject) -> list[JsonObject]:
    """A message's content as checked parts."""
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        raise UserError(f"a message's content is a text or a list of parts, not {type(content).__name__}")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        ok = (kind == "text" and isinstance(part.get("text"), str)) or (
            kind == "image" and ("image" in part or ("codes" if message["role"] == "assistant" else "tiles") in part)
        )
        if not ok:
            raise UserError(
                'a part is {"type": "text", "text": ...} or {"type": "image", "image": ...}', hint=f"got {part!r:.80}"
            )
    return [p for p in content if p["type"] != "text" or p["text"]]
