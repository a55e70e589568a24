"""Checkpoints, image tokenizers, tiles, templates and the command line."""

import base64
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from armor_model import (
    ArmorError,
    ArmorProcessor,
    ChameleonVQ,
    GenerationSettings,
    ImageTokenizer,
    PatchVQ,
    build_vq,
    bundled,
    generate,
    load,
    preset,
    save,
)
from armor_model.images import tile_grid, tiles, to_images, to_pixels


@pytest.fixture
def checkpoint(pair, tmp_path):
    save(*pair, tmp_path / "model")
    return tmp_path / "model"


def test_round_trip(pair, checkpoint, conversations):
    model, processor = load(checkpoint)
    assert all(torch.equal(v, pair[0].state_dict()[k]) for k, v in model.state_dict().items())
    assert model.config.to_dict().keys() == pair[0].config.to_dict().keys()
    settings = GenerationSettings(max_new_tokens=8, temperature=1.0, force_image=True, max_images=1)
    ours, theirs = (generate(m, p, conversations, settings, [1, 2, 3]) for m, p in (pair, (model, processor)))
    assert [a.tokens for a in ours] == [a.tokens for a in theirs]
    assert all(torch.equal(v, pair[1].vq.state_dict()[k]) for k, v in processor.vq.state_dict().items())
    assert not list(checkpoint.rglob("*.bin"))


def test_single_head_round_trip(make_model, tmp_path):
    model, processor = make_model(heads="single")
    save(model, processor, tmp_path)
    again, _ = load(tmp_path, dtype=torch.bfloat16)
    assert again.config.heads == "single" and again.single_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_from_pretrained_takes_device_map_and_type(pair, checkpoint, conversations, device_map):
    from armor_model import ArmorForConditionalGeneration

    model = ArmorForConditionalGeneration.from_pretrained(
        checkpoint, device_map=device_map, torch_dtype=torch.bfloat16
    ).eval()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and model.device.type == "cpu"
    batch = pair[1].encode(conversations[:1], add_generation_prompt=True)
    with torch.no_grad():
        ours, expected = (m.text_logits(m.backbone(m.embed(batch["input_ids"]))).float() for m in (model, pair[0]))
    assert torch.nn.functional.cosine_similarity(ours, expected, dim=-1).min() > 0.99
    assert generate(model, pair[1], conversations[:1], GenerationSettings(max_new_tokens=3))[0].tokens


def test_a_model_on_several_devices_is_refused(make_model, conversations):
    model, processor = make_model()
    model.visual_head.to("meta")
    with pytest.raises(ArmorError, match="one device; it is on cpu, meta"):
        generate(model, processor, conversations[:1])


