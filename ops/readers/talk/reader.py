"""The rows of a log of conversations, each with the answer that the teacher gave."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from ops.readers.chats import answer_of, is_chat
from ops.readers.columns import ID_COLUMNS, LABEL, TEXT, Sought, Survey, id_of, nothing_in, text_of, value_at
from ops.readers.files import BadRow, rows_of
from ops.readers.rows import PublishedRows, Told, key_of
from ops.readers.talk.turns import conversation_of, request_of
from ops.readers.times import TIME_COLUMNS, Moment, moment_of
from store.answers.rules import Rules
from store.event import ChatAnswer, ChatEscalation, ChatInput, Message, canonical_input
from store.tasks.chat import ChatRules
from store.tasks.shape import TOOLS, shape_of

_RULES: Final = ChatRules()


def said_in(value: Any) -> str | None:
    """What the assistant said: a text, of a response its message's; an object that is no response is JSON itself."""
    found = answer_of(value)
    if found is None and isinstance(value, str):
        found = value
    if found is None and isinstance(value, Mapping | list) and value and not is_chat(value):
        try:
            found = msgspec.json.encode(value).decode()
        except (msgspec.MsgspecError, TypeError, UnicodeError):
            return None
    return found if found is not None and found.strip() and text_of(found) is not None else None


def _asked_in(value: Any) -> str | None:
    """A conversation's last turn, as the survey of columns counts it."""
    found = conversation_of(value)
    return None if found is None else text_of(found[-1].content or " ") or found[-1].role


_CONVERSATION: Final = Sought(
    flag="--messages",
    what="conversation",
    names=("messages", "conversations", "conversation", *(name for name in TEXT.names if name != "messages")),
    read=_asked_in,
    in_most_rows=True,
)
_ANSWER: Final = Sought(
    flag="--answer",
    what="answer",
    names=("teacher.text", "teacher_answer", *(name for name in LABEL.names if name != "teacher.label")),
    read=said_in,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TalkRow:
    """One good row."""

    line: int
    key: str  # what makes it the same row when it is imported again
    value: ChatInput
    answer: str
    id: str | None
    moment: Moment

    @property
    def time_s(self) -> float | None:
        """See `LogRow`."""
        return self.moment.time_s

    @property
    def calls_tools(self) -> bool:
        """Whether it may, or did: no student answers such, and none learns from it."""
        named = any(name in self.value.shape for name in TOOLS)
        return named or any(message.role in {"tool", "function"} for message in self.value.messages)

    def event(self, facts: PublishedRows) -> ChatEscalation:
        """See `LogRow`."""
        return ChatEscalation(
            id=facts.id,
            time=facts.time,
            use_case=facts.lane.use_case,
            tenant=facts.lane.tenant,
            input=self.value,
            teacher=ChatAnswer(model=facts.model, prompt_version=facts.prompt_version, text=self.answer),
            student=None,
            escalation=facts.cause,
            eligible=not self.calls_tools,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TalkReader:
    """A log of conversations; see `Reader`."""

    path: Path
    messages: str  # column
    answer: str
    ids: tuple[str, ...] = ID_COLUMNS
    times: tuple[str, ...] = TIME_COLUMNS

    @staticmethod
    def open(path: Path, named: Mapping[str, str], labels: Collection[str], rules: Rules) -> "TalkReader":
        """Find the columns; a chat has no labels, and no rules of how they are read.

        Raises:
            SettingsError: one cannot be told, or no row has the named one; the message names the flag.
        """
        del labels, rules
        sought = _CONVERSATION.called(named.get("--messages")), _ANSWER.called(named.get("--answer"))
        survey = Survey(path, *sought)
        return TalkReader(
            path=path,
            messages=survey.needed(sought[0]),
            answer=survey.needed(sought[1]),
            ids=(named["--id"],) if "--id" in named else ID_COLUMNS,
            times=(named["--time"],) if "--time" in named else TIME_COLUMNS,
        )

    @property
    def columns(self) -> Mapping[str, str]:
        """See `Reader`."""
        return {"conversation": self.messages, "answer": self.answer}

    def rows(self, told: Told) -> Iterator[TalkRow | BadRow]:
        """See `Reader`."""
        seen, turns, tools = dict[str, int](), 0, 0
        for line, value in rows_of(self.path):
            row = value if isinstance(value, BadRow) else self.row(line, value, told, seen)
            if isinstance(row, TalkRow):
                turns += sum(message.role == "assistant" for message in row.value.messages) > 0
                tools += row.calls_tools
            yield row
        told.remarks.update(
            {
                "{count} conversations have earlier answers of the assistant in them": turns,
                "{count} conversations call tools: they are kept, and no student answers such": tools,
            }
        )

    def row(self, line: int, value: Any, told: Told, seen: dict[str, int]) -> TalkRow | BadRow:
        """One row; `told` and `seen` note what came before."""
        if not isinstance(value, Mapping):
            return BadRow(line=line, why="not a JSON object")
        held = value_at(value, self.messages), value_at(value, self.answer)
        messages, answer = conversation_of(held[0]), said_in(held[1])
        if messages is None or not all(_readable(one) for one in messages):
            return BadRow(line=line, why=nothing_in(self.messages, held[0], "conversation"))
        if answer is None:
            return BadRow(line=line, why=nothing_in(self.answer, held[1], "answer"))
        moment = moment_of(value, self.times)
        if moment.fault == "outside":
            return BadRow(line=line, why=f"the time in {moment.column} is outside of the years 1 to 9999, UTC")
        told.row(moment)
        around = value if self.messages == "messages" else request_of(held[0])
        question = ChatInput(messages=messages, shape=shape_of(around))
        name = canonical_input(_RULES.task, _RULES.parts(question)).decode()
        own = id_of(value, self.ids)
        key = key_of(own, name, answer, seen, told)
        return TalkRow(line=line, key=key, value=question, answer=answer, id=own, moment=moment)


def read_call(call: Mapping[str, Any], labels: Collection[str], rules: Rules) -> TalkRow | BadRow:
    """One call of a teacher; see `ops.readers.tasks.read_call`."""
    del labels, rules
    return TalkReader(path=Path(), messages="request", answer="response").row(1, call, Told(), {})


def _readable(message: Message) -> bool:
    try:
        message.content.encode()
    except UnicodeEncodeError:
        return False
    return True
