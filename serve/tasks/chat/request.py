"""The body of `POST /v1/chat/completions`: what of it is the question, and what no student can do."""

from collections.abc import Mapping
from typing import Any

import msgspec

from serve.completions.request import CompletionRequest, has_parts, text_of
from serve.tasks.face import field_of, invalid
from store.event import ChatInput, Message, without_values
from store.tasks.shape import TOOLS, shape_of


class ChatRequest(CompletionRequest, frozen=True, kw_only=True):
    """The fields that we read; whatever else a request has goes to the teacher as it came."""

    response_format: dict[str, Any] | None = None
    stop: str | list[str] | None = None
    prediction: Any = None


class ChatQuestion(ChatInput, frozen=True, kw_only=True):
    """A question with the body that it came in, which is what the teacher gets."""

    sent: dict[str, Any]


def question_of(sent: Mapping[str, Any], found: ChatRequest) -> ChatQuestion:
    """The question of a body.

    Raises:
        ApiError: 422, naming the message that is none.
    """
    messages = [_message(message, place) for place, message in enumerate(found.messages)]
    return ChatQuestion(messages=messages, shape=shape_of(sent), sent=dict(sent))


def beyond_students(found: ChatRequest, question: ChatInput) -> bool:
    """Whether a request wants what no student can do: tools, several answers, sounds and pictures, probabilities."""
    return (
        (found.n or 1) > 1
        or bool(found.logprobs)
        or any(one != "text" for one in found.modalities or ())
        or any(one is not None for one in (found.audio, found.prediction, found.web_search_options))
        or any(question.shape.get(name) for name in TOOLS)
        or any(message.tool_calls or message.role in {"tool", "function"} for message in question.messages)
        or any(has_parts(message.get("content")) for message in found.messages)
    )


def _message(raw: Mapping[str, Any], place: int) -> Message:
    content = raw.get("content")
    if isinstance(content, int | float):
        raise invalid(field=f"messages[{place}].content", message="a text, or parts of one")
    try:
        return msgspec.convert({**raw, "content": text_of(content)}, Message)
    except msgspec.ValidationError as error:
        field = ".".join(filter(None, (f"messages[{place}]", field_of(error))))
        raise invalid(field=field, message=without_values(error).partition(" - at")[0]) from error
