"""Events of earlier releases."""

from pathlib import Path

import pytest

from store.event import Undecodable, decode, encode

FILES = sorted(Path(__file__).parent.glob("events-*.jsonl"))
LINES = [(file.name, line) for file in FILES for line in file.read_bytes().splitlines()]


@pytest.mark.parametrize(("name", "line"), LINES)
def test_todays_code_reads_every_event_of_earlier_releases(name: str, line: bytes) -> None:
    event = decode(line)
    assert not isinstance(event, Undecodable), event
    assert decode(encode(event)) == event


def test_there_are_events_to_read() -> None:
    assert LINES
