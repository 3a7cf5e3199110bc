"""Chat completions: which lane's student may answer a request, and what its client reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from serve.completions.answer import EXAMPLE, Chunk, Completion, choice_of, chunk_head, streamed, whole
from serve.completions.request import INVALID_STATUS, PATH
from serve.completions.stream import Speech
from serve.escalation import Answer, Common, Given, Question
from serve.openapi.operation import Operation
from serve.settings import LaneSettings
from serve.tasks.chat.form import keeps_form
from serve.tasks.chat.request import ChatQuestion, ChatRequest, beyond_students, question_of
from serve.tasks.face import Asked, Heed, Kept, RequestLimits, Timing, decode_body, invalid, whole_numbers
from store.event import ChatAnswer, ChatEscalation, ChatInput, Message, TaskInput, TeacherAnswer
from store.redact import restore
from store.student.loaded import ChatOpinion, Opinion
from store.tasks.chat import ChatRules, with_texts

_RULES: Final = ChatRules()
_WHOLE: Final = frozenset({"stop", "eos", "end_turn", "stop_sequence"})  # of ways to end: nothing was cut off


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply(Answer):
    """What the client gets."""

    completion: dict[str, Any]  # `choices` and, where the teacher answered, everything else that it said


_OPERATION: Final = Operation(
    summary="The assistant's next message",
    description="For lanes of `chat`, as OpenAI's API has it, with whatever other fields it knows: what no student can "
    "do goes to the teacher as it was sent.",
    asked=ChatRequest,
    answered=Completion,
    chunk=Chunk,
    example={"model": "desk", "messages": [{"role": "user", "content": "my card was swallowed"}]},
    answer=EXAMPLE,
)


class Chat:
    """Satisfies `Face`."""

    paths: Final = (PATH,)
    operation: Final = _OPERATION
    event_type: Final = ChatEscalation
    invalid_status: Final = INVALID_STATUS
    answer_type: Final = ChatReply
    sample: Final[TaskInput] = ChatInput(messages=[Message(role="user", content="This is a test question.")])

    def decode(self, body: bytes, lane: LaneSettings) -> Asked:  # noqa: ARG002 - as the protocol has it
        """See `Face`."""
        found = decode_body(body, ChatRequest)
        sent: dict[str, Any] = msgspec.json.decode(body)
        question = question_of(sent, found)
        return Asked(
            model=found.model,
            user=found.user,
            values=[question],
            fields=_fields(question),
            listed=False,
            identity=["chat", sent],
            unsupported=beyond_students(found, question),
            streaming=found.streaming(self.chunks, self.voice),
        )

    def check(self, asked: Asked, limits: RequestLimits) -> None:
        """See `Face`."""
        (value,) = asked.values
        messages = _input(value).messages
        if not messages:
            raise invalid(field="messages", message="there are none")
        if len(messages) > limits.max_documents:
            raise invalid(field="messages", message=f"{len(messages)} messages, up to {limits.max_documents} allowed")
        for text, field in zip(_RULES.texts(value), asked.fields, strict=True):
            if len(text) > limits.max_message_chars:
                raise invalid(field=field, message=f"{len(text)} characters, {limits.max_message_chars} allowed")
        most = _most_tokens(value)
        if most is not None and most < 1:
            raise invalid(field="max_tokens", message=f"{most}, 1 or more allowed")

    def body(self, asked: Asked, given: Given) -> dict[str, Any]:
        """See `Face`."""
        return whole(asked, given, _completion(given))

    def timing(self, asked: Asked, settings: LaneSettings) -> Timing:
        """See `Face`: what is looked at as a whole, or may be cut off by its client, is not told before."""
        (value,) = asked.values
        terms, most = settings.terms.chat, _most_tokens(value)
        cut = most is not None and most < terms.max_answer_tokens
        live = asked.streaming is not None and not cut and "response_format" not in _input(value).shape
        moment = terms.decide if live or terms.decide == "prompt" else "end"
        return Timing(moment=moment, live=live)

    def voice(self, asked: Asked, question: Question, put: Callable[[bytes], None]) -> Speech:
        """The student's answer to a question, told while it grows."""
        stops = _input(question.value).shape.get("stop") or ()
        return Speech(
            head=chunk_head(asked, question.event_id, question.at_s),
            with_usage=asked.streaming is not None and asked.streaming.with_usage,
            noted=question.noted,
            stops=(stops,) if isinstance(stops, str) else tuple(stops),
            put=put,
        )

    def chunks(self, asked: Asked, given: Given, told: int = 0) -> Iterator[bytes]:
        """A whole answer as the events of a stream, from the character on that was not told yet."""
        return streamed(asked, given, _completion(given), told)

    def of_texts(self, value: TaskInput, texts: Sequence[str]) -> TaskInput:
        """See `Matter`."""
        asked = _input(value)
        return with_texts(ChatInput(messages=asked.messages, shape=asked.shape), texts)

    def portions(self, value: TaskInput, count: int) -> Sequence[TaskInput]:  # noqa: ARG002 - one answer has no parts
        """See `Matter`."""
        return ()

    def heed(self, settings: LaneSettings) -> Heed:  # noqa: ARG002 - any text is an answer
        """See `Face`: an answer that did not come to its end is none, nor one longer or of another form than wanted."""
        return _heard

    def of_student(self, opinion: Opinion, common: Common, noted: Mapping[str, str]) -> Answer:
        """See `Face`: the client's own values stand where the student wrote their tokens."""
        said = cast("ChatOpinion", opinion)
        choice = choice_of(restore(said.output, noted), said.finish_reason)
        tokens = {
            "prompt_tokens": said.prompt_tokens,
            "completion_tokens": len(said.tokens),
            "total_tokens": said.prompt_tokens + len(said.tokens),
        }
        return ChatReply(completion={"choices": [choice], "usage": tokens}, **common)

    def of_teacher(self, answer: TeacherAnswer, value: TaskInput, settings: LaneSettings, common: Common) -> Answer:  # noqa: ARG002
        """See `Face`: all that it said, as it said it."""
        said: Any = answer
        return ChatReply(completion=said.completion, **common)

    def kept(self, value: TaskInput, answer: TeacherAnswer) -> Kept:
        """See `Face`: nobody learns what no student can do, nor from an answer that is not whole."""
        said = cast("ChatAnswer", answer)
        message = cast("Any", answer).completion["choices"][0].get("message") or {}
        learned = (
            said.finish_reason in _WHOLE
            and not said.tool_calls
            and not message.get("refusal")
            and bool(said.text.strip())
            and not (isinstance(value, ChatQuestion) and beyond_students(_request(value), value))
        )
        return Kept(
            answer=ChatAnswer(
                model=said.model,
                prompt_version=said.prompt_version,
                usage=said.usage,
                cost_usd=said.cost_usd,
                latency_ms=said.latency_ms,
                text=said.text,
                tool_calls=said.tool_calls,
                finish_reason=said.finish_reason,
            ),
            learnable=learned,
        )


def _heard(opinion: Opinion, value: TaskInput) -> Opinion | None:
    said, most = cast("ChatOpinion", opinion), _most_tokens(value)
    whole = said.finish_reason == "stop" and (most is None or len(said.tokens) <= most)
    return opinion if whole and keeps_form(said.output, _input(value).shape.get("response_format")) else None


def _most_tokens(value: TaskInput) -> int | None:
    """How long the client lets an answer be."""
    return _request(value).most_tokens if isinstance(value, ChatQuestion) else None


def _request(value: ChatQuestion) -> ChatRequest:
    return msgspec.convert(whole_numbers(value.sent), ChatRequest)


def _completion(given: Given) -> dict[str, Any]:
    return cast("ChatReply", given.found[0]).completion


def _fields(question: ChatQuestion) -> list[str]:
    """Where each text of a question stands in the request."""
    texts = len(_RULES.texts(question))
    named = [f"messages[{place}].content" for place in range(len(question.messages))]
    return [*named, *["messages"] * (texts - len(named))]


def _input(value: TaskInput) -> ChatInput:
    return cast("ChatInput", value)
