"""What an event keeps of a teacher's answer: a text is redacted off the loop, all else waits for no thread."""

import asyncio
import threading
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serve.escalation import Question, Seen
from serve.request.events import LaneEvents
from serve.tasks.face import Kept
from serve.tasks.tasks import TASKS as FACES
from store.event import (
    ChatAnswer,
    ChatInput,
    Escalation,
    LabelAnswer,
    Lane,
    Message,
    RankAnswer,
    RankInput,
    Task,
    TaskInput,
    TeacherAnswer,
    TextInput,
    new_event_id,
)
from store.policy import Decision
from store.tasks.tasks import TASKS, LaneTerms

COMMON: dict[str, Any] = {"model": "big", "prompt_version": "1"}
ANSWERS: dict[Task, tuple[TaskInput, TeacherAnswer]] = {
    "classify": (TextInput(text="where is it"), LabelAnswer(label="delivery", **COMMON)),
    "rank": (RankInput(query="boots", documents=["a", "b"]), RankAnswer(scores=[0.5, 0.25], **COMMON)),
    "chat": (
        ChatInput(messages=[Message(role="user", content="to whom?")]),
        ChatAnswer(text="to ada@example.org", finish_reason="stop", **COMMON),
    ),
}


@pytest.mark.parametrize("task", ANSWERS)
def test_only_an_answer_in_words_waits_for_a_thread_and_is_redacted_there(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    hops, redacted_on, sent = list[str](), list[int](), list[Escalation]()
    to_thread = asyncio.to_thread

    def hop(what: Callable[..., Any], *arguments: Any) -> Any:
        hops.append(getattr(what, "__name__", ""))
        return to_thread(what, *arguments)

    def redact(text: str) -> str:
        redacted_on.append(threading.get_ident())
        return text.replace("ada@example.org", "<EMAIL>")

    class Sink:
        async def publish(self, event: Escalation, key: str, *, traceparent: str | None = None) -> None:
            sent.append(event)

    monkeypatch.setattr(asyncio, "to_thread", hop)
    value, answer = ANSWERS[task]
    parts: Any = {
        "face": SimpleNamespace(
            event_type=FACES[task].event_type, kept=lambda _, said: Kept(answer=said, learnable=True)
        ),
        "settings": SimpleNamespace(lane=Lane("acme", "support"), training_permitted=True),
    }
    events = LaneEvents(
        parts["settings"],
        cast("Any", Sink()),
        face=parts["face"],
        rules=TASKS[task](LaneTerms(labels=("delivery",))),
        slots=cast("Any", None),
        metrics=cast("Any", None),
        redact=redact,
        referee=None,
    )
    question = Question(
        value=value,
        redacted=value,
        item_id="0" * 32,
        event_id=new_event_id(1.0, Random(1)),
        at_s=1.0,
        subject=None,
        forced=True,
    )
    decision = Decision(route="teacher", reason="forced", propensity=1.0)
    asyncio.run(events.publish(question, Seen(version=None, policy=None, outcome=None), decision, answer))
    (event,) = sent
    assert event.eligible
    if task == "chat":
        assert (hops, cast("ChatAnswer", event.teacher).text) == (["private"], "to <EMAIL>")
        assert redacted_on
        assert threading.get_ident() not in redacted_on
    else:
        assert (hops, redacted_on, event.teacher) == ([], [], answer)