def damage_config(folder):
    (folder / "config.json").write_text("{")


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop("visual_head.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def reshape_a_weight(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["visual_head.weight"] = state["visual_head.weight"][:-1].clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def diverge(folder):
    """One value of a checkpoint that a failed training left."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["visual_head.weight"][3, 4] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def other_model(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "internvl"}))


def pointer(file):
    """What a clone without git-lfs leaves."""
    return lambda folder: (folder / file).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )


def damage_vq(folder):
    (folder / "vq" / "model.safetensors").write_bytes(b"nothing")


def drop_tokenizer(folder):
    for file in folder.glob("token*.json"):
        file.unlink()


def other(file, **values):
    """Changes values of a JSON file of the checkpoint; `a__b` is b in the table a."""

    def harm(folder):
        tree = json.loads((folder / file).read_text())
        for path, value in values.items():
            *tables, name = path.split("__")
            node = tree
            for table in tables:
                node = node[table]
            node[name] = value
        (folder / file).write_text(json.dumps(tree))

    return harm


def other_grid(folder):
    for file in ("config.json", "processor_config.json"):
        other(file, image_grid=2)(folder)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (damage_config, "config.json"),
        (other("config.json", text_config__hidden_size="64"), r"config.json cannot be read: .*hidden_size.* int"),
        (other("config.json", heads="triple"), r"heads must be one of \(.*\), not 'triple'$"),
        (other("config.json", image_grid=5), r"processor_config.json: image_grid is 4, 5 in config.json"),
        (other("processor_config.json", vocab_size=9), r"processor_config.json: vocab_size is 9, \d+ in config.json"),
        (other_grid, r"vq is of another model: 4 x 4 codes .* 2 x 2 out of"),
        (truncate, "cannot be loaded"),
        (pickled, "pickle"),
        (drop_a_weight, "visual_head"),
        (reshape_a_weight, "visual_head"),
        (diverge, "visual_head.weight holds NaN or infinity"),
        (other_model, "not an ARMOR checkpoint"),
        (pointer("model.safetensors"), "model.safetensors is a git-lfs pointer"),
        (pointer("vq/model.safetensors"), "vq/model.safetensors is a git-lfs pointer"),
        (damage_vq, "image tokenizer"),
        (drop_tokenizer, "tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_line(checkpoint, harm, says):
    harm(checkpoint)
    with pytest.raises(ArmorError, match=says) as caught:
        load(checkpoint)
    assert "\n" not in str(caught.value)


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(ArmorError, match="no checkpoint folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ArmorError, match="not a checkpoint"):
        load(tmp_path)
    with pytest.raises(ArmorError, match="bundled"):
        bundled("no-such")


def test_patch_vq_is_small_and_patchwise():
    vq = build_vq(preset("armor-nano")).eval()
    assert sum(p.numel() for p in vq.parameters()) == 121_432
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    codes = vq.encode(pixels)
    assert codes.shape == (2, 4, 4) and codes.dtype == torch.long
    changed = pixels.clone()
    changed[:, :, 8:16, 8:16] = 1
    others = torch.ones(4, 4, dtype=torch.bool)
    others[1, 1] = False
    assert torch.equal(vq.encode(changed)[:, others], codes[:, others])
    decoded = vq.decode(codes)
    assert decoded.shape == (2, 3, 32, 32) and decoded.abs().max() <= 1


def test_quantize_takes_the_nearest_entry():
    vq = PatchVQ(codebook_size=16, latent_dim=8)
    latents = vq.codebook.weight[[3, 7]].detach().view(2, 8, 1, 1).expand(-1, -1, 4, 4)
    quantized, codes = vq.quantize(latents + 0.001)
    assert (codes[0] == 3).all() and (codes[1] == 7).all() and torch.equal(quantized.detach(), latents)


def test_chameleon_vq_small():
    vq = ChameleonVQ(image_size=16, codebook_size=32, block_out_channels=(8, 8, 16), latent_dim=8, norm_num_groups=4)
    codes = vq.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    assert codes.shape == (2, 4, 4) and vq.decode(codes).shape == (2, 3, 16, 16)


def test_chameleon_vq_has_the_published_size():
    with torch.device("meta"):
        vq = ChameleonVQ()
    assert (len(vq.state_dict()), sum(p.numel() for p in vq.parameters()), vq.grid) == (293, 68_718_467, 16)


def test_codes_out_of_range(pair):
    vq = pair[1].vq
    for bad in (16, -1):
        with pytest.raises(ArmorError, match="out of range"):
            vq.decode(torch.full((1, 4, 4), bad))
    talk = [{"role": "assistant", "content": [{"type": "image", "codes": [99] * 16}]}]
    with pytest.raises(ArmorError, match="codes must lie in"):
        pair[1].encode([talk])


def test_image_tokenizer_round_trip(tmp_path):
    vq = PatchVQ(codebook_size=16)
    vq.save(tmp_path)
    again = ImageTokenizer.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(vq.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("size", "grid"),
    [((448, 448), (1, 1)), ((896, 448), (4, 2)), ((448, 896), (1, 2)), ((1000, 100), (10, 1)), ((2000, 2000), (3, 3))],
)
def test_tile_grids(size, grid):
    """Aspect ratio first; among equal ratios the larger grid while the picture has over half its pixels."""
    expected = {(896, 448): (2, 1)}.get(size, grid)
    assert tile_grid(*size, 12, 448) == expected


def test_tiles_are_row_by_row_with_a_thumbnail_last():
    image = Image.new("RGB", (896, 448), "red")
    image.paste("blue", (448, 0, 896, 448))
    cut = tiles(image, 448, 12)
    assert cut.shape == (3, 3, 448, 448)
    red = (torch.tensor([1.0, 0, 0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(cut[0].mean((1, 2)), red, atol=1e-3)
    assert cut[1][2].mean() > 2 and tiles(image, 448, 1).shape[0] == 1


def test_pixels_and_back():
    image = Image.new("RGBA", (64, 32), (255, 0, 0, 0))
    assert to_pixels(image, 32).min() == 1  # transparent is white
    red = Image.new("RGB", (32, 32), (200, 10, 30))
    assert abs(to_images(to_pixels(red, 32)[None])[0].getpixel((3, 3))[0] - 200) <= 1


def test_prompt_snapshots(pair, conversations):
    """The exact text that reaches the model."""
    _, processor = pair
    assert processor.render(conversations[1], True) == (
        "<|im_start|>user\n<image>\nwhat is there ?<|im_end|>\n<|im_start|>assistant\n"
    )
    talk = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "draw"},
        {"role": "assistant", "content": [{"type": "text", "text": "it"}, {"type": "image", "codes": [0] * 16}]},
    ]
    assert processor.render(talk) == (
        "<|im_start|>system\na<|im_end|>\n<|im_start|>user\ndraw<|im_end|>\n"
        "<|im_start|>assistant\nit<imgbos>...<imgend><|im_end|>\n"
    )
    official = ArmorProcessor(
        processor.tokenizer,
        type(processor.settings)(**{**vars(processor.settings), "system_prompt": "internvl"}),
        processor.vq,
    )
    text = official.render(conversations[0])
    assert (
        text.startswith("<|im_start|>system\n你是书生·万象，英文名是InternVL")
        and "。<|im_end|>\n<|im_start|>user" in text
    )


def test_supervision(pair):
    """Which head says what: Figure 4, as labels of the position before."""
    model, processor = pair
    c = model.config
    talk = [
        {"role": "user", "content": "draw"},
        {"role": "assistant", "content": [{"type": "text", "text": "it"}, {"type": "image", "codes": list(range(16))}]},
    ]
    batch = processor.encode([talk], supervise=True)
    ids, text, image = (batch[k][0].tolist() for k in ("input_ids", "text_labels", "image_labels"))
    begin, end = ids.index(c.imgbos_id), ids.index(c.imgend_id)
    assert image[begin:end] == [*range(c.first_code_id, c.first_code_id + 16), c.imgend_id]
    assert text[begin - 2 : begin] == [ids[begin - 1], c.imgbos_id]
    assert text[end] == processor.tokenizer.convert_tokens_to_ids("<|im_end|>") == ids[end + 1]
    asked = [t for t, i in zip(text, image, strict=True) if t != -100 and i != -100]
    assert not asked and sum(t != -100 for t in text) == 3 and sum(i != -100 for i in image) == 17
    assert model(**batch).loss.isfinite()


def test_word_tokenizer_keeps_option_letters(tokenizer):
    ids = tokenizer("What is there?\nA. red\n(B) circle\nA picture").input_ids
    assert tokenizer.decode(ids).startswith("what is there?\nA. red\n")
    assert tokenizer.decode(tokenizer("A").input_ids) == "A"
    assert tokenizer.decode(tokenizer("A picture").input_ids) == "a picture"


def test_an_error_without_words_is_told_by_its_kind(checkpoint, monkeypatch):
    """Of a library, an empty message: the line used to end in an IndexError."""
    from transformers import AutoTokenizer

    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(ArmorError, match="cannot be read: NotImplementedError"):
        load(checkpoint)


def run(*arguments, cwd):
    command = [sys.executable, "-m", "armor_model.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_command_line_generates(checkpoint, tmp_path):
    from typer.testing import CliRunner

    from armor_model.cli import app

    out = tmp_path / "o"
    few = ["--max-new-tokens", "4", "--max-images", "1", "--model", str(checkpoint), "--out", str(out), "--draw"]
    done = CliRunner().invoke(app, ["generate", "a red circle", "not it", *few])
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [r["prompt"] for r in records] == ["a red circle", "not it"]
    assert records[0]["parts"][0]["type"] == "image"
    assert Image.open(records[0]["parts"][0]["image"]).size == (32, 32)
    assert done.output.startswith("> a red circle\n[")


def test_command_line_errors_are_one_line(checkpoint, tmp_path):
    (checkpoint / "config.json").write_text("nothing")
    for arguments in (["generate", "a", "--model", checkpoint], ["params", "--config", "internvl2_5-8"]):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "did you mean internvl2_5" in done.stderr


def png(width, height):
    """A PNG's header alone: what a picture of any size claims to be."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (png(0, 0), "not an image"),
        (png(20000, 10000), "megapixels"),
        (png(12000, 10000), "megapixels"),
        (png(64, 64), "damaged"),
        (b"", "not an image"),
    ],
    ids=["no pixels", "200 megapixels", "120 megapixels", "truncated", "empty"],
)
def test_bad_images_by_command_line(checkpoint, tmp_path, content, says):
    from typer.testing import CliRunner

    from armor_model.cli import app

    (tmp_path / "x.png").write_bytes(content)
    few = ["--model", str(checkpoint), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, ["generate", "what is there ?", "--image", str(tmp_path / "x.png"), *few])
    assert isinstance(done.exception, ArmorError) and says in str(done.exception), done.exception
    assert not (tmp_path / "o" / "answers.jsonl").exists()


