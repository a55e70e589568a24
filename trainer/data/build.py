"""`armor-train build-data`: captioned images to t2i and t2ti conversations, text pairs to t2t; every screen reports.

Out come `conversations.jsonl`, `images/` (one tar for each tar read) and `report.json`. Everything is seeded by the
sample's key, so the same input gives the same files whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from armor_model.base.errors import UserError
from armor_model.base.files import check_in_place, hold_folder, whole_file, write_file, writing
from armor_model.base.hashing import sha256_file, sha256_text
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of, read_table
from trainer.data.images import append
from trainer.data.readers import Index, Source, pack_images, read_dialogues, read_tars
from trainer.data.records import IMAGE, Tally, is_unicode, losses, note, raw_records
from trainer.data.screens import Pair, Prompts, ScreenSettings, caption_digest, image_digest, rules, screen
from trainer.data.workers import in_order


def _rng(seed: int, key: str) -> np.random.Generator:
    return np.random.default_rng([seed, *hashlib.blake2b(key.encode(), digest_size=8).digest()])


def drawing_record(pair: Pair, image: str, seed: int, mixed_share: float) -> JsonObject:
    """A t2i or, with probability `mixed_share`, a t2ti conversation about one captioned image."""
    rng = _rng(seed, pair.key)
    mixed = bool(rng.random() < mixed_share)
    request = fill(choose(rng, DRAW_AND_TELL if mixed else DRAW), pair.caption)
    answer = f"{fill(choose(rng, TELL), pair.caption)}\n{IMAGE}" if mixed else IMAGE
    return _record(pair.key, "t2ti" if mixed else "t2i", request, answer, [image])


def text_record(number: int, question: str, answer: str) -> JsonObject:
    return _record(f"t2t-{number:09d}", "t2t", question, answer, [])


def _record(key: str, kind: str, request: str, answer: str, images: list[str]) -> JsonObject:
    turns = [{"from": "human", "value": request}, {"from": "gpt", "value": answer}]
    return {"id": key, "type": kind, "conversations": turns, "images": images}


def read_text_pairs(path: Path, tally: Tally) -> Iterator[tuple[str, str]]:
    """(question, answer) of a JSON-lines file with `question`/`answer`, `instruction`/`output` or
    `prompt`/`response`."""
    names = (("question", "answer"), ("instruction", "output"), ("prompt", "response"))
    for where, row in raw_records(path):
        tally.read += 1
        pair = next(((row[a], row[b]) for a, b in names if isinstance(row, dict) and row.get(a) and row.get(b)), None)
        if pair is None or not all(isinstance(text, str) and text.strip() for text in pair):
            tally.drop("not_a_pair", where)
        elif not all(map(is_unicode, pair)):
            tally.drop("bad_text", f"{where}: half a surrogate pair")
        elif IMAGE in pair[0] + pair[1]:
            tally.drop("image_mark_in_text", where)
        else:
            tally.kept += 1
            yield pair


@dataclass(frozen=True)
class Recipe:
    """What decides what a tar becomes."""

    source: Source
    settings: ScreenSettings
    prompts: tuple[str, ...] = ()
    """Of benchmarks, that captions are compared with."""
    near: float = 0.6
    """See `Prompts`."""
    drop_contaminated: bool = False
    seed: int = 0
    mixed_share: float = 0.5
    limit: int | None = None
    """Most images."""

    def identity(self) -> JsonObject:
        """As JSON, with the prompts' number and sha256 in their place."""
        words = "\n".join(self.prompts)
        return {
            **asdict(self.settings),
            "source": self.source.name,
            "seed": self.seed,
            "mixed_share": self.mixed_share,
            "limit": self.limit,
            "prompts": {"number": len(self.prompts), "sha256": sha256_text(words), "near": self.near},
            "drop_contaminated": self.drop_contaminated,
        }


PARTS = ".parts"
"""What is known of each finished tar, until the whole is."""


