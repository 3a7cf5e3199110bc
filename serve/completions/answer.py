"""A chat completion as its client reads it: whole, or as the events of a stream."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serve.completions.stream import chunks
from serve.escalation import Answer, Given
from serve.tasks.face import Asked, told_of


def choice_of(content: str, finish_reason: str = "stop") -> dict[str, Any]:
    """The one choice that a text makes."""
    message = {"role": "assistant", "content": content, "refusal": None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}


def whole(
    asked: Asked, given: Given, completion: Mapping[str, Any], told: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The body of an answer.

    Args:
        asked: the request.
        given: what it came to; its first question was answered.
        completion: `choices`, and whatever else is known; it wins over what is made here.
        told: what is said beside what every task says.
    """
    answer = _answered(given)
    return {
        **_head(asked, given.first_id, given.at_s),
        "object": "chat.completion",
        "usage": _usage(answer, completion),
        **completion,
        "understudy": {**told_of(answer), **(told or {})},
    }


def streamed(asked: Asked, given: Given, completion: Mapping[str, Any], told: int = 0) -> Iterator[bytes]:
    """The data of the events that a whole answer makes, the closing one left out.

    Args:
        asked: the request.
        given: what it came to; its first question was answered.
        completion: as of `whole`.
        told: characters of its text that the client has.
    """
    wanted = asked.streaming is not None and asked.streaming.with_usage
    usage = _usage(_answered(given), completion) if wanted else None
    head = chunk_head(asked, given.first_id, given.at_s)
    choices: Sequence[Mapping[str, Any]] = completion["choices"]
    for choice in choices:
        yield from chunks(head, choice, usage, told)


def _answered(given: Given) -> Answer:
    (answer,) = given.found
    if not isinstance(answer, Answer):
        message = "a refusal has no completion"
        raise TypeError(message)
    return answer


def chunk_head(asked: Asked, name: str, at_s: float) -> dict[str, Any]:
    """What each chunk of a stream begins with."""
    return {**_head(asked, name, at_s), "object": "chat.completion.chunk"}


def _head(asked: Asked, name: str, at_s: float) -> dict[str, Any]:
    return {"id": f"chatcmpl-{name}", "created": int(at_s), "model": asked.model}


def _usage(answer: Answer, completion: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that the completion counts, else those that the teacher took: none where the student answered."""
    said = completion.get("usage")
    if isinstance(said, dict):
        return said
    used = answer.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
