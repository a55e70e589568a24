"""ARMOR behind the harness's three protocols: the bundled checkpoint, or any folder that `armor-model` wrote."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.models.base import Answer, Decoding, Question, Room, Source
from armor_eval.models.drawing import IMAGE_OPTIONS, SAMPLING, DrawingModel, NotDrawnError, device_of, row_seed
from armor_eval.models.hf_prompts import doubled as double
from armor_eval.profiles import OFFICIAL
from armor_eval.runs.schema import ModelInfo, Profile
from armor_model.base.errors import ArmorError, UserError
from armor_model.base.hashing import sha256_folder
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of, read_table
from armor_model.bases import base_name_of

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedTokenizerBase

    from armor_model.generation import GenerationSettings
    from armor_model.generation.state import Request
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

log = logging.getLogger(__name__)

SMALL = 100_000_000
"""Parameters below which page faults, not arithmetic, take much of a CPU's time: a quarter of armor-nano's."""
MAX_IMAGES = 1
"""Images one answer to a question may hold: a switch to drawing is recorded, an album is not waited for."""


def load_bundled(name: str, *, device: str | None = None, dtype: str | None = None) -> ArmorAdapter:
    """The checkpoint that travels with the package. Raises ArmorError where it is not there."""
    from armor_model import bundled

    return ArmorAdapter(bundled(name), spec=name, name=name, device=device, dtype=dtype)


def load_folder(
    folder: Path, spec: str, profile: Profile, *, device: str | None = None, dtype: str | None = None
) -> ArmorAdapter:
    """A checkpoint folder, or a hub id's, `ORG/NAME[@REVISION]`. Raises ArmorError in one line where it is not one, and
    UserError where it is another kind of model's: the kind is named."""
    from armor_model.hub import KIND, fetch, is_id, name_of

    on_hub = is_id(spec)
    if (kind := _other_kind(fetch(spec, "model", KIND) if on_hub else folder)) is not None:
        raise UserError(f"{spec} is no ARMOR checkpoint", f"did you mean --model {kind}:{spec}?")
    name = spec.partition("@")[0].rpartition("/")[2] if on_hub else name_of(folder)
    adapter = ArmorAdapter(folder, spec=spec, name=name, device=device, dtype=dtype)
    if on_hub:
        adapter.info = adapter.info.model_copy(update={"revision": adapter.folder.name})
    # In the shapes world every model is asked in the words that it has learned.
    adapter.protocol = _asking().protocol_of(adapter.base) if profile == OFFICIAL else None
    return adapter


def _asking() -> Any:
    """How VLMEvalKit asks the other bases; it stands above the models, as the zoo that the registry names."""
    return import_module("armor_eval.vlmevalkit.zoo")


def _other_kind(folder: Path) -> str | None:
    """`hf` for a transformers folder, `diffusers` for a pipeline's; None for ARMOR's and for what is none of these."""
    if (folder / "model_index.json").is_file():
        return "diffusers"
    try:
        config = json_of((folder / "config.json").read_text())
    except (OSError, ValueError):  # not there or not to be read: check_checkpoint says what is wrong
        return None
    model_type = config.get("model_type") if isinstance(config, dict) else None
    return "hf" if isinstance(model_type, str) and base_name_of({"model_type": model_type}) is None else None