def build(
    out: Path,
    recipe: Recipe,
    tars: Sequence[str] = (),
    texts: Sequence[Path] = (),
    index: Index | None = None,
    part: str = "0/1",
    workers: int = 1,
    dialogues: Sequence[str] = (),
) -> JsonObject:
    """Write the data set; returns the report. Raises UserError, also where nothing is kept.

    Every tar is a piece of work of its own, whose kept images go into one tar of ours; called again, a killed build
    goes on behind the finished ones. Duplicates are found within one call, so not between parts. The conversations file
    is renamed into place last, so a killed build leaves none that looks whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    with hold_folder(out, "armor-train build-data"):
        if (out / "conversations.jsonl").exists():
            raise UserError(f"{out} already holds conversations.jsonl; choose another directory")
        with writing(out):
            (out / "images").mkdir(exist_ok=True)
            known = None if index is None else index.sha256
            _go_on(out / PARTS, {**recipe.identity(), "index": known, "tars": list(tars), "part": part})
        missing = ((out, number, tar) for number, tar in enumerate(tars))
        begin = partial(_State.begin, recipe, index)
        parts = in_order(_part, missing, begin(), workers, begin)
        report = {**_merge(out, recipe, parts, texts, dialogues), "settings": recipe.identity(), "part": part}
        draft = out / ".conversations.draft"
        report["sha256"] = sha256_file(draft)
        with writing(out):
            write_file(out / "report.json", json.dumps(report, indent=1) + "\n")
            draft.replace(out / "conversations.jsonl")
            shutil.rmtree(out / PARTS)
    return report


@dataclass(frozen=True)
class _State:
    """What a worker needs for any tar."""

    recipe: Recipe
    index: Index | None
    prompts: Prompts | None

    @classmethod
    def begin(cls, recipe: Recipe, index: Index | None) -> _State:
        return cls(recipe, index, Prompts(list(recipe.prompts), recipe.near) if recipe.prompts else None)


def _go_on(parts: Path, identity: JsonObject) -> None:
    """Keep the parts of an earlier call that built the same. Raises UserError for another one's."""
    parts.mkdir(exist_ok=True)
    file = parts / "build.json"
    if file.exists():
        try:
            known = json_of(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} is damaged", f"remove {parts.parent}") from error
        different = [name for name in identity if known.get(name) != identity[name]]
        if different:
            said = f"{parts.parent} holds a build that was killed, of other settings ({', '.join(different)} differ)"
            raise UserError(said, "choose another directory")
    write_file(file, json.dumps(identity))


def _part(state: _State, out: Path, number: int, tar: str) -> Path:
    """What is kept of one tar: its images in a tar, then a file of its records and tallies, unless that is there."""
    recipe, index, prompts = state.recipe, state.index, state.prompts
    file = out / PARTS / f"{number:05d}.json"
    if file.exists():
        return file
    active = rules(recipe.settings, prompts if recipe.drop_contaminated else None)
    read, screened, records = Tally(), Tally(), []
    images = out / "images" / f"{number:05d}.tar"
    with writing(out), whole_file(images) as draft, tarfile.open(draft, "w") as kept:
        for pair in read_tars([tar], recipe.source, read, index):
            if screen(pair, active, screened):
                digests = image_digest(pair), caption_digest(pair)
                stretch = append(kept, f"{digests[0]}.{pair.extension}", pair.image)
                place = f"images/{images.name}:{stretch}"
                record = drawing_record(pair, place, recipe.seed, recipe.mixed_share)
                found = prompts.find(pair.caption) if prompts is not None else None
                records.append({"record": record, "digests": digests, "contaminated": found})
            if screened.kept == recipe.limit:
                break
    with writing(out):
        write_file(file, json.dumps({"read": read.to_json(), "screened": screened.to_json(), "records": records}))
    return file


