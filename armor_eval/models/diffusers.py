"""Any diffusers text-to-image pipeline as a drawing model: `--model diffusers:ID[@REVISION]`, a hub name or a folder.

    armor-eval geneval --model diffusers:stable-diffusion-v1-5/stable-diffusion-v1-5 --model-args steps=30,size=512x512

The best control for ARMOR is `diffusers:CompVis/ldm-text2im-large-256`: 256 pixels, and the same GenEval score (.37).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from armor_eval.models.base import Decoding
from armor_eval.models.drawing import DrawingModel, NotDrawnError, device_of, image_from, locate
from armor_eval.models.options import refuse_unknown
from armor_eval.runs.schema import Profile
from armor_model.base.errors import UserError, did_you_mean, unknown_name
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.optional import not_none
from armor_model.base.parsing import read_table

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin
    from PIL import Image

SHORT = {"steps": "num_inference_steps"}
"""Our short names of arguments of a pipeline."""
OURS = ("size", "scheduler", "safety_checker", "variant")
"""Model arguments that are not the pipeline's own."""
NOT_SETTINGS = re.compile(
    r"self|prompt(_\d)?|generator|output_type|return_dict|num_images_per_prompt|latents|.*image|.*_embeds.*|callback.*"
    r"|prompt_attention_mask|.*_prompt_attention_mask|cross_attention_kwargs|attention_kwargs|joint_attention_kwargs"
)
"""Parameters of a pipeline that the benchmark sets, or that no command line can give."""
NOT_NEEDED = ["*.ckpt", "*.msgpack", "*.h5", "*.onnx*", "openvino*"]
"""Files of hub repositories that diffusers does not read."""
_WEIGHTS = re.compile(r"\.(?:safetensors|bin)$")
_VARIANT = re.compile(r"\.(fp16|bf16|fp32|ema|non_ema)(?:-\d+-of-\d+)?\.(?:safetensors|bin)$")


def load(
    rest: str,
    profile: Profile,
    *,
    device: str | None = None,
    dtype: str | None = None,
    device_map: str | None = None,
    model_args: JsonView | None = None,
) -> DiffusersModel:
    """`model_args`: arguments of the pipeline's call (`negative_prompt=...`, `num_inference_steps=30`), and `steps`,
    `size=WIDTHxHEIGHT`, `scheduler=CLASS`, `safety_checker=true`, `variant=fp16`."""
    return DiffusersModel(rest, device, dtype, device_map, dict(model_args or {}))


