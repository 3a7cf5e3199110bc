"""What the spans of the student's and of the teacher's work say: models, counts and what went wrong; never a text."""

from contextlib import AbstractContextManager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import openai

from serve.settings import LaneSettings, TeacherSettings
from serve.student.line import StudentReply, TooLong
from serve.teacher.ask.asking import Call, Tab
from store.errors import InvalidAnswerError
from store.event import Usage
from store.student.loaded import Opinion
from store.tracing import names
from store.tracing.spans import Attributes, Span, span

_OURS: Final = "understudy"
_PARAMETERS: Final = ("temperature", "top_p", "max_tokens", "seed", "frequency_penalty", "presence_penalty")
_MOST_NAME: Final = 200  # characters of what an endpoint calls itself


def student_span(settings: LaneSettings, version: str) -> AbstractContextManager[Span]:
    """Around a forward pass of the student of a lane."""
    task, use_case = settings.task, settings.lane.use_case
    said = {
        names.OPERATION: task,
        names.PROVIDER: _OURS,
        names.REQUEST_MODEL: use_case,
        names.RESPONSE_MODEL: version,
    }
    return span(f"{task} {use_case}", "internal", said)


def opinion_said(outcome: StudentReply | None) -> Attributes:
    """What a student made of a question."""
    if isinstance(outcome, Opinion):
        return {names.OUTCOME: "opinion", names.CONFIDENCE: outcome.confidence}
    return {names.OUTCOME: "too_long" if isinstance(outcome, TooLong) else "failed"}


class TeacherSpans:
    """The spans of one teacher's calls."""

    def __init__(self, settings: TeacherSettings) -> None:
        """Prepare what all of them say."""
        address = urlsplit(settings.base_url)
        set_to = {name: settings.parameters.get(name) for name in _PARAMETERS}
        self._model = settings.model
        self._said: Attributes = {
            names.REQUEST_MODEL: settings.model,
            names.SERVER_ADDRESS: address.hostname,
            names.SERVER_PORT: address.port or {"http": 80, "https": 443}.get(address.scheme),
            **{f"gen_ai.request.{name}": value for name, value in set_to.items() if isinstance(value, int | float)},
        }

    def call(self, call: Call) -> AbstractContextManager[Span]:
        """Around one call, its repeats and the reading of its answer."""
        said = {names.OPERATION: call.operation, names.PROVIDER: call.provider, **self._said}
        return span(f"{call.operation} {self._model}", "client", said)


def answer_said(body: bytes, before: tuple[Usage, float], tab: Tab) -> Attributes:
    """What came, and what it cost.

    Args:
        body: of the answer.
        before: the tab's usage and price before this call.
        tab: with this call on it.
    """
    used, usd = before
    return {
        **_named(body),
        names.INPUT_TOKENS: tab.usage.prompt_tokens - used.prompt_tokens,
        names.OUTPUT_TOKENS: tab.usage.completion_tokens - used.completion_tokens,
        names.COST_USD: tab.usd - usd,
    }


def error_type(error: BaseException) -> str:
    """Why a call came to nothing, in a word of few: a status, what is wrong with an answer, or the error's kind."""
    if isinstance(error, openai.APIStatusError):
        return str(error.status_code)
    if isinstance(error, InvalidAnswerError):
        return error.kind
    return type(error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error).__name__


class _Choice(msgspec.Struct, frozen=True):
    finish_reason: Any = None


class _Body(msgspec.Struct, frozen=True):
    """The head of an answer, or of an event of a stream."""

    id: Any = None
    model: Any = None
    choices: list[_Choice] = []


def _named(body: bytes) -> Attributes:
    """How an answer names itself; of a stream's events the last say how it ended."""
    found: dict[str, Any] = {}
    ended: list[str] = []
    for line in [body] if body.lstrip()[:1] == b"{" else body.split(b"\n"):
        try:
            head = msgspec.json.decode(line.removeprefix(b"data:"), type=_Body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        found = {"id": head.id or found.get("id"), "model": head.model or found.get("model")}
        ended += [str(one.finish_reason) for one in head.choices if one.finish_reason]
    return {
        names.RESPONSE_ID: _word(found.get("id")),
        names.RESPONSE_MODEL: _word(found.get("model")),
        names.FINISH_REASONS: [one[:_MOST_NAME] for one in ended] or None,
    }


def _word(value: Any) -> str | None:
    return value[:_MOST_NAME] if isinstance(value, str) else None
