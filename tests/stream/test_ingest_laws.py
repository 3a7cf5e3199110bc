"""Whatever readers do to one another: each record of either task is counted once, and by what the log says alone."""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from prometheus_client import CollectorRegistry

from ops.checks.compare import compare, dead_off, look, replay
from ops.checks.oracle import LaneRules
from store.buffer.ledger import BEGINNING, Application, Buffer, Claim, LogSlot
from store.buffer.memory import MemoryBuffer
from store.buffer.redis import RedisBuffer
from store.buffer.repair.lists import LabelList, ListsHeld
from store.event import Escalation, RankAnswer, RankEscalation, RankInput, encode
from store.secrets import DataSecret
from store.tasks.tasks import TASKS, LaneTerms
from stream.ingest import Ingest, IngestSettings, LaneKeys
from stream.log import topic_of
from stream.memory import MemoryLog, MemorySource
from stream.metrics import IngestMetrics
from stream.writer import Prepared
from tests.contracts.escalations import LANE, escalation
from tests.ops.shared_topic import SHOP, ranked

SECRET = DataSecret(b"s" * 32)
USE_CASE, TOPIC = LANE.use_case, topic_of(LANE.use_case)
KEPT = 3  # items a stratum: some are evicted
AGE_S = 1e9
LANES = {
    lane: LaneKeys(
        lane_key=SECRET.lane_key(lane),
        redaction_key=SECRET.redaction_key(lane),
        subject_key=SECRET.subject_key(lane),
        task="rank" if lane == SHOP else "classify",
        training_permitted=True,
    )
    for lane in (LANE, SHOP)
}
JUDGED = {
    lane: LaneRules(
        lane_key=keys.lane_key,
        redaction_key=keys.redaction_key,
        subject_key=keys.subject_key,
        task=keys.task,
        training_permitted=True,
    )
    for lane, keys in LANES.items()
}
TO_COME = encode(escalation("good day")).replace(b'"classify"', b'"translate"', 1)


def an_event(number: int, *, is_ranked: bool) -> Escalation:
    """A function of the number: produced twice, it is the same event."""
    rng = random.Random(number)
    if not is_ranked:
        return escalation(
            f"question {number % 5}  of jane@example.com",
            label=rng.choice(["refund", "login"]),
            number=number,
            reason=rng.choice(["audit", "low_confidence"]),
        )
    documents = ("red", "blue\n shoes", f"hat {number % 2}")
    came = rng.sample(range(3), 3)
    scores = [rng.random() for _ in documents] if rng.random() < 0.5 else None
    return ranked(
        number, came, documents=documents, scores=scores, output=came, reason=rng.choice(["audit", "low_confidence"])
    )


@dataclass
class Reader:
    """One process: what it has read, and not yet applied."""

    source: MemorySource
    ingest: Ingest
    prepared: deque[Prepared] = field(default_factory=deque)


