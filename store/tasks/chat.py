"""Chat: messages in, the assistant's part out; what is one question, and when two answers say the same.

A question is the whole conversation, with what was asked of the answer's form. Layout is content here: blanks and line
breaks inside a text tell two questions apart, as they do two programs.

Agreement: an answer that is JSON agrees with equal JSON, whatever the order of its keys. Any other text agrees with
the same words; where the words differ, a referee's verdict decides, which the student's opinion carries.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from math import isfinite, isnan
from typing import Any, ClassVar, Final, Literal, NoReturn, cast

import msgspec

from store.errors import WrongShapeError
from store.event import (
    ChatAnswer,
    ChatEscalation,
    ChatInput,
    Escalation,
    Message,
    StudentOpinion,
    Task,
    TaskInput,
    TeacherAnswer,
    TopLogprobs,
    canonical_layout,
    canonical_text,
)
from store.policy import Decide
from store.redact import Effort, redact
from store.tasks.narrow import narrow
from store.tasks.rules import Dispute, Moment

_FIRST: Final = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23, minutes=59)))  # no time is before it
_NEWEST: Final = 4  # answers of a prompt version that an item keeps
_STRATUM: Final = "all"
_INSTRUCTING: Final = frozenset({"system", "developer"})
_ROUNDING: Final = 1e-3  # of a log-probability, by an endpoint
_FORM: Final = "response_format"
_HEX_DIGITS: Final = 16
_CALL_ID: Final = "id"  # of a tool call: drawn anew in each conversation


class ChatSaid(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of a teacher, as an item keeps it."""

    text: str
    tool_calls: list[dict[str, Any]] | None = None
    top: TopLogprobs | None = None


def heard_text(answers: Iterable[str]) -> list[ChatSaid]:
    """The answers that an item's tally holds, newest first."""
    return [_heard(answer) for answer in sorted(answers, reverse=True)]


def structure(text: str) -> bytes | None:
    """An answer's canonical JSON where it is an object or a list and nothing else; None: it is a text.

    Numbers are compared by value (RFC 8785: 1.0 is 1); an object that names a key twice means nothing certain.
    """
    if text.strip()[:1] not in {"{", "["}:
        return None
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite)
        return msgspec.json.encode(_plain(found), order="sorted")
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None


def same_answer(teacher: str, student: str) -> bool | None:
    """Whether two answers say the same, as far as rules tell; None: two texts of different words."""
    wanted = structure(teacher)
    if wanted is not None:
        return wanted == structure(student)
    return True if canonical_text(teacher) == canonical_text(student) else None


