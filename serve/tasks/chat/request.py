"""The body of `POST /v1/chat/completions`: what of it is the question, and what no student can do."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from serve.tasks.face import field_of, invalid
from store.event import ChatInput, Message, without_values

SHAPE: Final = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "response_format",
    "stop",
)
"""Parameters that decide what an answer may be; they are a part of the question."""
_NO_SHAPE: Final[tuple[Any, ...]] = (None, [], {}, {"type": "text"})  # as if it were not there
_TOOLS: Final = ("tools", "functions")
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream is to hold beside the answer."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that we read; whatever else a request has goes to the teacher as it came."""

    model: str  # the use case
    messages: list[dict[str, Any]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    user: str | None = None  # the subject, for erasure; kept as a keyed token

    @property
    def most_tokens(self) -> int | None:
        """How long the client lets an answer be."""
        limits = [limit for limit in (self.max_completion_tokens, self.max_tokens) if limit is not None]
        return min(limits, default=None)


class ChatQuestion(ChatInput, frozen=True, kw_only=True):
    """A question with the body that it came in, which is what the teacher gets."""

    sent: dict[str, Any]


def question_of(sent: Mapping[str, Any], found: ChatRequest) -> ChatQuestion:
    """The question of a body.

    Raises:
        ApiError: 422, naming the message that is none.
    """
    messages = [_message(message, place) for place, message in enumerate(found.messages)]
    shape = {name: sent[name] for name in SHAPE if sent.get(name) not in _NO_SHAPE}
    return ChatQuestion(messages=messages, shape=shape, sent=dict(sent))


def beyond_students(found: ChatRequest, question: ChatInput) -> bool:
    """Whether a request wants what no student can do: tools, several answers, sounds and pictures, probabilities."""
    return (
        (found.n or 1) > 1
        or bool(found.logprobs)
        or any(one != "text" for one in found.modalities or ())
        or any(one is not None for one in (found.audio, found.prediction, found.web_search_options))
        or any(question.shape.get(name) for name in _TOOLS)
        or any(message.tool_calls or message.role in {"tool", "function"} for message in question.messages)
        or any(_has_parts(message.get("content")) for message in found.messages)
    )


def _message(raw: Mapping[str, Any], place: int) -> Message:
    try:
        return msgspec.convert({**raw, "content": _content(raw.get("content"))}, Message)
    except msgspec.ValidationError as error:
        field = ".".join(filter(None, (f"messages[{place}]", field_of(error))))
        raise invalid(field=field, message=without_values(error).partition(" - at")[0]) from error


def _content(content: Any) -> str:
    """A text; several parts of text are one. Where others are among them: JSON, with digests in the others' places."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not _has_parts(content):
        return "".join(str(part.get("text") or "") for part in content)
    parts = content if isinstance(content, Sequence) else [content]
    return msgspec.json.encode([part if _is_text(part) else _digest(part) for part in parts], order="sorted").decode()


def _digest(part: Any) -> dict[str, Any]:
    """What tells a part from others and keeps nothing of it: nobody can redact a picture, and no student sees it."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    written = msgspec.json.encode(part, order="sorted")
    return {"type": kind if isinstance(kind, str) else "unknown", "sha256": hashlib.sha256(written).hexdigest()}


def _has_parts(content: Any) -> bool:
    """Whether a content holds something else than texts."""
    if content is None or isinstance(content, str):
        return False
    if not isinstance(content, Sequence):
        return True
    return not all(map(_is_text, content))


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS
