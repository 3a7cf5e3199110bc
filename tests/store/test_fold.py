"""Where moves lead: laws of the fold."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import BrokenChainError, RegistryError
from store.registry.memory import MemoryMoves
from store.registry.moves import Move, MoveKind, Standing, fold, promoted
from tests.store.drafts import LANE

VERSIONS = [digit * 16 for digit in "abcdef"]
Step = tuple[MoveKind, str | None, bool]


def move(number: int, step: Step) -> Move:
    kind, version, anchor = step
    return Move(
        number=number,
        kind=kind,
        lane=LANE,
        version=version,
        previous_sha256="0" * 64,
        who="me",
        why="",
        time_s=float(number),
        anchor=anchor,
    )


def numbered(steps: list[Step]) -> list[Move]:
    return [move(number, step) for number, step in enumerate(steps, start=1)]


def after(*steps: tuple[MoveKind, str | None]) -> Standing:
    return fold(numbered([(kind, version, False) for kind, version in steps]))


versions_drawn = st.sampled_from(VERSIONS)
steps_drawn: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.sampled_from(["submit", "decline", "rollback"]), versions_drawn, st.just(False)),
    st.tuples(st.just("promote"), versions_drawn, st.booleans()),
    st.tuples(st.sampled_from(["pin", "resume", "pause"]), st.none(), st.just(False)),
)
histories = st.lists(steps_drawn, max_size=25)


def test_nothing_has_happened_before_the_first_move() -> None:
    assert fold([]) == Standing()


def test_a_second_rollback_goes_further_back_and_not_forth() -> None:
    a, b, c, d = VERSIONS[:4]
    three = after(("promote", a), ("promote", b), ("promote", c))
    assert (three.champion, three.previous) == (c, b)
    once = after(("promote", a), ("promote", b), ("promote", c), ("rollback", b))
    assert (once.champion, once.previous) == (b, a)
    twice = after(("promote", a), ("promote", b), ("promote", c), ("rollback", b), ("rollback", a))
    assert (twice.champion, twice.previous) == (a, None)
    onward = after(("promote", a), ("promote", b), ("promote", c), ("rollback", b), ("resume", None), ("promote", d))
    assert (onward.champion, onward.previous) == (d, b)


def test_the_anchor_is_the_last_anchored_promotion_that_was_not_rolled_back_from() -> None:
    a, b, c = VERSIONS[:3]
    steps: list[Step] = [("promote", a, True), ("promote", b, False), ("promote", c, True)]
    assert fold(numbered(steps[:2])).anchor == a
    assert fold(numbered(steps)).anchor == c
    assert fold(numbered([*steps, ("rollback", b, False)])).anchor == a
    assert fold(numbered([("promote", a, False), ("promote", a, True)])).anchor == a


@given(history=histories, version=versions_drawn)
def test_a_rollback_serves_its_version_and_pins_it_until_resume(history: list[Step], version: str) -> None:
    rolled: list[Step] = [*history, ("rollback", version, False)]
    standing = fold(numbered(rolled))
    assert (standing.champion, standing.pinned) == (version, True)
    resumed = fold(numbered([*rolled, ("resume", None, False)]))
    assert (resumed.champion, resumed.pinned, resumed.paused) == (version, False, False)


@given(history=histories, version=versions_drawn, anchor=st.booleans())
def test_a_promotion_serves_and_leaves_pin_and_pause_alone(history: list[Step], version: str, *, anchor: bool) -> None:
    before = fold(numbered(history))
    promoted = fold(numbered([*history, ("promote", version, anchor)]))
    assert promoted.champion == version
    assert (promoted.pinned, promoted.paused) == (before.pinned, before.paused)
    assert promoted.anchor == (version if anchor else before.anchor)
    if before.champion != version:
        assert promoted.previous == before.champion


@given(history=histories)
def test_only_promote_and_rollback_change_the_champion(history: list[Step]) -> None:
    names = [version for kind, version, _ in history if kind in {"promote", "rollback"}]
    standing = fold(numbered(history))
    assert standing.champion == (names[-1] if names else None)
    assert standing.champion is None or standing.champion != standing.previous
    assert standing.anchor is None or ("promote", standing.anchor, True) in history


@given(history=histories)
def test_rolling_back_again_and_again_ends_and_never_returns_to_what_was_left(history: list[Step]) -> None:
    steps = list(history)
    standing = fold(numbered(steps))
    depths = 0
    while standing.previous is not None:
        expected = standing.previous
        steps.append(("rollback", expected, False))
        standing = fold(numbered(steps))
        assert standing.champion == expected
        depths += 1
        assert depths <= len(history)


@given(history=histories)
def test_pin_and_pause_are_what_the_last_word_on_them_was(history: list[Step]) -> None:
    pins = [kind for kind, _, _ in history if kind in {"pin", "rollback", "resume"}]
    pauses = [kind for kind, _, _ in history if kind in {"pause", "resume"}]
    standing = fold(numbered(history))
    assert standing.pinned == (bool(pins) and pins[-1] != "resume")
    assert standing.paused == (bool(pauses) and pauses[-1] == "pause")


@given(history=histories)
def test_a_candidate_is_what_was_submitted_and_not_judged_since(history: list[Step]) -> None:
    waiting = []
    for version in VERSIONS:
        events = [
            (at, kind)
            for at, (kind, named, _) in enumerate(history)
            if named == version and kind in {"submit", "promote", "decline"}
        ]
        if events and events[-1][1] == "submit":
            waiting.append((events[-1][0], version))
    assert fold(numbered(history)).candidates == tuple(version for _, version in sorted(waiting))


@given(history=histories)
def test_the_last_move_is_kept_for_status(history: list[Step]) -> None:
    moves = numbered(history)
    assert fold(moves).last_move == (moves[-1] if moves else None)
    assert fold(iter(moves)) == fold(moves)


def test_a_move_of_a_version_without_one_cannot_be_folded() -> None:
    with pytest.raises(BrokenChainError):
        fold([msgspec.structs.replace(move(1, ("promote", VERSIONS[0], False)), version=None)])


def test_a_verdict_on_the_judged_form_of_a_candidate_answers_the_candidate() -> None:
    submitted, judged = VERSIONS[0], VERSIONS[1]
    verdict = msgspec.structs.replace(move(2, ("decline", judged, False)), candidate=submitted)
    assert fold([move(1, ("submit", submitted, False)), verdict]).candidates == ()


@given(history=histories)
def test_moves_in_memory_lead_where_signed_ones_lead(history: list[Step]) -> None:
    moves = MemoryMoves(LANE)
    for number, (kind, version, anchor) in enumerate(history, start=1):
        moves.append(kind, version=version, who="me", why="", now_s=float(number), anchor=anchor)
    assert moves.read() == numbered(history)
    assert moves.standing() == fold(numbered(history))


@pytest.mark.parametrize(
    ("kind", "version", "anchor"), [("promote", None, False), ("pin", "a" * 16, False), ("decline", "a" * 16, True)]
)
def test_moves_in_memory_refuse_what_signed_ones_refuse(kind: MoveKind, version: str | None, *, anchor: bool) -> None:
    moves = MemoryMoves(LANE)
    with pytest.raises(RegistryError, match=kind):
        moves.append(kind, version=version, who="me", why="", now_s=1.0, anchor=anchor)
    assert moves.read() == []


def test_the_promoted_versions_are_those_of_the_promotions_alone() -> None:
    a, b = VERSIONS[:2]
    steps: list[Step] = [("submit", a, False), ("promote", a, True), ("decline", b, False), ("promote", b, False)]
    assert promoted(numbered([*steps, ("rollback", a, False)])) == [a, b]
