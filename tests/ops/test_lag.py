"""How far ingest is behind, by what the log and the positions say. Pure."""

import pytest

from ops.checks.lag import Unread
from tests.contracts.escalations import slot


@pytest.mark.parametrize(
    ("position", "begin", "end", "first", "lag"),
    [
        ("5", 0, 9, 5, 4),
        ("9", 0, 9, 9, 0),
        ("12", 0, 9, 12, 0),  # the log lost its tail
        ("-1", 3, 9, 3, 6),  # nothing was ever read
        ("lost", 3, 9, 3, 6),
        ("2", 3, 9, 2, 7),  # retention was faster: what it took counts as unread
    ],
)
def test_what_is_unread_is_what_lies_between_position_and_end(
    position: str, begin: int, end: int, first: int, lag: int
) -> None:
    unread = Unread(slot=slot(0), position=position, begin=begin, end=end)
    assert (unread.first, unread.lag_records) == (first, lag)
