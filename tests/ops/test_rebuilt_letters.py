"""What a rebuild and `verify` make of history: each record as it was judged, and a letter for each that is dead."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ops.checks.lag import lags_of
from ops.checks.verify import verify_site
from store.buffer.ledger import BEGINNING, Application
from store.event import Lane, encode, wall_clock_s
from tests.contracts.escalations import escalation
from tests.ops.sites import LANE, open_site
from tests.ops.stand import TOPIC, Stand, standing, until
from tests.ops.test_repair import call, stand_bounds, stand_slots

NEWCO = Lane("newco", LANE.use_case)


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    with standing(tmp_path, redis_url) as made:
        yield made


def test_what_an_earlier_release_kept_and_is_dead_today_has_a_letter_after_a_rebuild(stand: Stand) -> None:
    ahead_s = wall_clock_s() + 30 * 86_400
    stand.appender.append(TOPIC, key=b"k", value=encode(escalation("from May", time_s=ahead_s))).result(10)
    applied(stand, {})
    call(stand, "buffer", "rebuild", "--reason", "to see")
    assert stand.buffer.open_dead(LANE.use_case) == {"in_future": 1}
    (letter,) = call(stand, "dlq", "list")["letters"]
    assert (letter["reason"], letter["state"], letter["tenant"]) == ("in_future", "open", LANE.tenant)
    assert "from May" in call(stand, "dlq", "show", letter["id"])["content"]
    (found,) = call(stand, "dlq", "replay", "--all", "--dry-run", code=1)
    assert "would die again, in_future" in found["letters"][0]["why_not"]
    (dropped,) = call(stand, "dlq", "drop", "--all", "-r", "a clock that was wrong")
    assert (len(dropped["letters"]), dropped["gone"]) == (1, 0)
    call(stand, "buffer", "rebuild", "--reason", "once more")
    assert stand.buffer.open_dead(LANE.use_case) == {"in_future": 0}
    assert len(call(stand, "dlq", "list")["letters"]) == 1
    assert stand.verify().ok


def test_what_was_dead_and_is_an_item_after_a_rebuild_is_settled_and_hides_no_letter_to_come(stand: Stand) -> None:
    """Letters that release 0.1.0 buried, which noted no lists: its unknown lane is in the settings since."""
    taken(stand, *(asked(NEWCO, number) for number in range(3)), b"junk")
    stand.client.delete(f"{{{LANE.use_case}}}:lists")
    letters = {one["offset"]: one["id"] for one in call(stand, "dlq", "list", "--kind", "unknown_lane")["letters"]}
    call(stand, "dlq", "drop", letters[0], "-r", "one of them")
    with_newco(stand)
    call(stand, "buffer", "rebuild", "--reason", "the lane was added")
    assert stand.buffer.counters(NEWCO).counted == 3
    assert stand.buffer.open_dead(LANE.use_case) == {"undecodable": 1}
    states = {one["id"]: one["state"] for one in call(stand, "dlq", "list")["letters"]}
    assert [states[letters[offset]] for offset in range(3)] == ["dropped", "replayed", "replayed"]
    assert "the buffer was rebuilt" in call(stand, "dlq", "show", letters[1])["why"]
    with again(stand) as now:
        taken(now, asked(Lane("third", LANE.use_case), 9), b"more junk")
        assert now.buffer.open_dead(LANE.use_case) == {"undecodable": 2, "unknown_lane": 1}
        assert verify_site(now.site, [LANE, NEWCO]).ok


def test_a_lane_that_was_taken_away_was_there_for_what_was_read_before(stand: Stand) -> None:
    before = stand.path.read_text("utf-8")
    with_newco(stand)
    with again(stand) as both:
        taken(both, asked(NEWCO, 1), asked(LANE, 2))
    stand.path.write_text(before, "utf-8")
    with again(stand) as one:
        taken(one, asked(NEWCO, 3), asked(LANE, 4))
        assert dict(one.buffer.dead(LANE.use_case)) == {"unknown_lane": 1}
        assert one.verify().ok
        call(one, "buffer", "rebuild", "--reason", "to see")
        assert dict(one.buffer.dead(LANE.use_case)) == {"unknown_lane": 1}
        assert (one.buffer.counters(LANE).counted, one.buffer.counters(NEWCO).counted) == (2, 1)
        assert len(call(one, "dlq", "list")["letters"]) == 1
        assert one.verify().ok


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("training_permitted = true", "training_permitted = false"),
        ("training_permitted = false", "training_permitted = true"),
        ('labels = ["refund", "delivery", "other"]', 'labels = ["delivery", "other"]'),
    ],
)
def test_what_a_setting_was_when_a_record_was_read_is_what_it_is_judged_by(stand: Stand, was: str, is_now: str) -> None:
    change(stand, r"(?m)^training_permitted = .*$", was) if was.startswith("training") else None
    with again(stand) as before:
        taken(before, *(asked(LANE, number) for number in range(3)))
        kept = before.buffer.counters(LANE)
        assert (kept.counted, kept.ineligible) == ((0, 3) if was.endswith("false") else (3, 0))
    change(stand, re.escape(was), is_now)
    with again(stand) as after:
        taken(after, *(asked(LANE, number, label="delivery") for number in range(3, 5)))
        now = after.buffer.counters(LANE)
        assert after.verify().ok
        call(after, "buffer", "rebuild", "--reason", "to see")
        assert after.buffer.counters(LANE) == now
        assert after.verify().ok


def asked(lane: Lane, number: int, label: str = "refund") -> bytes:
    return encode(escalation(f"question {number}", number=number, lane=lane, label=label))


def taken(stand: Stand, *values: bytes) -> None:
    """Let ingest take records, one after another."""
    with stand.ingesting():
        for value in values:
            until(lambda: stand.appender.append(TOPIC, key=b"one partition", value=value).result(10) is None)  # noqa: B023
        until(lambda: not any(one.lag_records for one in lags_of(stand.site, [LANE.use_case])))


def applied(stand: Stand, dead: dict[Any, int]) -> None:
    """What is in the log was applied, with no more to show for it than these dead letters' counts."""
    for slot in stand_slots(stand):
        end = stand_bounds(stand, slot)[1]
        if end != "0":
            fence = stand.buffer.claim(LANE.use_case, slot, "an earlier release").fence
            stand.buffer.apply(
                Application(
                    use_case=LANE.use_case, slot=slot, fence=fence, start=BEGINNING, next=end, entries=(), dead=dead
                )
            )


@contextmanager
def again(stand: Stand) -> Iterator[Stand]:
    """The same installation under the settings as they are now."""
    with ExitStack() as stack:
        yield Stand(stand.path, stack)


def change(stand: Stand, pattern: str, new: str) -> None:
    text, found = re.subn(pattern, lambda _: new, stand.path.read_text("utf-8"), count=1)
    assert found == 1, pattern
    stand.path.write_text(text, "utf-8")


def with_newco(stand: Stand) -> None:
    """Put another lane of the same use case into the settings."""
    text = stand.path.read_text("utf-8")
    lanes = text[text.index("[[lanes]]") :]
    more = re.sub(r"(?m)^tenant = .*$", 'tenant = "newco"', lanes.partition("\n[processes")[0])
    stand.path.write_text(f"{text}\n{more}", "utf-8")
    stand.site = open_site(stand.path)
