"""What processes leave beside the log and the buffer: leases, heartbeats, budgets, kept answers, run files."""

import asyncio
from pathlib import Path
from typing import Any, Final

import msgspec
import redis

from ops.letters.reading import Choice
from ops.letters.settling import Order, settle_letters
from ops.site import Site
from ops.state.run_files import RunFile, write_run_file
from serve.escalation import Given
from serve.front.kept import RedisAnswers
from serve.front.once import Once
from serve.settings import BudgetSettings
from serve.student.follow import SwapRecord
from serve.tasks.classify.face import LabelledAnswer
from serve.teacher.spent import OwnSpending
from store.answers.census import Census, PromptCount
from store.buffer.item import Entry
from store.buffer.ledger import Application, LogSlot
from store.buffer.repair.letters import LetterBook
from store.buffer.repair.positions import Positions, Skip
from store.control import Control, CycleEnded, CycleRequest, Heartbeat, TrainingState
from store.cycles.signs import CycleRunning, Signs, TrainerSign
from store.event import Lane, utc
from store.letters.decisions import LetterDecision
from store.money import books
from store.money.books import Books
from store.money.deeds import Deeds
from store.money.tally import Tally
from store.registry.files.durable import append_line
from store.secrets import item_id
from store.tasks.classify import ClassifyRules
from store.tasks.rank import RankRules
from tests.golden.events import LANE, asked, ranked
from tests.golden.fixed import NOW_S, OWNER
from tests.golden.scene import work
from tests.golden.stored import hold
from tests.serve.ledgers import Clock, ClockedRedisLedger
from trainer.daemon.journal import Journal
from trainer.news import drawn
from trainer.work import CycleReport, drawing_of

SHOP: Final = Lane("acme", "shop")
RETURNS: Final = Lane("acme", "returns")  # beside the settings: nothing of the other lane is mixed with it
REPLICA: Final = "gateway-1-ab12"
BOOKS_S: Final = 1_000_000_000.0  # 2001-09-09
DEEDS: Final = Deeds(
    student=70,
    teacher=30,
    cached=2,
    unanswered=1,
    refused=3,
    calls=31,
    calls_nano_usd=7_750_000,
    audits=4,
    audits_nano_usd=1_000_000,
    bounded=1,
    bounded_nano_usd=250_000,
    chars=4200,
    cycles=2,
    training_ms=13_000,
)
UNWRITTEN: Final = Deeds(student=5, chars=200)
KEY, BODY = "order-17", {"input": "where is my parcel"}


def returns(client: redis.Redis, site: Site) -> None:
    """A skip, a damaged item and the note of it, in a lane of their own."""
    buffer = site.buffer(client)
    slot = LogSlot("understudy.returns", "returns-uuid", 0)
    claim = buffer.claim("returns", slot, OWNER)
    event = msgspec.structs.replace(asked(500, "send it back", "login"), use_case="returns")
    entries = tuple(Entry.of(event, f"{number:032x}", ClassifyRules()) for number in (1, 2))
    buffer.apply(
        Application(use_case="returns", slot=slot, fence=claim.fence, start="-1", next="2", entries=entries, dead={})
    )
    client.setrange(f"{{returns}}:acme:item:{2:032x}", 40, b"#")
    assert len(list(buffer.items(RETURNS))) == 1
    skip = Skip(slot=slot, at="2", to="5", unread=(2, 5), again=(5, 5), who="ada", why="retention", at_s=NOW_S)
    assert Positions(client).move("returns", skip, claim.fence)


def ranked_lists(client: redis.Redis, site: Site) -> None:
    """Two items of a lane that ranks: one asked five times, with its documents in several orders; one asked once."""
    buffer, rules = site.buffer(client), RankRules()
    slot = LogSlot("understudy.shop", "shop-uuid", 0)
    claim = buffer.claim(SHOP.use_case, slot, OWNER)
    documents, seller = ["red shoes", "blue shoes,\n  any size", "hat"], "mail jane@example.com"
    events = [
        ranked(600, documents, scores=[0.75, 0.5, 0.25], output="[0,1,2]", members=[[0.5, 0.25, 0.125]]),
        ranked(601, documents[::-1], scores=[0.25, 0.5, 0.75]),
        ranked(602, documents, order=[1, 0], output="[1,0,2]"),
        ranked(603, documents, scores=[0.75, 0.625, 0.25]),
        ranked(604, documents, scores=[0.75, 0.6875, 0.25]),
        ranked(605, [*documents[:2], seller], scores=[0.75, 0.5, 0.25]),
    ]
    entries = []
    for number, event in enumerate(events):
        of_shop = msgspec.structs.replace(event, use_case=SHOP.use_case, time=utc(NOW_S + number))
        kept = rules.normal(of_shop, site.secret.redaction_key(SHOP))
        entries.append(Entry.of(kept, item_id(site.secret.lane_key(SHOP), rules, kept.input), rules))
    buffer.apply(
        Application(
            use_case=SHOP.use_case, slot=slot, fence=claim.fence, start="-1", next="6", entries=tuple(entries), dead={}
        )
    )


