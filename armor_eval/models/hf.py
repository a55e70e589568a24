"""`--model hf:ID[@REVISION]`: any transformers image-text-to-text model, asked through its own processor.

So every InternVL, Qwen-VL or LLaVA row of the paper's Table 2 can be measured side by side. Code from the hub runs only
where `--trust-remote-code` says so. Which families work stands in docs/models.md.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.models.base import Answer, Decoding, E, Question, Room, Source
from armor_eval.models.drawing import RowSampling, out_of_memory, row_seed
from armor_eval.models.hf_first import FirstTokens
from armor_eval.models.hf_options import ModelArgs, check_folder, check_type, end_tokens, kept_fields, neutralise
from armor_eval.models.hf_prompts import Copies, Prompter, find_prompter, probe_question
from armor_eval.models.options import names
from armor_eval.models.room import room_of
from armor_eval.runs.schema import ModelInfo, Profile
from armor_model.base.errors import ArmorError, UserError
from armor_model.base.hashing import sha256_folder, sha256_json
from armor_model.base.jsons import JsonObject, JsonView

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchFeature, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

log = logging.getLogger(__name__)

ALONE = frozenset({"blip", "emu3", "kosmos-2.5", "minicpmv4_6", "minicpmv4_7"})
"""Model types whose rows in a batch get other logits than alone (docs/models.md): they are asked one by one."""
UNUSED = ("labels", "token_type_ids", "mm_token_type_ids")
"""What some processors return and their models do not take; given only to a model that names it."""


@dataclass
class _Chunk:
    """Questions that are asked together, and the processor's inputs [B, T] of them once they are made."""

    questions: list[Question]
    options: JsonObject = field(default_factory=dict)
    """For the images: see HubModel._image_options."""
    inputs: BatchFeature | None = None