def _merge(
    out: Path, recipe: Recipe, parts: Generator[Path], texts: Iterable[Path], dialogues: Sequence[str]
) -> JsonObject:
    """Records of all parts, in order and without duplicates between them, then texts and dialogues, into the draft."""
    tallies, screened, kinds = {"tars": Tally(), "texts": Tally(), "dialogues": Tally()}, Tally(), Counter[str]()
    seen: set[str] = set()
    contaminated: list[list[str]] = []
    draft = out / ".conversations.draft"
    with draft.open("w", encoding="utf-8") as file:

        def put(record: JsonObject) -> None:
            kinds[record["type"]] += 1
            note(record["conversations"], screened)
            check_in_place(draft, file.fileno())
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

        last = -1
        for path in parts:
            last, part = int(path.stem), read_table(path)
            tallies["tars"].add(Tally.of(part["read"]))
            screened.add(Tally.of({**part["screened"], "kept": 0}))
            for entry in part["records"]:
                record, digests, found = entry["record"], entry["digests"], entry["contaminated"]
                if recipe.settings.drop_duplicates and not seen.isdisjoint(digests):
                    screened.drop("duplicate", f"{record['id']}: seen in an earlier tar")
                elif screened.kept == recipe.limit:
                    screened.drop("limit", record["id"])
                else:
                    seen.update(digests)
                    screened.kept += 1
                    put(record)
                    if found is not None:
                        screened.noted[f"contaminated_{found[0]}"] += 1
                        contaminated.append([record["id"], *found])
            if screened.kept == recipe.limit:
                break
        parts.close()
        for tar in (out / "images").glob("[0-9]*.tar"):
            if int(tar.stem) > last:  # by workers that were ahead of the limit
                tar.unlink()
        number = 0
        for path in texts:
            for question, answer in read_text_pairs(path, tallies["texts"]):
                put(text_record(number, question, answer))
                number += 1
        if dialogues:
            for record in _dialogues(out, recipe, dialogues, tallies["dialogues"]):
                put(record)
            own = tallies["dialogues"].noted
            screened.noted.update({name: n for name, n in own.items() if name != "template_tokens"})  # `put` counts it
        file.flush()
        os.fsync(file.fileno())
    if not kinds:
        draft.unlink()
        each = (f"{name} dropped {losses(tally.dropped)}" for name, tally in {**tallies, "screens": screened}.items())
        raise UserError(f"nothing was kept for {out}: {'; '.join(each)}")
    return {
        "conversations": dict(kinds),
        "screens": screened.to_json(),
        "rules": {rule.name: rule.why for rule in rules(recipe.settings)},
        "readers": {name: tally.to_json() for name, tally in tallies.items()},
        "contaminated": contaminated[:1_000],
    }


def _dialogues(out: Path, recipe: Recipe, sources: Sequence[str], tally: Tally) -> Iterator[JsonObject]:
    """Dialogues, their images in one tar of ours."""
    prompts = _State.begin(recipe, None).prompts
    place = "images/dialogues.tar"
    with whole_file(out / place) as draft, tarfile.open(draft, "w") as images:
        records = read_dialogues(sources, recipe.seed, tally)
        yield from pack_images(records, images, place, tally, prompts, recipe.drop_contaminated)


DRAW = (
    "Please draw an image of {x} for me.",
    "Draw {x}.",
    "Generate an image of {x}.",
    "Could you generate an image of {x} for me?",
    "Please help me draw a picture of {x}.",
    "Can you draw {x}?",
    "I would like a picture of {x}.",
    "Show me {x}.",
    "Create an image that shows {x}.",
    "Make a picture of {x}, please.",
    "Paint {x} for me.",
    "I want to see {x}. Can you draw it?",
    "Give me an illustration of {x}.",
    "Produce an image: {x}.",
    "{X}. Draw this.",
    "Draw the following: {x}.",
    "Only draw, no text: {x}.",
    "An image of {x}, please.",
    "Visualize {x}.",
    "{X}.",
)
"""Asks for an image alone."""

DRAW_AND_TELL = (
    "Draw {x} and describe what you drew.",
    "Can you draw {x} and tell me about it?",
    "Please make an image of {x}, with a short description.",
    "Show me {x} and explain what can be seen.",
    "Generate a picture of {x} and write a caption for it.",
    "I would like a picture of {x} together with a few words about it.",
    "Illustrate {x} and describe the picture in one sentence.",
    "Describe {x} and draw it.",
    "Tell me what {x} looks like, and draw a picture.",
    "What would {x} look like? Can you draw an image to depict it for me?",
)
"""Asks for words and an image."""

TELL = ("{X}.", "Here is the picture: {x}.", "This image shows {x}.", "The picture depicts {x}.", "You can see {x}.")
"""The words of an answer that also draws; the image follows."""


def fill(template: str, caption: str) -> str:
    """Put a caption into a template: `{x}` inside a sentence, `{X}` at its start."""
    bare = caption.strip().rstrip(".").strip()
    inside = bare if bare[1:2].isupper() else bare[:1].lower() + bare[1:]  # an acronym keeps its capitals
    return template.replace("{X}", bare[:1].upper() + bare[1:]).replace("{x}", inside)


def choose(rng: np.random.Generator, templates: tuple[str, ...]) -> str:
    return templates[int(rng.integers(len(templates)))]
