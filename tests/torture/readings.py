"""How each reader is called on a file: the names that the program calls them by, and what it does with the result."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image


def call(dotted: str, folder: bool = False) -> Callable[[Path], object]:
    """`module:function` of the file, or of its folder."""
    module, name = dotted.split(":")

    def read(path: Path) -> object:
        return getattr(import_module(module), name)(path.parent if folder else path)

    return read


def image(form: str = "PNG", size: int = 12) -> bytes:
    image = Image.radial_gradient("L").resize((size, size)).convert("RGB")
    image.putpixel((1, 1), (200, 3, 90))
    out = io.BytesIO()
    image.save(out, format=form)
    return out.getvalue()


def as_base64(form: str = "PNG") -> str:
    return base64.b64encode(image(form)).decode()


# ---- questions, answers, judges


def questions(path: Path) -> None:
    from armor_eval.tasks.understanding.declare import choose
    from armor_eval.tasks.understanding.table import read_table
    from armor_model.base.images import BadImageError

    table = read_table(choose(["MMB"])[0], path, need_published=False)
    for row in table.rows:
        with suppress(BadImageError):  # costs the item
            row.images()


def cells(path: Path) -> None:
    """One image cell, and the answers that are lists."""
    from armor_eval.tasks.families.extracted import listed
    from armor_eval.tasks.families.short import is_plain
    from armor_eval.tasks.understanding.images import decode, image_cells
    from armor_eval.tasks.understanding.parse import gold_answers
    from armor_model.base.images import BadImageError

    cell = path.read_bytes().decode("utf-8", "replace")
    gold_answers(cell), listed(cell), is_plain(cell)
    with suppress(BadImageError):
        for one in image_cells(cell):
            decode(one, path.parent)


def question_file(path: Path) -> object:
    from armor_eval.tasks.understanding.declare import choose
    from armor_eval.tasks.understanding.predictions.questions import read_questions

    return read_questions(choose(["POPE"])[0], [path])


def reply_cache(path: Path) -> object:
    from armor_eval.tasks.understanding.judge import ReplyCache

    return ReplyCache(path).get("k")


def http(path: Path) -> None:
    """A reply as the endpoint opens it, read as an answer, as a drawing and as an error."""
    from armor_eval.models import replies
    from armor_eval.models.endpoint import Endpoint
    from armor_eval.models.openai import _only_image, decoded, parts_of
    from armor_eval.models.transport import EndpointError

    text = path.read_bytes().decode("utf-8", "replace")
    try:
        payload, status, words = endpoint(Endpoint)._open(SimpleNamespace(text=text, status=200, headers={}))
        json.dumps(payload)
        endpoint(Endpoint)._refusal(status, words, SimpleNamespace(headers={"retry-after": words[:20]}))
    except EndpointError:
        return
    for read in (
        lambda: [decoded(data) for kind, data in parts_of(replies.read_chat(payload).message) if kind == "image"],
        lambda: decoded(_only_image(payload)["b64_json"]),
    ):
        with suppress(EndpointError, KeyError):
            read()


@cache
def endpoint(kind: Any) -> Any:
    return kind("http://localhost:9/v1", "m")


# ---- drawing


def prompts(path: Path) -> object:
    from armor_eval.tasks.geneval.prompts import load_vocabulary, read_prompts

    return read_prompts(path, load_vocabulary("official"))


def detections(path: Path) -> object:
    from armor_eval.tasks.geneval.detections import score_file
    from armor_eval.tasks.geneval.verdicts import Rules

    return list(score_file(path, Rules()))


def image_folder(path: Path) -> object:
    from armor_eval.tasks.geneval.folders import scan_folder
    from armor_eval.tasks.geneval.prompts import load_vocabulary

    return scan_folder(path.parent.parent, load_vocabulary("official"), None, 1)


def an_image_beside(folder: Path) -> None:
    (folder / "samples").mkdir()
    (folder / "samples" / "0000.png").write_bytes(image())


def suite(name: str, changed: str = "") -> Callable[[Path], object]:
    def read(path: Path) -> object:
        from armor_eval.tasks.suites.declare import suites

        suite = suites()[name]
        files = [path if file.name == changed else path.parent / file.name for file in suite.files]
        return suite.model_copy(update={"prompts": None}).read(files, "0")

    return read


def write(files: dict[str, Any]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else str(content).encode())

    return write


def template(path: Path) -> object:
    from armor_eval.tasks.suites.wise import from_script

    return from_script(path, "build_evaluation_messages", "prompt_data", {"Prompt"})


# ---- declarations and options


def stage_config(path: Path) -> object:
    from trainer.config import StageConfig
    from trainer.configure import configure

    return configure(StageConfig(), path)


def model_args(path: Path) -> object:
    from armor_eval.models.options import parse_model_args

    return parse_model_args(path.read_bytes().decode("utf-8", "surrogateescape"))


def request_json(path: Path) -> object:
    from armor_eval.models.endpoint import Extra

    return Extra.read(f"@{path}")


# ---- bundles and what training leaves


def bundle(path: Path) -> None:
    from armor_eval.compare.sources import find, unusable
    from armor_eval.report.formats import markdown
    from armor_eval.report.loading import load_run
    from armor_eval.report.results import results_doc
    from armor_eval.runs.bundle import read_bundle

    view = load_run(path.parent)
    markdown(results_doc([view]))
    read_bundle(path.parent)
    for source in find(path.parent):
        unusable(source, "base")  # computes the headline again


def preset() -> dict[str, Any]:
    from armor_model.presets import preset_dict

    return json.loads(json.dumps(preset_dict("internvl2_5-1b")))


@cache
def bundle_files() -> dict[str, bytes]:
    import tempfile

    from stats_runs import write_bundle

    with tempfile.TemporaryDirectory() as folder:
        made = write_bundle(Path(folder) / "run", [1, 0, 1, 1])
        return {file.name: file.read_bytes() for file in made.iterdir()}


# ---- checkpoints and images


def weights(path: Path) -> None:
    from armor_model.convert.shards import Source

    source = Source(path)
    for name in source.tensors:
        source.read(name)


def parameters(path: Path) -> object:
    from armor_model.cli import params

    return params(config=str(path.parent), as_json=True)


def pipeline(path: Path) -> object:
    from armor_eval.models.diffusers import DiffusersModel

    return DiffusersModel(str(path.parent), None, None, None, {})


def pixels(path: Path) -> None:
    from armor_eval.tasks.understanding.images import decode, shown
    from armor_model.base.images import BadImageError, decoded
    from armor_model.images import image_size, open_image

    raw = path.read_bytes()
    for read in (lambda: open_image(raw), lambda: open_image(raw, drawn=True), lambda: image_size(raw)):
        one_line(read)
    with suppress(BadImageError):
        decode(base64.b64encode(raw).decode())
        with decoded(raw) as image:
            shown(image)


def one_line(read: Callable[[], object]) -> None:
    from armor_model.base.errors import ArmorError

    with suppress(ArmorError):
        read()


# ---- training data


def conversations(path: Path) -> None:
    from trainer.data.records import Tally, read_conversations

    tally = Tally()
    kept = list(read_conversations(path, tally))
    assert tally.read == len(kept) + sum(tally.dropped.values()), "a record is neither kept nor counted"


def tars(path: Path) -> None:
    from trainer.data.readers import SOURCES, read_tars
    from trainer.data.records import Tally

    tally = Tally()
    kept = list(read_tars([str(path)], SOURCES["webdataset"], tally))
    assert len(kept) == tally.kept, "a pair is kept and not counted"


def held_prompts(path: Path) -> object:
    from trainer.data.screens import Prompts, read_prompts

    return Prompts(read_prompts(path), 0.8).find("a red mug")


def sheet(rows: list[dict[str, Any]]) -> str:
    from openpyxl import Workbook

    book, out = Workbook(), io.BytesIO()
    for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
        book.active.append(row)
    book.save(out)
    return out.getvalue().hex()


def wise(path: Path) -> object:
    from armor_eval.tasks.suites.rows import json_rows
    from armor_eval.tasks.suites.wise import WiseRow

    return json_rows(WiseRow, str(path), path.read_bytes())


def shapes_vqa(path: Path) -> object:
    from armor_eval.tasks.suites.declare import suites
    from armor_eval.tasks.suites.geneval2 import read_twin

    return read_twin([path], suites()["geneval2"])
