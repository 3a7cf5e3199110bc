"""When a cycle is due, and what a verdict comes to."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.control import CycleKind, CycleRequest, TrainingState
from store.registry.manifest import Outcome, Verdict
from store.registry.moves import Standing
from trainer.due import Ripeness, ScheduleSettings, after, due, settle
from trainer.work import CycleResult

SETTINGS = ScheduleSettings(
    tick_s=1.0,
    every_s=3600.0,
    min_new_labels=30,
    growth_ratio=0.04,
    fine_tune=True,
    fine_tune_growth_ratio=1.5,
    lease_s=30.0,
    cycle_timeout_s=600.0,
)
SEEN = TrainingState(items_at_cycle=1000, items_at_fine_tune=1000, last_cycle_s=1e6)


def kind(
    items: int,
    *,
    standing: Standing | None = None,
    state: TrainingState = SEEN,
    request: CycleRequest | None = None,
    labels: int = 2,
    now_s: float = 1e6 + 1,
    settings: ScheduleSettings = SETTINGS,
) -> str | None:
    return due(
        standing or Standing(), state, items=items, labels=labels, request=request, now_s=now_s, settings=settings
    )


def replace_state(**fields: float) -> TrainingState:
    """A lane of 1,000 items, all of them learned from."""
    return msgspec.structs.replace(SEEN, **fields)


def of(labels: int, *, learned: int) -> dict[str, int]:
    """Training items of each label: enough in so many of them."""
    return {f"label {number}": 10 if number < learned else 9 for number in range(labels)}


def test_a_head_cycle_at_every_4_per_cent_of_new_items() -> None:
    assert kind(1041) is None
    assert kind(1042) == "head"


def test_but_not_before_the_least_number_of_new_items() -> None:
    state = TrainingState(items_at_cycle=150, items_at_fine_tune=150, last_cycle_s=1e6)
    assert kind(179, state=state) is None
    assert kind(180, state=state) == "head"
    patient = replace(SETTINGS, min_new_labels=100)
    assert kind(249, state=state, settings=patient) is None
    assert kind(250, state=state, settings=patient) == "fine_tune"
    assert kind(199, state=TrainingState(), settings=replace(SETTINGS, min_new_labels=200)) is None


def test_a_fine_tuning_cycle_each_time_items_have_grown_by_half() -> None:
    assert kind(1499) == "head"
    assert kind(1500) == "fine_tune"
    assert kind(1500, settings=replace(SETTINGS, fine_tune=False)) == "head"
    fresh = TrainingState()
    assert kind(149, state=fresh) == "head"
    assert kind(150, state=fresh) == "fine_tune"


def test_a_member_made_of_few_items_is_refreshed_when_they_have_grown_by_a_quarter() -> None:
    few = TrainingState(items_at_cycle=180, items_at_fine_tune=150, last_cycle_s=1e6)
    assert kind(187, state=few) is None
    assert kind(188, state=few) == "fine_tune"
    more = TrainingState(items_at_cycle=330, items_at_fine_tune=225, last_cycle_s=1e6)
    assert kind(337, state=more) is None
    assert kind(338, state=more) == "fine_tune"


def test_no_fine_tuning_before_there_are_20_items_a_label() -> None:
    fresh = TrainingState()
    assert kind(1539, state=fresh, labels=77) == "head"
    assert kind(1540, state=fresh, labels=77) == "fine_tune"
    found = TrainingState(labels=30)  # what a cycle has found counts more than what there may be
    assert kind(600, state=found, labels=77) == "fine_tune"


def test_a_fine_tuned_member_that_learned_too_few_of_the_labels_is_refreshed_sooner() -> None:
    tuned = after(SEEN, "fine_tune", items=1000, label_items=of(60, learned=40), now_s=1e6)
    for labels, expected in ((48, "head"), (49, "fine_tune")):
        state = after(tuned, "head", items=1100, label_items=of(60, learned=labels), now_s=1e6)
        assert kind(1149, state=state) == "head"
        assert kind(1150, state=state) == expected
    refreshed = after(tuned, "fine_tune", items=1150, label_items=of(60, learned=49), now_s=1e6)
    assert kind(1323, state=refreshed) == "head"


def test_a_lane_three_quarters_older_than_at_its_last_fine_tuning_is_due_where_there_is_enough_new() -> None:
    state = replace_state(first_cycle_s=1e6, fine_tuned_s=1e6 + 1000, last_cycle_s=1e6 + 1600)
    assert kind(1042, state=state, now_s=1e6 + 1749) == "head"
    assert kind(1042, state=state, now_s=1e6 + 1750) == "fine_tune"
    assert kind(1041, state=state, now_s=1e6 + 1750) is None
    assert kind(1042, state=state, now_s=1e6 + 1750, settings=replace(SETTINGS, fine_tune=False)) == "head"
    imported = replace_state(first_cycle_s=1e6, fine_tuned_s=1e6, last_cycle_s=1e6)  # of age 0: a day's, or `every_s`
    assert kind(1042, state=imported, now_s=1e6 + 6299) == "head"
    assert kind(1042, state=imported, now_s=1e6 + 6300) == "fine_tune"
    older = replace_state(fine_tuned_s=0.0, last_cycle_s=1e6)  # nobody has noted when it was fine-tuned
    assert kind(1042, state=older, now_s=1e6 + 1750) == "head"


def test_the_first_cycle_and_the_last_fine_tuning_are_noted() -> None:
    made = of(2, learned=2)
    state = after(TrainingState(), "fine_tune", items=20, label_items={}, now_s=4.0)  # no version came of it
    assert (state.first_cycle_s, state.last_cycle_s, state.fine_tuned_s) == (0.0, 4.0, 0.0)
    state = after(state, "head", items=30, label_items=made, now_s=5.0)
    assert (state.first_cycle_s, state.last_cycle_s, state.fine_tuned_s) == (5.0, 5.0, 0.0)
    state = after(state, "fine_tune", items=150, label_items=made, now_s=7.0)
    state = after(state, "head", items=180, label_items=made, now_s=9.0)
    assert (state.first_cycle_s, state.last_cycle_s, state.fine_tuned_s) == (5.0, 9.0, 7.0)
    state = after(state, "head", items=210, label_items=made, now_s=3.0)  # the clock had been ahead
    assert state.first_cycle_s == 3.0


def test_a_label_is_learned_from_ten_items_on() -> None:
    state = after(TrainingState(), "fine_tune", items=30, label_items={"a": 9, "b": 10, "c": 11}, now_s=1.0)
    assert (state.labels, state.learned_labels, state.learned_at_fine_tune) == (3, 2, 2)


def test_a_cycle_that_finds_fewer_labels_forgets_none() -> None:
    before = TrainingState(labels=9, learned_labels=8, learned_at_fine_tune=7)
    state = after(before, "head", items=10, label_items={}, now_s=1.0)
    assert (state.labels, state.learned_labels, state.learned_at_fine_tune) == (9, 8, 7)


def test_by_time_only_where_there_is_anything_new() -> None:
    assert kind(1000, now_s=1e6 + 4000) is None
    assert kind(1001, now_s=1e6 + 3599) is None
    assert kind(1001, now_s=1e6 + 3600) == "head"
    assert kind(1001, state=replace_state(last_cycle_s=0.0), now_s=9e9) is None  # none has been that one could wait for
    assert kind(1001, state=replace_state(last_cycle_s=1.0), now_s=9e9) == "head"


def test_fine_tuning_waits_for_one_new_item_and_for_no_second() -> None:
    assert kind(1500, state=replace_state(items_at_cycle=1500)) is None
    assert kind(1500, state=replace_state(items_at_cycle=1499)) == "fine_tune"


def test_a_member_that_was_made_within_a_second_is_old_after_as_little() -> None:
    state = replace_state(first_cycle_s=1e6, fine_tuned_s=1e6 + 1.0, last_cycle_s=1e6 + 1.5)
    assert kind(1042, state=state, now_s=1e6 + 1.7) == "head"
    assert kind(1042, state=state, now_s=1e6 + 1.75) == "fine_tune"


def test_a_candidate_s_cycle_has_learned_nothing() -> None:
    before = replace_state(labels=9, learned_labels=8, fine_tuned_s=3.0, first_cycle_s=2.0)
    found = after(before, "candidate", items=1400, label_items=of(20, learned=20), now_s=2e6)
    assert found == msgspec.structs.replace(before, last_cycle_s=2e6)


def test_a_cycle_remembers_what_it_began_with() -> None:
    head = after(SEEN, "head", items=1100, label_items=of(2, learned=2), now_s=2e6)
    assert (head.items_at_cycle, head.items_at_fine_tune, head.last_cycle_s) == (1100, 1000, 2e6)
    tuned = after(SEEN, "fine_tune", items=1100, label_items=of(2, learned=2), now_s=2e6)
    assert (tuned.items_at_cycle, tuned.items_at_fine_tune, tuned.fine_tuned_s) == (1100, 1100, 2e6)


def test_a_pause_stops_the_schedule_and_not_a_person() -> None:
    paused = Standing(paused=True, candidates=("a",))
    request = CycleRequest(kind="head", who="me", why="now", at_s=1.0)
    assert kind(5000, standing=paused) is None
    assert kind(1000, standing=paused, request=request) == "head"


def test_a_submitted_candidate_comes_before_the_schedule() -> None:
    assert kind(5000, standing=Standing(candidates=("a",))) == "candidate"


@given(items=st.integers(0, 5000), growth=st.integers(0, 5000))
def test_a_cycle_that_has_run_is_not_due_again_at_once(items: int, growth: int) -> None:
    found = due(
        Standing(),
        TrainingState(items_at_cycle=items),
        items=items + growth,
        labels=2,
        request=None,
        now_s=9e9,
        settings=SETTINGS,
    )
    if found is not None:
        state = after(
            TrainingState(items_at_cycle=items), found, items=items + growth, label_items=of(2, learned=2), now_s=9e9
        )
        assert (
            due(Standing(), state, items=items + growth, labels=2, request=None, now_s=9e9 + 1, settings=SETTINGS)
            is None
        )


HEAD_FIRST = replace(SETTINGS, head_first=True)


def test_where_nothing_serves_the_head_goes_first_and_fine_tuning_follows_on_the_same_rows() -> None:
    empty, served = Standing(), Standing(champion="a")
    assert kind(1000, state=TrainingState(), standing=empty, settings=HEAD_FIRST) == "head"
    drawn = after(TrainingState(), "head", items=1000, label_items=of(2, learned=2), now_s=1e6)
    for standing in (empty, served):  # whatever became of the head
        assert kind(1000, state=drawn, standing=standing, settings=HEAD_FIRST) == "fine_tune"
        assert kind(1000, state=drawn, standing=standing) is None  # a replay, whose training takes no time
    tuned = after(drawn, "fine_tune", items=1000, label_items=of(2, learned=2), now_s=1e6)
    assert kind(1000, state=tuned, standing=served, settings=HEAD_FIRST) is None
    assert kind(149, state=TrainingState(), settings=HEAD_FIRST) == "head"
    few = after(TrainingState(), "head", items=149, label_items=of(2, learned=2), now_s=1e6)
    assert kind(149, state=few, settings=HEAD_FIRST) is None


def test_a_head_that_has_seen_nearly_all_rows_is_not_made_again_before_the_fine_tuning() -> None:
    nearly = after(TrainingState(), "head", items=140, label_items=of(2, learned=2), now_s=1e6)
    assert kind(150, state=nearly, settings=HEAD_FIRST) == "fine_tune"
    assert kind(170, state=nearly, settings=HEAD_FIRST) == "head"


def test_where_something_serves_fine_tuning_waits_for_no_head() -> None:
    assert kind(1500, standing=Standing(champion="a"), settings=HEAD_FIRST) == "fine_tune"
    assert kind(1500, settings=HEAD_FIRST) == "head"


@given(items=st.integers(0, 5000), growth=st.integers(0, 5000), champion=st.sampled_from([None, "a"]))
def test_a_head_first_and_then_a_fine_tuning_and_then_rest(items: int, growth: int, champion: str | None) -> None:
    state, ran = TrainingState(items_at_cycle=items), list[str]()
    while (
        found := due(
            Standing(champion=champion),
            state,
            items=items + growth,
            labels=2,
            request=None,
            now_s=9e9 + len(ran),
            settings=HEAD_FIRST,
        )
    ) is not None:
        ran.append(found)
        assert ran in (["head"], ["fine_tune"], ["head", "fine_tune"])
        state = after(state, found, items=items + growth, label_items=of(2, learned=2), now_s=9e9 + len(ran))


def result(outcome: Outcome) -> CycleResult:
    return CycleResult(
        version="0" * 16,
        verdict=Verdict(
            outcome=outcome,
            phase="growth",
            refusals=[] if outcome == "pass" else ["why"],
            rows_judged=10,
            student_agreement=0.9,
            difference=0.0,
            lower=-0.01,
            upper=0.01,
            delta=0.02,
            rows_needed=0,
            slices=[],
        ),
        anchor=False,
    )


def test_a_pass_counts_while_nothing_has_moved() -> None:
    standing = Standing(champion="a")
    assert settle(result("pass"), standing, standing) == ("pass", [])


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (
            Standing(champion="a", pinned=True),
            "passed, but the champion is pinned; `understudy resume` lets automation promote again",
        ),
        (Standing(champion="b"), "passed against a, but b is the champion now"),
    ],
)
def test_a_pass_is_held_where_a_person_has_moved_meanwhile(now: Standing, why: str) -> None:
    assert settle(result("pass"), Standing(champion="a"), now) == ("held", [why])


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_a_refusal_stays_one_whatever_happens(outcome: Outcome) -> None:
    assert settle(result(outcome), Standing(champion="a"), Standing(pinned=True)) == (outcome, ["why"])


NO_HEAD = Ripeness(items=200, items_per_label=0, head_alone=False)
COLD = TrainingState()


@pytest.mark.parametrize("head_first", [True, False])
@pytest.mark.parametrize("fine_tune", [True, False])
def test_where_no_head_can_serve_alone_the_first_cycle_is_a_fine_tuning(head_first: bool, fine_tune: bool) -> None:  # noqa: FBT001
    """Even where fine-tuning is off: nothing else could ever serve."""
    settings = replace(SETTINGS, head_first=head_first, fine_tune=fine_tune)

    def asked(items: int, state: TrainingState, *, champion: str | None = None, now_s: float = 1e6 + 1) -> str | None:
        standing = Standing(champion=champion)
        return due(standing, state, items=items, labels=0, request=None, now_s=now_s, settings=settings, ripe=NO_HEAD)

    assert [asked(items, COLD) for items in (40, 199, 200)] == [None, None, "fine_tune"]
    tried = after(COLD, "fine_tune", items=200, label_items={"answers": 120}, now_s=1e6)
    assert [asked(items, tried) for items in (200, 240, 250)] == [None, None, "fine_tune"]  # its verdict was no pass
    assert asked(201, tried, now_s=1e6 + 3600) == "fine_tune"
    assert asked(230, tried, champion="v1") == "head"
    assert asked(250, tried, champion="v1") == ("fine_tune" if fine_tune else "head")


@pytest.mark.parametrize("asked", ["head", "fine_tune", "candidate"])
def test_whoever_asks_for_a_head_where_none_can_serve_alone_gets_a_fine_tuning(asked: CycleKind) -> None:
    request = CycleRequest(kind=asked, who="operator", why="", at_s=0.0, candidate=None)

    def found(champion: str | None, ripe: Ripeness) -> str | None:
        standing = Standing(champion=champion)
        return due(standing, COLD, items=3, labels=0, request=request, now_s=1.0, settings=SETTINGS, ripe=ripe)

    assert found(None, NO_HEAD) == ("fine_tune" if asked == "head" else asked)
    assert found("v1", NO_HEAD) == found(None, Ripeness()) == asked