def test_every_reader_refuses_the_same_images():
    """The model's, the harness's and that of a server's replies: one limit, one error behind each."""
    from armor_eval.models.endpoint import EndpointError
    from armor_eval.models.openai import decoded as of_server
    from armor_model.base.images import BadImageError, decoded
    from armor_model.images import open_image

    def read(data):
        with decoded(data):
            pass

    readers = ((open_image, ArmorError), (read, BadImageError))
    for content, says in (
        (png(12000, 10000), "120 megapixels; the limit is 100"),
        (png(64, 64), "damaged"),
        (b"", "empty"),
    ):
        for reader, error in (*readers, (lambda data: of_server(base64.b64encode(data).decode()), EndpointError)):
            with pytest.raises(error, match=says):
                reader(content)


@pytest.mark.parametrize(("prompt", "says"), [("", "empty"), ("a " * 2000, "context holds 1024")])
def test_bad_prompts_by_command_line(checkpoint, tmp_path, prompt, says):
    from typer.testing import CliRunner

    from armor_model.cli import app

    few = ["--model", str(checkpoint), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, ["generate", prompt, *few])
    assert isinstance(done.exception, ArmorError) and says in str(done.exception)


def test_params_of_a_checkpoint_folder(checkpoint, pair):
    done = run("params", "--config", checkpoint, "--json", cwd=Path.cwd())
    assert json.loads(done.stdout)["total"] == sum(p.numel() for p in pair[0].parameters())


def test_a_checkpoint_says_how_it_is_drawn_with(tmp_path):
    from armor_model.base.errors import UserError
    from armor_model.loading import image_defaults

    file = tmp_path / "generation_config.json"
    assert image_defaults(tmp_path) == {}
    file.write_text('{"use_cache": true, "image_temperature": 0.5, "image_top_k": 9}')
    assert image_defaults(tmp_path) == {"image_temperature": 0.5, "image_top_k": 9}
    for wrong in ('"x"', "true", "-1", "NaN", "[1]"):
        file.write_text(f'{{"image_temperature": {wrong}}}')
        with pytest.raises(UserError, match=r"image_temperature|cannot be read"):
            image_defaults(tmp_path)
    file.write_text('{"image_top_k": 9.5}')
    with pytest.raises(UserError, match=r"image_top_k is 9\.5, not a whole number"):
        image_defaults(tmp_path)
