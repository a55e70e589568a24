"""A language model without eyes, from transformers: what `--judge hf:ID` usually names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.models.base import Answer, Decoding, Question
from armor_eval.runs.schema import ModelInfo
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_folder, sha256_json
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LanguageModel:
    """Answers questions of text alone, in batches padded on the left; loads on first use."""

    def __init__(self, source: JsonObject, commit: str | None) -> None:
        self._source = source
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None
        name = source["pretrained_model_name_or_path"]
        folder = Path(name)
        fingerprint = sha256_folder(folder) if folder.is_dir() else sha256_json(["huggingface", name, commit])
        self.info = ModelInfo(spec=f"hf:{name}", name=folder.name, fingerprint=fingerprint, revision=commit)

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            device = "cuda" if torch.cuda.is_available() else "cpu"
            dtype = torch.bfloat16 if device == "cuda" else torch.float32
            try:
                tokenizer = AutoTokenizer.from_pretrained(**self._source, padding_side="left")
                model = AutoModelForCausalLM.from_pretrained(**self._source, dtype=dtype).to(device).eval()
            except Exception as error:  # the hub's client raises many kinds; each means: not to be had
                raise UserError(f"cannot load {self.info.spec}: {error}") from error
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            self._loaded = model, tokenizer
        return self._loaded

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """Answers in order, by the model's chat template if it has one; `finish_reason` in the extras is `length` where
        an answer met no end token."""
        import torch

        model, tokenizer = self._load()
        texts = [_text(question) for question in questions]
        if tokenizer.chat_template:
            turns = [[{"role": "user", "content": text}] for text in texts]
            texts = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        # a chat template writes its own first token
        inputs = tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            add_special_tokens=not tokenizer.chat_template,
            return_token_type_ids=False,
        ).to(model.device)
        sampling: JsonObject = {"do_sample": False}
        if decoding.temperature > 0:
            torch.manual_seed(decoding.seed)
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p}
            sampling["top_k"] = decoding.top_k
        own = model.generation_config.eos_token_id
        ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                **sampling,
                max_new_tokens=decoding.max_new_tokens,
                eos_token_id=sorted(ends) or None,
                pad_token_id=tokenizer.pad_token_id,
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        answers = tokenizer.batch_decode(new, skip_special_tokens=True)
        reasons = ["stop" if ends.intersection(row) else "length" for row in new.tolist()]
        return [Answer(text.strip(), extras={"finish_reason": r}) for text, r in zip(answers, reasons, strict=True)]

    def close(self) -> None:
        self._loaded = None


def _text(question: Question) -> str:
    texts = [part for part in question.parts if isinstance(part, str)]
    if len(texts) < len(question.parts):
        raise ValueError(f"{question.id}: an image, for a model without eyes")
    return "".join(texts)


def load(name: str) -> LanguageModel | None:
    """`ID`, `ID@REVISION` or a folder, if it is a language model without eyes; None for every other kind of model.
    UserError where its configuration cannot be had."""
    from armor_model.base.runtime import prepare_torchvision

    if not name:
        raise UserError("hf: lacks a model", "expected hf:ID[@REVISION], e.g. hf:Qwen/Qwen3-8B")
    prepare_torchvision()
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as known

    folder = Path(name).expanduser()
    where, _, revision = (str(folder), "", "") if folder.is_dir() else name.partition("@")
    source: JsonObject = {"pretrained_model_name_or_path": where, "trust_remote_code": False}
    source |= {"revision": revision} if revision else {}
    try:
        config = AutoConfig.from_pretrained(**source)
    except Exception as error:  # the hub's client raises many kinds; each means: not to be had
        raise UserError(f"cannot load hf:{name}: {error}") from error
    seeing = config.model_type in known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if seeing or config.model_type not in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    return LanguageModel(source, getattr(config, "_commit_hash", None))
