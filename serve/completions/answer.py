"""A chat completion as its client reads it: whole, or as the events of a stream."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NotRequired, TypedDict

from serve.completions.stream import chunks
from serve.escalation import Answer, Given
from serve.tasks.face import Asked, Told, tokens_of, told_of


class Understudy(Told):
    """What is said beside OpenAI's own fields; `read_from` of a lane of labels: where its text was found."""

    read_from: NotRequired[Literal["prompt", "message"]]


class Choice(TypedDict):
    """An answer: `message` as OpenAI has it, or as the teacher gave it."""

    index: int
    message: dict[str, Any]
    finish_reason: str | None


class Completion(TypedDict):
    """A chat completion as OpenAI has it, with whatever else the teacher said."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: dict[str, Any] | None
    understudy: Understudy


class ChunkChoice(TypedDict):
    """A piece of an answer."""

    index: int
    delta: dict[str, Any]
    finish_reason: str | None


class Chunk(TypedDict):
    """The data of one event of a stream; after the last comes `[DONE]`, or else an `Envelope`: it broke off."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[dict[str, Any] | None]


EXAMPLE: Final[Mapping[str, Any]] = {
    "id": "chatcmpl-019ad4c0-8f3e-7c55-a0f4-5f7d1c2b3a49",
    "object": "chat.completion",
    "created": 1772359200,
    "model": "desk",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Call the bank: they give it back.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21},
    "understudy": {
        "served_by": "student",
        "reason": None,
        "version": "3f2a9c",
        "event_id": None,
        "propensity": 0.02,
        "withheld": False,
        "degraded": None,
    },
}
"""An answer, for the OpenAPI document."""


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
    return {**tokens_of(answer.usage)}
