"""`armor-model`: build, inspect and talk to a model. Nothing heavy is imported before a command runs.

armor-model generate "draw a red circle" --seed 3 --out images
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import armor_model
from armor_model.base.cli import only_given, run_app
from armor_model.base.devices import choose_device, torch_dtype
from armor_model.base.errors import ArmorError, UserError
from armor_model.base.files import make_folder, write_file
from armor_model.base.help import dressed, program
from armor_model.base.parsing import json_of
from armor_model.base.runtime import quiet_transformers
from armor_model.base.text import visible
from armor_model.loading import find_model, image_defaults
from armor_model.presets import NEW_PARTS, PRESETS, preset_dict, summary

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

app = program("""Build, inspect, serve and talk to a model of text and images.

    armor-model generate "draw a red circle"

    armor-model chat

    armor-model params --config internvl2_5-8b
    """)

Model = Annotated[str | None, typer.Option("--model", help="Checkpoint folder; the bundled armor-nano by default.")]
Device = Annotated[str | None, typer.Option(help="Where the model runs: cpu, cuda, cuda:1; default: what there is.")]
Dtype = Annotated[str | None, typer.Option(help="Type of the weights: float32, bfloat16, float16; default: as saved.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed: same answers; the next ones count on.")]
Tokens = Annotated[int, typer.Option(min=1, help="Most text tokens of an answer; the model's context is the limit.")]
Temperature = Annotated[float, typer.Option(min=0, help="Of the text; 0 takes the most likely token.")]
ImageTemperature = Annotated[
    float | None,
    typer.Option(min=0, help="Of the images; 0 takes the most likely code; default: the checkpoint's, or 1."),
]
Guidance = Annotated[float, typer.Option(min=0, help="Classifier-free guidance of the images; 1 is off.")]
ShardGb = Annotated[float, typer.Option(help="Most gigabytes a file, 0.001 to 1000.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def open_model(model: str | None, device: str | None, dtype: str | None) -> tuple[ArmorModel, ArmorProcessor]:
    """Load a checkpoint for a command, quietly."""
    folder, kind = find_model(model), torch_dtype(dtype)
    quiet_transformers()
    return armor_model.load(folder, device=choose_device(device), dtype=kind)


def shard_bytes(gigabytes: float) -> int:
    """What `--shard-gb` means; typer's own bounds would let a NaN through."""
    if not 0.001 <= gigabytes <= 1000:
        raise UserError(f"--shard-gb must be 0.001 to 1000, not {gigabytes}")
    return int(gigabytes * 1e9)


@app.command()
def generate(
    prompts: Annotated[list[str], typer.Argument(help="One answer each.", metavar="PROMPT...")],
    model: Model = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image to look at, before each prompt; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the images and answers.jsonl.")] = Path("outputs"),
    seed: Seed = 0,
    draw: Annotated[bool, typer.Option(help="Make each answer begin with an image.")] = False,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Allow images in the answer.")] = True,
    max_new_tokens: Tokens = 256,
    max_images: Annotated[int, typer.Option(min=0, help="Most images of an answer.")] = 4,
    temperature: Temperature = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Text tokens kept before sampling; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(max=1, help="Probability kept before sampling, above 0; 1 keeps all.")] = 1.0,
    image_temperature: ImageTemperature = None,
    image_top_k: Annotated[int | None, typer.Option(min=0, help="The same of the images' codes.")] = None,
    image_top_p: Annotated[float | None, typer.Option(max=1, help="The same of the images' codes.")] = None,
    parallel_draw: Annotated[
        int, typer.Option(min=0, help="Codes guessed at a time (e.g. 16): equal images in fewer steps, for a few rows.")
    ] = 0,
    guidance: Guidance = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Most answers under way at once.")] = 64,
    fuse: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the steps; by default where it pays.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as one JSON document.")] = False,
) -> None:
    """Answer prompts with text and images, in order; images become PNG files.

    armor-model generate "draw a red circle" --seed 3 --out images

    armor-model generate "what is this?" --image photo.png --model DIR --json
    """
    if draw and (not images or not max_images):
        raise UserError("--draw begins each answer with an image, which --no-images or --max-images 0 forbids")
    own = image_defaults(find_model(model))
    settings = armor_model.GenerationSettings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        **own | only_given(image_temperature=image_temperature, image_top_k=image_top_k, image_top_p=image_top_p),
        guidance=guidance,
        parallel_draw=parallel_draw,
        allow_images=images,
        max_images=max_images if images else 0,
        force_image=draw,
    )
    folder = make_folder(out)
    network, processor = open_model(model, device, dtype)
    images_seen = [{"type": "image", "image": path} for path in image or []]
    conversations = [[{"role": "user", "content": [*images_seen, {"type": "text", "text": text}]}] for text in prompts]
    seeds = [seed + i for i in range(len(prompts))]
    answers = armor_model.generate(
        network, processor, conversations, settings, seeds, batch_size, compile="auto" if fuse is None else fuse
    )
    records = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        parts = answer.save_parts(folder, f"{i:03d}")
        records.append({"prompt": prompt, "parts": parts, "stats": answer.stats})
        if as_json:
            continue
        typer.echo(visible(f"> {prompt}"))
        for part in parts:
            typer.echo(visible(part.get("text") or f"[{part['image']}]"))
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_file(folder / "answers.jsonl", "".join(lines))
    if as_json:
        typer.echo(json.dumps(records, ensure_ascii=False, indent=1))


