"""When a log tells everything, and what a rebuild that gives up leaves behind."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from ops.exits import RefusedError
from ops.repair import rebuild as module
from ops.repair.letters import Letters
from ops.repair.rebuild import Rebuild, Replayed, _more, _most
from ops.repair.skip import Stopped
from store.buffer.keys import position_key
from store.buffer.ledger import BEGINNING, AuditTally, Counters, LogSlot
from store.buffer.redis import RedisBuffer
from store.buffer.repair.letters import LetterBook
from store.errors import StoreUnavailableError
from store.event import UnknownTask
from store.letters.deciding import Deciding
from store.letters.decisions import LetterDecisions
from store.registry.signing import TrustedKeys
from store.secrets import DataSecret
from stream.ingest import LaneKeys
from stream.log import Record
from stream.memory import MemoryLog
from tests.contracts.escalations import LANE

SLOT, BEFORE = LogSlot("understudy.support", "now", 0), LogSlot("understudy.support", "before", 0)


class History:
    """A log of one partition."""

    def __init__(self, begin: str) -> None:
        self.begin = begin

    def slots(self, topic: str) -> list[LogSlot]:
        return [SLOT]

    def bounds(self, slot: LogSlot) -> tuple[str, str]:
        return self.begin, "9"

    def read(self, slot: LogSlot, start: str, end: str) -> Iterator[Record]:
        return iter(())


def rebuild_of(client: redis.Redis, begin: str, folder: Path) -> Rebuild:
    buffer, history = RedisBuffer(client, 9), History(begin)
    keys = LaneKeys(lane_key=b"k", redaction_key=b"r", subject_key=b"s", task="classify", training_permitted=True)
    said: Any = Replayed(
        use_case="support",
        keys={LANE: keys},
        history=history,  # type: ignore[arg-type]
        held=(),
        buried_as=lambda *_: UnknownTask.buried_as,
        k=9,
        max_age_s=1e9,
    )
    buffer.claim("support", SLOT, "ingest")
    letters = Letters(
        use_case="support",
        lanes=[LANE],
        appender=MemoryLog(),
        deciding=Deciding(
            chain=LetterDecisions(folder / "letters", TrustedKeys({}), "support"),
            book=LetterBook(client),
            load_key=lambda: pytest.fail("nothing is to be signed"),
            now=lambda: 1.0,
        ),
        secret=DataSecret(b"s" * 32),
    )
    return Rebuild(client=client, buffer=buffer, said=said, lanes=[LANE], letters=letters, whole=False)


@pytest.mark.parametrize(
    ("begin", "elsewhere", "skipped", "complete"),
    [
        ("0", None, False, True),
        ("0", BEGINNING, False, True),
        ("1", None, False, False),  # retention has taken its beginning
        ("0", "3", False, False),  # some of it was of a topic that was made anew
        ("0", None, True, False),
    ],
)
def test_a_log_tells_everything_only_where_nothing_was_cut_applied_elsewhere_or_skipped(
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    begin: str,
    elsewhere: str | None,
    skipped: bool,  # noqa: FBT001 - a column of the table
    complete: bool,  # noqa: FBT001 - as above
) -> None:
    found = rebuild_of(redis_client, begin, tmp_path)
    if elsewhere is not None:
        found.buffer.claim("support", BEFORE, "ingest")
        redis_client.hset(position_key("support", BEFORE), "next", elsewhere)
    monkeypatch.setattr(module, "Positions", lambda _: SimpleNamespace(skips=lambda _: ["one"] if skipped else []))
    assert found._complete() == complete


def test_a_rebuild_that_ingest_outruns_leaves_nothing_that_it_had_staged(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "swap", lambda *_, **__: False)
    with pytest.raises(StoreUnavailableError, match="ingest was faster"):
        rebuild_of(redis_client, "0", tmp_path).run(who="ann", why="w")
    assert not [name for name in redis_client.scan_iter("*") if b":acme:rebuild:" in name]


@pytest.mark.parametrize(("begin", "staged"), [("0", ["support"]), ("1", [])])
def test_dead_letters_are_counted_anew_only_where_the_log_tells_everything(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begin: str, staged: list[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "stage_dead", lambda _client, use_case, *_: told.append(use_case))
    (report,) = rebuild_of(redis_client, begin, tmp_path).run(who="ann", why="w")
    assert (told, report.complete, report.done) == (staged, bool(staged), True)


def test_of_what_is_kept_and_what_is_worked_out_the_larger_stays() -> None:
    assert _more(Counters(counted=5, repeats=1), Counters(counted=3, repeats=2)) == Counters(counted=5, repeats=2)
    few, many = AuditTally(audits=3, agreed=3), AuditTally(audits=5, agreed=1)
    assert _most({"a": few, "b": many}, {"a": many, "b": few, "c": few}) == {"a": many, "b": many, "c": few}


@pytest.mark.parametrize("to", ["1", "10", "-1", "x"])
def test_a_slot_reads_on_within_what_can_be_read(to: str) -> None:
    stands = Stopped(slot=SLOT, at="0", begin=1, end=9, readable=2, why="gone")
    assert [stands.skip(inside, who="ann", why="w", now_s=1.0).to for inside in ("2", "9", "end")] == ["2", "9", "9"]
    with pytest.raises(RefusedError, match="can be read from 2 to 9"):
        stands.skip(to, who="ann", why="w", now_s=1.0)


def test_an_item_whose_stratum_was_lost_is_ranked_again_also_where_the_log_has_lost_its_beginning(
    redis_client: redis.Redis,
    tmp_path: Path,
) -> None:
    stray: Any = SimpleNamespace(item_id="b", stratum="refund")
    own: Any = rebuild_of(redis_client, "1", tmp_path)
    own.buffer = SimpleNamespace(
        items=lambda _: iter([SimpleNamespace(item_id="a", stratum="refund")]),
        damaged=lambda _: [],
        counters=lambda _: Counters(),
        audits=lambda _: {},
    )
    asked: list[set[str]] = []

    def sound(ids: set[str]) -> dict[str, Any]:
        asked.append(set(ids))
        return {"b": stray}

    staging: Any = SimpleNamespace(kept_ids=lambda: {"a", "b"}, sound=sound)
    wanted = own._wanted(LANE, staging, whole=False)
    assert asked == [{"b"}]
    assert (wanted.items, wanted.drop, wanted.before, wanted.after) == ({"b": stray}, {"b"}, 2, 2)
