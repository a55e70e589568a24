"""A conversation on the terminal: text and images in order, the images as PNG files.

Drawn images stay in the history as codes.

armor-model chat --seed 1
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from armor_model.base.errors import ArmorError, UserError
from armor_model.base.jsons import JsonObject
from armor_model.images import open_image

if TYPE_CHECKING:
    from armor_model.generation import GenerationSettings
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

HELP = "/image PATH  show an image with the next message    /reset  start again    /quit  leave"


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
        self.history, self.waiting = [], []
        return "[a new conversation]"

    def say(self, text: str) -> list[str]:
        """Send a message; the answer's texts and image paths, in order. A refused one leaves no trace."""
        from armor_model.generation import generate

        images = [{"type": "image", "image": str(file)} for file in self.waiting]
        message = {"role": "user", "content": [*images, {"type": "text", "text": text}]}
        if not text.strip():
            raise UserError("the prompt is empty")
        conversation = [*self.history, message]
        seeds = [self.seed + self.turn]
        [answer] = generate(self.model, self.processor, [conversation], self.settings, seeds, prefixes=self.prefixes)
        self.turn += 1
        self.waiting = []
        parts = answer.save_parts(self.out, f"turn-{self.earlier + self.turn:03d}")
        self.history = [*conversation, answer.message()]
        record = {"user": text, "images": [p["image"] for p in images], "parts": parts, "stats": answer.stats}
        with (self.out / "transcript.jsonl").open("a") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return [part.get("text") or f"[{part['image']}]" for part in parts] or ["[an empty answer]"]

    def run(self, lines: Iterable[str], show_line: Callable[[str], None]) -> None:
        """Serve lines until they end or say /quit. A mistake costs one line, not the conversation."""
        for line in lines:
            line = line.strip()
            command, _, rest = line.partition(" ")
            try:
                if command in ("/quit", "/exit"):
                    return
                if command == "/image":
                    show_line(self.show(rest))
                elif command == "/reset":
                    show_line(self.reset())
                elif command.startswith("/"):
                    show_line(HELP)
                elif line:
                    for part in self.say(line):
                        show_line(part)
            except ArmorError as error:
                show_line(f"! {error}")
