"""A conversation in a log: every turn that the assistant was shown, in the shapes that exports have."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ops.readers.chats import INNER_QUESTIONS, opened, role_of, text_in
from store.event import Message

_ROLES: Final[Mapping[str, str]] = {
    **{name: name for name in ("system", "developer", "user", "assistant", "tool", "function")},
    "human": "user",
    "gpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_SYSTEM: Final = ("system", "system_instruction", "systemInstruction", "instructions")
_DEEPEST: Final = 6


def conversation_of(value: Any) -> list[Message] | None:
    """The turns of a request, up to the last one that the assistant did not say; None: there is none.

    A text alone is a user's turn. Of a row that ends with the assistant's answer (fine-tuning data) it is left out.
    """
    if isinstance(value, str) and opened(value) is value:
        return [Message(role="user", content=value)] if value.strip() else None
    found = _turns(value, 0)
    if found is None:
        return None
    while found and found[-1].role == "assistant":
        found.pop()
    return found if any(one.role == "user" for one in found) else None


def request_of(value: Any) -> Mapping[str, Any]:
    """The request around the turns, with what it says beside them; empty: there is none."""
    for _ in range(_DEEPEST):
        value = opened(value)
        if not isinstance(value, Mapping):
            break
        if "messages" in value:
            return value
        value = next((value[name] for name in INNER_QUESTIONS if name in value), None)
    return {}


def _turns(value: Any, depth: int) -> list[Message] | None:
    value = opened(value)
    if depth > _DEEPEST or value is None:
        return None
    if isinstance(value, Mapping):
        return _read([value]) if role_of(value) else _within(value, depth)
    if isinstance(value, list) and value and isinstance(value[0], list):  # a batch of one
        return _turns(value[0], depth + 1)
    if isinstance(value, list) and all(isinstance(turn, Mapping) and role_of(turn) for turn in value):
        return _read(value)
    return [Message(role="user", content=value)] if isinstance(value, str) and depth and value.strip() else None


def _within(value: Mapping[str, Any], depth: int) -> list[Message] | None:
    """The turns in a request, with the system prompt that stands beside them."""
    inner = next(
        (turns for name in INNER_QUESTIONS if name in value and (turns := _turns(value[name], depth + 1))), None
    )
    system = next((text for name in _SYSTEM if (text := _system(value.get(name)))), None)
    if inner is None or system is None or inner[0].role in {"system", "developer"}:
        return inner
    return [Message(role="system", content=system), *inner]


def _read(turns: Sequence[Mapping[str, Any]]) -> list[Message] | None:
    """The turns as messages; None where one has a role that nobody knows."""
    made: list[Message] = []
    for turn in turns:
        role = _ROLES.get(role_of(turn))
        if role is None:
            return None
        content = text_in(turn)
        raw: dict[str, Any] = {"role": role, "content": content or ""}
        for name, kind in (("name", str), ("tool_call_id", str), ("tool_calls", list)):
            if isinstance(turn.get(name), kind) and turn[name]:
                raw[name] = turn[name]
        try:
            made.append(msgspec.convert(raw, Message))
        except msgspec.ValidationError:
            return None
    return made


def _system(value: Any) -> str | None:
    """A system prompt that stands beside the turns, as Anthropic and Google write it."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, Mapping):
        return text_in(value)
    return text_in({"content": value}) if isinstance(value, list) else None