def form_of(shape: Mapping[str, Any]) -> str | None:
    """A short name of the form that an answer is to have, equal for equal forms; None: any text will do."""
    wanted = shape.get(_FORM)
    return None if not wanted else hashlib.sha256(msgspec.json.encode(_plain(wanted))).hexdigest()[:_HEX_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTerms:
    """How far a lane's student reads and writes, when it says how sure it is, and who says what texts agree."""

    decide: Decide = "end"
    max_prompt_tokens: int = 2048
    max_answer_tokens: int = 512
    referee: Literal["off", "teacher"] = "off"  # of texts of other words; off: they do not agree
    distance_limit: float = 0.7  # cosine distance beyond which two texts differ, and nobody is asked
    judged_share: float = 0.1  # of a day's calls, that one cycle may ask for


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRules:
    """Satisfies `store.tasks.rules.TaskRules`."""

    task: ClassVar[Task] = "chat"
    most_said: ClassVar[int | None] = _NEWEST

    def parts(self, value: TaskInput) -> list[Any]:
        """Each message with its layout, then the shape of the answer; ids of tool calls, drawn by chance, left out."""
        value = _input(value)
        return [[_canonical(message) for message in value.messages], _plain(value.shape)]

    def texts(self, value: TaskInput) -> list[str]:
        """Every string that is no name of the protocol's: contents first, then tool calls and the answer's shape."""
        return list(_strings(_input(value)))

    def words(self, value: TaskInput) -> str:
        """What was said so far, instructions left out: all questions of an application share those."""
        messages = _input(value).messages
        said = [one for one in messages if one.role not in _INSTRUCTING] or messages
        return " ".join(filter(None, (canonical_text(message.content) for message in said)))

    def redact(self, value: TaskInput, key: bytes) -> ChatInput:
        """Every text with personal data replaced, its layout kept."""
        value, purse = _input(value), Effort()
        return with_texts(value, [redact(text, key, purse) for text in self.texts(value)])

    @property
    def answers_are_texts(self) -> bool:
        """See `TaskRules`."""
        return True

    def private(self, answer: TeacherAnswer, redact: Callable[[str], str]) -> ChatAnswer:
        """Log-probabilities are of the tokens as written, and go where those do."""
        teacher = cast("ChatAnswer", answer)
        text, calls = redact(teacher.text), teacher.tool_calls
        if calls is not None:
            calls = _filled(calls, iter([redact(one) for one in _leaves(calls)]))
        top = teacher.top if text == teacher.text else None
        return msgspec.structs.replace(teacher, text=text, tool_calls=calls, top=top, logprobs=None)

    def normal(self, event: Escalation, key: bytes) -> ChatEscalation:
        """The event redacted: its input, its answer and its student's."""
        event = _event(event)
        if event.teacher.top is not None:
            _check_top(event.teacher.top)
        return msgspec.structs.replace(
            event,
            input=self.redact(event.input, key),
            teacher=self.private(event.teacher, partial(redact, key=key, effort=Effort())),
            student=None if event.student is None else _redacted_opinion(event.student, key),
        )

    def said(self, event: Escalation) -> str:
        """Event time, id and answer, in a form that sorts by the first two."""
        event = _event(event)
        said = ChatSaid(text=event.teacher.text, tool_calls=event.teacher.tool_calls, top=event.teacher.top)
        return _spelled(event.time, event.id, said)

    def by_hand(self, value: TaskInput, given: Any, moment: Moment) -> str:  # noqa: ARG002 - as the protocol has it
        """The text, redacted."""
        if not isinstance(given, str) or not given.strip():
            message = "an answer is a text: what calls tools is not learned"
            raise WrongShapeError(message)
        said = ChatSaid(text=redact(given, moment.redaction_key, Effort()))
        return _spelled(moment.time, moment.event_id, said)

    def shown(self, said: str) -> str | dict[str, Any]:
        """The text; with the tools that it calls, where it does."""
        found = _heard(said)
        return {"text": found.text, "tool_calls": found.tool_calls} if found.tool_calls else found.text

    def stratum(self, event: Escalation) -> str:  # noqa: ARG002 - as the protocol has it
        """The one that there is."""
        return _STRATUM

    def agreed(self, event: Escalation) -> bool | None:
        """Whether the student said what the teacher did, by the rules or else by the referee that was asked."""
        event = _event(event)
        if event.student is None:
            return None
        if event.teacher.tool_calls:
            return False
        found = same_answer(event.teacher.text, event.student.output)
        if found is None and event.student.verdict is not None:
            return event.student.verdict.agreed
        return bool(found)

    def disputed(self, event: Escalation) -> Dispute | None:
        """A text of other words than the teacher's."""
        event = _event(event)
        if event.student is None or event.student.verdict is not None or event.teacher.tool_calls:
            return None
        found = Dispute(event.teacher.text, event.student.output)
        return found if same_answer(*found) is None else None

    def agree(self, answer: str, output: str) -> bool:
        """Whether an output says the same as an answer, as far as rules tell; an answer of tool calls is no text."""
        said = _heard(answer)
        return not said.tool_calls and bool(same_answer(said.text, output))

    def disputed_by(self, answer: str, output: str) -> Dispute | None:
        """What only a referee can tell of an item's answer and an output; None: rules tell."""
        said = _heard(answer)
        found = Dispute(said.text, output)
        return found if not said.tool_calls and same_answer(*found) is None else None

    def conflicted(self, answers: Mapping[str, int]) -> bool:
        """Whether two answers are different JSON, or one calls tools and another does not; texts may always differ."""
        said = heard_text(answers)
        if len({one.tool_calls is not None for one in said}) > 1:
            return True
        found = {structure(one.text) for one in said} - {None}
        return len(found) > 1


def with_texts(value: ChatInput, texts: Iterable[str]) -> ChatInput:
    """The input with other texts in the places of `ChatRules.texts`."""
    given = iter(texts)
    messages = [msgspec.structs.replace(message, content=next(given)) for message in value.messages]
    named = [
        msgspec.structs.replace(
            message,
            name=None if message.name is None else next(given),
            tool_calls=None if message.tool_calls is None else _filled(message.tool_calls, given),
        )
        for message in messages
    ]
    return ChatInput(messages=named, shape=_filled(value.shape, given))


def _strings(value: ChatInput) -> Iterator[str]:
    yield from (message.content for message in value.messages)
    for message in value.messages:
        if message.name is not None:
            yield message.name
        if message.tool_calls is not None:
            yield from _leaves(message.tool_calls)
    yield from _leaves(value.shape)


def _leaves(value: Any) -> Iterator[str]:
    """The strings in JSON, keys left out, in the order in which `_filled` takes them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)


def _filled(value: Any, given: Iterator[str]) -> Any:
    if isinstance(value, str):
        return next(given)
    if isinstance(value, Mapping):
        return {name: _filled(one, given) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, given) for one in value]
    return value


def _canonical(message: Message) -> list[Any]:
    calls = [{name: one for name, one in call.items() if name != _CALL_ID} for call in message.tool_calls or []]
    return [message.role, canonical_layout(message.content), message.name, _plain(calls)]


def _redacted_opinion(student: StudentOpinion, key: bytes) -> StudentOpinion:
    return msgspec.structs.replace(student, output=redact(student.output, key))


def _spelled(time: datetime, event_id: str, said: ChatSaid) -> str:
    """An answer as an item counts it."""
    since_us = (time - _FIRST) // timedelta(microseconds=1)
    return f"{since_us:018d} {event_id} {msgspec.json.encode(said).decode()}"


def _heard(answer: str) -> ChatSaid:
    return msgspec.json.decode(answer.split(" ", 2)[2], type=ChatSaid)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = "a key stands twice"
        raise ValueError(message)
    return found


def _refuse(name: str) -> NoReturn:
    message = f"{name} is no JSON"
    raise ValueError(message)


def _finite(digits: str) -> float:
    found = float(digits)
    if not isfinite(found):
        _refuse(digits)
    return found


def _check_top(top: TopLogprobs) -> None:
    """See that packed log-probabilities are a table; here without numpy, which ingest does not load.

    Raises:
        WrongShapeError: they are none.
    """
    count = len(top.logprobs) // 2
    if count % top.k or len(top.logprobs) != 2 * count or len(top.ids) != 4 * count:
        message = f"teacher.top: {len(top.ids)} and {len(top.logprobs)} bytes are no [n, {top.k}] of uint32 and float16"
        raise WrongShapeError(message)
    if any(isnan(one) or one > _ROUNDING for one in struct.unpack(f"<{count}e", top.logprobs)):
        message = "teacher.top: logprobs above 0, or no numbers"
        raise WrongShapeError(message)


def _plain(value: Any) -> Any:
    """JSON whose keys are sorted and whose whole numbers are integers."""
    if isinstance(value, Mapping):
        return {name: _plain(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _event(event: Escalation) -> ChatEscalation:
    return narrow(event, ChatEscalation, "a lane of chat")


def _input(value: TaskInput) -> ChatInput:
    return narrow(value, ChatInput, "a lane of chat")
