"""The prompts of the paper's section 6.2 for any set of models, answers side by side on one page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.base.resources import benchmarks_dir
from armor_eval.models import registry
from armor_eval.models.base import Decoding, RespondsFreely
from armor_eval.profiles import ProfileSpec
from armor_model.base.errors import UserError
from armor_model.base.files import write_file
from armor_model.base.jsons import JsonObject
from armor_model.base.text import escape

if TYPE_CHECKING:
    from PIL import Image

SIDE = 256


def prompts(profile: ProfileSpec, image: Path | None) -> tuple[list[tuple[str, str, object]], list[str]]:
    """[(id, text, image or None)], and remarks on what is left out: the paper's cookie image is not published,
    official runs bring their own."""
    from PIL import Image

    declared = json.loads((benchmarks_dir() / "paper" / "side_by_side.json").read_text(encoding="utf-8"))[profile.name]
    made, remarks = [], []
    for entry in declared:
        shown = None
        if entry.get("scene"):
            shown = profile.part("reader").render(entry["scene"])
        elif entry.get("image"):
            if image is None:
                remarks.append("the first prompt needs an image (--image) and is left out")
                continue
            try:
                with Image.open(image) as opened:
                    shown = opened.convert("RGB")
            except OSError as error:
                raise UserError(f"cannot read --image {image}: {error}") from error
        made.append((entry["id"], entry["text"], shown))
    return made, remarks


def write_side_by_side(
    specs: Sequence[str], profile: ProfileSpec, out: Path, image: Path | None, seed: int, options: JsonObject
) -> None:
    """Ask every model every prompt and write the page; `options` are the loader's.

    Raises UserError for a model that cannot respond freely.
    """
    asked, remarks = prompts(profile, image)
    answers: list[tuple[str, list[object]]] = []
    for spec in specs:
        adapter = registry.load(spec, profile.name, does=RespondsFreely, **options)
        try:
            rows = [_message(text, shown) for _, text, shown in asked]
            decoding = Decoding(max_new_tokens=profile.response_tokens, seed=seed)
            answers.append((adapter.info.name, adapter.respond(rows, [seed + i for i in range(len(rows))], decoding)))
        finally:
            adapter.close()
    write_file(out, page(asked, answers, profile.name, remarks))


def _message(text: str, shown: object) -> list[JsonObject]:
    parts: list[JsonObject] = [{"type": "image", "image": shown}] if shown is not None else []
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def page(
    asked: Sequence[tuple[str, str, Any]],
    answers: Sequence[tuple[str, list[Any]]],
    profile: str,
    remarks: Sequence[str] = (),
) -> str:
    """The HTML: a row a prompt, a column a model; all text escaped, no script, no request."""
    rows = []
    for i, (_, text, shown) in enumerate(asked):
        image = _img(shown, "given picture") if shown is not None else ""
        cells = "".join(f"<td data-model='{escape(name)}'>{_parts(parts[i])}</td>" for name, parts in answers)
        rows.append(f"<tr><th scope='row'>{image}<p>{escape(text)}</p></th>{cells}</tr>")
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name, _ in answers)
    notes = "".join(f"<p>{escape(line)}</p>" for line in remarks)
    return _PAGE.format(profile=escape(profile), head=head, rows="".join(rows), notes=notes)


def _parts(parts: Sequence[Any] | Exception) -> str:
    if isinstance(parts, Exception):
        return f"<p><em>{escape(str(parts))}</em></p>"
    shown = [f"<p>{escape(p)}</p>" if isinstance(p, str) else _img(p, "drawn picture") for p in parts]
    return "".join(shown) or "<p><em>nothing</em></p>"


def _img(image: Image.Image, label: str) -> str:
    small = image.copy()
    if max(small.size) > SIDE:
        small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{label}' src='data:image/png;base64,{data}'>"


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Side by side</title><style>
body{{font:16px/1.5 system-ui,sans-serif;margin:1rem;color-scheme:light dark}}table{{border-collapse:collapse}}
td,th{{border:1px solid #8886;padding:.5rem;text-align:left;vertical-align:top;font-weight:400;overflow-wrap:anywhere}}
thead th{{font-weight:700}}img{{width:12rem;max-width:100%;image-rendering:pixelated;background:#fff}}
@media(max-width:48rem){{tr,th,td{{display:block}}thead{{display:none}}td::before{{content:attr(data-model);font-weight:700}}}}
</style></head><body><h1>The paper's section 6.2, side by side</h1><p>Profile {profile}.</p>{notes}
<table><thead><tr><th scope="col">prompt</th>{head}</tr></thead><tbody>{rows}</tbody></table></body></html>
"""
