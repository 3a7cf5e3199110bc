"""The ingest loop, against the log in memory and a buffer that can be made to fail."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from random import Random
from time import monotonic

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from store.buffer.item import Entry
from store.buffer.ledger import Application, Applied, Claim, Counters, LogSlot
from store.buffer.memory import MemoryBuffer, _Position
from store.errors import CorruptItemError, StoreUnavailableError
from store.event import LabelAnswer, Lane, Undecodable, UnknownTask, decode, encode
from store.retry.backoff import Backoff
from store.secrets import DataSecret, subject_token
from store.tasks.tasks import LaneTerms
from stream.dead_letter import read_dead_letters
from stream.ingest import Ingest, IngestSettings, LaneKeys, pieces, triage
from stream.log import Batch, Record, Source, dead_topic_of, topic_of
from stream.memory import MemoryLog
from stream.metrics import IngestMetrics
from stream.outbox import partition_of
from tests.contracts.escalations import LANE, START_S, check_integrity, escalation

SECRET = DataSecret(b"s" * 32)
CLOSED, RANKING = Lane("closed", "support"), Lane("ranking", "support")
TOPIC = topic_of("support")
SLOT = LogSlot(TOPIC, "uuid", 0)
DEADLINE_S = 20.0
STANDS_STILL = "a partition stands still until a person has acted: see `understudy ingest skip --dry-run`"


def keys(
    lane: Lane, *, task: str = "classify", training_permitted: bool = True, labels: tuple[str, ...] = ()
) -> LaneKeys:
    return LaneKeys(
        lane_key=SECRET.lane_key(lane),
        redaction_key=SECRET.redaction_key(lane),
        subject_key=SECRET.subject_key(lane),
        task="rank" if task == "rank" else "classify",
        training_permitted=training_permitted,
        terms=LaneTerms(labels=labels),
    )


LANES = {LANE: keys(LANE), CLOSED: keys(CLOSED, training_permitted=False), RANKING: keys(RANKING, task="rank")}
QUICK = IngestSettings(
    poll_s=0.02, patience_s=0.02, grace_s=0.5, report_every_s=0.01, backoff=Backoff(first_s=0.001, most_s=0.002)
)


class FlakyBuffer(MemoryBuffer):
    """Fails to apply while there are faults left; each may be thrown before or after the application."""

    def __init__(self, k: int = 100) -> None:
        super().__init__(k)
        self.faults: list[Exception] = []
        self.lost_replies = 0
        self.away = False
        self.claims_fail = False
        self.looks = 0
        self.found_damaged: frozenset[str] = frozenset()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def claim(self, use_case: str, slot: LogSlot, owner: str) -> Claim:
        if self.claims_fail:
            message = "no claim now"
            raise StoreUnavailableError(message)
        return super().claim(use_case, slot, owner)

    def counters(self, lane: Lane) -> Counters:
        self.looks += 1
        if self.away:
            message = "Redis is away"
            raise StoreUnavailableError(message)
        return super().counters(lane)

    def damaged(self, lane: Lane) -> frozenset[str]:
        return self.found_damaged

    def apply(self, application: Application) -> Applied:
        self.entered.set()
        self.gate.wait(DEADLINE_S)
        if self.faults:
            raise self.faults.pop()
        applied = super().apply(application)
        if self.lost_replies:
            self.lost_replies -= 1
            message = "the reply was lost"
            raise StoreUnavailableError(message)
        return applied


class House:
    """A log, a buffer and what runs between them."""

    def __init__(self, partitions: int = 2, settings: IngestSettings = QUICK) -> None:
        self.log = MemoryLog()
        self.log.ensure(TOPIC, partitions)
        self.log.ensure(dead_topic_of("support"), 1)
        self.buffer = FlakyBuffer()
        self.settings = settings
        self.registry = CollectorRegistry()
        self.metrics = IngestMetrics.create(self.registry)
        self.records = 0

    def send(self, *values: bytes, key: bytes = b"k", timestamp_s: float = START_S) -> None:
        for value in values:
            self.log.append(TOPIC, key=key, value=value, timestamp_ms=int(timestamp_s * 1000)).result()
            self.records += 1

    def ingest(self, source: Source | None = None, *, clock: Callable[[], float] = lambda: START_S) -> Ingest:
        return Ingest(
            source or self.log.source(TOPIC, "group", lambda slot: self.buffer.claim("support", slot, "me")),
            self.buffer,
            self.log,
            use_case="support",
            lanes=LANES,
            secret=SECRET,
            settings=self.settings,
            metrics=self.metrics,
            rng=Random(0),
            clock=clock,
        )

    def applied(self) -> bool:
        """Whether every record that was sent has been applied."""
        done = sum(int(position) for position in self.buffer.positions("support").values() if position != "-1")
        return done == self.records

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"understudy_{name}", labels)


def await_that(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + DEADLINE_S
    waiter = threading.Event()
    while not condition():
        assert monotonic() < deadline
        waiter.wait(0.005)


@contextmanager
def running(ingest: Ingest) -> Iterator[threading.Event]:
    stop = threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            ingest.run(stop)
        except Exception as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def key_of(slot: LogSlot) -> bytes:
    """A key of the slot's partition, of two."""
    return next(b"%d" % n for n in range(100) if partition_of(b"%d" % n, 2) == slot.partition)


