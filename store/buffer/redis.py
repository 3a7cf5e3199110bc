"""The replay buffer in Redis, which is the truth: items, tallies, counters and positions change together.

Python merges (one definition for every buffer), then one script per batch checks and writes. The script refuses when
the fence is void, when the position is not the batch's start, or when an item changed since it was read.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final, cast

import msgspec
import redis

from store.buffer.effects import ItemKey, LaneEffects, effects, keys_read, retention_rank
from store.buffer.item import Item
from store.buffer.ledger import BEGINNING, Application, Applied, AuditTally, Claim, Counters, Slot
from store.buffer.stored import CHECKSUM_BYTES, decode_item, encode_item
from store.errors import CorruptItemError, StoreUnavailableError
from store.event import Lane

_STALE_ATTEMPTS: Final = 32
_READ_ITEMS: Final = 500  # per MGET while all items are read


class RedisBuffer:
    """Satisfies `store.buffer.ledger.Buffer`. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis, k: int) -> None:
        """Use an open client with `decode_responses` off; keep `k` items per lane and stratum."""
        self._redis = client
        self._k = k
        self._claim = client.register_script(_script("claim.lua"))
        self._apply = client.register_script(_script("apply.lua"))

    def claim(self, use_case: str, slot: Slot, owner: str) -> Claim:
        """Take a slot over: every earlier fence is void from here on. Claiming twice only draws a higher fence."""
        keys = [_position_key(use_case, slot), f"{{{use_case}}}:slots"]
        with _available():
            fence, position = cast("tuple[int, bytes]", self._claim(keys=keys, args=[owner, msgspec.json.encode(slot)]))
        return Claim(int(fence), position.decode())

    def apply(self, application: Application) -> Applied:
        """Apply a batch atomically, exactly once.

        A position that already equals the batch's `next` means that all of it was applied before, by a call whose reply
        was lost (the client resends after a time-out): positions only ever move by whole batches, so that is `ok`.

        Raises:
            StoreUnavailableError: retry with the same application.
            CorruptItemError: a stored value disagrees with its checksum.
        """
        for _ in range(_STALE_ATTEMPTS):
            outcome, position = self._attempt(application)
            match outcome:
                case "OK":
                    return Applied("ok", position)
                case "FENCED":
                    return Applied("fenced", position)
                case "MOVED":
                    return Applied("ok" if position == application.next else "moved", position)
                case _:
                    continue  # STALE: read again
        message = f"other partitions changed the same items {_STALE_ATTEMPTS} times in a row: retry"
        raise StoreUnavailableError(message)

    def positions(self, use_case: str) -> Mapping[Slot, str]:
        """The stored position of each slot that was ever claimed."""
        with _available():
            members = cast("set[bytes]", self._redis.smembers(f"{{{use_case}}}:slots"))
            slots = sorted(msgspec.json.decode(member, type=Slot) for member in members)
            with self._redis.pipeline(transaction=False) as pipeline:
                for slot in slots:
                    pipeline.hget(_position_key(use_case, slot), "next")
                found = cast("list[bytes | None]", pipeline.execute())
        return {
            slot: BEGINNING if position is None else position.decode()
            for slot, position in zip(slots, found, strict=True)
        }

    def items(self, lane: Lane) -> Iterator[Item]:
        """Every kept item of a lane, in item id order.

        Raises:
            CorruptItemError: a stored value disagrees with its checksum, or is gone without having been evicted.
        """
        ids = sorted(self._ranked(lane))
        for start in range(0, len(ids), _READ_ITEMS):
            keys = [ItemKey(lane, item_id) for item_id in ids[start : start + _READ_ITEMS]]
            found = self._read(keys)
            if missing := {key.item_id for key in keys if key not in found} & self._ranked(lane):
                message = f"{len(missing)} items of {lane} have no value: rebuild the buffer from the log"
                raise CorruptItemError(message)
            for key in keys:
                if key in found:
                    yield found[key][0]

    def counters(self, lane: Lane) -> Counters:
        """Where the lane's records went."""
        return Counters(**self._counts(f"{_prefix(lane)}counters"))

    def dead(self, use_case: str) -> Mapping[str, int]:
        """Dead letters by reason."""
        return self._counts(f"{{{use_case}}}:dead")

    def audits(self, lane: Lane) -> Mapping[str, AuditTally]:
        """Audits by version of the student."""
        counts = self._counts(f"{_prefix(lane)}audits")
        versions = sorted(name.removesuffix(":audits") for name in counts if name.endswith(":audits"))
        return {
            version: AuditTally(audits=counts[f"{version}:audits"], agreed=counts.get(f"{version}:agreed", 0))
            for version in versions
        }

    def _attempt(self, application: Application) -> tuple[str, str]:
        """Read, merge, check and write: the script's outcome (OK, FENCED, MOVED, STALE) and the stored position."""
        keys = keys_read(application.entries)
        read = self._read(keys)
        made = effects(application.entries, {key: item for key, (item, _) in read.items()})
        checks: dict[Lane, dict[str, str]] = {lane: {} for lane in made}
        for key in keys:
            checks[key.lane][key.item_id] = read[key][1] if key in read else ""
        payload = msgspec.msgpack.encode(
            [
                list(application.dead.items()),
                [_lane_payload(lane, change, checks[lane]) for lane, change in made.items()],
            ]
        )
        arguments: list[str | bytes] = [
            str(application.fence),
            application.start,
            application.next,
            str(self._k),
            payload,
        ]
        names = [_position_key(application.use_case, application.slot), f"{{{application.use_case}}}:dead"]
        with _available():
            outcome, position = cast("tuple[bytes, bytes]", self._apply(keys=names, args=arguments))
        return outcome.decode(), position.decode()

    def _read(self, keys: list[ItemKey]) -> dict[ItemKey, tuple[Item, str]]:
        """The item of each key that is kept, and its checksum."""
        if not keys:
            return {}
        names = [f"{_prefix(key.lane)}item:{key.item_id}" for key in keys]
        with _available():
            values = cast("list[bytes | None]", self._redis.mget(names))
        return {
            key: (decode_item(value, name=name), value[:CHECKSUM_BYTES].decode())
            for key, name, value in zip(keys, names, values, strict=True)
            if value is not None
        }

    def _ranked(self, lane: Lane) -> set[str]:
        """The ids of a lane's items."""
        prefix = _prefix(lane)
        with _available():
            strata = cast("set[bytes]", self._redis.smembers(f"{prefix}strata"))
            with self._redis.pipeline(transaction=False) as pipeline:
                for stratum in strata:
                    pipeline.zrange(prefix.encode() + b"stratum:" + stratum, 0, -1)
                return {item_id.decode() for ids in cast("list[list[bytes]]", pipeline.execute()) for item_id in ids}

    def _counts(self, name: str) -> dict[str, int]:
        with _available():
            found = cast("dict[bytes, bytes]", self._redis.hgetall(name))
        return {field.decode(): int(value) for field, value in sorted(found.items())}


