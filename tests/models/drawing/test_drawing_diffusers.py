"""diffusers pipelines as drawing models: real ones, tiny and random, loaded from what diffusers saved."""

import json
import shutil

import numpy as np
import pytest

from armor_eval.models import registry
from armor_eval.models.base import Decoding, DrawsImages
from armor_eval.models.drawing import NotDrawnError, is_blank
from armor_model.base.errors import UserError

PROMPTS, SEEDS = ["a photo of a bench", "a photo of a cow"], [1, 2]
FAMILIES = (
    "SD1.5",
    "SD2.1 (v-prediction)",
    "SDXL",
    "SD3",
    "PixArt-alpha",
    "PixArt-Sigma",
    "Flux",
    "Sana",
    "Kandinsky 2.2",
    "AuraFlow",
    "Qwen-Image",
    "Lumina 2",
    "HunyuanDiT",
    "aMUSEd",
    "LDM",
)
FAST = ("SD1.5", "Flux", "aMUSEd")


def pixels(image):
    return np.asarray(image, int)


def test_every_family_that_can_be_made_is_proven():
    import tiny_drawers

    assert tuple(tiny_drawers.PIPELINES) == FAMILIES


@pytest.mark.parametrize("family", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_every_family_draws_with_a_seed_an_image(family, draws):
    model = draws(family)
    assert isinstance(model, DrawsImages)
    told = model.settings(Decoding())
    assert told["num_inference_steps"] == 2 and told["dtype"] == "float32" and told["scheduler"]
    both = model.draw(PROMPTS, SEEDS, Decoding())
    (alone,) = model.draw(PROMPTS[1:], SEEDS[1:], Decoding())
    assert not any(isinstance(one, Exception) or is_blank(one) for one in both), both
    assert np.abs(pixels(alone) - pixels(both[1])).max() <= 1
    (again,) = model.draw(PROMPTS[:1], SEEDS[1:], Decoding())
    assert again.tobytes() != both[0].tobytes()  # another seed


def test_pixels_are_those_of_the_pipeline(draws):
    import torch

    model = draws("SD1.5")
    (drawn,) = model.draw(PROMPTS[:1], SEEDS[:1], Decoding())
    generator = torch.Generator("cpu").manual_seed(SEEDS[0])
    theirs = model._load()(PROMPTS[:1], generator=generator, num_inference_steps=2).images[0]
    assert drawn.tobytes() == theirs.tobytes()


def test_guidance_is_what_was_asked_and_1_is_1(draws):
    import torch

    model = draws("SD1.5")
    own, none, strong = (
        model.draw(PROMPTS[:1], SEEDS[:1], Decoding(guidance=g))[0].tobytes() for g in (None, 1.0, 7.5)
    )
    assert own == strong != none
    generator = torch.Generator("cpu").manual_seed(SEEDS[0])
    theirs = model._load()(PROMPTS[:1], generator=generator, num_inference_steps=2, guidance_scale=1.0).images[0]
    assert none == theirs.tobytes()
    told = [model.settings(Decoding(guidance=g))["guidance"] for g in (None, 1.0)]
    assert told == [7.5, 1.0]


def test_what_the_pipeline_used_is_told_also_its_defaults(draws):
    told = draws("SD1.5", scheduler="EulerDiscreteScheduler", negative_prompt="grey", size="24x32").settings(Decoding())
    assert told["pipeline"] == "StableDiffusionPipeline" and told["scheduler"] == "EulerDiscreteScheduler"
    assert (told["width"], told["height"], told["negative_prompt"]) == (24, 32, "grey")
    assert told["eta"] == 0.0 and told["guidance"] == 7.5
    assert told["asked"] == {
        "num_inference_steps": 2,
        "scheduler": "EulerDiscreteScheduler",
        "negative_prompt": "grey",
        "size": "24x32",
    }
    prior = draws("Kandinsky 2.2").settings(Decoding())
    assert prior["prior_scheduler"] == "UnCLIPScheduler" and prior["prior_num_inference_steps"] == 25


def test_model_arguments_change_the_image(draws):
    plain = draws("SD1.5").draw(PROMPTS, SEEDS, Decoding())
    for args in ({"negative_prompt": "grey"}, {"scheduler": "EulerDiscreteScheduler"}, {"steps": 3}):
        other = draws("SD1.5", **args).draw(PROMPTS, SEEDS, Decoding())
        assert all(a.tobytes() != b.tobytes() for a, b in zip(plain, other, strict=True)), args
    (wide,) = draws("SD1.5", size="24x32").draw(PROMPTS[:1], SEEDS[:1], Decoding())
    assert wide.size == (24, 32)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"num_steps": 3}, "num_steps"),
        ({"prompt": "a cat"}, "prompt"),
        ({"size": "big"}, "WIDTHxHEIGHT"),
        ({"steps": 0}, "num_inference_steps=0"),
        ({"steps": "many"}, "num_inference_steps=many"),
        ({"scheduler": "EulerDiscreetScheduler"}, "did you mean EulerDiscreteScheduler"),
        ({"guidance_scale": True}, "guidance_scale=True"),
        ({"safety_checker": True}, "no safety checker"),
    ],
)
def test_arguments_that_cannot_be_honoured_are_one_line_before_drawing(args, why, draws):
    with pytest.raises(UserError) as error:
        draws("SD1.5", **args).settings(Decoding())
    assert why in error.value.line()