class DiffusersModel(DrawingModel):
    """Loads on first use; each image has a generator of its own, so that its pixels do not hang on the batch."""

    def __init__(
        self, rest: str, device: str | None, dtype: str | None, device_map: str | None, model_args: JsonObject
    ) -> None:
        self._folder, self.info = locate("diffusers", rest, None if dtype == "auto" else dtype, NOT_NEEDED)
        index = self._folder / "model_index.json"
        if not index.is_file():
            raise UserError(f"{self.info.name} is no diffusers pipeline: it has no model_index.json")
        self._index = read_table(index)
        self._device, self._dtype, self._device_map = device, dtype, device_map
        self._args = {SHORT.get(name, name): value for name, value in model_args.items()}
        self.asked = {**self._args, **({"dtype": dtype} if dtype else {})}
        self._pipeline: Any = None

    @cached_property
    def _class(self) -> type[DiffusionPipeline]:
        """The pipeline's class. UserError where diffusers has none such, or it does not draw from a text alone."""
        from armor_model.base.runtime import prepare_torchvision

        prepare_torchvision()
        import diffusers

        name = self._index.get("_class_name")
        pipeline_class = getattr(diffusers, name, None) if isinstance(name, str) else None
        if pipeline_class is None:
            known = [n for n in dir(diffusers) if n.endswith("Pipeline")]
            near = did_you_mean(name, known) if isinstance(name, str) else ""
            raise UserError(
                f"{self.info.name} is of the class {name!r}, which diffusers {diffusers.__version__} lacks{near}",
                "code that comes with a model is not run",
            )
        parameters = inspect.signature(pipeline_class.__call__).parameters
        needs = [n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        more = [n for n in needs if n not in ("self", "prompt")]
        lacks = [n for n in ("prompt", "generator") if n not in parameters]
        if more or lacks:
            why = f"it needs {', '.join(more)}" if more else f"it takes no {' and no '.join(lacks)}"
            raise UserError(f"{name} is not for images from a text and a seed: {why}", "expected a text-to-image model")
        self.alone = "list" not in str(parameters["generator"].annotation).lower()
        return pipeline_class

    @cached_property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        """What the pipeline's call can be told, by name."""
        arguments = inspect.signature(self._class.__call__).parameters
        plain = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        return {n: p for n, p in arguments.items() if p.kind in plain and not NOT_SETTINGS.fullmatch(n)}

    @cached_property
    def _guidance(self) -> str | None:
        """The parameter that is classifier-free guidance: a model without an embedding for `guidance_scale` ignores it
        where the pipeline has `true_cfg_scale`."""
        try:
            embeds = read_table(self._folder / "transformer" / "config.json").get("guidance_embeds")
        except UserError:
            embeds = None
        has = [name for name in ("guidance_scale", "true_cfg_scale") if name in self._parameters]
        return "true_cfg_scale" if "true_cfg_scale" in has and embeds is False else next(iter(has), None)

    @property
    def honours(self) -> frozenset[str]:  # type: ignore[override]  # known when the pipeline's class is
        return frozenset({"guidance"} if self._guidance else ())

    def _call(self, decoding: Decoding) -> JsonObject:
        """Arguments of the pipeline's call besides prompts and generators. UserError where one is not to be had."""
        refuse_unknown(self._class.__name__, self._args, [*self._parameters, *SHORT, *OURS])
        call = {name: value for name, value in self._args.items() if name not in OURS}
        for name, value in call.items():
            _check_type(name, value, self._parameters[name].default)
        if "size" in self._args:
            call |= self._size(str(self._args["size"]))
        knob = self._guidance
        if decoding.guidance is not None:
            if knob in call:
                raise UserError(f"--guidance and --model-args {knob} are the same", "give one of them")
            call[not_none(knob)] = decoding.guidance
        if knob == "true_cfg_scale" and call.get("negative_prompt") is None:
            if call.get(knob, 1) > 1:
                raise UserError(
                    f"{self._class.__name__} guides only against a negative prompt",
                    '--model-args negative_prompt=" " is what its authors use',
                )
            call[knob] = 1.0  # what is in force; the pipeline's own default is another, and ignored
        if "clean_caption" in self._parameters:
            call["clean_caption"] = self._cleaned(call.get("clean_caption"))
        return call

    def _size(self, text: str) -> dict[str, int]:
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
        if not match or not {"width", "height"} <= self._parameters.keys():
            why = "is no size" if not match else f"cannot be told to {self._class.__name__}"
            raise UserError(f"--model-args size={text} {why}", "expected WIDTHxHEIGHT, e.g. size=512x512")
        return {"width": int(match[1]), "height": int(match[2])}

    def _cleaned(self, wish: bool | None) -> bool:
        """Whether captions are cleaned: what diffusers silently leaves out without its two packages is off."""
        from diffusers.utils import is_bs4_available, is_ftfy_available

        there = is_bs4_available() and is_ftfy_available()
        if wish and not there:
            raise UserError("clean_caption needs the packages beautifulsoup4 and ftfy", "install them or leave it out")
        return there and (self._parameters["clean_caption"].default if wish is None else wish)

    def _own(self, decoding: Decoding) -> JsonObject:
        call = self._call(decoding)
        used = {n: p.default for n, p in self._parameters.items() if isinstance(p.default, bool | int | float | str)}
        used |= call
        if self._guidance == "true_cfg_scale":
            used.pop("guidance_scale", None)  # not in force
        schedulers = {name: self._index[name][1] for name in sorted(self._index) if name.endswith("scheduler")}
        if "scheduler" in self._args:
            schedulers["scheduler"] = self._scheduler().__name__
        return {
            "pipeline": self._class.__name__,
            **schedulers,
            "dtype": self._torch_dtype(),
            "variant": self._variant(),
            "safety_checker": self._safety(),
            "guidance": used.get(self._guidance or ""),
            **used,
        }

    def _safety(self) -> bool | None:
        """Whether the safety checker is on: only where asked for, as no published number has it; None: none there."""
        checker = self._args.get("safety_checker", False)
        if not isinstance(checker, bool):
            raise UserError(f"--model-args safety_checker={checker}", "expected true or false")
        if (self._index.get("safety_checker") or [None])[0] is None:
            if checker:
                raise UserError(f"{self.info.name} has no safety checker")
            return None
        return checker

    def _scheduler(self) -> type[SchedulerMixin]:
        import diffusers

        name = self._args["scheduler"]
        known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
        if name not in known:
            raise unknown_name("scheduler", str(name), known)
        return getattr(diffusers, name)

    def _torch_dtype(self) -> str:
        """The dtype asked for, else bfloat16 where the card computes in it, else what the pipeline bears.

        float16 breaks Flux-like transformers and T5 silently (diffusers issues 9096, 10533); U-Nets do not mind.
        """
        import torch

        if self._dtype not in (None, "auto"):
            return self._dtype
        if not (self._device_map or device_of(self._device).startswith("cuda")) or not torch.cuda.is_available():
            return "float32"
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16"
        classes = {part[1] for part in self._index.values() if isinstance(part, list) and part[1]}
        bears = "unet" in self._index and not any(c.startswith(("T5", "UMT5")) for c in classes)
        return "float16" if bears else "float32"

    def _variant(self) -> str | None:
        """The variant asked for, or the one without which a component has no weights."""
        if (variant := self._args.get("variant")) is not None:
            return str(variant)
        for part in sorted(path for path in self._folder.iterdir() if path.is_dir()):
            weights = [path.name for path in part.iterdir() if _WEIGHTS.search(path.name)]
            marks = [mark for name in weights if (mark := _VARIANT.search(name))]
            if weights and len(marks) == len(weights):
                return marks[0][1]
        return None

    def _load(self) -> Any:
        if self._pipeline is None:
            cls, name = self._class, self.info.name
            import torch

            arguments: JsonObject = {"torch_dtype": getattr(torch, self._torch_dtype()), "variant": self._variant()}
            if self._safety() is False:
                arguments["safety_checker"] = None
                if "requires_safety_checker" in inspect.signature(cls.__init__).parameters:
                    arguments["requires_safety_checker"] = False
            if self._device_map:
                arguments["device_map"] = self._device_map
            try:
                pipeline = cls.from_pretrained(self._folder, trust_remote_code=False, **arguments)
                if "scheduler" in self._args:
                    pipeline.scheduler = self._scheduler().from_config(pipeline.scheduler.config)
            except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
                first = " ".join(str(error).split())[:200]
                raise UserError(f"cannot load the pipeline {name}: {type(error).__name__}: {first}") from None
            self._pipeline = pipeline if self._device_map else pipeline.to(device_of(self._device))
            self._pipeline.set_progress_bar_config(disable=True)
        return self._pipeline

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        import torch

        pipeline, n = self._load(), len(prompts)
        call = {
            name: [value] * n if name.startswith("negative_prompt") and isinstance(value, str) else value
            for name, value in self._call(decoding).items()
        }
        if "output_type" in inspect.signature(self._class.__call__).parameters:
            call["output_type"] = "np"  # a PIL image no longer tells NaN from black
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with torch.inference_mode():
            output = pipeline(list(prompts), generator=generators if n > 1 else generators[0], **call)
        images = getattr(output, "images", None)
        if images is None or len(images) != n:
            raise UserError(
                f"{self._class.__name__} returned no image for each prompt", "expected a text-to-image model"
            )
        flags = getattr(output, "nsfw_content_detected", None) or [False] * n
        return [
            NotDrawnError("the pipeline's safety checker withheld the image") if flag else _image(image)
            for image, flag in zip(images, flags, strict=True)
        ]

    def close(self) -> None:
        self._pipeline = None


def _image(drawn: np.ndarray | Image.Image) -> Image.Image | NotDrawnError:
    """Of values 0 to 1, rounded as diffusers' own numpy_to_pil does; a PIL image is taken as it is."""
    return image_from((drawn * 255).round()) if isinstance(drawn, np.ndarray) else drawn


def _check_type(name: str, value: object, default: object) -> None:
    """UserError where an argument is not of its default's type: a pipeline says so late, and obscurely."""
    kind = type(default)
    right = {bool: (bool,), int: (int,), float: (int, float), str: (str, type(None))}.get(kind)
    wrong = right is not None and (not isinstance(value, right) or (kind in (int, float) and isinstance(value, bool)))
    if wrong or (name == "num_inference_steps" and not cast("float", value) > 0):
        raise UserError(f"--model-args {name}={value}", f"expected something like {name}={default}")