class HubModel:
    """Batched generation, padded on the left; loads on first use."""

    tiles_by_benchmark = True
    """False for a judge: it sees images as its own processor cuts them."""

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        trust_remote_code: bool = False,
        *,
        device: str | None = None,
        device_map: str | None = None,
        dtype: str | None = None,
        model_args: JsonView | None = None,
    ) -> None:
        arguments = dict(model_args or {})
        if revision and arguments.get("revision", revision) != revision:
            raise UserError(
                f"hf:{name}@{revision} and --model-args revision={arguments['revision']} differ", "give one"
            )
        if device and device_map:
            raise UserError("--device and --device-map both say where the model goes", "give one")
        self._args = ModelArgs.sort(arguments)
        self._source: JsonObject = {"pretrained_model_name_or_path": name, "trust_remote_code": trust_remote_code}
        self._source |= {"revision": revision, **self._args.source}
        self._device, self._device_map, self._dtype = device, device_map, dtype
        self._prompter: Prompter | None = None
        self._copies: Copies | None = None
        self._loaded: PreTrainedModel | None = None
        self._ends: list[int] = []
        self._generating: JsonObject = {}
        self._most: int | None = None
        self._config_type = ""
        self._loading = threading.RLock()
        revision = self._source["revision"]
        folder = Path(name).expanduser()
        if folder.is_dir():
            check_folder(folder)
            self._source["pretrained_model_name_or_path"] = str(folder)
            fingerprint, commit = sha256_folder(folder), None
        else:
            commit = self._config()._commit_hash or "unknown"
            fingerprint = sha256_json(["huggingface", name, commit])
        changes = {k: v for k, v in arguments.items() if k != "revision"}
        self.info = ModelInfo(
            spec=f"hf:{name}@{revision}" if revision else f"hf:{name}",
            name=folder.name,
            fingerprint=sha256_json([fingerprint, changes]) if changes else fingerprint,
            dtype=dtype,
            revision=commit,
        )
        self.facts: JsonObject = {"model_args": arguments} if arguments else {}

    def _config(self) -> PretrainedConfig:
        """The model's configuration. Of the hub it also says the commit: `main` months apart is two models."""
        from armor_model.base.runtime import prepare_torchvision

        prepare_torchvision()
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(**self._source)
        except Exception as error:  # the hub's client raises many kinds; each means: not to be had
            raise self._cannot_load(error) from error

    def _load_prompter(self) -> Prompter:
        """The processor and how it is to be asked: files of a few kilobytes, read before the weights are."""
        with self._loading:  # questions are encoded in threads of their own
            if self._prompter is None:
                self._prompter = self._find_prompter()
                self._copies = Copies(self._prompter)
            return self._prompter

    def _find_prompter(self) -> Prompter:
        config = self._config()
        name = self._source["pretrained_model_name_or_path"]
        check_type(config, name, self._source["trust_remote_code"])
        from transformers import AutoProcessor

        from armor_model.base.runtime import quiet_transformers

        quiet_transformers()
        try:
            processor = AutoProcessor.from_pretrained(**self._source, **self._args.images)
        except Exception as error:
            raise self._cannot_load(error) from error
        self._args.check_images(getattr(processor, "image_processor", None))
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is not None and not config.is_encoder_decoder:
            tokenizer.padding_side = "left"
        if tokenizer is not None and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        prompter = find_prompter(processor, config, name, self._args.chat_template)
        self._most = 1 if config.model_type in ALONE else None
        self._config_type = config.model_type
        if self._image_options(probe_question()):
            self.facts["tiles"] = "by benchmark, as ARMOR is asked (max_patches); MMMU's first image doubled"
        self.facts |= {"prompt_form": prompter.form, "model_class": (config.architectures or [None])[0]}
        return prompter

    def _load(self) -> tuple[PreTrainedModel, ProcessorMixin]:
        """The model and its processor."""
        prompter = self._load_prompter()
        if self._loaded is None:
            import torch
            from transformers import AutoModelForImageTextToText

            device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            placed = {"device_map": self._device_map} if self._device_map else {}
            on_gpu = (bool(placed) and torch.cuda.is_available()) or device.startswith("cuda")
            dtype = self._dtype or ("bfloat16" if on_gpu else "float32")
            try:
                model = AutoModelForImageTextToText.from_pretrained(
                    **self._source,
                    dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                    **placed,
                    **self._args.for_model(),
                ).eval()
                quantised = getattr(model, "is_quantized", False)
                self._loaded = model if placed or quantised else model.to(device)
            except Exception as error:
                raise self._cannot_load(error) from error
            self._record(self._loaded, prompter.processor.tokenizer)
        return self._loaded, prompter.processor

    def _record(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set the checkpoint's own decoding aside, and write down what was and what is."""
        self._ends, self._generating = end_tokens(model, tokenizer), self._args.for_generate(model)
        dropped = neutralise(model, self._ends, tokenizer.pad_token_id)
        self.facts |= {
            "model_class": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device) if not self._device_map else f"device_map {self._device_map}",
            "attention": getattr(model.config, "_attn_implementation", None),
            "end_tokens": {str(i): tokenizer.convert_ids_to_tokens(i) for i in self._ends},
            "generation_config_not_used": json.loads(json.dumps(dropped, default=str)),
            "generation_config_kept": kept_fields(model),
        }

    def prepare(self, images: bool = True) -> JsonObject:
        """Load, ask one token about a probe with or without an image, and say what a run must record.

        UserError, in one line and before the first question, where the model cannot be had or cannot be asked so.
        """
        self._load()
        try:
            self._generate(_Chunk([probe_question(images)]), Decoding(max_new_tokens=1))
        except Exception as error:  # whatever fails here would fail every row
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            what = "about an image" if images else "without an image"
            raise UserError(f"{self.info.spec} cannot be asked {what}: {reason}") from error
        return dict(self.facts)

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """Answers in order; as many at once as memory holds."""
        encoded, rows = self.encode(questions, decoding), max(1, len(questions))
        while True:
            groups = [encoded]
            try:
                answers = dict(self.answers(partial(_taken, groups), decoding, rows))
                return [answers[at] for at in range(len(questions))]
            except Exception as error:
                if not out_of_memory(error) or rows == 1:
                    raise
                rows //= 2

    def encode(self, questions: Sequence[Question], decoding: Decoding) -> list[tuple[_Chunk, int]]:
        """Each question's chunk and its place in it: rows with and without images apart, for a processor takes either
        in a batch, not both, and rows of one tile limit together."""
        self._load_prompter()
        kinds = defaultdict(list)
        for at, question in enumerate(questions):
            kinds[any(not isinstance(p, str) for p in question.parts), self._image_options(question)].append(at)
        entries: dict[int, tuple[_Chunk, int]] = {}
        for (_, options), places in kinds.items():
            size = self._most or len(places)
            for start in range(0, len(places), size):
                some = places[start : start + size]
                chunk = _Chunk([questions[at] for at in some], dict(options))
                try:
                    chunk.inputs = self._encoded(chunk)
                except Exception as error:  # asked in halves, so that only the culprit is lost
                    log.debug("a batch cannot be encoded: %s", error)
                entries |= {at: (chunk, n) for n, at in enumerate(some)}
        return [entries[at] for at in range(len(questions))]

    def _encoded(self, chunk: _Chunk) -> BatchFeature:
        self._load_prompter()
        assert self._copies is not None
        with self._copies.lent() as prompter:
            return prompter.encode(chunk.questions, chunk.options)

    def answers(
        self, source: Source[tuple[_Chunk, int]], decoding: Decoding, rows: int
    ) -> Iterator[tuple[int, Answer]]:
        """A chunk at a time, in the order in which they come."""
        self._load()
        number = 0
        while (group := source(True)) is not None:
            members: dict[int, list[int]] = defaultdict(list)
            for at, (chunk, _) in enumerate(group):
                members[id(chunk)].append(at)
            for places in members.values():
                chunk, size = group[places[0]][0], min(rows, self._most or rows)
                questions = [chunk.questions[group[at][1]] for at in places]
                whole = len(questions) == len(chunk.questions) <= size
                for start in range(0, len(questions), size):
                    part = _Chunk(questions[start : start + size], chunk.options, chunk.inputs if whole else None)
                    for at, answer in zip(places[start : start + size], self._ask(part, decoding), strict=True):
                        yield number + at, answer
            number += len(group)

    def _image_options(self, question: Question) -> tuple[tuple[str, int | bool], ...]:
        """InternVL's own protocol, as ARMOR beside it is asked: tiles by benchmark, MMMU's first image doubled."""
        if not self.tiles_by_benchmark or self._config_type != "internvl" or "max_patches" in self._args.images:
            return ()
        return ("max_patches", question.max_tiles), ("double_first", question.upscale_first)

    def _ask(self, chunk: _Chunk, decoding: Decoding) -> list[Answer]:
        """A batch that fails is halved until only the culprit is lost; if every half goes, batches stay that small."""
        questions = chunk.questions
        try:
            return self._generate(chunk, decoding)
        except ArmorError:
            raise
        except Exception as error:
            if out_of_memory(error) and len(questions) > 1:
                raise  # whoever chose so many chooses fewer, and remembers
            if len(questions) == 1:
                return [Answer(error=" ".join(f"{type(error).__name__}: {error}".split())[:500])]
            half = (len(questions) + 1) // 2
            log.warning("a batch of %d failed (%s): asking by %d", len(questions), type(error).__name__, half)
        halves = [_Chunk(some, chunk.options) for some in (questions[:half], questions[half:])]
        answers = [answer for part in halves for answer in self._ask(part, decoding)]
        if all(answer.error is None for answer in answers):
            self._most = min(self._most or half, half)
        return answers

    def _generate(self, chunk: _Chunk, decoding: Decoding) -> list[Answer]:
        import torch
        from transformers import LogitsProcessorList

        model, processor = self._load()
        prompter, questions = self._load_prompter(), chunk.questions
        if chunk.inputs is None:
            chunk.inputs = self._encoded(chunk)
        inputs = chunk.inputs.to(model.device, model.dtype)
        for name in UNUSED:
            if name in inputs and not names(model.forward, name):
                inputs.pop(name)
        sampling: dict[str, object] = {"do_sample": False}
        if decoding.temperature > 0:
            seeds = [row_seed(question.id, decoding.seed) for question in questions]
            sampling["logits_processor"] = LogitsProcessorList([RowSampling(seeds, decoding)])
        with torch.inference_mode():
            out = model.generate(**inputs, **sampling, **self._generating, max_new_tokens=decoding.max_new_tokens)
        new = _new_tokens(out, inputs["input_ids"])
        texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        ends = set(self._ends)
        answers = []
        for question, text, row in zip(questions, texts, new.tolist(), strict=True):
            extras: JsonObject = {"finish_reason": "stop" if ends.intersection(row) else "length"}
            if marks := prompter.marks_in(question):
                extras["marks_in_text"] = marks
            answers.append(Answer(text=text.strip(), extras=extras))
        return answers

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._load_prompter().processor.tokenizer

    def first_tokens(self) -> FirstTokens:
        """The model, asked for first tokens only. UserError where it cannot be loaded or asked."""
        model, _ = self._load()
        return FirstTokens(model, self._load_prompter(), self._most == 1)

    def room(self) -> Room:
        model = self._load()[0]
        return room_of(model.config, model.dtype, model.device)

    def close(self) -> None:
        self._loaded = None

    def _cannot_load(self, error: BaseException) -> UserError:
        """Every line of the error and of those it came from: transformers' first line seldom names the cause."""
        name = self._source["pretrained_model_name_or_path"]
        lines: list[str] = []
        seen: BaseException | None = error
        while seen is not None:
            line = " ".join(f"{type(seen).__name__}: {seen}".split())
            lines += [line] if not any(line in other for other in lines) else []
            seen = seen.__cause__
        return UserError(f"cannot load hf:{name}: {'; from '.join(lines)}")


