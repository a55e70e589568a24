"""One engine measures everything; what differs is a Task."""

from armor_eval.engine.run import Finished, Processes, Settings, evaluate, join_processes, read_finished
from armor_eval.engine.task import Begins, Conversation, Described, Outcome, Prompt, Ready, Task, Unit

__all__ = [
    "Begins",
    "Conversation",
    "Described",
    "Finished",
    "Outcome",
    "Processes",
    "Prompt",
    "Ready",
    "Settings",
    "Task",
    "Unit",
    "evaluate",
    "join_processes",
    "read_finished",
]
