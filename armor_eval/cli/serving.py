"""`armor-eval view` and `reward`, which serve on loopback: runs in a browser, and GenEval's judge for trainers."""

from __future__ import annotations

import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.cli import common
from armor_eval.cli.geneval import ClipWeights, Detector, DetectorBatch, DetectorWeights
from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette


def view(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or folders that hold some; default runs.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine only; 0 takes a free one.")] = 8765,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the TSV files, for question images; default: $LMUData.")
    ] = None,
) -> None:
    """Serve a sortable table of all runs and the page of each, until Ctrl-C; nothing leaves this machine.

    armor-eval view runs
    """
    from armor_eval.report.serve import Library, make_app

    need_server("view", "view")
    common.quiet_libraries()
    roots = runs or [Path("runs")]
    for root in roots:
        if not root.is_dir():
            raise UserError(f"no such folder: {root}", "give the folder that measuring commands wrote to (--out)")
    serve(make_app(Library(roots, data)), port)


def reward(
    profile: Annotated[str, typer.Option(help="official, or shapes (embedded).")] = "official",
    detector: Detector = None,
    detector_weights: DetectorWeights = None,
    clip_weights: ClipWeights = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch missing weights into the cache.")] = False,
    detector_batch: DetectorBatch = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: what there is.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine only; 0 takes a free one.")] = 8766,
    max_images: Annotated[int, typer.Option(min=1, help="Images of one batch.")] = 128,
) -> None:
    """Judge batches of images over HTTP: POST /reward with {"images": [base64], "metadata": [GenEval's records]}.

    Answers {"scores": [0 to 1], "strict": [0 or 1], "reasons": [...]}, verdicts as `armor-eval geneval` gives them.

    armor-eval reward --profile shapes

    armor-eval reward --detector-weights mask2former.pth --clip-weights ViT-L-14.pt --device cuda
    """
    need_server("reward", "serve")
    from armor_eval.profiles import choose_profile
    from armor_eval.tasks.geneval.colors import load_colors
    from armor_eval.tasks.geneval.detectors import load_detector
    from armor_eval.tasks.geneval.prompts import load_vocabulary
    from armor_eval.tasks.geneval.reward import Limits, Reward, make_app
    from armor_eval.tasks.geneval.verdicts import Rules
    from armor_model.base.devices import check_device

    common.quiet_libraries()
    chosen = choose_profile(profile, None)
    vocabulary, where = load_vocabulary(chosen.name), check_device(device) if device else common.default_device()
    kind = common.detector_name(detector, chosen.detector)
    judge = load_detector(
        kind, vocabulary, weights=detector_weights, download=download, device=str(where), batch=detector_batch
    )
    colors = load_colors(vocabulary, weights=clip_weights, download=download, device=str(where))
    judge.self_check(Rules())
    app = make_app(Reward(vocabulary, judge, colors, limits=Limits(images=max_images)))
    serve(app, port, "/reward")


def need_server(command: str, extra: str) -> None:
    """UserError, before anything is loaded, where the packages of a server are not installed."""
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise UserError(f"{command} needs {name}", f"pip install 'armor-eval[{extra}]'")


def serve(app: Starlette, port: int, path: str = "/") -> None:
    """Serve on loopback until Ctrl-C; the address goes to standard output. UserError for a port that is taken."""
    import uvicorn

    from armor_model.serve.command import IDLE_SECONDS

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used: {error.strerror}", "give another --port, or 0") from error
        common.write(f"http://127.0.0.1:{listening.getsockname()[1]}{path} - Ctrl-C ends it")
        sys.stdout.flush()
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, lifespan="off", timeout_keep_alive=IDLE_SECONDS
        )
        uvicorn.Server(config).run([listening])