def record(value: bytes, timestamp_s: float = START_S) -> Record:
    return Record(
        topic=TOPIC, partition=0, offset=0, key=b"k", value=value, headers=(), timestamp_ms=int(timestamp_s * 1000)
    )


def sorted_out(value: bytes, timestamp_s: float = START_S) -> Entry | Undecodable | UnknownTask:
    return triage(record(value, timestamp_s), use_case="support", lanes=LANES, max_age_s=100.0)


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(encode(escalation("a"))), **fields}).encode()


CHAT = {
    "task": "chat",
    "input": {"messages": [{"role": "user", "content": "hello"}]},
    "teacher": {"model": "m", "prompt_version": "p", "text": "hi"},
    "student": None,
}


def ranked(documents: int = 3, tenant: str = "ranking", student: object = None, **answer: object) -> bytes:
    """An event of rank as some producer may send it."""
    return changed(
        task="rank",
        tenant=tenant,
        input={"query": "q", "documents": [f"document {place}" for place in range(documents)]},
        teacher={"model": "m", "prompt_version": "p", **answer},
        student=student,
    )


def output(said: str, **fields: object) -> dict[str, object]:
    return {"version": "v", "output": said, "confidence": 0.5, **fields}


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (b"\xff", "undecodable", "not JSON"),
        (b"", "undecodable", "a tombstone"),
        (b"\xef\xbb\xbf{}", "undecodable", "a byte order mark"),
        ("{}".encode("utf-16"), "undecodable", "looks like UTF-16"),
        ("{}".encode("utf-16-be"), "undecodable", "looks like UTF-16"),
        ("{}".encode("utf-16-le"), "undecodable", "looks like UTF-16"),
        (b"\0\0\0\0\x01{}", "undecodable", "schema registry"),
        (b"x" * (2 << 20), "oversized", "2097152 bytes"),
        (changed(schema=2), "unknown_schema", "schema 2"),
        (changed(input={"text": 7}), "wrong_shape", "$.input.text"),
        (changed(use_case="sales"), "wrong_use_case", "sales on the topic of support"),
        (changed(tenant="nobody"), "unknown_lane", "no lane nobody/support"),
        (changed(task="translate", use_case="sales"), "wrong_use_case", "sales on the topic of support"),
        (changed(**CHAT, use_case="sales"), "wrong_use_case", "sales on the topic of support"),
        (changed(input={"text": "01001 " * 100_000}), "unredactable", "send the text in parts"),
        (changed(tenant="ranking"), "wrong_shape", "a classify event, ranking/support takes rank"),
        (ranked(tenant="acme", order=[0]), "wrong_shape", "a rank event, acme/support takes classify"),
        (ranked(tenant="nobody", order=[0]), "unknown_lane", "no lane nobody/support"),
        (ranked(), "wrong_shape", "either teacher.scores or teacher.order"),
        (ranked(scores=[1, 2, 3], order=[0]), "wrong_shape", "either teacher.scores or teacher.order"),
        (ranked(scores=[1, 2]), "wrong_shape", "2 numbers for 3 documents"),
        (ranked(scores=[1, 2, "3"]), "wrong_shape", "$.teacher.scores[2]"),
        (ranked(scores=[1, 2, None]), "wrong_shape", "$.teacher.scores[2]"),
        (ranked(order=[]), "wrong_shape", "places from 0 to 2"),
        (ranked(order=[0, 0]), "wrong_shape", "places from 0 to 2"),
        (ranked(order=[3]), "wrong_shape", "places from 0 to 2"),
        (ranked(order=[-1]), "wrong_shape", "places from 0 to 2"),
        (ranked(documents=0, order=[0]), "wrong_shape", "$.input.documents"),
        (ranked(documents=1001, order=[0]), "wrong_shape", "$.input.documents"),
        (ranked(order=[0], student=output("the first")), "wrong_shape", "student.output: a JSON list of places"),
        (ranked(order=[0], student=output("[0, 3]")), "wrong_shape", "student.output: places from 0 to 2"),
        (ranked(order=[0], student=output("[0]", members=[[0.5]])), "wrong_shape", "student.members"),
    ],
)
def test_what_will_never_become_an_item_says_why(value: bytes, reason: str, detail: str) -> None:
    found = sorted_out(value)
    assert isinstance(found, Undecodable)
    assert found.reason == reason
    assert detail in found.detail


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({"task": "translate", "tenant": "ranking"}, "translate"),
        ({"task": "translate"}, "translate"),
        ({"task": "translate", "tenant": "nobody", "schema": 2}, "translate"),
    ],
)
def test_an_event_of_a_task_that_is_not_kept_waits_for_a_release_that_keeps_it(
    fields: dict[str, object], task: str
) -> None:
    assert sorted_out(changed(**fields)) == UnknownTask(task=task, use_case="support")


