"""What the gateway has to know of a task: its requests and answers over HTTP, and what its questions are made of.

Everything else of the gateway carries questions and opinions of which it knows no more than these protocols say.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypedDict, TypeVar

import msgspec

from serve.escalation import Answer, Common, Degraded, Given, Question, ServedBy, Voice
from serve.front.errors import INVALID, ApiError
from serve.openapi.operation import Operation
from serve.settings import LaneSettings
from store.event import EscalationBase, Reason, TaskInput, TeacherAnswer, Usage, without_values
from store.policy import Decide
from store.student.loaded import Opinion

_MISSING_FIELD: Final = re.compile(r"missing required field `([^`]+)`")
_FIELD_PATH: Final = re.compile(r"at `\$\.?([^`]*)`")
_Body = TypeVar("_Body")

Heed = Callable[[Opinion, TaskInput], Opinion | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """How much one request may hold."""

    max_inputs: int
    max_documents: int
    max_text_chars: int
    max_message_chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """The answer is to come as a stream of events."""

    with_usage: bool  # ending with how many tokens there were
    chunks: Callable[["Asked", Given, int], Iterator[bytes]]
    """The data of the events of a whole answer, so many characters of which were told; the closing one left out."""
    voice: Callable[["Asked", Question, Callable[[bytes], None]], Voice] | None = None
    """What tells a student's answer while it grows, as the data of events; None: it is there at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an event keeps of a teacher's answer."""

    answer: TeacherAnswer
    learnable: bool  # a student may learn from it, as far as the answer goes


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, decoded and checked."""

    model: str  # the use case
    user: str | None  # the subject, for erasure; kept as a keyed token
    values: Sequence[TaskInput]  # a question each, as the client sent it
    fields: Sequence[str]  # where each text of the questions stands in the request, for errors
    listed: bool  # the questions came as a list: under one Idempotency-Key their places tell them apart
    identity: Sequence[Any]  # all of the body that shapes the answers, as what JSON can hold
    unsupported: bool = False  # it wants what no student can do
    streaming: Streaming | None = None  # None: it is to come whole
    shown: Any = None  # what the task's own answer needs to know of it


class Matter(Protocol):
    """What a task's questions are made of."""

    @property
    def event_type(self) -> type[EscalationBase]:
        """Of its escalations."""

    @property
    def sample(self) -> TaskInput:
        """A question of our own: to warm a student up, and to see whether a teacher answers."""

    def of_texts(self, value: TaskInput, texts: Sequence[str]) -> TaskInput:
        """The question with other texts in the places of its own, as `TaskRules.texts` has them."""

    def portions(self, value: TaskInput, count: int) -> Sequence[TaskInput]:
        """Questions that the student may read one by one, so that this one costs it little; none where none help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a request is decided, and answered."""

    moment: Decide = "end"
    live: bool = False  # a student that is trusted before its answer is whole is heard while it grows


AT_THE_END: Final = Timing()


class Form(Protocol):
    """One form in which a task's clients ask and are answered over HTTP."""

    @property
    def paths(self) -> Sequence[str]:
        """Where it is served."""

    @property
    def invalid_status(self) -> int:
        """What its clients expect where a request is wrong."""

    @property
    def operation(self) -> Operation:
        """What the OpenAPI document says of it."""

    def decode(self, body: bytes, lane: LaneSettings) -> Asked:
        """One request to a lane.

        Raises:
            ApiError: 422 or 400, naming the field.
        """

    def check(self, asked: Asked, limits: RequestLimits) -> None:
        """See that a request holds what can be answered.

        Raises:
            ApiError: 422, naming the field.
        """

    def body(self, asked: Asked, given: Given) -> Mapping[str, Any]:
        """What the client reads; at least one question was answered."""


class Face(Matter, Form, Protocol):
    """A task as its clients see it, in its own form: the others are told in `serve.tasks.tasks`."""

    @property
    def answer_type(self) -> type[Answer]:
        """Of its answers, as they are kept under an Idempotency-Key."""

    def heed(self, settings: LaneSettings) -> Heed:
        """What a lane makes of a student's opinions, each heard once with its question: None where it is no answer."""

    def timing(self, asked: Asked, settings: LaneSettings) -> Timing:
        """When a lane decides who answers a request."""

    def of_student(self, opinion: Opinion, common: Common, noted: Mapping[str, str]) -> Answer:
        """The student's answer; `noted`: what each token of personal data in the question stands for."""

    def of_teacher(self, answer: TeacherAnswer, value: TaskInput, settings: LaneSettings, common: Common) -> Answer:
        """The teacher's answer to a question."""

    def kept(self, value: TaskInput, answer: TeacherAnswer) -> Kept:
        """What of a teacher's answer its event keeps."""


class Addressed(msgspec.Struct, frozen=True, kw_only=True):
    """What every request says, whatever its form."""

    model: str  # the use case


def decode_body(body: bytes, kind: type[_Body]) -> _Body:
    """A request's body.

    Raises:
        ApiError: 422 that names the field and no value.
    """
    try:
        return _decoded(body, kind)
    except msgspec.ValidationError as error:
        raise invalid(field=field_of(error) or "body", message=without_values(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(field="body", message="not JSON in UTF-8") from error


def _decoded(body: bytes, kind: type[_Body]) -> _Body:
    """A body by its type."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError:
        sent = msgspec.json.decode(body)
        if not isinstance(sent, dict):
            raise
        return msgspec.convert(whole_numbers(sent), kind)


def whole_numbers(sent: Mapping[str, Any]) -> dict[str, Any]:
    """A body of which 2.0 is the whole number 2, as JSON Schema has it."""
    return {name: int(one) if isinstance(one, float) and one.is_integer() else one for name, one in sent.items()}


def field_of(error: msgspec.ValidationError) -> str:
    """The field that an error of msgspec is about; empty: the whole."""
    found = [found.group(1) for find in (_FIELD_PATH, _MISSING_FIELD) if (found := find.search(str(error)))]
    return ".".join(filter(None, found))


def invalid(*, field: str, message: str) -> ApiError:
    """The request is wrong, and this is what of it."""
    return ApiError(INVALID, "invalid_request", message, field)


class Told(TypedDict):
    """What every task says of an answer."""

    served_by: ServedBy
    reason: Reason | None
    version: str | None
    event_id: str | None
    propensity: float
    withheld: bool
    degraded: Degraded | None


class Tokens(TypedDict):
    """How many tokens there were."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def tokens_of(*used: Usage) -> Tokens:
    """What calls of the teacher took together, as OpenAI counts it."""
    asked, said = sum(one.prompt_tokens for one in used), sum(one.completion_tokens for one in used)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def told_of(answer: Answer) -> Told:
    """What every task says of an answer, beside what was answered."""
    return {
        "served_by": answer.served_by,
        "reason": answer.reason,
        "version": answer.version,
        "event_id": answer.event_id,
        "propensity": answer.propensity,
        "withheld": answer.withheld,
        "degraded": answer.degraded,
    }
