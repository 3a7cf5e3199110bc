"""One suite for every replay buffer."""

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.buffer.ledger import BEGINNING, Applied, AuditTally, Buffer, Counters
from store.buffer.memory import MemoryBuffer
from store.buffer.redis import RedisBuffer
from store.event import ClassifyEscalation, Lane
from tests.contracts.escalations import LANE, Partition, check_integrity, escalation, slot

Make = Callable[[int], Buffer]
OTHER = Lane("bolt", "support")
LABELS = ("refund", "cancel", "count")
small = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def make_redis(redis_client: redis.Redis) -> Make:
    """A new, empty buffer in Redis on each call."""

    def make(k: int) -> Buffer:
        redis_client.flushall()
        return RedisBuffer(redis_client, k)

    return make


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    """A new, empty buffer of each kind on each call."""
    if request.param == "memory":
        return MemoryBuffer
    made: Make = request.getfixturevalue("make_redis")
    return made


class Ask(NamedTuple):
    """One record in short: which question, which answer, which event."""

    question: int
    label: str
    number: int
    audit: bool
    eligible: bool
    lane: Lane

    def event(self) -> ClassifyEscalation:
        return escalation(
            f"question {self.question}",
            label=self.label,
            number=self.number,
            reason="audit" if self.audit else "low_confidence",
            version=f"v{self.number % 2}",
            eligible=self.eligible,
            lane=self.lane,
        )


def asks(questions: int = 8, numbers: int = 12) -> st.SearchStrategy[Ask]:
    return st.builds(
        Ask,
        question=st.integers(0, questions - 1),
        label=st.sampled_from(LABELS),
        number=st.integers(0, numbers - 1),
        audit=st.booleans(),
        eligible=st.sampled_from([True, True, True, False]),
        lane=st.sampled_from([LANE, OTHER]),
    )


def contents(buffer: Buffer) -> dict[str, Any]:
    """All that a buffer can say, positions left out."""
    return {
        str(lane): (list(buffer.items(lane)), buffer.counters(lane), buffer.audits(lane)) for lane in (LANE, OTHER)
    } | {"dead": buffer.dead("support")}


def pour(buffer: Buffer, records: list[Ask], rng: Random, partitions: int = 3) -> None:
    """Apply the records in batches; partitions interleave at random, each keeps its own order."""
    queues = [[ask for ask in records if ask.question % partitions == each] for each in range(partitions)]
    readers = [Partition(buffer, each) for each in range(partitions)]
    while any(queues):
        each = rng.choice([index for index, queue in enumerate(queues) if queue])
        size = rng.randint(1, 4)
        assert readers[each].apply([ask.event() for ask in queues[each][:size]]).outcome == "ok"
        del queues[each][:size]


def test_a_new_slot_starts_at_the_beginning_and_every_claim_draws_a_higher_fence(make: Make) -> None:
    buffer = make(9)
    first, second = buffer.claim("support", slot(0), "a"), buffer.claim("support", slot(0), "b")
    assert first.position == second.position == BEGINNING
    assert second.fence > first.fence
    assert buffer.positions("support") == {slot(0): BEGINNING}
    assert buffer.positions("other") == {}


def test_a_claim_returns_where_the_last_batch_ended(make: Make) -> None:
    buffer = make(9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1), escalation("b", number=2)], {"undecodable": 1})
    assert buffer.claim("support", slot(0), "b").position == "3"
    assert buffer.claim("support", slot(1), "b").position == BEGINNING
    assert buffer.positions("support") == {slot(0): "3", slot(1): BEGINNING}


def test_a_void_fence_writes_nothing(make: Make) -> None:
    buffer = make(9)
    zombie = Partition(buffer, 0)
    heir = Partition(buffer, 0)
    assert zombie.apply([escalation("a", number=1)]) == Applied("fenced", BEGINNING)
    assert list(buffer.items(LANE)) == []
    assert heir.apply([escalation("a", number=1)]) == Applied("ok", "1")


def test_a_slot_that_was_never_claimed_is_fenced(make: Make) -> None:
    buffer = make(9)
    batch = Partition(make(9), 0).batch([escalation("a")])
    assert make(9).apply(batch).outcome == "fenced"
    assert list(buffer.items(LANE)) == []


def test_a_batch_that_does_not_start_at_the_stored_position_writes_nothing(make: Make) -> None:
    buffer = make(9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1), escalation("b", number=2)])
    before = contents(buffer)
    reader.position = BEGINNING
    straddling = reader.batch([escalation(text, number=number) for number, text in enumerate("abc", 1)])
    assert buffer.apply(straddling) == Applied("moved", "2")
    reader.position = "5"
    assert buffer.apply(reader.batch([escalation("z", number=9)])) == Applied("moved", "2")
    assert contents(buffer) == before


def test_a_recreated_topic_has_positions_of_its_own(make: Make) -> None:
    buffer = make(9)
    Partition(buffer, 0).apply([escalation("a", number=1)])
    recreated = slot(0)._replace(uuid="another")
    assert buffer.claim("support", recreated, "a").position == BEGINNING


