"""A teacher's call as the escalation that it stands for in a lane: pure, but for the lane's keys."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ops.imports.importer import ImportLane, to_event
from ops.readers.files import BadRow
from ops.readers.tasks import read_call
from serve.proxy.tasks import TASKS
from store.answers.rules import NO_RULES, Rules
from store.errors import InvalidAnswerError, TooLaboriousError, WrongShapeError
from store.event import Escalation, Task
from store.secrets import item_id


class UnusableCallError(ValueError):
    """A call that no student can learn from, and why; quotes nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """How a lane takes calls."""

    into: ImportLane
    task: Task
    labels: Sequence[str] = ()
    rules: Rules = NO_RULES
    prompt: str = field(default="", repr=False)  # of the lane's teacher; a task may have none

    def event(self, call: Mapping[str, Any], *, models: Collection[str], now_s: float) -> tuple[Escalation, str]:
        """The escalation of a call, and its item's id.

        Args:
            call: `request` and `response` as they were, with `id` and `time`.
            models: names of the one that answered; none: it is the lane's teacher.
            now_s: when it was, where the call does not say; Unix seconds.

        Raises:
            UnusableCallError: nobody can learn from it.
        """
        if models and self.into.model not in models:
            message = f"it asked another model than the lane's teacher, {self.into.model}"
            raise UnusableCallError(message)
        beside = TASKS[self.task].beside
        request = call.get("request")
        if beside is not None and isinstance(request, Mapping):
            found = beside(request, self.prompt)
            if not found:
                message = "it was asked with another prompt than lanes.teacher.prompt_file"
                raise UnusableCallError(message)
            call = {**call, **found}
        row = read_call(self.task, call, self.labels, self.rules)
        if isinstance(row, BadRow):
            raise UnusableCallError(row.why)
        try:
            event = to_event(row, self.into, now_s if row.time_s is None else row.time_s)
        except (TooLaboriousError, InvalidAnswerError, WrongShapeError) as error:
            raise UnusableCallError(str(error)) from error
        return event, item_id(self.into.lane_key, self.into.rules, event.input)
