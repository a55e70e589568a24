"""`armor-eval reward`: the GenEval judge on loopback, for trainers that learn to draw from its scores."""

from __future__ import annotations

from typing import Annotated

import typer

from armor_eval.cli import common
from armor_eval.cli.geneval import ClipWeights, Detector, DetectorBatch, DetectorWeights


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
    common.need_server("reward", "serve")
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
    common.serve(app, port, "/reward")
