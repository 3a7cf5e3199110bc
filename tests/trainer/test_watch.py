"""What the live watch says of the kept items."""

from dataclasses import replace

from prometheus_client import REGISTRY

from store.buffer.memory import MemoryBuffer
from tests.contracts.escalations import LANE, Partition, escalation
from trainer.watch import show_items
from trainer.work import LaneTraining


def shown(label: str, state: str) -> float | None:
    names = {"tenant": LANE.tenant, "use_case": LANE.use_case, "label": label, "state": state}
    return REGISTRY.get_sample_value("understudy_items", names)


def test_items_that_were_paid_under_another_prompt_are_shown_as_stale() -> None:
    buffer = MemoryBuffer(100)
    Partition(buffer, 0).apply(
        [escalation("a"), escalation("b", number=1), escalation("c", number=2, label="delivery")]
    )
    training = LaneTraining(
        lane=LANE,
        task="classify",
        prompt_version="teacher-1@p1",
        target=0.9,
        confidence=0.95,
        policy="promise",
        labels=("refund", "delivery", "other"),
    )
    show_items(training, buffer)
    assert (shown("refund", "fresh"), shown("delivery", "fresh"), shown("other", "fresh")) == (2, 1, 0)
    show_items(replace(training, prompt_version="teacher-1@p2"), buffer)
    assert (shown("refund", "fresh"), shown("refund", "stale"), shown("delivery", "stale")) == (0, 2, 1)
