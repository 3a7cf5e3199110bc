"""Chat: the teacher gets the client's own request, and the client its answer, as they came."""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from serve.completions.stream import DONE, Events, assembled
from serve.settings import TeacherSettings
from serve.tasks.chat.request import ChatQuestion
from serve.teacher.ask.asking import Call, Signal, Tab, Talk
from serve.teacher.ask.chat import prices_of
from serve.teacher.ask.completion import read_usage
from serve.teacher.parameters import OUTPUT_LIMITS, body_of, most_output_tokens
from serve.teacher.wire import MAX_ANSWER_BYTES
from store.answers.prompt import prompt_version
from store.event import ChatAnswer, ChatInput, TaskInput
from store.tasks.chat import ChatRules
from store.tasks.narrow import narrow

_PATH: Final = "/chat/completions"
_ASSUMED_COMPLETION_TOKENS: Final = 1_024  # where nobody sets a limit
_ENVELOPE_TOKENS: Final = 32  # roles and separators around each message
_OURS: Final = ("model", "stream", "stream_options", "user")
"""Fields of a client's request that are not the teacher's business, or are said anew."""


class HeardReply(ChatAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """A teacher's answer with the whole completion, for the client who waits for it."""

    completion: dict[str, Any]


class AskForReply:
    """Satisfies `Asking`."""

    answer_type: Final = HeardReply
    most_bytes: Final = 4 * MAX_ANSWER_BYTES

    def __init__(self, settings: TeacherSettings) -> None:
        """Prepare what every call has in common: the settings' parameters, where a client sets no other."""
        self._model = settings.model
        self._body: Mapping[str, Any] = body_of(settings.parameters)
        self._most_output = most_output_tokens(settings.parameters) or _ASSUMED_COMPLETION_TOKENS
        self._prices = prices_of(settings)
        self.prompt_version = prompt_version(
            model=settings.model, prompt="", parameters=settings.parameters, answer_format="text"
        )

    def bound_usd(self, value: TaskInput) -> float:
        """See `Asking`: a byte is at least a token, and each answer is as long as it may be."""
        sent = _sent(value)
        limits = [sent[name] for name in OUTPUT_LIMITS if isinstance(sent.get(name), int)]
        count = sent.get("n")
        answers = count if isinstance(count, int) and count > 1 else 1
        read = len(msgspec.json.encode(sent)) + _ENVELOPE_TOKENS * len(sent["messages"])
        return self._prices.usd(read, answers * max(limits, default=self._most_output))

    def talk(self, value: TaskInput, tab: Tab) -> Talk:
        """See `Asking`."""
        body = {**self._body, **_sent(value), "model": self._model}
        completion = completion_of((yield Call(path=_PATH, body=body, may_stream=True)))
        usage = read_usage(completion.get("usage"))
        if usage is None:
            tab.add(None, self.bound_usd(value))
        else:
            tab.add(usage, self._prices.usd(usage.prompt_tokens, usage.completion_tokens))
        choice = completion["choices"][0]
        message = choice.get("message") or {}
        text = message.get("content")
        tab.said = text if isinstance(text, str) else ""
        found: Signal = {
            "text": tab.said,
            "tool_calls": message.get("tool_calls") or None,
            "finish_reason": str(choice.get("finish_reason") or "stop"),
            "completion": completion,
        }
        return found


def completion_of(body: bytes) -> dict[str, Any]:
    """The completion in a body: whole, or as the events of a stream.

    Raises:
        ValueError: there is none.
    """
    if body.lstrip()[:1] == b"{":
        found = json.loads(body)
    else:
        events = Events()
        data = [*events.feed(body), *events.end()]
        found = assembled([chunk for one in data if one != DONE and isinstance(chunk := json.loads(one), dict)])
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(one, dict) for one in choices):
        message = "not a chat completion"
        raise ValueError(message)
    return dict(found)


def _sent(value: TaskInput) -> dict[str, Any]:
    """What the client sent, as far as it is the teacher's; of a question without a request, its messages and shape."""
    if isinstance(value, ChatQuestion):
        return {name: one for name, one in value.sent.items() if name not in _OURS}
    asked = narrow(value, ChatInput, f"a lane of {ChatRules.task}")
    return {"messages": msgspec.to_builtins(asked.messages), **asked.shape}
