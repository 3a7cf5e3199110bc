"""The body of a chat completion's request: its fields, and the texts of its messages."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from serve.escalation import Given, Question, Voice
from serve.openapi.operation import Model, User
from serve.tasks.face import Asked, Streaming

PATH: Final = "/v1/chat/completions"
INVALID_STATUS: Final = 400
"""OpenAI's own, where a request is wrong."""
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})


_CONTENT: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string", "maxLength": "max_message_chars"}, {"type": ["null", "array", "object"]}],
    "description": "A text, or parts of which texts are read by a student; what else there is only the teacher reads.",
}
_MESSAGE: Final = msgspec.Meta(
    extra_json_schema={
        "required": ["role"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
            "content": _CONTENT,
            "name": {"type": ["string", "null"]},
            "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
            "tool_call_id": {"type": ["string", "null"]},
        },
    }
)
_MESSAGES: Final = msgspec.Meta(extra_json_schema={"minItems": 1, "maxItems": "max_documents"})
_Tokens = Annotated[int | None, msgspec.Meta(extra_json_schema={"minimum": 1})]


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream is to hold beside the answer."""

    include_usage: bool | None = None


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that any task reads."""

    model: Model
    messages: Annotated[list[Annotated[dict[str, Any], _MESSAGE]], _MESSAGES]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    max_tokens: _Tokens = None
    max_completion_tokens: _Tokens = None
    user: User = None

    @property
    def most_tokens(self) -> int | None:
        """How long the client lets an answer be."""
        limits = [limit for limit in (self.max_completion_tokens, self.max_tokens) if limit is not None]
        return min(limits, default=None)

    def streaming(
        self,
        chunks: Callable[[Asked, Given, int], Iterator[bytes]],
        voice: Callable[[Asked, Question, Callable[[bytes], None]], Voice] | None = None,
    ) -> Streaming | None:
        """How its answer is to come, by the functions of `Streaming`; None: whole."""
        if not self.stream:
            return None
        options = self.stream_options
        return Streaming(with_usage=bool(options is not None and options.include_usage), chunks=chunks, voice=voice)


def text_of(content: Any) -> str:
    """A text; several parts of text are one. Where others are among them: JSON, with digests in the others' places."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not has_parts(content):
        return "".join(str(part.get("text") or "") for part in content)
    parts = content if isinstance(content, Sequence) else [content]
    return msgspec.json.encode([part if is_text(part) else digest_of(part) for part in parts], order="sorted").decode()


def digest_of(part: Any) -> dict[str, Any]:
    """What tells a part from others and keeps nothing of it: nobody can redact a picture, and no student sees it."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    written = msgspec.json.encode(part, order="sorted")
    return {"type": kind if isinstance(kind, str) else "unknown", "sha256": hashlib.sha256(written).hexdigest()}


def has_parts(content: Any) -> bool:
    """Whether a content holds something else than texts."""
    if content is None or isinstance(content, str):
        return False
    if not isinstance(content, Sequence):
        return True
    return not all(map(is_text, content))


def is_text(part: Any) -> bool:
    """Whether a part of a content is a text."""
    return isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS
