"""What is new to learn from: rows that a cycle would draw and the last one did not."""

import math
from collections.abc import Iterator
from random import Random

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from store.answers.rules import Drawing
from store.buffer.item import Item
from store.buffer.ledger import Counters
from store.buffer.memory import MemoryBuffer
from store.control import Control, TrainingState
from store.event import Lane
from tests.trainer.questions import LANE, NOW_S, PROMPT_VERSION, an_item
from trainer.learn.classify.freezing import LabelFreezing
from trainer.news import UNKNOWN, Stock, drawn, fresh, items_at_most
from trainer.snapshot import SplitSettings, freeze

HOUR = Drawing(prompt_version=PROMPT_VERSION, quarantine_s=3600.0, now_s=NOW_S)
AT_ONCE = Drawing(prompt_version=PROMPT_VERSION, quarantine_s=0.0, now_s=NOW_S)


def asked(count: int, *, age_s: float, first: int = 0, label: str = "refund") -> list[Item]:
    rng = Random(first)
    return [an_item(f"question {n}", label, rng, at_s=NOW_S - age_s) for n in range(first, first + count)]


def test_rows_drawn_before_are_not_new_and_the_young_are_not_drawn() -> None:
    old, young = asked(5, age_s=7200.0), asked(3, age_s=60.0, first=5)
    before = drawn(old, HOUR)
    now = drawn([*old, *young], HOUR)
    assert (fresh(now.digests, b""), fresh(now.digests, before.digests)) == (5, 0)
    assert (now.waiting, now.matures_s) == (3, NOW_S - 60.0 + 3600.0)
    later = drawn([*young, *old], Drawing(prompt_version=PROMPT_VERSION, quarantine_s=3600.0, now_s=now.matures_s))
    assert (fresh(later.digests, now.digests), later.waiting, later.matures_s) == (3, 0, math.inf)


def test_another_answer_to_an_old_question_is_new_and_a_stale_one_is_not() -> None:
    old = asked(4, age_s=7200.0)
    before = drawn(old, HOUR).digests
    turned = asked(1, age_s=7200.0, label="delivery")
    assert fresh(drawn([*turned, *old[1:]], HOUR).digests, before) == 1
    other_prompt = Drawing(prompt_version="another@prompt", quarantine_s=3600.0, now_s=NOW_S)
    assert (drawn(old, other_prompt).digests, drawn(old, other_prompt).waiting) == (b"", 4)
    assert drawn(old, other_prompt).matures_s == math.inf, "no time makes an answer of the present prompt of it"


def test_questions_dated_ahead_wait_and_are_counted_and_without_a_quarantine_none_waits() -> None:
    ahead = asked(3, age_s=-86_400.0)
    assert (drawn(ahead, HOUR).ahead, drawn(ahead, HOUR).waiting) == (3, 3)
    assert (drawn(ahead, AT_ONCE).ahead, drawn(ahead, AT_ONCE).waiting) == (0, 0)


@given(ages_s=st.lists(st.floats(-7200.0, 7200.0), max_size=12), quarantine_s=st.sampled_from([0.0, 60.0, 3600.0]))
def test_what_counts_as_drawn_is_what_a_freeze_draws(ages_s: list[float], quarantine_s: float) -> None:
    items = [an_item(f"q{n}", "refund", Random(n), at_s=NOW_S - age_s) for n, age_s in enumerate(ages_s)]
    snapshot = freeze(
        items,
        LabelFreezing(labels_min=1),
        prompt_version=PROMPT_VERSION,
        split=SplitSettings(salt="s", calibrate_ratio=0.0, judge_ratio=0.0),
        quarantine_s=quarantine_s,
        now_s=NOW_S,
        seed=0,
        positions={},
    )
    found = drawn(items, Drawing(prompt_version=PROMPT_VERSION, quarantine_s=quarantine_s, now_s=NOW_S))
    assert fresh(found.digests, b"") == len(snapshot.rows)
    assert found.waiting == snapshot.left_out.quarantined


def test_the_most_there_may_be_is_never_less_than_there_is() -> None:
    counters = Counters(counted=130, new_items=100)
    assert items_at_most(TrainingState(), counters, PROMPT_VERSION) == 100
    noted = TrainingState(items_at_cycle=80, counted_at_cycle=120, waiting_at_cycle=4, prompt_version=PROMPT_VERSION)
    assert items_at_most(noted, counters, PROMPT_VERSION) == 80 + 4 + 10
    assert items_at_most(noted, counters, "another@prompt") == UNKNOWN
    assert items_at_most(noted, Counters(counted=7, new_items=7), PROMPT_VERSION) == UNKNOWN, "restored from older"
    earlier_release = TrainingState(items_at_cycle=90)
    assert items_at_most(earlier_release, counters, PROMPT_VERSION) == 100


class Shelf(MemoryBuffer):
    """A buffer that holds given items, and counts how often all of them are read."""

    def __init__(self, items: list[Item]) -> None:
        super().__init__(1000)
        self.kept = items
        self.looks = 0

    def items(self, lane: Lane) -> Iterator[Item]:
        self.looks += 1
        return iter(self.kept)


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def test_items_are_looked_at_anew_only_when_that_can_matter(redis_client: redis.Redis, clock: list[float]) -> None:
    shelf = Shelf([*asked(5, age_s=7200.0), *asked(2, age_s=1800.0, first=5)])
    stock = Stock(
        shelf, Control(redis_client), monotonic=lambda: clock[0], alive=lambda: clock.__setitem__(0, clock[0] + 1)
    )
    state, counters = TrainingState(), Counters(counted=7, new_items=7)

    def items(now_s: float, counters: Counters = counters) -> int:
        drawing = Drawing(prompt_version=PROMPT_VERSION, quarantine_s=3600.0, now_s=now_s)
        return stock.items(LANE, drawing, state, counters)

    assert [items(NOW_S), items(NOW_S + 1.0)] == [5, 5]
    clock[0] += 1e4
    assert items(NOW_S + 1700.0) == 5
    assert shelf.looks == 1, "nothing has come, and nothing has matured"
    assert items(NOW_S + 1800.0) == 7
    assert shelf.looks == 2
    shelf.kept = [*shelf.kept, *asked(1, age_s=7200.0, first=20)]
    came = Counters(counted=8, new_items=8)
    assert items(NOW_S + 1801.0, came) == 7
    assert shelf.looks == 2, "a look took a second: fifty have to pass"
    clock[0] += 50.0
    assert items(NOW_S + 1802.0, came) == 8


def test_rows_that_nobody_has_noted_count_by_items_ever_made(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    stock = Stock(Shelf(asked(5, age_s=7200.0)), control, monotonic=lambda: 0.0, alive=lambda: None)
    earlier_release = TrainingState(items_at_cycle=90)
    assert stock.look(LANE, HOUR, earlier_release, Counters(new_items=120)).items == 120
    control.remember(LANE, earlier_release, drawn(asked(4, age_s=7200.0), HOUR).digests)
    assert stock.look(LANE, HOUR, earlier_release, Counters(new_items=120)).items == 91
