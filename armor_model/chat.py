"""A conversation on the terminal: text and images in order, the images as PNG files.

A drawn image enters the history twice. Its codes stay where the model said them: that is the turn as it happened, what
dialogues are trained on, and what a follow-up ("make it blue") changes. And the next message begins with it as an
image to look at, through the vision tower: questions about images are learned from images that are shown, and codes of
one's own alone say little. Of 60 questions about 20 own drawings armor-nano's first release, which was taught single
turns, answered 24 with the codes, 52 with both (docs/serving.md); the present one is taught conversations with both.

armor-model chat --seed 1
pip install 'armor-eval[chat]'    # images on the terminal: kitty, iTerm2, WezTerm and others with sixels
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from armor_model.base.cache import cache_dir
from armor_model.base.errors import ArmorError, UserError
from armor_model.base.files import whole_file, write_file
from armor_model.base.jsons import JsonObject
from armor_model.images import open_image

if TYPE_CHECKING:
    from PIL import Image
    from textual_image.renderable import SixelImage, TGPImage

    from armor_model.generation import GenerationSettings
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

HELP = """\
/image PATH   show an image with the next message
/save FILE    write the conversation as JSON: messages, images by path, codes
/reset        forget the conversation, and begin a new one
/help         this list
/quit         leave (or Ctrl-D)
Anything else is said to the model. Each answer, its images too, is kept in the folder of --out."""

ROOM = 64
"""Least text tokens that an answer has room for: with less of the context left, the oldest turns are forgotten."""


@dataclass(frozen=True)
class Answered:
    """What came of a message."""

    parts: list[dict[str, str]]
    """Texts, and images by the path of their file."""
    forgotten: int
    """Turns that had to go from the conversation."""
    cut: bool
    """Whether the answer ended for its length alone."""


@dataclass
class Chat:
    """One conversation. Its answers follow from the seed, the messages and the settings alone."""

    model: ArmorModel
    processor: ArmorProcessor
    settings: GenerationSettings
    out: Path
    """Where images and transcript.jsonl go."""
    seed: int = 0
    """Of the first answer; the next ones count on."""
    history: list[JsonObject] = field(default_factory=list)
    waiting: list[Path] = field(default_factory=list)
    """Images for the next message."""
    drawn: list[Path] = field(default_factory=list)
    """Images of the last answer, which the next message shows."""
    turn: int = 0
    earlier: int = 0
    """Turns that the folder's transcript holds already; file names count on from there."""

    def __post_init__(self) -> None:
        from armor_model.generation import PrefixCache

        self.prefixes = PrefixCache()
        transcript = self.out / "transcript.jsonl"
        if transcript.exists():
            self.earlier = len(transcript.read_text().splitlines())

    def show(self, path: str) -> str:
        """Attach an image to the next message."""
        if not path.strip():
            raise UserError("/image needs the path of an image")
        file = Path(path.strip().strip("'\"")).expanduser()
        open_image(file)
        self.waiting.append(file)
        return f"[{file} goes with the next message]"

    def reset(self) -> str:
        """Forget the conversation; the seed goes on counting."""
        self.history, self.waiting, self.drawn = [], [], []
        return "[a new conversation]"

    def save(self, name: str) -> str:
        """Write the conversation to a new file."""
        if not name.strip():
            raise UserError("/save needs the name of a file")
        file = Path(name.strip().strip("'\"")).expanduser()
        if file.exists():
            raise UserError(f"{file} is there already")
        if not file.parent.is_dir():
            raise UserError(f"there is no folder {file.parent}")
        write_file(file, json.dumps(self.history, ensure_ascii=False, indent=1) + "\n")
        return f"[the conversation is in {file}]"

    def say(self, text: str) -> Answered:
        """Send a message; the answer's texts and image paths, in order. A refused one leaves no trace."""
        from armor_model.generation import generate

        if not text.strip():
            raise UserError("the prompt is empty")
        shown = [{"type": "image", "image": str(file)} for file in [*self.drawn, *self.waiting]]
        message: JsonObject = {"role": "user", "content": [*shown, {"type": "text", "text": text}]}
        conversation, forgotten = self._fitting([*self.history, message])
        seeds = [self.seed + self.turn]
        [answer] = generate(self.model, self.processor, [conversation], self.settings, seeds, prefixes=self.prefixes)
        self.turn += 1
        parts = answer.save_parts(self.out, f"turn-{self.earlier + self.turn:03d}")
        said = answer.message()
        # images by path, as they were saved: their codes are what the model reads
        said["content"] = [{**part, **saved} for part, saved in zip(said["content"], parts, strict=True)]
        self.history = [*conversation, said]
        record = {
            "user": text,
            "images": [str(file) for file in self.waiting],
            "parts": parts,
            "stats": answer.stats,
            "forgotten": forgotten,
        }
        self.waiting = []
        self.drawn = [Path(part["image"]) for part in parts if part["type"] == "image"]
        with (self.out / "transcript.jsonl").open("a") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return Answered(parts, forgotten, answer.stats["finish"] == "length")

    def _fitting(self, conversation: list[JsonObject]) -> tuple[list[JsonObject], int]:
        """The conversation without the oldest turns that leave an answer no room, and how many those are."""
        needed = min(ROOM, self.settings.max_new_tokens)
        if self.settings.images:
            needed += self.processor.codes_per_image + 2
        forgotten = 0
        while len(conversation) > 1 and self._tokens(conversation) + needed > self.context:
            conversation, forgotten = conversation[2:], forgotten + 1
        return conversation, forgotten

    def _tokens(self, conversation: list[JsonObject]) -> int:
        return len(self.processor.encode_one(conversation, add_generation_prompt=True).ids)

    @property
    def context(self) -> int:
        """Most tokens of a conversation and its answer."""
        return self.model.config.text_config.max_position_embeddings

    def run(
        self,
        lines: Iterable[str],
        show_line: Callable[[str], None],
        show_image: Callable[[Path], Path] = lambda path: path,
    ) -> None:
        """Serve lines until they end or say /quit. A mistake costs one line, not the conversation.

        Args:
            lines: what a person types.
            show_line: takes a line of an answer, or about it; text of the model is not yet made visible.
            show_image: shows a drawn image, and gives the file that is to be named.
        """
        commands = {"/image": self.show, "/save": self.save, "/reset": lambda _: self.reset(), "/help": lambda _: HELP}
        for line in lines:
            line = line.strip()
            command, _, rest = line.partition(" ")
            try:
                if command in ("/quit", "/exit"):
                    return
                if command in commands:
                    show_line(commands[command](rest))
                elif command.startswith("/"):
                    show_line(f"! there is no {command}; /help lists the commands")
                elif line:
                    self._show(self.say(line), show_line, show_image)
            except ArmorError as error:
                show_line(f"! {error}")

    def _show(self, answered: Answered, show_line: Callable[[str], None], show_image: Callable[[Path], Path]) -> None:
        if answered.forgotten:
            turns = "the oldest turn is" if answered.forgotten == 1 else f"the {answered.forgotten} oldest turns are"
            show_line(f"[{turns} forgotten: the model's context holds {self.context:,} tokens]")
        for part in answered.parts:
            show_line(part["text"] if part["type"] == "text" else f"[{show_image(Path(part['image']))}]")
        if not answered.parts:
            show_line("[an empty answer]")
        if answered.cut:
            show_line("[cut: the answer reached --max-new-tokens or the end of the context]")


# ---- a person's terminal: lines typed before, and images where it can show them

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