class ArmorAdapter(DrawingModel):
    """Loads on first use, so that a finished run is shown without waiting for weights."""

    honours = frozenset(IMAGE_OPTIONS)
    protocol: str | None = None
    """Whose words the questions are asked in, where not in ours: those of the base's own evaluation."""

    def __init__(self, folder: Path, spec: str, name: str, device: str | None = None, dtype: str | None = None) -> None:
        from armor_model.loading import check_checkpoint, image_defaults

        self.folder = check_checkpoint(folder)
        self.image_defaults: Mapping[str, float] = image_defaults(self.folder)
        self.base = base_name_of(read_table(self.folder / "config.json")) or ""
        self._device, self._dtype = device, dtype
        self.asked = {"dtype": dtype} if dtype else {}
        self._loaded: tuple[ArmorModel, ArmorProcessor] | None = None
        self._loading = threading.Lock()
        self.info = ModelInfo(
            spec=spec,
            name=name,
            fingerprint=sha256_folder(self.folder),
            parameters=_parameters(self.folder),
            dtype=dtype,
        )

    @classmethod
    def of(cls, model: ArmorModel, processor: ArmorProcessor, name: str = "armor") -> ArmorAdapter:
        """A model in memory, as a training loop holds it; known by the content of its weights."""
        adapter = cls.__new__(cls)
        adapter.image_defaults = {}
        adapter.base = processor.settings.base
        adapter._loaded, adapter._loading = (model, processor), threading.Lock()
        adapter._device, adapter._dtype, adapter.asked = str(model.device), str(model.dtype).removeprefix("torch."), {}
        adapter.info = ModelInfo(
            spec="in memory",
            name=name,
            fingerprint=_weights_sha256(model),
            dtype=adapter._dtype,
            parameters=sum(p.numel() for p in model.parameters()),
        )
        return adapter

    def _load(self) -> tuple[ArmorModel, ArmorProcessor]:
        with self._loading:  # questions are encoded in threads of their own
            if self._loaded is None:
                self._loaded = self._read()
        return self._loaded

    def _read(self) -> tuple[ArmorModel, ArmorProcessor]:
        import torch

        from armor_model import load
        from armor_model.base.runtime import keep_freed_memory, quiet_transformers

        quiet_transformers()
        device, dtype = device_of(self._device), self._torch_dtype()
        if device == "cpu" and (self.info.parameters or 0) < SMALL:
            keep_freed_memory()
        return load(self.folder, device=device, dtype=dtype if dtype == "auto" else getattr(torch, dtype))

    def _torch_dtype(self) -> str:
        """InternVL's published scores are bf16; a CPU computes a small fp16 checkpoint faster and safer in fp32."""
        return self._dtype or ("bfloat16" if device_of(self._device).startswith("cuda") else "float32")

    def _settings(self, decoding: Decoding, **extra: int | bool) -> GenerationSettings:
        from armor_model import GenerationSettings

        context = self._load()[0].config.text_config.max_position_embeddings
        sampling = {name: getattr(decoding, name) for name in ("temperature", "top_k", "top_p", *SAMPLING)}
        return GenerationSettings(
            max_new_tokens=min(decoding.max_new_tokens, context), guidance=_guidance(decoding), **sampling, **extra
        )

    def prepare(self, images: bool = True) -> JsonObject:
        """Load, and say what a run must record of how the model is asked: base, words, chat template, pixels."""
        processor = self._load()[1]
        content = [{"type": "image", "image": ""}] * images + [{"type": "text", "text": "QUESTION"}]
        s = processor.settings
        return {
            "base": self.base,
            "words": self.protocol or "internvl",
            "prompt_form": processor.render([{"role": "user", "content": content}], True),
            "pixels": s.pixels or {"tile": s.image_size, "most": s.max_tiles, "thumbnail": s.use_thumbnail},
        }

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """Answers in order."""
        encoded = self.encode(questions, decoding)
        answers = {at: each for at, each in enumerate(encoded) if isinstance(each, Answer)}
        requests = {at: each for at, each in enumerate(encoded) if not isinstance(each, Answer)}
        places, groups = list(requests), iter([list(requests.values())] if requests else [])
        for number, answer in self.answers(lambda _: next(groups, None), decoding, len(questions)):
            answers[places[number]] = answer
        return [answers[at] for at in range(len(questions))]

    def encode(self, questions: Sequence[Question], decoding: Decoding) -> list[Request | Answer]:
        """Token ids and tiles of each question; of those that show one image its tiles are one tensor."""
        from armor_model.generation import encode

        model, processor = self._load()
        settings = self._answering(decoding)
        cut = _Cutter(processor)
        encoded: list[Request | Answer] = []
        for question in questions:
            tiles = min(question.max_tiles, processor.settings.max_tiles)
            # A row's seed hangs on the question alone: sampling does not depend on the batch or its order.
            seed = row_seed(question.id, decoding.seed)
            try:
                worded = question if self.protocol is None else _asking().in_own_words(question, self.base)
                content = cut.content(worded, tiles)
                conversation = [{"role": "user", "content": content, "answer_prefix": worded.answer_prefix}]
                encoded.append(encode(model, processor, conversation, settings, seed, tiles))
            except ArmorError as error:
                encoded.append(Answer(error=str(error)))
        return encoded

    def answers(self, source: Source[Request], decoding: Decoding, rows: int) -> Iterator[tuple[int, Answer]]:
        """Answers as they are finished; one engine, its caches and graphs, for all of them."""
        from armor_model.generation import serve

        model, processor = self._load()
        for number, response in serve(model, processor, source, self._answering(decoding), rows):
            stats = {k: response.stats[k] for k in ("imgbos", "imgbos_masked")}
            yield number, Answer(text=response.text, extras={"finish_reason": response.stats["finish"], **stats})

    def _answering(self, decoding: Decoding) -> GenerationSettings:
        return self._settings(decoding, allow_images=not decoding.mask_imgbos, max_images=MAX_IMAGES)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._load()[1].tokenizer

    def first_logits(self, questions: Sequence[Question]) -> torch.Tensor:
        """Logits [N, V + 1] in float32 on the CPU, of each answer's first token (the last column is <imgbos>), of
        questions that show the same images: these are encoded once. ValueError where one cannot be encoded."""
        import torch

        from armor_model.processing import Encoded

        model, processor = self._load()
        rows: list[Request] = []
        for row in self.encode(questions, Decoding(mask_imgbos=True)):
            if isinstance(row, Answer):
                raise ValueError(row.error)
            rows.append(row)
        batch = processor.collate([Encoded(ids=row.ids) for row in rows])
        device = next(model.parameters()).device
        with torch.inference_mode():
            on_device = {id(image): image.to(device) for row in rows for image in row.tiles}  # one tensor, encoded once
            images = [on_device[id(image)] for row in rows for image in row.tiles]
            ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
            hidden_NTD = model.backbone(model.embed(ids, images), mask, model.place(ids, images, mask))
            logits: torch.Tensor = model.text_logits(hidden_NTD[:, -1]).float().cpu()
        return logits

    def _own(self, decoding: Decoding) -> JsonObject:
        used = {name: getattr(decoding, name) for name in SAMPLING}
        return {"dtype": self._torch_dtype(), "guidance": _guidance(decoding), **used}

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        from armor_model import draw

        model, processor = self._load()
        try:
            return list(draw(model, processor, list(prompts), self._settings(decoding), list(seeds)))
        except UserError as error:  # a prompt's mistake, not the run's: asked alone, it costs itself
            raise NotDrawnError(error.line()) from error

    def respond(
        self, conversations: Sequence[list[JsonObject]], seeds: Sequence[int], decoding: Decoding
    ) -> list[list[str | Image.Image] | Exception]:
        """Text and images of each answer, in order; an exception stands where a conversation cannot be answered."""
        encoded = self.encode_conversations(conversations, seeds, decoding)
        requests = {at: each for at, each in enumerate(encoded) if not isinstance(each, Exception)}
        results: dict[int, list[str | Image.Image] | Exception]
        results = {at: each for at, each in enumerate(encoded) if isinstance(each, Exception)}
        places, groups = list(requests), iter([list(requests.values())] if requests else [])
        for number, parts in self.responses(lambda _: next(groups, None), decoding, len(conversations)):
            results[places[number]] = parts
        return [results[at] for at in range(len(conversations))]

    def encode_conversations(
        self, conversations: Sequence[list[JsonObject]], seeds: Sequence[int], decoding: Decoding
    ) -> list[Request | NotDrawnError]:
        """Token ids and tiles of each conversation, or the exception that says why it cannot be answered."""
        from armor_model.generation import encode

        model, processor = self._load()
        settings = self._responding(decoding)
        encoded: list[Request | NotDrawnError] = []
        for conversation, seed in zip(conversations, seeds, strict=True):
            try:
                encoded.append(encode(model, processor, conversation, settings, seed))
            except ArmorError as error:
                encoded.append(NotDrawnError(str(error)))
        return encoded

    def responses(
        self, source: Source[Request], decoding: Decoding, rows: int
    ) -> Iterator[tuple[int, list[str | Image.Image]]]:
        """Text and images of each answer as it is finished."""
        from armor_model.generation import PrefixCache, serve

        model, processor = self._load()
        # The turns of a dialogue are asked together. Not kept for the next call: a training loop's weights move on.
        prefixes, settings = PrefixCache(), self._responding(decoding)
        for number, response in serve(model, processor, source, settings, rows, prefixes=prefixes):
            yield number, list(response.parts)

    def _responding(self, decoding: Decoding) -> GenerationSettings:
        return self._settings(decoding, allow_images=not decoding.mask_imgbos)

    def room(self) -> Room:
        from armor_eval.models.room import room_of

        model = self._load()[0]
        return room_of(model.config, model.dtype, model.device)

    def close(self) -> None:
        """Let go of the weights."""
        self._loaded = None