@pytest.mark.parametrize("said", ["refund", "Refund ", "**refund**", "re\u200bfund.", '{"label": "refund"}'])
def test_a_label_in_another_spelling_is_brought_to_the_lists(said: str) -> None:
    lanes = {LANE: keys(LANE, labels=("refund", "order status"))}
    found = triage(record(encode(escalation("a", label=said))), use_case="support", lanes=lanes, max_age_s=100.0)
    assert isinstance(found, Entry)
    assert isinstance(found.event.teacher, LabelAnswer)
    assert found.event.teacher.label == "refund"


@pytest.mark.parametrize("said", ["angry customer", "refund or order status", "not a refund", "refundable"])
def test_a_label_off_the_lanes_list_is_a_dead_letter(said: str) -> None:
    lanes = {LANE: keys(LANE, labels=("refund", "order status"))}
    found = triage(record(encode(escalation("a", label=said))), use_case="support", lanes=lanes, max_age_s=100.0)
    assert isinstance(found, Undecodable)
    assert found.reason == "off_list"
    assert said not in found.detail


def test_age_is_measured_when_the_log_took_the_record() -> None:
    value = encode(escalation("a", number=0))
    assert isinstance(sorted_out(value, START_S + 99), Entry)
    assert isinstance(sorted_out(value, START_S - 1000), Entry)
    old = sorted_out(value, START_S + 101)
    assert isinstance(old, Undecodable)
    assert old.reason == "too_old"


def test_an_entry_is_redacted_before_it_is_identified() -> None:
    first = sorted_out(encode(escalation("mail  jane@example.com please")))
    same = sorted_out(encode(escalation("mail JANE@example.com please")))
    other = sorted_out(encode(escalation("mail joan@example.com please")))
    assert isinstance(first, Entry)
    assert isinstance(same, Entry)
    assert isinstance(other, Entry)
    assert first.item_id == same.item_id != other.item_id
    assert "jane" not in repr(first).lower()


def test_the_subject_of_another_producer_becomes_the_token_that_the_gateway_makes() -> None:
    found = sorted_out(changed(subject="jane@example.com"))
    assert isinstance(found, Entry)
    assert found.event.subject == subject_token(SECRET.subject_key(LANE), "jane@example.com")
    again = sorted_out(encode(found.event))
    assert isinstance(again, Entry)
    assert again.event.subject == found.event.subject


def test_a_redacted_event_that_is_sent_again_is_the_same_question() -> None:
    once = sorted_out(encode(escalation("my card is 4111 1111 1111 1111")))
    assert isinstance(once, Entry)
    twice = sorted_out(encode(once.event))
    assert twice == once


