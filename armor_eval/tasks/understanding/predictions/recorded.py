"""Judge replies that were recorded with the answers, given again as a judge: read by the same rules, never asked."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from armor_eval.runs.schema import JudgeInfo
from armor_eval.tasks.families import FAMILIES
from armor_eval.tasks.families.base import Judged, Request
from armor_eval.tasks.understanding.judge import read_reply


@dataclass
class _InTurn(Judged):
    """Replies in the order of their rows: two rows may ask in equal words and have been judged differently."""

    queues: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))

    def generate(self, prompt: str, **settings: object) -> str:
        queue = self.queues[prompt]
        return queue.popleft() if len(queue) > 1 else queue[0]


class RecordedJudge:
    """Says what a judge once said of each row; a row without a reply, or with one that cannot be read, has failed."""

    def __init__(self, replies: Mapping[str, str], name: str, run: int | None = None) -> None:
        self._replies = replies
        self.info = JudgeInfo(name=name, version=None if run is None else f"judging {run}", endpoint="recorded")

    def judge(self, requests: Sequence[Request], done: Callable[[int], None] | None = None) -> Judged:
        judged = _InTurn()
        by_prompt: dict[str, set[str]] = defaultdict(set)
        for request in requests:
            reply = self._replies.get(request.id)
            usable = None if reply is None else read_reply(request, reply)
            if reply is None or usable is None:
                shown = "none recorded" if reply is None else f"unreadable: {' '.join(reply.split())[:120]!r}"
                judged.failed[request.id] = f"judge: {shown}"
                continue
            by_prompt[request.prompt].add(usable)
            judged.replies[request.prompt] = judged.usable[request.id] = usable
            judged.raw[request.id] = reply
            judged.queues[request.prompt].append(usable)
        for request in requests:
            # VLMEvalKit asks a graded row once and in the file's order; of a choice it may ask in another.
            if not FAMILIES[request.kind].always_judged and len(by_prompt[request.prompt]) > 1:
                judged.usable.pop(request.id, None)
                judged.failed[request.id] = "judge: equal words were judged differently"
        return judged

    def close(self) -> None:
        """Nothing is held."""
