"""`--judge replies:FILE`: replies that were recorded elsewhere; nothing is asked.

One JSON object a line: `item` (the suite's id of it), `sample` (from 0, default 0), `probe` (its id) or `question` (its
text), `reply` (the answer; for probabilities the likeliest first token), `p` (probability mass) and, once for all,
`judge` (who said it). A run's folder is read too: its items' own replies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.tasks.suites.judges import Reading, Shown
from armor_eval.tasks.suites.rows import file_rows
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file
from armor_model.base.jsons import JsonObject


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    item: str
    sample: int = Field(default=0, ge=0)
    probe: str | None = None
    question: str | None = None
    reply: str = ""
    p: float | None = Field(default=None, ge=0, le=1 + 1e-6)
    judge: str | None = None


class RecordedJudge:
    """Replies by (item, sample, probe or question)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        source = path / "items.jsonl" if path.is_dir() else path
        self._known: dict[tuple[str, int, str], _Line] = {}
        names = set()
        for line in _run_lines(path) if path.is_dir() else (row for _, row in file_rows(_Line, path, "the replies")):
            names |= {line.judge} if line.judge is not None else set()
            for key in {one for one in (line.probe, line.question) if one is not None}:
                self._known[line.item, line.sample, key] = line
        if not self._known:
            raise UserError(
                f"{path} holds no replies", "expected one JSON object a line: item, probe or question, reply"
            )
        if len(names) > 1:
            raise UserError(f"{path} holds replies of several judges: {', '.join(sorted(names))}", "give a file each")
        self.info = JudgeInfo(name=next(iter(names), path.stem), version=sha256_file(source)[:16], endpoint="recorded")
        self.settings: JsonObject = {}
        self.facts: JsonObject = {}

    def prepare(self, kind: str) -> None:
        if kind == "vqa_prob" and all(line.p is None for line in self._known.values()):
            raise UserError(f"{self._path} holds no probabilities", "this suite reads `p`, the first tokens' mass")

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        return [self._readings(one, needs_p=True) for one in shown]

    def replies(self, shown: Sequence[Shown], max_new_tokens: int) -> list[list[Reading] | Exception]:
        return [self._readings(one, needs_p=False) for one in shown]

    def _readings(self, one: Shown, needs_p: bool) -> list[Reading] | Exception:
        readings = []
        for ask in one.asks:
            keys = ((one.item.id, one.sample, word) for word in (ask.probe.id, ask.probe.text, ask.text))
            line = next((self._known[key] for key in keys if key in self._known), None)
            if line is None or (needs_p and line.p is None):
                return LookupError(f"no reply is recorded for question {ask.probe.id}")
            log_p = None if line.p is None else math.log(line.p) if line.p > 0 else -math.inf
            readings.append(Reading(line.reply, log_p))
        return readings

    def close(self) -> None: ...


def load(rest: str, profile: Profile, **_: object) -> RecordedJudge:
    return RecordedJudge(Path(rest).expanduser())


def _run_lines(folder: Path) -> Iterator[_Line]:
    """The replies that a run of a suite holds."""
    from armor_eval.runs.bundle import read_bundle

    run, items, _ = read_bundle(folder)
    soft = run.scorer.settings.get("kind") == "vqa_prob"
    for item in items:
        name, _, sample = item.id.rpartition("/")
        for probe in item.extras.get("probes", ()):
            yield _Line(
                item=name,
                sample=int(sample),
                probe=probe["id"],
                reply=probe["reply"],
                p=probe["value"] if soft else None,
                judge=run.judge.name,
            )