@given(value=st.binary(max_size=300))
def test_no_bytes_stop_the_triage(value: bytes) -> None:
    assert isinstance(sorted_out(value), Undecodable)


@given(text=st.text(max_size=80), time=st.datetimes(), timestamp_ms=st.integers(-(2**63), 2**63 - 1))
def test_no_text_and_no_time_stop_the_triage(text: str, time: object, timestamp_ms: int) -> None:
    value = msgspec.json.encode({**json.loads(encode(escalation("a"))), "input": {"text": text}, "time": f"{time}Z"})
    assert sorted_out(value, timestamp_ms / 1000) is not None


@pytest.mark.parametrize("field", ["task", "escalation", "schema"])
def test_a_refused_value_is_not_repeated_in_the_clear(field: str) -> None:
    card = "4111111111111111"
    value = {
        "task": changed(task=card),
        "escalation": changed(escalation={"reason": f"it's {card}", "threshold": None, "propensity": 1.0}),
        "schema": changed(schema=int(card)),
    }[field]
    found = decode(value)
    assert isinstance(found, Undecodable)
    assert card not in found.detail


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=20), max_bytes=st.integers(1, 60))
def test_a_batch_is_cut_into_batches_that_follow_one_another(sizes: list[int], max_bytes: int) -> None:
    records = tuple(replace(record(b"x" * size), offset=7 + 2 * place) for place, size in enumerate(sizes))
    batch = Batch(slot=SLOT, fence=3, start="-1", next="99", records=records)
    cut = pieces(batch, max_bytes)
    assert sum((piece.records for piece in cut), ()) == records
    assert [piece.start for piece in cut[1:]] == [piece.next for piece in cut[:-1]]
    assert (cut[0].start, cut[-1].next) == ("-1", "99")
    for piece, after in pairwise(cut):
        assert piece.next == str(after.records[0].offset)
        assert sum(len(each.value) for each in (*piece.records, after.records[0])) > max_bytes
    assert all(len(piece.records) == 1 or sum(len(r.value) for r in piece.records) <= max_bytes for piece in cut)


def test_a_large_batch_is_applied_piece_by_piece() -> None:
    house = House(partitions=1, settings=replace(QUICK, max_batch_bytes=1000))
    house.send(*[encode(escalation("a" * 300, number=number)) for number in range(20)])
    with running(house.ingest()):
        await_that(house.applied)
    assert house.buffer.counters(LANE) == Counters(counted=20, new_items=1)
    assert house.metric("ingest_batch_seconds_count", use_case="support") == 20


def test_every_record_ends_in_exactly_one_place() -> None:
    house = House()
    for number in range(40):
        house.send(encode(escalation(f"question {number % 7}", number=number)), key=b"%d" % (number % 7))
    house.send(encode(escalation("question 0", number=0)), key=b"0")
    house.send(encode(escalation("closed", lane=CLOSED)), b"junk", changed(schema=9), key=b"x")
    with running(house.ingest()):
        await_that(house.applied)
        await_that(lambda: house.metric("buffer_events", tenant="acme", use_case="support", fate="counted") == 40)
    check_integrity(house.buffer, "support", [LANE, CLOSED], house.records)
    assert house.buffer.counters(LANE) == Counters(counted=40, repeats=1, new_items=7)
    assert house.buffer.counters(CLOSED) == Counters(ineligible=1)
    assert house.buffer.dead("support") == {"undecodable": 1, "unknown_schema": 1}
    letters = {letter.reason: letter.raw() for letter in read_dead_letters(house.log, "support", SECRET)}
    assert letters == {"undecodable": b"junk", "unknown_schema": changed(schema=9)}
    assert house.metric("ingest_records_total", use_case="support") == house.records
    assert house.metric("ingest_events_total", tenant="acme", use_case="support") == 41
    assert house.metric("ingest_dead_letters_total", use_case="support", reason="undecodable") == 1
    assert house.metric("ingest_last_progress_timestamp_seconds", use_case="support") == START_S


