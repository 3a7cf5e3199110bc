"""A lane's books in Redis: what was done each day, and ever; all replicas write them, by Redis' clock.

A Redis that was emptied begins them anew, and `Book.since_s` says from when they count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast

import msgspec
import redis

from store.buffer.keys import asked, available, text_of
from store.event import Lane
from store.log.lazy import logger
from store.money.deeds import Deeds
from store.money.tally import DeedBatch

_log = logger(__name__)
_DAY_S: Final = 86_400
_KEEP_DAYS_S: Final = 62 * _DAY_S  # the longest month, and one more
_KEEP_WRITER_S: Final = 7 * _DAY_S  # a batch that waited in a file for longer may be counted twice
_SCRIPT: Final = (Path(__file__).parent / "books.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What was done for a lane."""

    now_s: float  # by Redis' clock, Unix seconds
    since_s: float | None  # when the books were begun; None: nothing was ever done
    today: Deeds  # the days and months of UTC
    month: Deeds
    ever: Deeds

    @property
    def day_began_s(self) -> float:
        """When today began, Unix seconds."""
        return self.now_s // _DAY_S * _DAY_S

    @property
    def month_began_s(self) -> float:
        """When this month began, Unix seconds."""
        return _first_of_month(self.now_s).timestamp()


class Books:
    """The books of all lanes. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        """Use an open client that has a socket time-out."""
        self._redis = client
        self._script = client.register_script(_SCRIPT)

    def write(self, lane: Lane, batch: DeedBatch) -> None:
        """Add a batch; again: nothing."""
        counts = [(name, value) for name, value in msgspec.to_builtins(batch.deeds).items() if value]
        keys = [_key(lane, "ever"), _key(lane, "day:"), _key(lane, f"of:{batch.writer}")]
        arguments = [batch.number, _KEEP_WRITER_S, _KEEP_DAYS_S, *(part for pair in counts for part in pair)]
        with available():
            odd = cast("list[bytes]", self._script(keys=keys, args=arguments))
        if odd:
            _log.error("the books were damaged and begin anew there", lane=str(lane), odd=[text_of(one) for one in odd])

    def days(self, lane: Lane, first: int, last: int) -> list[Deeds]:
        """What was done on each day from one to another, both among them; days are UTC's since 1970, 62 are kept."""
        return [_deeds(found) for found in self._hashes(_day_keys(lane, first, last))]

    def read(self, lane: Lane) -> Book:
        """What was done until now."""
        with available():
            now_s = float(self._redis.time()[0])
        first, today = int(_first_of_month(now_s).timestamp()) // _DAY_S, int(now_s) // _DAY_S
        names = [_key(lane, "ever"), *_day_keys(lane, first, today)]
        ever, *days = self._hashes(names)
        found = [_deeds(day) for day in days]
        since = ever.get(b"since", b"")
        return Book(
            now_s=now_s,
            since_s=float(since) if since.isdigit() else None,
            today=found[-1],
            month=sum(found, Deeds()),
            ever=_deeds(ever),
        )

    def latest_days(self, lane: Lane, count: int) -> list[tuple[float, Deeds]]:
        """What was done on each of the last so many days of UTC: when it began (Unix seconds), oldest first.

        Days are kept for 62 days; one of which nothing is known is there, and empty.
        """
        with available():
            today = int(self._redis.time()[0]) // _DAY_S
        first = today - count + 1
        return [(float(day * _DAY_S), deeds) for day, deeds in enumerate(self.days(lane, first, today), start=first)]

    def _hashes(self, names: list[str]) -> list[Mapping[bytes, bytes]]:
        """These hashes, all as of one instant."""

        def all_of() -> list[Mapping[bytes, bytes]]:
            with self._redis.pipeline(transaction=True) as pipeline:
                for name in names:
                    pipeline.hgetall(name)
                return cast("list[Mapping[bytes, bytes]]", pipeline.execute())

        return asked(self._redis, dict.fromkeys(names, "hash"), all_of)


def _deeds(stored: Mapping[bytes, bytes]) -> Deeds:
    """What a hash holds; a field that is no number, or that this release does not know, is left out."""
    known = {name.encode(): name for name in Deeds.__struct_fields__}
    return Deeds(**{known[name]: int(value) for name, value in stored.items() if name in known and value.isdigit()})


def _first_of_month(now_s: float) -> datetime:
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=now_s)
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _day_keys(lane: Lane, first: int, last: int) -> list[str]:
    """The names of these days, counted from 1970, the last included."""
    return [_key(lane, f"day:{day}") for day in range(first, last + 1)]


def _key(lane: Lane, name: str) -> str:
    return f"{{{lane.use_case}}}:{lane.tenant}:books:{name}"