@app.command()
def chat(
    model: Model = None,
    out: Annotated[Path, typer.Option(help="Folder for the images and transcript.jsonl.")] = Path("outputs/chat"),
    seed: Seed = 0,
    max_new_tokens: Tokens = 512,
    temperature: Temperature = 0.0,
    image_temperature: ImageTemperature = None,
    guidance: Guidance = 1.0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Talk with a model: text and images in order; /help lists what else can be typed.

    armor-model chat

    armor-model chat --model DIR --device cuda --dtype bfloat16
    """
    where = find_model(model)
    interactive = sys.stdin.isatty()
    if interactive:
        typer.echo(f"loading {where.name} ...", err=True)
    from armor_model.chat import Chat, ImageScreen, graphics, history_file, line_history
    from armor_model.generation import GenerationSettings

    settings = GenerationSettings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        guidance=guidance,
        **image_defaults(where) | only_given(image_temperature=image_temperature),
    )
    folder = make_folder(out)
    talk = Chat(*open_model(model, device, dtype), settings, folder, seed)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text cost a message, not the conversation

    def lines(prompt: str = "") -> Iterator[str]:
        while True:
            try:
                yield input(prompt)
            except (EOFError, KeyboardInterrupt) as end:
                if interactive:
                    typer.echo()  # what comes next begins a line of its own
                if isinstance(end, KeyboardInterrupt):
                    raise
                return

    def show_line(line: str) -> None:
        typer.echo(visible(line))

    if not interactive:
        talk.run(lines(), show_line)
        return
    typer.echo(f"{where.name} on {talk.model.device}. /help lists what can be typed beside messages.")
    with line_history(history_file()):
        talk.run(lines("> "), show_line, ImageScreen(graphics()).show)


@app.command()
def serve(
    model: Model = None,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond loopback a token is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; by default its folder's name.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token; or the environment's ARMOR_SERVE_TOKEN.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most answers under way at once.")] = 8,
    queue: Annotated[int, typer.Option(min=1, help="Most answers that wait; more are refused with 429.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="Longest an answer may take, waiting included.")] = 600,
    temperature: Temperature = 0.0,
    image_temperature: ImageTemperature = None,
    guidance: Guidance = 1.0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Serve a model over HTTP, as OpenAI's clients speak it; a chat page is at /.

    armor-model serve --model DIR --port 8000

    armor-model serve --model DIR --host 0.0.0.0 --token-file token.txt
    """
    folder = find_model(model)
    from armor_model.serve.command import Address, ServeLimits, read_token, run

    address = Address(host, port, read_token(token_file))
    settings = armor_model.GenerationSettings(
        temperature=temperature,
        guidance=guidance,
        **image_defaults(folder) | only_given(image_temperature=image_temperature),
    )
    limits = ServeLimits(batch=batch_size, queue=queue, seconds=seconds)
    address.check()
    network, processor = open_model(model, device, dtype)
    run(address, folder, name or folder.resolve().name, network, processor, settings, limits, typer.echo)


@app.command()
def params(
    config: Annotated[str, typer.Option(help="A named configuration, or a checkpoint folder.")] = "internvl2_5-8b",
    as_json: Json = False,
) -> None:
    """Parameters by part, and what each training stage trains; from the configuration alone.

    armor-model params --config internvl2_5-8b

    armor-model params --config DIR --json
    """
    path = Path(config) / "config.json"
    if not path.is_file() and config in PRESETS:
        # A preset's vocabulary is a guess; where a checkpoint of that name is here, it knows.
        with suppress(ArmorError):
            path = armor_model.bundled(config) / "config.json"
    try:
        settings = json_of(path.read_text()) if path.is_file() else preset_dict(config)
        result = summary(settings)
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError, OSError) as error:
        raise UserError(f"{path} is not an ARMOR configuration: {error}") from error
    if as_json:
        typer.echo(json.dumps({"config": config, **result}, indent=2))
        return
    for name, number in result["parts"].items():
        typer.echo(f"{name:<16} {number:>16,}  {'new' if name in NEW_PARTS else ''}".rstrip())
    typer.echo(f"{'base':<16} {result['base']:>16,}")
    typer.echo(f"{'new':<16} {result['new']:>16,}  {result['new_percent']:.1f} % of the base")
    typer.echo(f"{'total':<16} {result['total']:>16,}")
    for stage, number in result["trained"].items():
        size = result["training_bytes"][stage] / 1e9
        typer.echo(f"{'stage ' + stage:<16} {number:>16,}  trained: {size:.1f} GB of masters, gradients and moments")


