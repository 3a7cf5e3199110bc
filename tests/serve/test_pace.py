"""What a budget-only lane remembers: bounded, and trimmed by a swap."""

from serve.routing.pace import RECENT, RECENT_AFTER_SWAP, Pace


def test_what_is_remembered_is_bounded() -> None:
    pace = Pace()
    for number in range(RECENT + 700):
        pace.see(number / 1000, "a")
    assert list(pace.recent) == [number / 1000 for number in range(700, RECENT + 700)]


def test_a_swap_keeps_the_last_fifty_and_goes_on() -> None:
    pace = Pace()
    seen = [number / 1000 for number in range(230)]
    for one in seen:
        pace.see(one, "a")
    pace.see(0.5, "b")
    assert list(pace.recent) == [*seen[-RECENT_AFTER_SWAP:], 0.5]
    for one in seen:
        pace.see(one, "b")
    assert len(pace.recent) == RECENT
