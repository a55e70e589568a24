"""A conversation on the terminal: text and pictures in order, the pictures as PNG files.

Drawn pictures stay in the history as codes.

armor-model chat --seed 1
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_model.base.errors import ArmorError, UserError
from armor_model.images import open_image

if TYPE_CHECKING:
    from armor_model.generation import GenerationSettings
    from armor_model.modeling import ArmorForConditionalGeneration
    from armor_model.processing import ArmorProcessor

HELP = "/image PATH  show a picture with the next message    /reset  start again    /quit  leave"


@dataclass
class Chat:
    """One conversation. Its answers follow from the seed, the messages and the settings alone."""

    model: ArmorForConditionalGeneration
    processor: ArmorProcessor
    settings: GenerationSettings
    out: Path
    """Where pictures and transcript.jsonl go."""
    seed: int = 0
    """Of the first answer; the next ones count on."""
    history: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[Path] = field(default_factory=list)
    """Pictures for the next message."""
    turn: int = 0
    earlier: int = 0
    """Turns that the folder's transcript holds already; file names count on from there."""

    def __post_init__(self) -> None:
        transcript = self.out / "transcript.jsonl"
        if transcript.exists():
            self.earlier = len(transcript.read_text().splitlines())

    def show(self, path: str) -> str:
        """Attach a picture to the next message."""
        if not path.strip():
            raise UserError("/image needs the path of a picture")
        file = Path(path.strip().strip("'\"")).expanduser()
        open_image(file)
        self.waiting.append(file)
        return f"[{file} goes with the next message]"

    def reset(self) -> str:
        """Forget the conversation; the seed goes on counting."""
        self.history, self.waiting = [], []
        return "[a new conversation]"

    def say(self, text: str) -> list[str]:
        """Send a message; the answer's texts and picture paths, in order. A refused one leaves no trace."""
        from armor_model.cli import save_parts
        from armor_model.generation import generate

        pictures = [{"type": "image", "image": str(file)} for file in self.waiting]
        message = {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}
        if not text.strip():
            raise UserError("the prompt is empty")
        talk = [*self.history, message]
        [answer] = generate(self.model, self.processor, [talk], self.settings, [self.seed + self.turn])
        self.turn += 1
        self.waiting = []
        parts = save_parts(answer.parts, self.out, f"turn-{self.earlier + self.turn:03d}")
        self.history = [*talk, answer.message()]
        record = {"user": text, "images": [p["image"] for p in pictures], "parts": parts, "stats": answer.stats}
        with (self.out / "transcript.jsonl").open("a") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return [part.get("text") or f"[{part['image']}]" for part in parts] or ["[an empty answer]"]

    def run(self, lines: Iterable[str], tell: Callable[[str], None]) -> None:
        """Serve lines until they end or say /quit. A mistake costs one line, not the conversation."""
        for line in lines:
            line = line.strip()
            command, _, rest = line.partition(" ")
            try:
                if command in ("/quit", "/exit"):
                    return
                if command == "/image":
                    tell(self.show(rest))
                elif command == "/reset":
                    tell(self.reset())
                elif command.startswith("/"):
                    tell(HELP)
                elif line:
                    for part in self.say(line):
                        tell(part)
            except ArmorError as error:
                tell(f"! {error}")
