"""`--model hf:ID[@REVISION]`: any transformers image-text-to-text model, asked through its own processor.

So every InternVL, Qwen-VL or LLaVA row of the paper's Table 2 can be measured side by side. Code from the hub runs only
where `--trust-remote-code` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from armor_eval.errors import UserError
from armor_eval.models.base import Answer, Decoding, Question
from armor_eval.runs.provenance import fingerprint_folder, sha256_json
from armor_eval.runs.schema import ModelInfo, Profile

PROBE = "what follows a picture"
"""Text by which a chat template's words around a picture are told."""


class HubModel:
    """Batched generation, padded on the left; loads on first use."""

    def __init__(self, name: str, revision: str | None, trust_remote_code: bool) -> None:
        self._source = {"pretrained_model_name_or_path": name, "revision": revision}
        self._source["trust_remote_code"] = trust_remote_code
        self._loaded: tuple[Any, Any] | None = None
        folder = Path(name)
        spec = f"hf:{name}@{revision}" if revision else f"hf:{name}"
        if folder.is_dir():
            fingerprint, commit = fingerprint_folder(folder), None
        else:
            commit = self._commit()
            fingerprint = sha256_json(["huggingface", name, commit])
        self.info = ModelInfo(spec=spec, name=folder.name, fingerprint=fingerprint, revision=commit)

    def _commit(self) -> str:
        """The commit that the revision stands for: two runs of `main` months apart are two models."""
        from armor_model.base.runtime import prepare_torchvision

        prepare_torchvision()
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(**self._source)
        except Exception as error:  # the hub's client raises many kinds; each means: not to be had
            raise _cannot_load(self._source, error) from error
        return config._commit_hash or "unknown"

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from armor_model.base.runtime import prepare_torchvision

            prepare_torchvision()
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor

            device = "cuda" if torch.cuda.is_available() else "cpu"
            dtype = torch.bfloat16 if device == "cuda" else torch.float32
            try:
                processor = AutoProcessor.from_pretrained(**self._source)
                model = AutoModelForImageTextToText.from_pretrained(**self._source, dtype=dtype).to(device).eval()
            except Exception as error:
                raise _cannot_load(self._source, error) from error
            processor.tokenizer.padding_side = "left"
            if processor.tokenizer.pad_token is None:
                processor.tokenizer.pad_token = processor.tokenizer.eos_token
            self._loaded = model, processor
        return self._loaded

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """Answers in order, by the model's own chat template."""
        import torch

        model, processor = self._load()
        breaks = _breaks_after_picture(processor)
        conversations = [[{"role": "user", "content": _content(q, breaks)}] for q in questions]
        inputs = processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        ).to(model.device, model.dtype)
        sampling = {"do_sample": False}
        if decoding.temperature > 0:
            torch.manual_seed(decoding.seed)
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p}
            sampling["top_k"] = decoding.top_k
        with torch.inference_mode():
            out = model.generate(
                **inputs, **sampling, max_new_tokens=decoding.max_new_tokens,
                pad_token_id=processor.tokenizer.pad_token_id, eos_token_id=_ends(model, processor),
            )  # fmt: skip
        texts = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [Answer(text=text.strip()) for text in texts]

    def close(self) -> None:
        self._loaded = None


def load(rest: str, profile: Profile, *, trust_remote_code: bool = False, **_: Any) -> HubModel:
    """`ID`, `ID@REVISION` or a local folder."""
    if not rest:
        raise UserError("hf: lacks a model", "expected hf:ID[@REVISION], e.g. hf:OpenGVLab/InternVL3-1B-hf")
    name, _, revision = (rest, "", "") if Path(rest).is_dir() else rest.partition("@")
    return HubModel(name, revision or None, trust_remote_code)


def _ends(model: Any, processor: Any) -> int | list[int] | None:
    """The tokens that end an answer: the model's own; a checkpoint that names none ends at its tokenizer's."""
    own = model.generation_config.eos_token_id
    return own if own is not None else processor.tokenizer.eos_token_id


def _breaks_after_picture(processor: Any) -> bool:
    """The chat template itself ends a picture with a line break, as InternVL's and LLaVA's do and Qwen's does not."""
    probe = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROBE}]}]
    return processor.apply_chat_template(probe, tokenize=False).split(PROBE)[0].endswith("\n")


def _content(question: Question, template_breaks: bool) -> list[dict[str, Any]]:
    """The question's parts. Text behind a picture begins with a line break, unless the template has one there."""
    content: list[dict[str, Any]] = []
    for part in question.parts:
        if not isinstance(part, str):
            content.append({"type": "image", "image": part})
            continue
        behind_picture = bool(content) and content[-1]["type"] == "image"
        text = part.removeprefix("\n") if template_breaks and behind_picture else part
        content.append({"type": "text", "text": text})
    return content


def _cannot_load(source: dict[str, Any], error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"cannot load {source['pretrained_model_name_or_path']!r} from the hub or its cache: {first[:200]}"
    )