@app.command()
def build(
    base: Annotated[str, typer.Option(help="InternVL, Qwen2.5-VL, Qwen3-VL, SmolVLM or Idefics3: folder or hub id.")],
    out: Annotated[Path, typer.Option(help="The new checkpoint's folder.")],
    vqgan: Annotated[
        str | None,
        typer.Option(help="Chameleon's vqgan.ckpt or LlamaGen's vq_ds16_*.pt; without it no image can be drawn."),
    ] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Pixels a side of a drawn image: 256 or 512.")] = 256,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id, where the base's needs code to be run.")
    ] = None,
    adapter_layers: Annotated[int, typer.Option(min=0, help="Blocks of the adapter.")] = 3,
    adapter_init: Annotated[str, typer.Option(help="copy (of the last decoder blocks) or random.")] = "copy",
    heads: Annotated[str, typer.Option(help="switching, or single for the ablation's Normal arm.")] = "switching",
    dtype: Dtype = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the new parameters.")] = 0,
    shard_gb: ShardGb = 4.0,
    system_prompt: Annotated[
        str | None, typer.Option(help="A name the base knows (internvl, none), or a text.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build an ARMOR from published weights, streamed: one tensor is in memory at a time.

    armor-model build --base OpenGVLab/InternVL2_5-8B --vqgan vqgan.ckpt --out armor-8b
    """
    from armor_model.convert import build as builder

    quiet_transformers()
    done = builder.build(
        base,
        vqgan,
        out,
        tokenizer,
        adapter_layers,
        adapter_init,
        heads,
        torch_dtype(dtype),
        seed,
        shard_bytes(shard_gb),
        system_prompt,
        image_size,
    )
    if as_json:
        typer.echo(json.dumps({"out": str(out), **done}, indent=1))
        return
    typer.echo(
        f"{out}: {done['tensors']} tensors in {done['files']} file(s) from the {done['layout']} layout, "
        f"{done['new']:,} new parameters; the template's tokens are the tokenizer's own on "
        f"{done['template_samples']} sample conversations"
    )
    if done["names_left_out"]:
        typer.echo(
            f"left out of the tokenizer, as the embeddings have no row for it: {', '.join(done['names_left_out'])}"
        )
    if not vqgan:
        typer.echo("no --vqgan was given: this checkpoint cannot draw yet")


@app.command("export-internvl", hidden=True)  # its name while there was one base
@app.command("export")
def export_base(
    out: Annotated[Path, typer.Option(help="The plain base's folder.")],
    model: Model = None,
    shard_gb: ShardGb = 4.0,
    as_json: Json = False,
) -> None:
    """Write the text path as a plain checkpoint of its base, for engines that serve one.

    armor-model export --model DIR --out plain
    """
    folder = find_model(model)
    from armor_model.convert.export import export

    quiet_transformers()
    done = export(folder, out, shard_bytes(shard_gb))
    if as_json:
        typer.echo(json.dumps({"out": str(out), **done}, indent=1))
        return
    typer.echo(f"{out}: {done['tensors']} tensors in {done['files']} file(s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the disk is full, 2 wrong input, 130 Ctrl-C, 143 SIGTERM."""
    argv = list(sys.argv[1:] if argv is None else argv)
    again, kept = None, ""
    if argv[:1] == ["chat"]:  # it does not go on where it was
        again, kept = f"a new conversation: {shlex.join(['armor-model', *argv])}", ", answers are kept"
    return run_app(dressed(app, "armor-model"), "armor-model", argv, go_on=again, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