def test_a_restart_goes_on_where_it_stopped_and_counts_nothing_twice() -> None:
    house = House()
    for half in range(2):
        house.send(*[encode(escalation(f"q{n}", number=n)) for n in range(half * 10, half * 10 + 10)])
        with running(house.ingest()):
            await_that(house.applied)
    assert house.buffer.counters(LANE).counted == 20
    assert house.buffer.counters(LANE).repeats == 0


def test_a_transient_fault_blocks_and_buries_nothing() -> None:
    house = House()
    house.buffer.faults = [StoreUnavailableError("down")] * 5
    house.buffer.lost_replies = 1
    house.send(encode(escalation("a", number=1)))
    with running(house.ingest()):
        await_that(house.applied)
        await_that(lambda: house.metric("ingest_records_total", use_case="support") == 1)
    assert house.metric("ingest_retries_total", use_case="support", waiting_for="store") == 6
    assert house.buffer.counters(LANE) == Counters(counted=1, new_items=1)
    assert house.buffer.dead("support") == {}


def test_it_is_not_ready_while_a_fault_holds_it_up_but_its_loop_ticks() -> None:
    house = House()
    house.buffer.faults = [StoreUnavailableError("down")] * 1_000_000
    house.send(encode(escalation("a", number=1)))
    ingest = house.ingest()
    assert not ingest.ready
    with running(ingest):
        await_that(lambda: (house.metric("ingest_retries_total", use_case="support", waiting_for="store") or 0) > 2)
        assert not ingest.ready
        seen = ingest.last_tick_s
        await_that(lambda: ingest.last_tick_s > seen)
        house.buffer.faults = []
        await_that(lambda: ingest.ready)
    assert not ingest.ready


def test_the_loop_goes_round_while_a_batch_takes_long_to_read() -> None:
    """Records of a megabyte take up to a second each: the group is polled, and `/livez` told, in between."""
    house = House(partitions=1, settings=replace(QUICK, patience_s=0.0))
    house.send(*(encode(escalation("a", number=number)) for number in range(20)))
    source = house.log.source(TOPIC, "group", lambda slot: house.buffer.claim("support", slot, "me"))
    polls: list[bool] = []
    poll = source.poll

    def counted(timeout_s: float, limit: int) -> list[Batch]:
        polls.append(house.applied())
        return poll(timeout_s, limit)

    source.poll = counted  # type: ignore[method-assign]
    with running(house.ingest(source)):
        await_that(house.applied)
    assert polls.count(False) >= 20
    assert house.buffer.counters(LANE).counted == 20


def test_dead_letters_are_acknowledged_before_the_position_moves() -> None:
    house = House()
    house.log._topics.pop(dead_topic_of("support"))
    house.send(b"junk")
    with running(house.ingest()):
        await_that(lambda: (house.metric("ingest_retries_total", use_case="support", waiting_for="log") or 0) > 2)
        assert not house.applied()
        house.log.ensure(dead_topic_of("support"), 1)
        await_that(house.applied)
    assert [letter.raw() for letter in read_dead_letters(house.log, "support", SECRET)] == [b"junk"]


def test_letters_are_buried_once_however_often_the_store_is_asked_again() -> None:
    house = House()
    house.buffer.faults = [StoreUnavailableError("down")] * 5
    house.buffer.lost_replies = 1
    house.send(b"junk", b"more junk")
    with running(house.ingest()):
        await_that(house.applied)
        await_that(lambda: house.metric("ingest_records_total", use_case="support") == 2)
    (slot,) = house.log.slots(dead_topic_of("support"))
    buried = list(house.log.read(slot, *house.log.bounds(slot)))
    assert len(buried) == len({found.key for found in buried}) == 2
    assert house.buffer.dead("support") == {"undecodable": 2}


def test_a_full_writer_holds_the_partitions_and_polling_goes_on() -> None:
    house = House(partitions=1, settings=replace(QUICK, max_records=1))
    house.send(*[encode(escalation("a", number=number)) for number in range(20)])
    source = Recorder(house)
    house.buffer.gate.clear()
    with running(house.ingest(source)):
        await_that(lambda: source.held is None)
        polls, taken = source.polls, source.taken
        await_that(lambda: source.polls > polls + 3)
        assert source.taken == taken <= 5
        house.buffer.gate.set()
        await_that(house.applied)
        assert source.held == ()
    assert house.buffer.counters(LANE).counted == 20