class Readers(RuleBasedStateMachine):
    """A log with two partitions, its readers, and one buffer."""

    buffer_of: Callable[[], Buffer] = staticmethod(lambda: MemoryBuffer(KEPT))

    @initialize()
    def begin(self) -> None:
        self.log = MemoryLog()
        self.log.ensure(TOPIC, 2)
        self.buffer = self.buffer_of()
        self.readers: list[Reader] = []
        self.past: list[Application] = []
        self.fences: dict[LogSlot, int] = {}
        self.standing = False
        self.changed = True
        self.held = [
            ListsHeld(
                slot=slot,
                fence=1,
                position=BEGINNING,
                lists={str(lane): LabelList.of(LaneTerms()) for lane in LANES},
                at_s=1.0,
                tasks=tuple(sorted(TASKS)),
            )
            for slot in self.log.slots(TOPIC)
        ]
        self.start()

    def claim(self, slot: LogSlot) -> Claim:
        claimed = self.buffer.claim(USE_CASE, slot, "test")
        self.fences[slot] = claimed.fence
        return claimed

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def start(self) -> None:
        source = self.log.source(TOPIC, "group", self.claim)
        ingest = Ingest(
            source,
            self.buffer,
            self.log,
            use_case=USE_CASE,
            lanes=LANES,
            secret=SECRET,
            settings=IngestSettings(max_age_s=AGE_S),
            metrics=IngestMetrics.create(CollectorRegistry()),
            rng=random.Random(1),
        )
        self.readers.append(Reader(source, ingest))

    @rule(number=st.integers(0, 40), is_ranked=st.booleans(), partition=st.sampled_from("ab"))
    def produce(self, number: int, is_ranked: bool, partition: str) -> None:  # noqa: FBT001 - drawn
        value = encode(an_event(number, is_ranked=is_ranked))
        self.log.append(TOPIC, key=partition.encode(), value=value).result(1)

    @rule(is_ranked=st.booleans())
    def produce_what_is_broken(self, is_ranked: bool) -> None:  # noqa: FBT001 - drawn
        teacher = RankAnswer(model="m", prompt_version="p", order=[7])
        event: RankEscalation = replace_teacher(ranked(1), teacher)
        self.log.append(TOPIC, key=b"a", value=encode(event) if is_ranked else b"junk").result(1)

    @precondition(lambda self: not self.standing)
    @rule(unlikely=st.integers(0, 5))
    def produce_for_a_release_to_come(self, unlikely: int) -> None:
        if unlikely == 0:
            self.standing = True
            self.log.append(TOPIC, key=b"b", value=TO_COME).result(1)

    @rule(which=st.integers(0, 2), limit=st.integers(1, 6))
    def read(self, which: int, limit: int) -> None:
        reader = self.readers[which % len(self.readers)]
        for batch in reader.source.poll(0.0, limit):
            if reader.ingest._standing.precedes(batch):
                continue
            found = reader.ingest._triage(batch, math.inf)
            assert found is not None
            if found.records:
                reader.prepared.append(reader.ingest._prepare(found))

    @rule(which=st.integers(0, 2), twice=st.booleans())
    def apply(self, which: int, twice: bool) -> None:  # noqa: FBT001 - drawn
        reader = self.readers[which % len(self.readers)]
        if not reader.prepared:
            return
        prepared = reader.prepared.popleft()
        outcome = self.buffer.apply(prepared.application).outcome
        assert (outcome == "fenced") == (prepared.application.fence != self.fences[prepared.batch.slot])
        if twice:
            assert self.buffer.apply(prepared.application).outcome == outcome, "the reply was lost"
        reader.source.done(prepared.batch, outcome)
        self.changed |= outcome == "ok"
        if outcome == "ok":
            self.past.append(prepared.application)

    @rule(number=st.integers(0, 40))
    def a_zombie_wakes(self, number: int) -> None:
        """It has read, slept through another's claims, and applies what it has in hand."""
        for partition in "ab":
            self.produce(number, is_ranked=True, partition=partition)
        self.read(0, 6)
        for slot in self.log.slots(TOPIC):
            self.claim(slot)
        self.apply(0, twice=False)

    @rule(which=st.integers(0, 2))
    def expel(self, which: int) -> None:
        """The group takes its partitions away; it goes on, as a zombie with an old fence."""
        source = self.readers[which % len(self.readers)].source
        if source in source._members:
            source._members.remove(source)

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 2))
    def restart(self, which: int) -> None:
        gone = self.readers.pop(which % len(self.readers))
        gone.source.close()
        self.start()

    @precondition(lambda self: self.past)
    @rule(which=st.integers(0, 99))
    def rewind(self, which: int) -> None:
        """A new claim, and an application that went through long ago."""
        old = self.past[which % len(self.past)]
        claim = self.claim(old.slot)
        outcome = self.buffer.apply(replace(old, fence=claim.fence)).outcome
        assert outcome == ("ok" if old.next == claim.position else "moved")

    @rule()
    def look_again_at_what_stands_still(self) -> None:
        for reader in self.readers:
            for batch in reader.ingest._standing.due(math.inf):
                reader.source.done(batch, "moved")

    @invariant()
    def the_buffer_holds_what_the_log_says(self) -> None:
        if not getattr(self, "changed", False):
            return
        self.changed = False
        seen = look(self.buffer, USE_CASE, LANES)
        said = replay(USE_CASE, JUDGED, self.log, seen, max_age_s=AGE_S, held=self.held)
        for lane in LANES:
            found = compare(lane, seen, said, KEPT)
            assert (found.missing, found.extra, found.differing) == ([], [], [])
        assert not dead_off(seen, said)

    def teardown(self) -> None:
        if not hasattr(self, "readers"):
            return
        while self.readers:
            self.readers.pop().source.close()
        self.start()
        while self.goes_on():
            pass
        self.changed = True
        self.the_buffer_holds_what_the_log_says()
        for slot, position in self.buffer.positions(USE_CASE).items():
            end = self.log.bounds(slot)[1]
            rest = self.log.read(slot, "0" if position == BEGINNING else position, end)
            assert next((record.value for record in rest), TO_COME) == TO_COME, "else all is read"

    def goes_on(self) -> bool:
        """Let the one reader go on; whether it has applied anything."""
        before = len(self.past)
        for _ in range(2):  # what was settled counts at the next poll
            self.read(0, 50)
            while self.readers[0].prepared:
                self.apply(0, twice=False)
        return len(self.past) > before


def replace_teacher(event: RankEscalation, teacher: RankAnswer) -> RankEscalation:
    return RankEscalation(
        id=event.id,
        time=event.time,
        use_case=event.use_case,
        tenant=event.tenant,
        input=RankInput(query="q", documents=["a"]),
        teacher=teacher,
        student=None,
        escalation=event.escalation,
    )


def test_in_memory() -> None:
    run_state_machine_as_test(Readers, settings=settings(max_examples=15, stateful_step_count=30, deadline=None))


def test_in_redis(redis_client: redis.Redis) -> None:
    def emptied() -> Buffer:
        redis_client.flushall()
        return RedisBuffer(redis_client, KEPT)

    class InRedis(Readers):
        buffer_of = staticmethod(emptied)

    bounds = settings(
        max_examples=4,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    run_state_machine_as_test(InRedis, settings=bounds)
