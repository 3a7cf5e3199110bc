"""What a replica says of itself."""

from serve.counts import Counts
from store.control import Heartbeat


def beat(counts: Counts, now_s: float) -> Heartbeat:
    return counts.heartbeat(version="a", at_s=1e9, now_s=now_s, used_calls=3, limit_calls=10, suspended=False)


def test_totals_count_everything_and_recent_ones_five_minutes() -> None:
    counts = Counts()
    for second in range(0, 400, 10):
        counts.add(now_s=float(second), served_by="teacher" if second < 100 else "student", withheld=second == 390)
    found = beat(counts, 390.0)
    assert (found.requests, found.escalated, found.withheld) == (40, 10, 1)
    assert (found.recent_requests, found.recent_escalated) == (31, 1)


def test_recent_counts_are_of_the_last_500_requests_at_most() -> None:
    counts = Counts()
    for number in range(1200):
        counts.add(now_s=1.0, served_by="teacher" if number >= 1100 else "student", withheld=False)
    found = beat(counts, 2.0)
    assert (found.requests, found.recent_requests, found.recent_escalated) == (1200, 500, 100)
