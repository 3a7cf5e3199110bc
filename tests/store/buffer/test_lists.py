"""By which labels a slot was read, and from where on."""

import redis
import structlog

from store.buffer.ledger import BEGINNING, Claim
from store.buffer.repair.lists import LabelList, Lists, ListsHeld, kept_at, list_at, lists_of
from store.tasks.tasks import TASKS
from tests.contracts.escalations import LANE, slot

ONE, TWO = LabelList(labels=["a", "b"]), LabelList(labels=["a", "c"], earlier=["b"])
TODAY = LabelList(labels=["c", "d"], earlier=["a"])


def held(fence: int, position: str, found: LabelList, partition: int = 0) -> ListsHeld:
    return ListsHeld(
        slot=slot(partition),
        fence=fence,
        position=position,
        lists={str(LANE): found},
        at_s=1.0,
        tasks=tuple(sorted(TASKS)),
    )


def test_a_record_is_judged_by_the_list_that_held_when_it_was_applied() -> None:
    known = [held(1, BEGINNING, ONE), held(2, "10", TWO), held(1, "5", TODAY, partition=1)]
    assert [list_at(known, slot(0), offset, LANE, TODAY) for offset in (0, 9, 10, 99)] == [ONE, ONE, TWO, TWO]
    assert list_at(known, slot(2), 0, LANE, TODAY) == TODAY, "nothing is known of this slot"


def test_what_came_before_anything_was_noted_is_judged_by_the_first_list_and_todays_rulings() -> None:
    assert list_at([held(3, "100", TWO)], slot(0), 5, LANE, TODAY) == LabelList(labels=["a", "c"], earlier=["b", "a"])


def test_a_slot_that_was_set_back_is_judged_as_it_was_read_the_last_time() -> None:
    known = [held(1, BEGINNING, ONE), held(2, "10", TWO), held(3, "5", TODAY)]
    assert list_at(known, slot(0), 12, LANE, ONE) == TODAY
    assert list_at(known, slot(0), 4, LANE, ONE) == ONE


def test_only_changes_are_noted_and_damage_is_left_out_aloud(redis_client: redis.Redis) -> None:
    lists = Lists(redis_client)

    def note(fence: int, position: str, found: LabelList, partition: int = 0) -> None:
        lists.note("support", slot(partition), Claim(fence, position), {LANE: found}, now_s=1.0)

    note(1, BEGINNING, ONE)
    note(2, "7", ONE)
    note(3, "9", TWO)
    note(4, BEGINNING, TWO, partition=1)
    note(5, "12", TWO)
    assert lists.held("support") == [held(1, BEGINNING, ONE), held(3, "9", TWO), held(4, BEGINNING, TWO, partition=1)]
    assert lists_of(lists.held("support"), LANE) == [("a", "b"), ("a", "c")]
    assert not kept_at(lists.held("support"), slot(2), 0, "rank"), "nobody has noted it: an earlier release read on"
    assert kept_at(lists.held("support"), slot(0), 9, "rank")
    redis_client.rpush("{support}:lists", b"{")
    with structlog.testing.capture_logs() as logs:
        assert len(lists.held("support")) == 3
    assert [line["log_level"] for line in logs] == ["error"]
