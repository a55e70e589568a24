"""`--model openai:URL#NAME`: any OpenAI-compatible server, which is how a run outgrows one machine."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from armor_eval.errors import UserError
from armor_eval.models.base import Answer, Decoding, Question
from armor_eval.models.endpoint import Endpoint, EndpointError, Patience
from armor_eval.runs.schema import ModelInfo, Profile


class EndpointModel:
    """Answers questions through chat completions; rows that fail are errors of those rows."""

    def __init__(self, spec: str, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.info = ModelInfo(spec=spec, name=Path(endpoint.model).name, fingerprint=endpoint.fingerprint)

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        return self._endpoint.many([lambda q=q: self._answer(q, decoding) for q in questions])

    def _answer(self, question: Question, decoding: Decoding) -> Answer:
        parameters: dict[str, Any] = {"temperature": decoding.temperature, "max_tokens": decoding.max_new_tokens}
        if decoding.temperature > 0:
            parameters |= {"top_p": decoding.top_p, "seed": decoding.seed}
        message = {"role": "user", "content": [_part(part) for part in question.parts]}
        try:
            return Answer(text=self._endpoint.chat([message], **parameters))
        except EndpointError as error:
            return Answer(error=str(error))

    def close(self) -> None:
        self._endpoint.close()


def load(rest: str, profile: Profile, **options: Any) -> EndpointModel:
    """`URL#NAME`; the key comes from OPENAI_API_KEY alone."""
    url, mark, name = rest.rpartition("#")
    if not mark or not url or not name:
        raise UserError(f"openai:{rest} lacks the model's name", "expected openai:URL#NAME")
    patience = Patience(timeout=600.0, deadline=1800.0, concurrency=int(options.get("concurrency") or 16))
    return EndpointModel(f"openai:{rest}", Endpoint(url, name, options.get("patience") or patience))


def _part(part: Any) -> dict[str, Any]:
    """A part as the endpoint wants it; pictures go as PNG, so that nothing is lost on the way."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    from PIL import Image

    picture = part if isinstance(part, Image.Image) else Image.open(part).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