def test_a_stop_finishes_the_batch_in_hand_and_no_other() -> None:
    house = House(partitions=1, settings=replace(QUICK, max_records=1, grace_s=DEADLINE_S))
    house.send(*[encode(escalation("a", number=number)) for number in range(20)])
    house.buffer.gate.clear()
    ingest = house.ingest()
    with running(ingest) as stop:
        assert house.buffer.entered.wait(DEADLINE_S)
        stop.set()
        assert ingest._writer._closing.wait(DEADLINE_S)  # the stop has reached the writer, whose hands are full
        house.buffer.gate.set()
    assert house.buffer.counters(LANE).counted == 1
    with running(house.ingest()):
        await_that(house.applied)
    assert house.buffer.counters(LANE) == Counters(counted=20, new_items=1)


def test_a_stop_does_not_wait_for_ever_for_a_store_that_is_down() -> None:
    house = House()
    house.buffer.faults = [StoreUnavailableError("down")] * 1_000_000
    house.send(encode(escalation("a", number=1)))
    started = monotonic()
    with running(house.ingest()):
        assert house.buffer.entered.wait(DEADLINE_S)
    assert monotonic() - started < DEADLINE_S / 2
    assert house.buffer.counters(LANE).counted == 0


def test_a_zombies_batches_are_refused_and_the_heir_applies_them() -> None:
    house = House(partitions=1)
    zombie = Recorder(house)
    house.send(encode(escalation("a", number=1)))
    house.buffer.gate.clear()
    with running(house.ingest(zombie)):
        assert house.buffer.entered.wait(DEADLINE_S)
        house.buffer.claim("support", house.log.slots(TOPIC)[0], "heir")
        house.buffer.gate.set()
        await_that(lambda: house.metric("ingest_refused_batches_total", use_case="support", outcome="fenced") == 1)
        await_that(house.applied)  # it claims again, and reads from the stored position
    assert house.buffer.counters(LANE) == Counters(counted=1, new_items=1)