def _guidance(decoding: Decoding) -> float:
    """ARMOR's own is none."""
    return 1.0 if decoding.guidance is None else decoding.guidance


class _Cutter:
    """Questions as the processor's message content. An image that several ask about is cut into tiles once, and they
    share the tensor; one that cannot be cut is left to fail with its own question."""

    def __init__(self, processor: ArmorProcessor) -> None:
        self._processor = processor
        self._cut: dict[tuple[int, bool, int], JsonObject] = {}

    def content(self, question: Question, max_tiles: int) -> list[JsonObject]:
        """Text and tiles, the first image doubled in size where the protocol says so."""
        content: list[JsonObject] = []
        doubled = question.upscale_first
        for part in question.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
                continue
            key = id(part), doubled, max_tiles
            if key not in self._cut:
                self._cut[key] = self._image(part, doubled, max_tiles)
            content.append(self._cut[key])
            doubled = False
        return content

    def _image(self, part: Image.Image | Path, doubled: bool, max_tiles: int) -> JsonObject:
        image = double(part) if doubled else part
        try:
            return {"type": "image", "tiles": self._processor.cut(image, max_tiles)}
        except ArmorError:
            return {"type": "image", "image": image}


def _weights_sha256(model: ArmorModel) -> str:
    """Of every tensor's name, shape and bytes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _parameters(folder: Path) -> int | None:
    """Numbers in the model's safetensors files, read from their headers."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                total += size
    return total or None
