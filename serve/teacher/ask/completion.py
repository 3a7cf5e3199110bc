"""What a chat completion says, and what it used: read leniently, believed strictly."""

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from store.errors import InvalidAnswerError
from store.event import Usage

# How a model ends by itself, as different servers write it. Anything else cuts an answer off or replaces it.
_WHOLE: Final = frozenset({"", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed", "end"})
_CUT: Final = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "max_length"})
_FILTERED: Final = frozenset({"content_filter", "content_filtered", "safety", "recitation", "blocklist", "refusal"})
_PLAIN: Final = re.compile(r"[a-z_]{1,32}")
_PromptTokens = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]  # a question has some: 0 is no count
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


class _Part(msgspec.Struct, frozen=True):
    type: str = "text"
    text: str | None = None


class _Message(msgspec.Struct, frozen=True):
    content: str | list[_Part] | None = None
    refusal: Any = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: Any = None


class _Used(msgspec.Struct, frozen=True):
    prompt_tokens: _PromptTokens
    completion_tokens: _Tokens


class _Body(msgspec.Struct, frozen=True):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: Any = None  # read apart: an answer is good whatever its endpoint counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer as it came."""

    choice: _Choice
    usage: Usage | None  # None: the endpoint does not say, or says what cannot be


def read_completion(body: bytes) -> Completion:
    """The completion in a body of any bytes.

    Raises:
        ValueError: it is none.
    """
    try:
        found = msgspec.convert(json.loads(body), _Body)
    except (msgspec.MsgspecError, RecursionError) as error:
        message = "not a chat completion"
        raise ValueError(message) from error
    return Completion(choice=found.choices[0], usage=read_usage(found.usage))


def read_usage(raw: Any) -> Usage | None:
    """What an endpoint says that it used; None where it does not say, or says what cannot be."""
    try:
        used = msgspec.convert(raw, _Used | None)
    except msgspec.MsgspecError:
        return None
    return None if used is None else Usage(prompt_tokens=used.prompt_tokens, completion_tokens=used.completion_tokens)


def said(completion: Completion) -> str:
    """The text that the model wrote, if it wrote it to the end.

    Raises:
        InvalidAnswerError: it was cut off, filtered or refused. The message quotes nothing of the answer.
    """
    choice = completion.choice
    ended = str(choice.finish_reason or "").strip().lower()
    if ended in _CUT:
        message = "the answer was cut off: raise lanes.teacher.parameters.max_tokens (or max_completion_tokens)"
        raise InvalidAnswerError(message)
    if ended in _FILTERED:
        message = "the endpoint's content filter took the answer: see its filter settings, or forbid the topic upstream"
        raise InvalidAnswerError(message)
    if ended not in _WHOLE:
        shown = ended if _PLAIN.fullmatch(ended) else "something else"
        message = f"the answer did not end by itself (finish_reason is {shown}): a label is a text alone"
        raise InvalidAnswerError(message)
    if choice.message.refusal:
        message = "the model refused to answer: say in lanes.teacher.prompt_file that one label is for what it refuses"
        raise InvalidAnswerError(message)
    content = choice.message.content
    if isinstance(content, list):
        content = "".join(part.text or "" for part in content if part.type in {"text", "output_text"})
    text = content or ""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        message = f"the teacher's answer ({len(text)} characters) holds half a character"
        raise InvalidAnswerError(message)
    return text
