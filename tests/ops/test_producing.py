"""Calls that other programs made go into a lane's topic by the checks of an import, and nobody waits for them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import pytest

from ops.imports.importer import ImportLane
from ops.producing.calls import Calls, UnusableCallError
from ops.producing.producer import Producer
from store.errors import SpoolFullError
from store.event import ChatEscalation, ClassifyEscalation, Escalation, Lane, RankEscalation, Task
from store.tasks.tasks import TASKS, LaneTerms
from stream.publisher import Publisher
from tests.ops.children import until

NOW_S = 1_800_000_000.0
LABELS = ("refund", "delivery")
CARD = "4111 1111 1111 1111"


def calls_of(task: Task) -> Calls:
    terms = LaneTerms(labels=LABELS) if task == "classify" else LaneTerms()
    lane = ImportLane(
        lane=Lane("acme", "support"),
        rules=TASKS[task](terms),
        lane_key=b"k" * 32,
        redaction_key=b"r" * 32,
        model="big",
        prompt_version="v",
    )
    return Calls(into=lane, task=task, labels=terms.labels, prompt="Sort: $labels\nText: $text")


def chat(text: str, said: str, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    return {
        "id": "c-1",
        "time": NOW_S,
        "request": {"messages": [{"role": "user", "content": text}], **more},
        "response": {"choices": [choice]},
    }


def event(task: Task, call: dict[str, Any], *models: str) -> Escalation:
    return calls_of(task).event(call, models=models, now_s=NOW_S)[0]


def test_a_text_is_what_the_lanes_prompt_was_filled_with() -> None:
    found = event("classify", chat(f"Sort: refund, delivery\nText: refund to {CARD}", "Refund."), "big", "big-2")
    assert isinstance(found, ClassifyEscalation)
    assert found.input.text.startswith("refund to <CARD:")
    assert (found.teacher.label, found.teacher.prompt_version, found.escalation.reason) == ("refund", "v", "cold")


def test_a_conversation_keeps_its_turns_and_what_shapes_its_answer() -> None:
    found = event("chat", chat(f"it is {CARD}", "thanks", stop=["x"]))
    assert isinstance(found, ChatEscalation)
    assert found.input.messages[0].content.startswith("it is <CARD:")
    assert (found.input.shape, found.teacher.text) == ({"stop": ["x"]}, "thanks")


def test_a_list_keeps_its_scores() -> None:
    request = {"query": "shoes", "documents": ["boots", "sandals"]}
    results = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]
    found = event("rank", {"id": "r-1", "request": request, "response": {"results": results}})
    assert isinstance(found, RankEscalation)
    assert found.teacher.scores == [0.1, 0.9]
    assert found.time_s == NOW_S


def test_a_call_that_is_told_twice_is_one_event() -> None:
    first, second = (event("chat", chat("hi", "hello")) for _ in range(2))
    assert first.id == second.id


@pytest.mark.parametrize(
    ("task", "call", "models", "why"),
    [
        ("classify", chat("Sort: a\nText: hi", "banana"), (), "labels"),
        ("classify", chat("hi", "refund"), (), "another prompt"),
        ("chat", chat("hi", "hello"), ("small",), "another model"),
        ("chat", {"request": {"messages": []}, "response": {}}, (), "conversation"),
        ("rank", {"request": {"query": "a", "documents": []}, "response": {}}, (), "documents"),
        ("rank", {"request": "?", "response": {}}, (), "query"),
    ],
)
def test_what_nobody_can_learn_from_is_left_out_with_the_reason(
    task: Task, call: dict[str, Any], models: tuple[str, ...], why: str
) -> None:
    with pytest.raises(UnusableCallError, match=why):
        event(task, call, *models)


class FakePublisher:
    """Keeps what it is given, or refuses it."""

    def __init__(self) -> None:
        self.events: list[Escalation] = []
        self.closed = False
        self.full = False

    async def publish(self, event: Escalation, item_id: str) -> None:
        assert item_id
        if self.full:
            message = "full"
            raise SpoolFullError(message)
        self.events.append(event)

    def opened(self) -> Callable[[], AbstractAsyncContextManager[Publisher]]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Publisher]:
            yield cast("Publisher", self)
            self.closed = True

        return opened


def test_calls_are_published_behind_the_callers_back_and_the_rest_when_it_ends() -> None:
    publisher = FakePublisher()
    producer = Producer(calls_of("chat"), publisher.opened(), now=lambda: NOW_S)
    for number in range(50):
        producer.offer(chat(f"question {number}", "answer"))
    producer.offer(chat("hi", "hello"), ("small",))
    producer.close()
    assert len(publisher.events) == 50
    assert publisher.closed
    assert producer.counts == {"published": 50, "unusable": 1}
    producer.offer(chat("too late", "yes"))  # raises nothing


def test_a_log_that_takes_nothing_costs_the_caller_nothing_and_is_counted() -> None:
    publisher = FakePublisher()
    publisher.full = True
    producer = Producer(calls_of("chat"), publisher.opened(), now=lambda: NOW_S)
    producer.offer(chat("hi", "hello"))
    until(lambda: producer.counts["lost"] == 1)
    publisher.full = False
    producer.offer(chat("hi", "hello"))
    until(lambda: producer.counts["published"] == 1)
    producer.close()