def control(client: redis.Redis, site: Site) -> None:
    """What processes say to one another."""
    said = Control(client)
    said.announce(LANE, REPLICA, Heartbeat(version=None, at_s=NOW_S))
    said.announce(
        RETURNS,
        REPLICA,
        Heartbeat(
            version="0123456789abcdef",
            at_s=NOW_S,
            requests=100,
            escalated=20,
            withheld=1,
            recent_requests=50,
            recent_escalated=10,
            budget_used_calls=21,
            budget_limit_calls=5000,
            suspended=True,
            teacher_answers=20,
            teacher_unread=1,
        ),
    )
    hold(client)
    said.request_cycle(LANE, CycleRequest(kind="candidate", who="ada", why="try", at_s=NOW_S, candidate="a" * 16))
    said.request_cycle(LANE, CycleRequest(kind="fine_tune", who="ada", why="now", at_s=NOW_S + 1, id="waited-for"))
    cycle = work(site, client, "head", champion=None, at_s=NOW_S)
    drawing = drawing_of(cycle.training, cycle.settings, NOW_S)
    rows = drawn(site.buffer(client).items(LANE), drawing)
    state = TrainingState(
        items_at_cycle=len(rows.digests) // 8,
        items_at_fine_tune=60,
        labels=3,
        learned_labels=3,
        learned_at_fine_tune=2,
        last_cycle_s=NOW_S - 10,
        first_cycle_s=NOW_S - 1000,
        fine_tuned_s=NOW_S - 500,
        counted_at_cycle=90,
        waiting_at_cycle=rows.waiting,
        prompt_version=drawing.digest,
    )
    said.remember(LANE, state, rows.digests)
    assert said.acquire(LANE, OWNER, 30.0) is not None
    hold(client)


def letters(client: redis.Redis, site: Site) -> None:
    """Dead letters that were dealt with: one kind dropped; beside the log one replayed, and one replay killed."""
    order = Order(
        use_case=LANE.use_case,
        choice=Choice(kind="undecodable"),
        outcome="dropped",
        dry_run=False,
        why="a test producer",
    )
    assert len(settle_letters(site, order).letters) == 1
    book, replayed = LetterBook(client), LetterDecision(outcome="replayed", who="ada", why="labels added", at_s=NOW_S)
    for letter in ("a" * 12, "b" * 12):
        assert book.begin("returns", letter, replayed)
    assert book.settle("returns", "a" * 12, "off_list", replayed)


def signs(client: redis.Redis) -> None:
    """What a trainer says while it is at a cycle, an import that goes on, and a count of the lane's answers."""
    said = Signs(client)
    running = CycleRunning(
        id="golden-3",
        kind="fine_tune",
        at_s=NOW_S,
        request="waited-for",
        stage="fine_tuning",
        number=4,
        stages=7,
        done_ratio=0.25,
        elapsed_s=30.5,
        left_s=91.5,
        left_by="steps",
    )
    said.give(RETURNS, TrainerSign(owner=OWNER, at_s=NOW_S, busy_with=str(RETURNS), cycle=running))
    said.import_goes_on(RETURNS)
    hold(client)
    census = Census(
        at_s=NOW_S,
        took_s=0.5,
        reading="gpt@0+1",
        counted=2,
        items=1,
        labels={"login": {"fresh": 1}},
        prompts={"gpt@0": PromptCount(items=1, counts=True, first_s=NOW_S - 9, last_s=NOW_S)},
        quarantine_s=60.0,
    )
    Control(client).keep_census(RETURNS, msgspec.json.encode(census))