def _lane_payload(
    lane: Lane, change: LaneEffects, checks: Mapping[str, str]
) -> tuple[str, list[tuple[str, str]], list[tuple[Any, ...]], list[tuple[str, int]], list[tuple[str, int]]]:
    """One lane's part of the script's argument.

    A rank is sent as text because Lua would round it, a value because Redis' msgpack reader knows no byte strings.

    Args:
        lane: the lane.
        change: what the batch does to it.
        checks: the checksum of each item as it was read, by id; empty where there was none.
    """
    items = [
        (item_id, encode_item(item).decode())
        if checks[item_id]
        else (item_id, encode_item(item).decode(), item.stratum, repr(retention_rank(lane, item_id)))
        for item_id, item in change.items.items()
    ]
    counters = change.counters
    counts = [
        ("counted", counters.counted),
        ("repeats", counters.repeats),
        ("ineligible", counters.ineligible),
        ("new_items", counters.new_items),
    ]
    audits = [
        pair
        for version, tally in change.audits.items()
        for pair in ((f"{version}:audits", tally.audits), (f"{version}:agreed", tally.agreed))
    ]
    return _prefix(lane), list(checks.items()), items, counts, audits


def _prefix(lane: Lane) -> str:
    """What the names of a lane's keys begin with; the use case in braces is their hash tag."""
    return f"{{{lane.use_case}}}:{lane.tenant}:"


def _position_key(use_case: str, slot: Slot) -> str:
    return f"{{{use_case}}}:pos:{slot.uuid}:{slot.partition}"


def _script(name: str) -> str:
    return (files("store.buffer") / name).read_text("utf-8")


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        message = f"Redis: {error}"
        raise StoreUnavailableError(message) from error