def load(
    rest: str,
    profile: Profile,
    *,
    trust_remote_code: bool = False,
    device: str | None = None,
    device_map: str | None = None,
    dtype: str | None = None,
    model_args: JsonView | None = None,
) -> HubModel:
    """`ID`, `ID@REVISION` or a local folder."""
    if not rest:
        raise UserError("hf: lacks a model", "expected hf:ID[@REVISION], e.g. hf:OpenGVLab/InternVL3-1B-hf")
    name, _, revision = (rest, "", "") if Path(rest).expanduser().is_dir() else rest.partition("@")
    return HubModel(
        name,
        revision or None,
        trust_remote_code,
        device=device,
        device_map=device_map,
        dtype=dtype,
        model_args=model_args,
    )


def _taken(groups: list[list[E]], wait: bool) -> list[E] | None:
    """A source of these groups alone."""
    return groups.pop(0) if groups else None


def _new_tokens(out: Tensor, prompt: Tensor) -> Tensor:
    """The answers' tokens [B, N] of what `generate` returned [B, T + N]: a model that generates from embeddings, and an
    encoder-decoder, return them without the prompt."""
    length = prompt.shape[1]
    if out.shape[1] >= length and bool((out[:, :length] == prompt).all()):
        return out[:, length:]
    return out