@pytest.mark.parametrize("before", [0, 3])
def test_a_task_to_come_blocks_its_partition_loudly_and_no_other_and_goes_on_after_the_upgrade(
    before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(partitions=2)
    blocked, free = house.log.slots(TOPIC)
    house.send(*[encode(escalation("a", number=number + 1)) for number in range(before)], key=key_of(blocked))
    house.send(changed(task="translate"), key=key_of(blocked))
    house.send(encode(escalation("b", number=10)), b"junk", key=key_of(blocked))
    house.send(*[encode(escalation("c", number=number)) for number in range(20, 25)], key=key_of(free))
    ingest = house.ingest()
    with running(ingest), capture_logs() as lines:
        await_that(lambda: house.buffer.positions("support").get(free) == "5")
        await_that(lambda: house.metric("ingest_stopped_partitions", use_case="support") == 1)
        assert not ingest.ready
        (why,) = ingest.troubles
        assert f"partition {blocked.partition} stands still: offset {before} is an event of task 'translate'" in why
        assert "upgrade ingest" in why
        claims = house.buffer._positions["support"][blocked].fence
        await_that(lambda: house.buffer._positions["support"][blocked].fence > claims + 3)  # it looks again and again
        await_that(lambda: house.buffer.positions("support").get(blocked) == (str(before) if before else "-1"))
        house.send(encode(escalation("c", number=30)), key=key_of(free))
        await_that(lambda: house.buffer.positions("support").get(free) == "6")
        assert house.metric("ingest_stopped_partitions", use_case="support") == 1
    assert house.metric("ingest_positions_outside_log_total", use_case="support") == 0
    assert house.buffer.dead("support") == {}
    assert [line["event"] for line in lines if "partition" in line] == [STANDS_STILL]  # once, however often it looks
    # the newer release
    monkeypatch.setattr("stream.ingest.decode", lambda value: decode(value.replace(b"translate", b"classify")))
    ingest = house.ingest()
    with running(ingest):
        await_that(house.applied)
        await_that(lambda: ingest.ready)
    check_integrity(house.buffer, "support", [LANE, CLOSED], house.records)
    assert house.buffer.counters(LANE).counted == before + 8
    assert house.buffer.dead("support") == {"undecodable": 1}


def test_a_task_to_come_that_a_person_skips_is_left_behind() -> None:
    house = House(partitions=1)
    (slot,) = house.log.slots(TOPIC)
    house.send(encode(escalation("a", number=1)), changed(task="translate"), encode(escalation("b", number=2)))
    ingest = house.ingest()
    with running(ingest), capture_logs() as lines:
        await_that(lambda: house.metric("ingest_stopped_partitions", use_case="support") == 1)
        await_that(lambda: house.buffer.positions("support")[slot] == "1")
        house.buffer.claim("support", slot, "ingest skip")
        house.buffer._positions["support"][slot].next = "2"
        await_that(house.applied)
        await_that(lambda: ingest.ready)
        await_that(lambda: house.metric("ingest_stopped_partitions", use_case="support") == 0)
    assert house.buffer.counters(LANE) == Counters(counted=2, new_items=2)
    assert [line["event"] for line in lines if "partition" in line] == [STANDS_STILL, "a partition goes on"]


def test_a_position_outside_the_log_stops_its_partition_and_no_other_and_goes_on_when_it_is_moved() -> None:
    house = House(partitions=2)
    bad, good = house.log.slots(TOPIC)
    house.buffer._positions["support"][bad] = _Position(fence=1, next="7")
    house.send(encode(escalation("a", number=1)), key=key_of(bad))
    house.send(encode(escalation("b", number=2)), key=key_of(good))
    ingest = house.ingest()
    with running(ingest):
        await_that(lambda: house.buffer.positions("support").get(good) == "1")
        await_that(lambda: house.metric("ingest_stopped_partitions", use_case="support") == 1)
        assert house.metric("ingest_positions_outside_log_total", use_case="support") == 1
        assert house.metric("ingest_lag_records", use_case="support", partition=str(bad.partition)) is None
        (why,) = ingest.troubles
        assert f"partition {bad.partition} stands still" in why
        assert "the stored position is 7, but the log ends at 1" in why
        house.buffer._positions["support"][bad].next = "0"
        await_that(lambda: ingest.ready and house.applied())
        await_that(lambda: house.metric("ingest_stopped_partitions", use_case="support") == 0)
    assert house.buffer.counters(LANE).counted == 2


def test_nothing_is_called_progress_while_a_partition_stands_still() -> None:
    house = House(partitions=2)
    stopped, idle = house.log.slots(TOPIC)
    house.buffer._positions["support"][stopped] = _Position(fence=1, next="7")
    now_s = [START_S]
    ingest = house.ingest(clock=lambda: now_s[0])
    with running(ingest):
        await_that(lambda: house.metric("ingest_stopped_partitions", use_case="support") == 1)
        await_that(lambda: house.metric("ingest_lag_records", use_case="support", partition=str(idle.partition)) == 0)
        now_s[0] += 1000.0
        reports = house.buffer.looks
        await_that(lambda: house.buffer.looks > reports + 5)
        assert house.metric("ingest_last_progress_timestamp_seconds", use_case="support") == START_S


def test_a_log_that_is_down_is_told_and_no_figure_is_refreshed() -> None:
    house = House(partitions=1)
    house.send(encode(escalation("a", number=1)))
    now_s = [START_S]
    ingest = house.ingest(clock=lambda: now_s[0])
    with capture_logs() as lines, running(ingest):  # to its end: it says so after it is ready
        await_that(lambda: ingest.ready and house.applied())
        await_that(lambda: house.metric("ingest_dependency_up", use_case="support", dependency="log") == 1)
        await_that(lambda: house.metric("ingest_lag_records", use_case="support", partition="0") == 0)
        house.log.down = True
        await_that(lambda: house.metric("ingest_dependency_up", use_case="support", dependency="log") == 0)
        now_s[0] += 1000.0
        reports = house.buffer.looks
        await_that(lambda: house.buffer.looks > reports + 5)
        assert ingest.troubles == ("support: waits for log: the log in memory is down",)
        assert house.metric("ingest_dependency_up", use_case="support", dependency="redis") == 1
        assert house.metric("ingest_last_progress_timestamp_seconds", use_case="support") == START_S
        assert house.metric("ingest_lag_records", use_case="support", partition="0") == 0  # as it was last read
        house.log.down = False
        await_that(lambda: ingest.ready)
        await_that(lambda: house.metric("ingest_last_progress_timestamp_seconds", use_case="support") == now_s[0])
    said = [line["event"] for line in lines if line.get("dependency") == "log"]
    assert said == ["ingest waits", "ingest goes on"]  # once for each change


def test_a_store_that_is_down_is_told_although_nothing_comes() -> None:
    house = House(partitions=1)
    ingest = house.ingest()
    with running(ingest):
        await_that(lambda: ingest.ready)
        house.buffer.away = True
        await_that(lambda: ingest.troubles == ("support: waits for redis: Redis is away",))
        await_that(lambda: house.metric("ingest_dependency_up", use_case="support", dependency="redis") == 0)
        house.buffer.away = False
        await_that(lambda: ingest.ready)


def test_a_claim_that_finds_no_store_is_told() -> None:
    house = House(partitions=1)
    house.buffer.claims_fail = True
    ingest = house.ingest()
    with running(ingest):
        await_that(lambda: ingest.troubles == ("support: waits for redis: no claim now",))
        await_that(lambda: house.metric("ingest_dependency_up", use_case="support", dependency="redis") == 0)
        house.buffer.claims_fail = False
        await_that(lambda: ingest.ready)


def test_an_item_of_another_release_holds_its_batch_until_it_can_be_read() -> None:
    house = House()
    house.buffer.faults = [CorruptItemError("not of this release")] * 1_000_000
    house.send(encode(escalation("a", number=1)))
    ingest = house.ingest()
    with running(ingest):
        await_that(lambda: ingest.troubles == ("support: waits for redis: not of this release",))
        assert not house.applied()
        house.buffer.faults = []
        await_that(house.applied)


def test_a_fault_that_nobody_foresaw_stops_the_process() -> None:
    house = House()
    house.buffer.faults = [ZeroDivisionError("a bug")]
    house.send(encode(escalation("a", number=1)))
    source = Recorder(house)
    with pytest.raises(ZeroDivisionError), running(house.ingest(source)):
        await_that(lambda: source.closed)
    assert not house.applied()


def test_the_damaged_items_of_a_lane_are_shown() -> None:
    house = House()
    house.buffer.found_damaged = frozenset({"x", "y"})
    with running(house.ingest()):
        await_that(lambda: house.metric("buffer_corrupt_items", tenant="acme", use_case="support") == 2)


def test_the_gauges_of_a_partition_go_when_it_does() -> None:
    house = House(partitions=2)
    ingest = house.ingest()
    with running(ingest):
        await_that(lambda: house.metric("ingest_lag_records", use_case="support", partition="1") == 0)
        house.log.source(TOPIC, "group", lambda slot: house.buffer.claim("support", slot, "other"))
        await_that(lambda: house.metric("ingest_lag_records", use_case="support", partition="1") is None)
        assert house.metric("ingest_lag_records", use_case="support", partition="0") == 0


@given(failures=st.integers(1, 10_000), seed=st.integers(0, 99))
def test_waiting_times_grow_and_stay_bounded(failures: int, seed: int) -> None:
    delay_s = Backoff(first_s=0.1, most_s=10.0).delay_s(failures, Random(seed))
    most_s = min(10.0, 0.1 * 2.0 ** min(failures - 1, 50))
    assert most_s / 2 <= delay_s <= most_s


class Recorder:
    """A source that remembers how it was used."""

    def __init__(self, house: House) -> None:
        self._source = house.log.source(TOPIC, "group", lambda slot: house.buffer.claim("support", slot, "me"))
        self.polls = 0
        self.taken = 0
        self.held: object = ()
        self.closed = False
        self.lag = self._source.lag
        self.health = self._source.health
        self.done = self._source.done

    def poll(self, timeout_s: float, limit: int) -> list[Batch]:
        batches = self._source.poll(timeout_s, limit)
        self.polls += 1
        self.taken += sum(len(batch.records) for batch in batches)
        return batches

    def hold(self, slots: object) -> None:
        self.held = slots
        self._source.hold(None if slots is None else ())

    def close(self) -> None:
        self.closed = True
        self._source.close()