class _BooksOfOld(Books):
    """Books whose Redis lives at a time that no test is run at: what they say of today and this month is nothing."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        clock = "redis.call('TIME')[1]"
        assert books._SCRIPT.count(clock) == 1
        self._script = client.register_script(books._SCRIPT.replace(clock, f"'{BOOKS_S:.0f}'"))


def money(client: redis.Redis, run: Path) -> None:
    """Books with a batch of a replica, and what it could not write any more before it was stopped."""
    tally = Tally(lambda: "replica-1", run / "tally-acme.support.json")
    tally.add(DEEDS)
    tally.flush(_BooksOfOld(client).write, LANE)
    tally.add(UNWRITTEN)
    tally.next_batch()
    tally.add(UNWRITTEN)
    tally.keep()


def cycles(client: redis.Redis, run: Path) -> None:
    """Two cycles, one of them an error: in Redis and in the cycle log."""
    journal = Journal(path=run / "cycles.jsonl", control=Control(client))
    common: dict[str, Any] = {"lane": str(LANE), "candidate": None, "delta": 0.02}
    journal.ended(
        LANE,
        CycleReport(
            id="golden-1",
            at_s=NOW_S - 100,
            seconds=12.5,
            kind="head",
            verdict="inconclusive",
            refusals=["12 judged rows, 300 needed", "no threshold could be certified"],
            rows_judged=12,
            difference=0.25,
            lower=-0.125,
            rows_needed=288,
            version="a" * 16,
            request="asked-1",
            nothing_new=True,
            **common,
        ),
    )
    failed = CycleReport(
        id="golden-2",
        at_s=NOW_S - 50,
        seconds=0.5,
        kind="fine_tune",
        verdict="error",
        refusals=["OSError: no space left on device"],
        rows_judged=0,
        difference=None,
        lower=None,
        rows_needed=0,
        version=None,
        next_try_s=NOW_S + 10,
        **common,
    )
    journal.failed(LANE, failed, OSError("no space left on device"), next_try_in_s=60.0)
    assert all(isinstance(ended, CycleEnded) for ended in Control(client).ended_cycles(LANE))


def budget(client: redis.Redis, run: Path) -> None:
    """A lease that was settled, one that is open, an audit's; and what the replica knows of it by itself."""
    clock = Clock(NOW_S)
    own = OwnSpending(new_name=lambda: "replica-1", now=clock, monotonic=clock, path=run / "spent-acme.support.json")
    ledger = ClockedRedisLedger(client, BudgetSettings(calls_per_day=5000, usd_per_day=40.0), clock)
    ledger._prefix = f"{{{LANE.use_case}}}:{LANE.tenant}:budget"
    ledger.used(own.witness())
    for name, kind in (("lease-1", "escalation"), ("lease-2", "escalation"), ("lease-3", "audit")):
        grant = ledger.lease(name, kind, calls=20, usd_micro=4000, witness=own.witness())  # type: ignore[arg-type] # a kind
        own.leased(NOW_S, grant.calls, grant.usd_micro)
        own.heard(leases=grant.leases, clock_s=grant.now_s)
    own.gave_back(NOW_S, 5, 1500)
    ledger.settle("lease-1", calls=5, usd_micro=1500, witness=own.witness())
    own.write(own.record())


def once(client: redis.Redis, site: Site) -> None:
    """A kept answer, and a list of which one text had none."""
    answer = LabelledAnswer(
        label="delivery",
        probs=[0.75, 0.125, 0.125],
        num_classes=3,
        served_by="student",
        reason=None,
        version="a" * 16,
        event_id=None,
        propensity=0.0,
    )
    by_teacher = LabelledAnswer(
        label="login",
        probs=None,
        num_classes=3,
        served_by="teacher",
        reason="low_confidence",
        version="a" * 16,
        event_id="019b0001-0000-7000-8000-000000000001",
        propensity=1.0,
    )

    async def main() -> None:
        kept = once_of(client, site)
        await kept.answer(KEY, BODY, lambda _: _given([answer, by_teacher]))
        await kept.answer(f"{KEY} in parts", BODY, lambda _: _given([answer, None]))
        await kept.close()

    asyncio.run(main())


async def _given(found: list[Any]) -> Given:
    return Given(first_id="019b0001-0000-7000-8000-000000000001", at_s=NOW_S, found=found)


def once_of(client: redis.Redis, site: Site) -> Once:
    """The lane's keyed requests."""
    return Once(
        RedisAnswers(client, LANE),
        site.secret.lane_key(LANE),
        answer_type=LabelledAnswer,
        new_id=lambda: "owner-1",
        monotonic=lambda: 1000.0,
    )


def run_files(run: Path, head: str, tuned: str) -> None:
    """Where a process was, and which version was taken into service."""
    write_run_file(
        run, RunFile(name="serve", pid=4_000_000, started_s=NOW_S, admin_port=9471, port=8080, started_ticks=12345)
    )
    write_run_file(run, RunFile(name="redis", pid=4_000_001, started_s=NOW_S, url="unix:///state/redis/redis.sock"))
    for swap in (
        SwapRecord(
            lane=str(LANE), before=None, after=head, publish_s=1e-6, load_s=2.5, failed=False, error=None, at_s=NOW_S
        ),
        SwapRecord(
            lane=str(LANE),
            before=head,
            after=tuned,
            publish_s=None,
            load_s=0.5,
            failed=True,
            error="no",
            at_s=NOW_S + 1,
        ),
    ):
        append_line(run / "swaps.jsonl", msgspec.json.encode(swap))