def test_guidance_twice_is_refused(draws):
    with pytest.raises(UserError, match="are the same"):
        draws("SD1.5", guidance_scale=3).settings(Decoding(guidance=2))


def test_sampling_options_are_no_pipelines(draws):
    with pytest.raises(UserError, match="--image-temperature"):
        draws("SD1.5").settings(Decoding(image_temperature=0))


def test_guidance_that_needs_a_negative_prompt_is_not_told_as_if_it_were_in_force(draws):
    told = draws("Qwen-Image").settings(Decoding())
    assert told["guidance"] == told["true_cfg_scale"] == 1.0
    with pytest.raises(UserError, match="negative prompt"):
        draws("Qwen-Image").settings(Decoding(guidance=4))
    guided = draws("Qwen-Image", negative_prompt=" ")
    assert guided.settings(Decoding(guidance=4))["guidance"] == 4.0
    images = [
        m.draw(PROMPTS, SEEDS, Decoding(guidance=g))[0].tobytes() for m, g in ((guided, 4), (draws("Qwen-Image"), None))
    ]
    assert images[0] != images[1]


def test_values_that_are_not_finite_are_errors_and_black_is_an_image(tmp_path):
    import tiny_drawers

    nan, black = (
        registry.load(
            f"diffusers:{tiny_drawers.spoiled(value, tmp_path / str(value))}",
            "official",
            device="cpu",
            model_args={"steps": 2},
        )
        for value in (float("nan"), -1.0)
    )
    assert all(isinstance(one, NotDrawnError) for one in nan.draw(PROMPTS, SEEDS, Decoding()))
    assert all(is_blank(one) for one in black.draw(PROMPTS, SEEDS, Decoding()))


def test_the_safety_checker_is_off_and_recorded_and_a_flagged_image_is_an_error(tmp_path):
    import tiny_drawers
    import torch

    torch.manual_seed(0)
    tiny_drawers.sd15(checked=True).save_pretrained(tmp_path / "checked")
    spec, args = f"diffusers:{tmp_path / 'checked'}", {"steps": 2}
    off = registry.load(spec, "official", device="cpu", model_args=args)
    on = registry.load(spec, "official", device="cpu", model_args={**args, "safety_checker": True})
    assert off.settings(Decoding())["safety_checker"] is False and on.settings(Decoding())["safety_checker"] is True
    assert not any(isinstance(one, Exception) or is_blank(one) for one in off.draw(PROMPTS, SEEDS, Decoding()))
    flagged = on.draw(PROMPTS, SEEDS, Decoding())
    assert all(isinstance(one, NotDrawnError) and "safety checker" in str(one) for one in flagged)


def test_a_folder_of_fp16_files_alone_loads(tiny, tmp_path):
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline.from_pretrained(tiny("SD1.5")).save_pretrained(tmp_path / "half", variant="fp16")
    model = registry.load(f"diffusers:{tmp_path / 'half'}", "official", device="cpu", model_args={"steps": 2})
    assert model.settings(Decoding())["variant"] == "fp16"
    assert not isinstance(model.draw(PROMPTS, SEEDS, Decoding())[0], Exception)


def test_the_dtype_is_the_one_asked_for(draws):
    import torch

    model = draws("SD1.5", dtype="bfloat16")
    (drawn,) = model.draw(PROMPTS[:1], SEEDS[:1], Decoding())
    assert model._load().unet.dtype == torch.bfloat16 and not isinstance(drawn, Exception)
    assert model.settings(Decoding())["dtype"] == model.info.dtype == "bfloat16"


@pytest.mark.parametrize(("family", "bears"), [("SD1.5", "float16"), ("Flux", "float32"), ("PixArt-alpha", "float32")])
def test_the_dtype_by_the_card_and_by_the_pipeline(family, bears, draws, monkeypatch):
    import torch

    model = draws(family)
    model._device = "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert model._torch_dtype() == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert model._torch_dtype() == bears


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("StableDifusionPipeline", "did you mean StableDiffusionPipeline"),
        (["pipeline", "MyPipeline"], "is not run"),
        ("DDPMPipeline", "takes no prompt"),
        ("KandinskyV22Pipeline", "it needs image_embeds"),
    ],
)
def test_a_class_that_does_not_draw_from_a_text_is_one_line(name, why, tiny, tmp_path):
    folder = shutil.copytree(tiny("SD1.5"), tmp_path / "odd")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
    with pytest.raises(UserError) as error:
        registry.load(f"diffusers:{folder}", "official", device="cpu").settings(Decoding())
    assert why in error.value.line()


def test_a_damaged_pipeline_is_one_line(tiny, tmp_path):
    folder = shutil.copytree(tiny("SD1.5"), tmp_path / "cut")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot load the pipeline"):
        registry.load(f"diffusers:{folder}", "official", device="cpu").draw(PROMPTS, SEEDS, Decoding())
    (folder / "model_index.json").write_text("{")
    with pytest.raises(UserError, match="model_index"):
        registry.load(f"diffusers:{folder}", "official")


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(UserError, match="model_index"):
        registry.load(f"diffusers:{tmp_path}", "official")
