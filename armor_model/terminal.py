"""A person's terminal: lines typed before, and images where it can show them.

pip install 'armor-eval[chat]'    # images in kitty, iTerm2, WezTerm and other terminals with sixels
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from armor_model.base.cache import cache_dir
from armor_model.base.files import whole_file
from armor_model.images import open_image

if TYPE_CHECKING:
    from PIL import Image
    from textual_image.renderable import SixelImage, TGPImage

HISTORY_LINES = 1000
LARGE_SIDE = 256
"""Pixels a side up to which a small drawing is enlarged, by a whole number: 32 pixels are a speck on a screen."""


def history_file() -> Path:
    """Where chat keeps the lines typed."""
    return cache_dir() / "chat-history"


@contextmanager
def line_history(file: Path) -> Iterator[None]:
    """Arrow keys and Ctrl-R reach the lines typed before; `file` keeps them, for its owner alone. What cannot be kept
    is not, and nothing is said of it: the conversation does not need it."""
    try:
        import readline
    except ImportError:  # a Python without it
        yield
        return
    kept = False
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        file.chmod(0o600)
        readline.read_history_file(file)
        kept = True
    readline.set_history_length(HISTORY_LINES)
    before = readline.get_current_history_length()
    try:
        yield
    finally:
        if kept:
            with suppress(OSError):  # appended: two conversations at once keep the lines of both
                readline.append_history_file(readline.get_current_history_length() - before, file)


def graphics() -> type[TGPImage | SixelImage] | None:
    """What draws images on this terminal: kitty's protocol or sixels; None where it has neither, or the `chat` extra is
    not installed. Asks the terminal, so only where a person sits at both ends."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        return None
    if not all(os.get_terminal_size(sys.stdout.fileno())):  # of no size: the library divides by it
        return None
    try:
        from textual_image.renderable import Image, SixelImage, TGPImage
    except ImportError:
        return None
    return Image if issubclass(Image, SixelImage | TGPImage) else None


class ImageScreen:
    """Shows images to a person: on the terminal, else as an enlarged PNG beside the small one.

    Args:
        renderable: what draws on the terminal; None writes files.
    """

    def __init__(self, renderable: type[TGPImage | SixelImage] | None) -> None:
        self._renderable = renderable

    def show(self, path: Path) -> Path:
        """Show an image; the file to name for it."""
        small = open_image(path)
        image = enlarged(small)
        if self._renderable is not None:
            from rich.console import Console

            Console().print(self._renderable(image))
        elif image is not small:
            path = path.with_name(f"{path.stem}-large.png")
            with whole_file(path) as draft:
                image.save(draft)
        return path


def enlarged(image: Image.Image) -> Image.Image:
    """The image, its pixels as squares, at least LARGE_SIDE wide or high."""
    factor = -(-LARGE_SIDE // max(image.size))
    return image if factor == 1 else image.resize((image.width * factor, image.height * factor), 0)
