"""`armor-model`: build, inspect and talk to a model. Nothing heavy is imported before a command runs.

armor-model generate "draw a red circle" --seed 3 --out pictures
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from armor_model.errors import ArmorError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)

Model = Annotated[str | None, typer.Option("--model", help="Checkpoint folder; the bundled armor-nano by default.")]
Device = Annotated[str | None, typer.Option(help="Where to run, e.g. cuda or cpu.")]
Dtype = Annotated[str | None, typer.Option(help="Type of the weights, e.g. bfloat16; by default as saved.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


def find_model(model: str | None) -> Path:
    """The checkpoint folder that `--model` means, looked at before anything heavy is imported."""
    import armor_model
    from armor_model.loading import check_checkpoint

    return check_checkpoint(armor_model.bundled("armor-nano") if model in (None, "armor-nano") else model)


def open_model(model: str | None, device: str | None, dtype: str | None):
    """Load a checkpoint for a command, quietly."""
    folder = find_model(model)
    import torch

    import armor_model
    from armor_model.loading import quiet_transformers

    quiet_transformers()

    if dtype is not None and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ArmorError(f"unknown type {dtype!r}", hint="e.g. float32, bfloat16, float16")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return armor_model.load(folder, device=device, dtype=getattr(torch, dtype) if dtype else None)
    except (RuntimeError, AssertionError) as error:
        raise ArmorError(f"cannot use device {device!r}: {str(error).splitlines()[0]}") from error


def writable(folder: Path) -> Path:
    """The folder, created if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".try").touch()
        (folder / ".try").unlink()
    except OSError as error:
        raise ArmorError(f"cannot write into {folder}: {error.strerror}") from error
    return folder


@app.command()
def generate(
    prompts: Annotated[list[str], typer.Argument(help="One answer each.", metavar="PROMPT...")],
    model: Model = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture to look at, before each prompt; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and answers.jsonl.")] = Path("outputs"),
    seed: Annotated[int, typer.Option(help="Of the first prompt; the next ones count on.")] = 0,
    draw: Annotated[bool, typer.Option(help="Make each answer begin with a picture.")] = False,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Allow pictures in the answer.")] = True,
    max_new_tokens: Annotated[int, typer.Option(help="Most text tokens of an answer.")] = 256,
    max_images: Annotated[int, typer.Option(help="Most pictures of an answer.")] = 4,
    temperature: Annotated[float, typer.Option(help="Of the text; 0 takes the most likely token.")] = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    image_temperature: Annotated[float, typer.Option(help="Of the pictures.")] = 1.0,
    image_top_k: int = 0,
    image_top_p: float = 1.0,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance of the pictures; 1 is off.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Most answers under way at once.")] = 64,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Answer prompts with text and pictures, in order; pictures become PNG files."""
    import armor_model

    find_model(model)
    settings = armor_model.GenerationSettings(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        image_temperature=image_temperature, image_top_k=image_top_k, image_top_p=image_top_p, guidance=guidance,
        allow_images=images, max_images=max_images if images else 0, force_image=draw,
    )  # fmt: skip
    folder = writable(out)
    network, processor = open_model(model, device, dtype)
    looks = [{"type": "image", "image": path} for path in image or []]
    conversations = [[{"role": "user", "content": [*looks, {"type": "text", "text": text}]}] for text in prompts]
    seeds = [seed + i for i in range(len(prompts))]
    answers = armor_model.generate(network, processor, conversations, settings, seeds, batch_size)
    records = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        typer.echo(f"> {prompt}")
        parts = save_parts(answer.parts, folder, f"{i:03d}")
        records.append({"prompt": prompt, "parts": parts, "stats": answer.stats})
        for part in parts:
            typer.echo(part.get("text") or f"[{part['image']}]")
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    (folder / "answers.jsonl").write_text("".join(lines))


def save_parts(parts: list, folder: Path, stem: str) -> list[dict[str, str]]:
    """Write an answer's pictures as `<stem>-<n>.png`; the parts in order, pictures by their path."""
    saved: list[dict[str, str]] = []
    for n, part in enumerate(parts):
        if isinstance(part, str):
            saved.append({"type": "text", "text": part})
        else:
            path = folder / f"{stem}-{n}.png"
            part.save(path)
            saved.append({"type": "image", "image": str(path)})
    return saved


@app.command()
def params(
    config: Annotated[str, typer.Option(help="A named configuration, or a checkpoint folder.")] = "internvl2_5-8b",
    as_json: Json = False,
) -> None:
    """Parameters by part, and what each training stage trains; from the configuration alone."""
    from armor_model.params import NEW_PARTS, summary
    from armor_model.presets import preset_dict

    path = Path(config) / "config.json"
    try:
        settings = json.loads(path.read_text()) if path.is_file() else preset_dict(config)
        result = summary(settings)
    except (KeyError, ValueError, TypeError) as error:
        raise ArmorError(f"{path} is not an ARMOR configuration: {error}") from error
    if as_json:
        typer.echo(json.dumps({"config": config, **result}, indent=2))
        return
    for name, number in result["parts"].items():
        typer.echo(f"{name:<16} {number:>16,}  {'new' if name in NEW_PARTS else ''}".rstrip())
    typer.echo(f"{'InternVL':<16} {result['internvl']:>16,}")
    typer.echo(f"{'new':<16} {result['new']:>16,}  {result['new_percent']:.1f} % of InternVL")
    typer.echo(f"{'total':<16} {result['total']:>16,}")
    for stage, number in result["trained"].items():
        typer.echo(f"{'stage ' + stage:<16} {number:>16,}  trained")


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, Ctrl-C is 130."""
    try:
        app()
    except ArmorError as error:
        typer.echo(f"armor-model: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("armor-model: interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
