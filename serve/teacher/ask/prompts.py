"""What a prompt file may hold, and what of the settings shapes an answer beside it: task by task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import Template
from typing import Any, Final, Literal

from store.event import Task

TeacherKind = Literal["chat", "rerank"]
CHAT: Final = "chat"  # a language model with a prompt; a reranker has none


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """Of what is filled in."""

    needed: tuple[str, ...]
    allowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For a message."""
        needed = " and ".join(f"${name}" for name in self.needed)
        allowed = " or ".join(f"${name}" for name in self.allowed)
        return f"{needed}, may hold {f'{allowed} and ' if allowed else ''}nothing else"


TASKS: Final[Mapping[Task, _Names]] = {
    "classify": _Names(needed=("text",), allowed=("labels",)),
    "rank": _Names(needed=("query", "documents")),
}


def wrong_prompt(prompt: str, task: Task) -> str | None:
    """What is wrong with a task's prompt: a place-holder is missing, or nobody fills it; None: nothing."""
    names = TASKS.get(task)
    if names is None:
        return None
    template = Template(prompt)
    found = set(template.get_identifiers())
    known = {*names.needed, *names.allowed}
    if not template.is_valid() or not found.issuperset(names.needed) or found - known:
        return f"needs {names}; a dollar sign is written $$"
    return None


_BESIDE: Final[Mapping[tuple[Task, str], Callable[[int], Mapping[str, Any]]]] = {
    ("rank", "chat"): lambda window_documents: {"window_documents": window_documents},
    ("rank", "rerank"): lambda _: {"kind": "rerank"},
}


def shaped_beside(task: Task, kind: TeacherKind, *, window_documents: int) -> Mapping[str, Any] | None:
    """What `store.answers.prompt.prompt_version` takes beside prompt, model and parameters; None: nothing."""
    found = _BESIDE.get((task, kind))
    return None if found is None else found(window_documents)
