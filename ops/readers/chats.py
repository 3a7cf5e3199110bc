"""Chats in a log: what the user asked last, and what the assistant answered, in the shapes that exports have.

Read are OpenAI's and Azure's requests and responses (chat, responses, batches), fine-tuning rows, calls of tools,
LiteLLM's, Langfuse's, LangSmith's, Helicone's and Bedrock's logs, NVIDIA's data-flywheel rows, ShareGPT's
conversations, and Anthropic's and Google's bodies.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

INNER_QUESTIONS: Final = (
    *("messages", "body", "request", "input", "contents", "conversations", "prompt", "kwargs", "params", "value"),
    *("requestBody", "request_body", "inputBodyJson", "question", "query", "user_input", "text"),
)
_INNER_ANSWERS: Final = (
    *("body", "response", "choices", "message", "output", "candidates", "generations", "messages", "kwargs", "value"),
    *("responseBody", "response_body", "outputBodyJson", "answer"),
)
_CUT: Final = ("length", "max_tokens", "content_filter", "refusal")  # how an answer ends that is not whole
_ROLES_AS_TYPES: Final = ("human", "user", "ai", "assistant", "system")
_USER: Final = ("user", "human")
_ASSISTANT: Final = ("assistant", "gpt", "model", "ai", "bot")
_DEEPEST: Final = 6


def question_of(value: Any, depth: int = 0) -> str | None:
    """The last turn of the user in a request or a list of messages; None: there is none."""
    value = opened(value)
    if depth > _DEEPEST or value is None:
        return None
    if isinstance(value, str):
        return value if depth else None
    if isinstance(value, Mapping):
        if role_of(value) in _USER:
            return text_in(value)
        return _first(question_of(value[name], depth + 1) for name in INNER_QUESTIONS if name in value)
    if isinstance(value, list) and value and isinstance(value[0], list):  # a batch of one
        return question_of(value[0], depth + 1)
    turns = [turn for turn in value if isinstance(turn, Mapping)] if isinstance(value, Sequence) else []
    return next((text_in(turn) for turn in reversed(turns) if role_of(turn) in _USER), None)


def answer_of(value: Any, depth: int = 0) -> str | None:
    """The assistant's text in a response, or the last turn of a chat if it is the assistant's; None: there is none."""
    value = opened(value)
    if depth > _DEEPEST:
        return None
    if isinstance(value, str):
        return value if depth else None
    if isinstance(value, Mapping):
        return _answer_in(value, depth)
    if isinstance(value, list) and value and isinstance(value[0], list):
        return answer_of(value[0], depth + 1)
    items = [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
    if any(role_of(item) for item in items):
        return _said(items[-1]) if role_of(items[-1]) in _ASSISTANT else None
    return answer_of(items[0], depth + 1) if items else None


def _answer_in(value: Mapping[str, Any], depth: int) -> str | None:
    if any(value.get(name) in _CUT for name in ("finish_reason", "stop_reason")):
        return None
    if role_of(value) in _ASSISTANT or "content" in value:
        return _said(value)
    for name in ("output_text", *(("text",) if depth else ())):
        if isinstance(value.get(name), str):
            return str(value[name])
    return _first(answer_of(value[name], depth + 1) for name in _INNER_ANSWERS if name in value)


def _said(turn: Mapping[str, Any]) -> str | None:
    """What the assistant said in a turn, or with what it called a tool."""
    said = text_in(turn)
    if said:
        return said
    content = turn.get("content")
    calls = [turn.get("function_call"), *_mappings(turn.get("tool_calls")), *_mappings(content)]
    for call in calls:
        if isinstance(call, Mapping):
            function = call.get("function", call)
            given = next((function[name] for name in ("arguments", "input", "args") if function.get(name)), None)
            if given is not None:
                return given if isinstance(given, str) else msgspec.json.encode(given).decode()
    return said


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def has_system(value: Any) -> bool:
    """Whether a chat has turns that are no question and no answer: a system prompt, earlier turns."""
    value = opened(value)
    if isinstance(value, Mapping):
        return any(has_system(value[name]) for name in INNER_QUESTIONS if name in value)
    turns = [role_of(turn) for turn in value if isinstance(turn, Mapping)] if isinstance(value, list) else []
    return sum(role in _USER for role in turns) > 1 or any(role and role not in _USER + _ASSISTANT for role in turns)


def _first(found: Any) -> str | None:
    return next((one for one in found if one is not None), None)


def role_of(turn: Mapping[str, Any]) -> str:
    """Who says a turn, in lower case, as its shape calls them; empty: it is no turn."""
    role = turn.get("role", turn.get("from"))
    if role is None and turn.get("type") in _ROLES_AS_TYPES:  # as LangChain writes it
        role = turn["type"]
    if role is None and isinstance(name := turn.get("id"), list) and name:
        role = str(name[-1]).removesuffix("Chunk").removesuffix("Message")
    return role.lower() if isinstance(role, str) else ""


def text_in(turn: Mapping[str, Any]) -> str | None:
    """A turn's text, its parts one after another."""
    content = next(
        (turn[name] for name in ("content", "value", "parts", "text", "kwargs") if turn.get(name) is not None), None
    )
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return text_in(content)
    if not isinstance(content, Sequence):
        return None
    parts = [
        part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None for part in content
    ]
    texts = [part for part in parts if isinstance(part, str)]
    return "\n".join(texts) if texts else None


def is_chat(value: Any) -> bool:
    """Whether what was inside of a string is a chat, and no answer in JSON."""
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], Mapping) and bool(role_of(value[0]) or "message" in value[0])
    return isinstance(value, Mapping) and any(name in value for name in ("messages", "choices", "candidates", "role"))


def opened(value: Any) -> Any:
    """A value that may be JSON inside of a string, as tables hold it."""
    if isinstance(value, str) and value[:2].lstrip()[:1] in ("{", "["):
        try:
            opened = msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return value
        return opened if is_chat(opened) else value
    return value
