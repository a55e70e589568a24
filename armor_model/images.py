"""Images in: InternVL's tiles for what the model looks at, and square pixels for the image tokenizer.

Legend: N tiles, H W pixels. Tile rules, sizes and statistics are InternVL2.5's published ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.base.images import BadImageError, opened, tile_grid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def open_image(source: Image.Image | str | Path | bytes, drawn: bool = False) -> Image.Image:
    """An image, its path or its file's content, as RGB over white; `drawn`: as the image tokenizer reads it, see
    `drawn_rgb`. Raises UserError for no image, 0 pixels, or too many."""
    with _reading(source) as image:
        return drawn_rgb(image) if drawn else to_rgb(image)


def image_size(source: str | Path | bytes) -> tuple[int, int]:
    """Width and height of an image, all of whose data was read: a cut file has a fine header. A JPEG's pixels are made
    at an eighth of their size, a third of the time. Raises UserError."""
    with _reading(source) as image:
        width, height = image.size
        image.draft("RGB", (width // 8, height // 8))
        image.load()
    return width, height


@contextmanager
def _reading(source: Image.Image | str | Path | bytes) -> Iterator[Image.Image]:
    """The opened image; what is wrong with it as a UserError that names it."""
    name = str(source) if isinstance(source, str | Path) else "the image"
    try:
        with opened(source) as image:
            yield image
    except FileNotFoundError as error:
        raise UserError(f"no image at {name}") from error
    except BadImageError as error:
        raise UserError(f"{name}: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, with transparent parts over white."""
    image = _eight_bits(image)
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def drawn_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image to learn to draw: upright, and over white as Chameleon's program does it, which blends only where
    something is transparent, in floating point, and truncates."""
    image = _eight_bits(ImageOps.exif_transpose(image))
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    rgba_HW4 = np.asarray(image.convert("RGBA"))
    if (rgba_HW4[..., 3] == 255).all():
        return image.convert("RGB")
    alpha_HW1 = rgba_HW4[..., 3:] / 255.0
    return Image.fromarray(((1 - alpha_HW1) * 255 + alpha_HW1 * rgba_HW4[..., :3]).astype(np.uint8))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey as eight: Pillow's own conversion cuts off at 255, so that all but the darkest is white."""
    if not image.mode.startswith("I"):
        return image
    values_HW = np.asarray(image, dtype=np.int64)
    return Image.fromarray((values_HW.clip(0, 65_535) // 257).astype(np.uint8))


def tiles(image: Image.Image, tile: int, max_tiles: int, thumbnail: bool = True) -> Tensor:
    """An image as normalised tiles (N, 3, tile, tile), row by row; of several, the last is the whole image."""
    columns, rows = tile_grid(image.width, image.height, max_tiles, tile)
    grid = rows * columns
    with_whole = thumbnail and grid > 1
    pixels_NCHW = torch.empty(grid + with_whole, 3, tile, tile)
    resized = image.resize((columns * tile, rows * tile), Image.Resampling.BICUBIC)
    # One buffer, filled and normalised in place: half the time of stacking tiles and permuting them, and bit-equal.
    tiles_RHCW3 = torch.from_numpy(np.array(resized)).view(rows, tile, columns, tile, 3)
    pixels_NCHW[:grid].view(rows, columns, 3, tile, tile).copy_(tiles_RHCW3.permute(0, 2, 4, 1, 3))
    if with_whole:
        whole = image.resize((tile, tile), Image.Resampling.BICUBIC)
        pixels_NCHW[grid].copy_(torch.from_numpy(np.array(whole)).permute(2, 0, 1))
    mean_C11, std_C11 = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels_NCHW.div_(255).sub_(mean_C11).div_(std_C11)


def to_pixels(image: Image.Image, size: int) -> Tensor:
    """An image for the image tokenizer: shortest side to `size`, centre crop at whole pixels, (3, size, size) in
    [-1, 1]; as Chameleon's program does it, whose codes these have to be."""
    image, scale = drawn_rgb(image), size / min(image.size)
    width, height = round(scale * image.width), round(scale * image.height)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.LANCZOS).crop((left, top, left + size, top + size))
    array = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(array / 255 * 2 - 1).permute(2, 0, 1).contiguous()


def to_images(pixels_BCHW: Tensor) -> list[Image.Image]:
    """Pixels in [-1, 1] to images, truncated to whole values as the published decoder does."""
    array = ((pixels_BCHW.detach().float().cpu().clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8)
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in array]
