"""Any diffusers text-to-image pipeline as a drawing model: `--model diffusers:ID[@REVISION]`, a hub name or a folder.

The best control for ARMOR is `diffusers:CompVis/ldm-text2im-large-256`: 256 pixels, and the same GenEval score (.37).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.errors import UserError
from armor_eval.models.base import Decoding
from armor_eval.runs.provenance import fingerprint_folder, sha256_text
from armor_eval.runs.schema import ModelInfo, Profile

if TYPE_CHECKING:
    from PIL import Image


def load(rest: str, profile: Profile, *, device: str | None = None) -> DiffusersModel:
    return DiffusersModel(rest, device)


def snapshot(kind: str, name: str, revision: str | None, patterns: list[str] | None = None) -> tuple[Path, str | None]:
    """Local folder of a hub repository, fetched if it is not cached, and its commit; a folder is taken as it is."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, None
    if not name or name.count("/") != 1 or folder.is_absolute() or ".." in folder.parts:
        raise UserError(f"{kind}:{name} is neither a folder nor a hub name", hint=f"expected {kind}:OWNER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, ignore_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = " ".join(str(error).split())[:160]
        raise UserError(
            f"cannot get {name} from the hub: {first}", hint=f"give a local folder: {kind}:FOLDER"
        ) from None
    return path, path.name


def parse(kind: str, rest: str) -> tuple[str, str | None]:
    """`ID@REVISION` -> (ID, REVISION or None)."""
    if not rest:
        raise UserError(f"{kind}: names no model", hint=f"expected {kind}:OWNER/NAME or {kind}:FOLDER")
    name, _, revision = rest.partition("@")
    return name, revision or None


class DiffusersModel:
    """Loads on first use; each picture has a generator of its own, so that its pixels do not hang on the batch."""

    def __init__(self, rest: str, device: str | None = None) -> None:
        name, revision = parse("diffusers", rest)
        self._folder, commit = snapshot("diffusers", name, revision)
        if not (self._folder / "model_index.json").is_file():
            raise UserError(f"{name} is no diffusers pipeline: it has no model_index.json")
        self._device = device
        self._pipeline = None
        self.info = ModelInfo(
            spec=f"diffusers:{rest}",
            name=Path(name).name,
            fingerprint=sha256_text(f"diffusers:{name}@{commit}") if commit else fingerprint_folder(self._folder),
            revision=commit,
        )

    def _load(self):
        if self._pipeline is None:
            from armor_model.base.runtime import prepare_torchvision

            prepare_torchvision()
            import torch
            from diffusers import DiffusionPipeline

            device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            dtype = torch.float16 if device.startswith("cuda") else torch.float32
            try:
                self._pipeline = DiffusionPipeline.from_pretrained(self._folder, torch_dtype=dtype).to(device)
            except (OSError, ValueError) as error:
                first = " ".join(str(error).split())[:200]
                raise UserError(f"cannot load the pipeline {self.info.name}: {first}") from None
            self._pipeline.set_progress_bar_config(disable=True)
        return self._pipeline

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        """One picture a prompt. A guidance of 1, our default, leaves the pipeline's own default in force."""
        import torch

        pipeline = self._load()
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        guided = {} if decoding.guidance == 1.0 else {"guidance_scale": decoding.guidance}
        try:
            with torch.inference_mode():
                return list(pipeline(list(prompts), generator=generators, **guided).images)
        except Exception as error:
            if len(prompts) == 1:
                return [error]
            return [self.draw([p], [s], decoding)[0] for p, s in zip(prompts, seeds, strict=True)]

    def close(self) -> None:
        self._pipeline = None
