"""A lane's items, counted by how their answers are read today, and what is said of it."""

from dataclasses import replace
from random import Random

import msgspec
import redis
import structlog

from store.answers.census import advice, count, present_census, tell, waits
from store.answers.rules import Drawing, Rules
from store.buffer.item import Item
from store.buffer.ledger import Counters
from store.buffer.memory import MemoryBuffer
from store.control import Control
from tests.contracts.escalations import Partition, escalation
from tests.trainer.questions import LANE, NOW_S, PROMPT_VERSION, an_item

NOW = Drawing(
    prompt_version=PROMPT_VERSION, quarantine_s=60.0, now_s=NOW_S, allowed_labels=frozenset({"refund", "delivery"})
)


def item(number: int, label: str, *, prompt: str = PROMPT_VERSION, age_s: float = 600.0) -> Item:
    found = an_item(f"question {number}", label, Random(number), at_s=NOW_S - age_s)
    return msgspec.structs.replace(found, tally={prompt: {label: 1}})


def some() -> list[Item]:
    return [
        item(1, "refund"),
        item(2, "refund", age_s=10.0),
        item(3, "refund", prompt="m@old", age_s=900.0),
        item(4, "delivery", prompt="m@old"),
        item(5, "fax"),
        item(6, "pigeon"),
        item(7, "late"),
    ]


def test_each_item_is_in_one_state_under_the_label_that_it_is_read_as() -> None:
    census = count(some(), replace(NOW, rules=Rules(labels={"fax": None, "late": "delivery"})), counted=7)
    assert census.labels == {
        "refund": {"fresh": 1, "quarantined": 1, "stale": 1},
        "delivery": {"stale": 1, "fresh": 1},
        "fax": {"retired": 1},
        "pigeon": {"off_list": 1},
    }
    assert census.items == sum(sum(states.values()) for states in census.labels.values()) == 7
    old, now = census.prompts["m@old"], census.prompts[PROMPT_VERSION]
    assert (old.items, old.alone, old.counts, old.first_s, old.last_s) == (2, 2, False, NOW_S - 900, NOW_S - 600)
    assert (now.items, now.alone, now.counts) == (5, 0, True)


def test_what_keeps_answers_from_being_learned_is_said_with_what_to_do() -> None:
    said = advice(count(some(), replace(NOW, rules=Rules(labels={"fax": None}))))
    assert [sentence.partition(":")[0] for sentence in said] == [
        "2 of 7 items were paid under another prompt (m@old)",
        "2 of 7 items are off today's list of labels (late",
        "1 of 7 items have retired labels alone (fax",
    ]
    assert "`understudy prompt accept --from old --reason" in said[0]
    assert "`understudy labels rename`" in said[1]
    assert "`understudy answers undo`" in said[2]
    accepted = count(some()[:4], replace(NOW, rules=Rules(prompts=frozenset({"m@old"}))))
    assert advice(accepted) == []
    assert waits(accepted) == ["1 of 4 items are younger than trainer.quarantine_s (60 s) and wait"]


def test_the_log_has_a_warning_only_where_something_is_to_be_done() -> None:
    with structlog.testing.capture_logs() as logs:
        tell(LANE, count(some()[:2], NOW))
        tell(LANE, count(some()[:3], NOW))
    assert [(line["log_level"], line["fresh"], line["stale"]) for line in logs] == [("info", 1, 0), ("warning", 1, 1)]
    assert logs[1]["why"] == advice(count(some()[:3], NOW))


def test_a_count_serves_while_it_is_true_and_not_for_another_reading(redis_client: redis.Redis) -> None:
    buffer, control = MemoryBuffer(100), Control(redis_client)
    lane = escalation("a").lane
    reading = Drawing(prompt_version="teacher-1@p1", quarantine_s=0.0, now_s=NOW_S)
    partition = Partition(buffer, 0)
    partition.apply([escalation("a")])

    def items(drawing: Drawing) -> int:
        return present_census(lane, drawing, buffer=buffer, control=control).items

    assert items(reading) == 1
    kept = control.census(lane)
    assert items(replace(reading, now_s=NOW_S + 5)) == 1
    assert control.census(lane) == kept, "nothing has changed"
    assert items(replace(reading, prompt_version="teacher-1@p2")) == 1
    assert control.census(lane) != kept
    partition.apply([escalation("b", number=1)])
    assert items(replace(reading, prompt_version="teacher-1@p2", now_s=NOW_S + 6)) == 2
    control.keep_census(lane, b"damaged")
    assert present_census(lane, reading, buffer=buffer, control=control, counters=Counters(counted=2)).items == 2