def test_an_item_holds_every_answer_and_a_repeated_event_counts_once(make: Make) -> None:
    buffer = make(9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", label="refund", number=1), escalation(" a ", label="cancel", number=2)])
    reader.apply([escalation("a", label="refund", number=1), escalation("a", label="refund", number=3)])
    (item,) = buffer.items(LANE)
    assert item.tally == {"teacher-1@p1": {"refund": 2, "cancel": 1}}
    assert item.count == 3
    assert buffer.counters(LANE) == Counters(counted=3, repeats=1, new_items=1)
    check_integrity(buffer, "support", [LANE], 4)


def test_an_ineligible_event_leaves_a_count_and_nothing_else(make: Make) -> None:
    buffer = make(9)
    Partition(buffer, 0).apply([escalation("a", number=1, eligible=False, reason="audit")])
    assert list(buffer.items(LANE)) == []
    assert buffer.counters(LANE) == Counters(ineligible=1)
    assert buffer.audits(LANE) == {}


def test_dead_letters_are_counted_by_reason_and_move_the_position(make: Make) -> None:
    buffer = make(9)
    reader = Partition(buffer, 0)
    assert reader.apply([], {"undecodable": 2, "too_old": 1}) == Applied("ok", "3")
    reader.apply([], {"undecodable": 1})
    assert buffer.dead("support") == {"undecodable": 3, "too_old": 1}
    assert buffer.dead("other") == {}
    check_integrity(buffer, "support", [LANE], 4)


def test_audits_are_tallied_by_version_and_only_where_the_event_counts(make: Make) -> None:
    buffer = make(9)
    reader = Partition(buffer, 0)
    reader.apply(
        [
            escalation("a", number=1, reason="audit", student="refund", version="v1"),
            escalation("b", number=2, reason="audit", student="cancel", version="v1"),
            escalation("c", number=3, reason="audit", student="refund", version="v:2"),
            escalation("d", number=4, reason="low_confidence", student="refund", version="v1"),
            escalation("e", number=5, reason="audit", student=None),
        ]
    )
    reader.apply([escalation("a", number=1, reason="audit", student="refund", version="v1")])
    assert buffer.audits(LANE) == {"v1": AuditTally(audits=2, agreed=1), "v:2": AuditTally(audits=1, agreed=1)}
    assert buffer.audits(OTHER) == {}


def test_each_stratum_keeps_k_items_and_what_goes_is_counted(make: Make) -> None:
    buffer = make(3)
    reader = Partition(buffer, 0)
    reader.apply([escalation(f"r{n}", number=n, label="refund") for n in range(9)])
    reader.apply([escalation(f"c{n}", number=20 + n, label="cancel") for n in range(2)])
    strata = [item.stratum for item in buffer.items(LANE)]
    assert sorted(strata) == ["cancel"] * 2 + ["refund"] * 3
    assert buffer.counters(LANE) == Counters(counted=11, evicted=6, new_items=11)
    check_integrity(buffer, "support", [LANE], 11)


def test_lanes_of_one_use_case_share_nothing(make: Make) -> None:
    buffer = make(2)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=n, lane=lane) for n, lane in enumerate([LANE, OTHER, LANE])])
    assert [item.count for item in buffer.items(LANE)] == [2]
    assert [item.count for item in buffer.items(OTHER)] == [1]
    assert buffer.counters(OTHER) == Counters(counted=1, new_items=1)


@small
@given(records=st.lists(asks(), max_size=40), seed=st.integers(0, 999), k=st.integers(1, 5))
def test_every_record_is_in_exactly_one_place(make: Make, records: list[Ask], seed: int, k: int) -> None:
    buffer = make(k)
    pour(buffer, records, Random(seed))
    check_integrity(buffer, "support", [LANE, OTHER], len(records))


@small
@given(records=st.lists(asks(), max_size=30), seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)))
def test_the_buffer_does_not_depend_on_how_partitions_interleave(
    make: Make, records: list[Ask], seeds: tuple[int, int]
) -> None:
    found = []
    for seed in seeds:
        buffer = make(100)
        pour(buffer, records, Random(seed))
        found.append(contents(buffer))
    assert found[0] == found[1]


@small
@given(
    questions=st.lists(st.integers(0, 19), max_size=40),
    seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)),
    k=st.integers(1, 4),
)
def test_which_items_are_evicted_does_not_depend_on_how_partitions_interleave(
    make: Make, questions: list[int], seeds: tuple[int, int], k: int
) -> None:
    records = [Ask(each, LABELS[each % 2], number, False, True, LANE) for number, each in enumerate(questions)]
    found = []
    for seed in seeds:
        buffer = make(k)
        pour(buffer, records, Random(seed))
        counters = buffer.counters(LANE)
        found.append((list(buffer.items(LANE)), counters.counted, counters.evicted))
    assert found[0] == found[1]


@small
@given(records=st.lists(asks(), min_size=1, max_size=20), k=st.integers(1, 5))
def test_applying_a_batch_again_changes_nothing(make: Make, records: list[Ask], k: int) -> None:
    buffer = make(k)
    reader = Partition(buffer, 0)
    events = [ask.event() for ask in records]
    first = reader.apply(events, {"oversized": 1})
    before = contents(buffer)
    assert reader.last is not None
    assert buffer.apply(reader.last) == first == Applied("ok", str(len(records) + 1))
    assert contents(buffer) == before


@small
@given(records=st.lists(asks(), max_size=40), seed=st.integers(0, 999), k=st.integers(1, 5))
def test_memory_and_redis_hold_the_same(make_redis: Make, records: list[Ask], seed: int, k: int) -> None:
    memory, real = MemoryBuffer(k), make_redis(k)
    pour(memory, records, Random(seed))
    pour(real, records, Random(seed))
    assert contents(memory) == contents(real)
    assert memory.positions("support") == real.positions("support")
