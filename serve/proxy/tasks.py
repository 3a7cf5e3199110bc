"""Which of a teacher's calls are a task's questions: the one place of the proxy in which a task is chosen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from serve.tasks.classify.completions import asked_in
from serve.tasks.classify.template import prompt_of
from store.event import Task

_CHAT: Final = "/chat/completions"
Beside = Callable[[Mapping[str, Any], str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A task's calls."""

    path: str  # on which the teacher's paths end
    beside: Beside | None = None  # what a row holds beside request and response, by the prompt that clients fill in


def _text(request: Mapping[str, Any], prompt: str) -> Mapping[str, Any]:
    """The text that a client asks about, where its messages are a rendering of the prompt."""
    messages = request.get("messages")
    turns = [turn for turn in messages if isinstance(turn, Mapping)] if isinstance(messages, list) else []
    text = asked_in(turns, prompt_of(prompt, ()))
    return {} if text is None else {"text": text}


TASKS: Final[Mapping[Task, Recorded]] = {
    "classify": Recorded(path=_CHAT, beside=_text),
    "rank": Recorded(path="/rerank"),
    "chat": Recorded(path=_CHAT),
}
