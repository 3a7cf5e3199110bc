"""The replay buffer in Redis, which is the truth: items, tallies, counters and positions change together.

Python merges (one definition for every buffer), then one script per batch checks and writes. The script refuses when
the fence is void, when the position is not the batch's start, or when an item changed since it was read.

Damage costs what is damaged and nothing else: it is left out by readers, set aside by the next batch that meets it, and
noted beside the lane until the buffer is rebuilt from the log (`store.buffer.repair`).
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any, Final, cast

import msgspec
import redis

from store.buffer.effects import ItemKey, LaneEffects, effects, keys_read, retention_rank
from store.buffer.item import Item
from store.buffer.keys import (
    available,
    is_of_another_kind,
    lane_prefix,
    position_key,
    script_of,
    settled_key,
    slot_of,
    text_of,
)
from store.buffer.ledger import BEGINNING, Application, Applied, AuditTally, Claim, Counters, LogSlot
from store.buffer.stored import CHECKSUM_BYTES, decode_item, encode_item
from store.errors import DamagedItemError, StoreUnavailableError
from store.event import Lane
from store.log.lazy import logger

_STALE_ATTEMPTS: Final = 32
_READ_ITEMS: Final = 500  # per MGET while all items are read
_NAMED: Final = 5  # damaged values, in a log line
_log = logger(__name__)


class RedisBuffer:
    """Satisfies `store.buffer.ledger.Buffer`. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis, k: int) -> None:
        """Use an open client with `decode_responses` off; keep `k` items per lane and stratum."""
        self._redis = client
        self._k = k
        self._claim = client.register_script(script_of("claim.lua"))
        self._apply = client.register_script(script_of("apply.lua"))
        self._set_aside = client.register_script(script_of("set_aside.lua"))

    def claim(self, use_case: str, slot: LogSlot, owner: str) -> Claim:
        """Take a slot over: every earlier fence is void from here on. Claiming twice only draws a higher fence."""
        keys = [position_key(use_case, slot), f"{{{use_case}}}:slots"]
        with available():
            fence, position = cast("tuple[int, bytes]", self._claim(keys=keys, args=[owner, msgspec.json.encode(slot)]))
        return Claim(int(fence), text_of(position))

    def apply(self, application: Application) -> Applied:
        """Apply a batch atomically, exactly once.

        A position that already equals the batch's `next` means that all of it was applied before, by a call whose reply
        was lost (the client resends after a time-out): positions only ever move by whole batches, so that is `ok`.

        Raises:
            StoreUnavailableError: retry with the same application.
            CorruptItemError: another release has written an item of the batch.
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

    def positions(self, use_case: str) -> Mapping[LogSlot, str]:
        """The stored position of each slot that was ever claimed."""
        with available():
            members = cast("set[bytes]", self._redis.smembers(f"{{{use_case}}}:slots"))
            slots = sorted(slot for member in members if (slot := slot_of(member)) is not None)
            with self._redis.pipeline(transaction=False) as pipeline:
                for slot in slots:
                    pipeline.hget(position_key(use_case, slot), "next")
                found = cast("list[bytes | None]", pipeline.execute())
        return {
            slot: BEGINNING if position is None else text_of(position)
            for slot, position in zip(slots, found, strict=True)
        }

    def items(self, lane: Lane) -> Iterator[Item]:
        """Every kept item of a lane, in item id order; damaged ones are left out, and noted for `damaged`.

        Raises:
            CorruptItemError: an item was written by another release.
        """
        ids = sorted(self._ranked(lane))
        for start in range(0, len(ids), _READ_ITEMS):
            keys = [ItemKey(lane, item_id) for item_id in ids[start : start + _READ_ITEMS]]
            found, damaged = self._read(keys)
            if missing := [key for key in keys if key not in found and key not in damaged]:
                kept = self._ranked(lane)  # what was evicted meanwhile is not damaged
                damaged |= {key: b"" for key in missing if key.item_id in kept}
            self._note(lane, {key.item_id: value for key, value in damaged.items()})
            for key in keys:
                if key in found:
                    yield found[key][0]

    def damaged(self, lane: Lane) -> frozenset[str]:
        """What was found damaged since the last rebuild: item ids, and names of what is no item."""
        with available(), self._redis.pipeline(transaction=False) as pipeline:
            for name in (f"{lane_prefix(lane)}damaged", f"{{{lane.use_case}}}:damaged"):
                pipeline.hkeys(name)
            found = cast("list[list[bytes]]", pipeline.execute())
        return frozenset(text_of(name) for names in found for name in names)

    def counters(self, lane: Lane) -> Counters:
        """Where the lane's records went; one that cannot be read is 0."""
        found = self._counts(lane, "counters")
        return Counters(**{entry.name: found.get(entry.name, 0) for entry in fields(Counters)})

    def dead(self, use_case: str) -> Mapping[str, int]:
        """Dead letters by reason."""
        return self._read_counts(f"{{{use_case}}}:dead")[0]

    def open_dead(self, use_case: str) -> Mapping[str, int]:
        """Dead letters that nobody has dealt with, by reason."""
        settled = self._read_counts(settled_key(use_case))[0]
        return {reason: max(0, count - settled.get(reason, 0)) for reason, count in self.dead(use_case).items()}

    def audits(self, lane: Lane) -> Mapping[str, AuditTally]:
        """Audits by version of the student."""
        counts = self._counts(lane, "audits")
        versions = sorted(name.removesuffix(":audits") for name in counts if name.endswith(":audits"))
        return {
            version: AuditTally(audits=counts[f"{version}:audits"], agreed=counts.get(f"{version}:agreed", 0))
            for version in versions
        }

    def _attempt(self, application: Application) -> tuple[str, str]:
        """Read, merge, check and write: the script's outcome (OK, FENCED, MOVED, STALE) and the stored position."""
        keys = keys_read(application.entries)
        read, damaged = self._read(keys)
        for key, value in damaged.items():
            self._put_aside(key, value)
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
        tag = f"{{{application.use_case}}}"
        names = [position_key(application.use_case, application.slot), f"{tag}:dead", f"{tag}:damaged"]
        with available():
            outcome, position = cast("tuple[bytes, bytes]", self._apply(keys=names, args=arguments))
        return outcome.decode(), text_of(position)

    def _read(self, keys: list[ItemKey]) -> tuple[dict[ItemKey, tuple[Item, str]], dict[ItemKey, bytes]]:
        """The item of each key that is kept, with its checksum; and the values that are damaged."""
        if not keys:
            return {}, {}
        names = [f"{lane_prefix(key.lane)}item:{key.item_id}" for key in keys]
        with available():
            values = cast("list[bytes | None]", self._redis.mget(names))
        found: dict[ItemKey, tuple[Item, str]] = {}
        damaged: dict[ItemKey, bytes] = {}
        for key, name, value in zip(keys, names, values, strict=True):
            if value is None:
                continue
            try:
                found[key] = decode_item(value, name=name), value[:CHECKSUM_BYTES].decode()
            except DamagedItemError:
                damaged[key] = value
        return found, damaged

    def _put_aside(self, key: ItemKey, value: bytes) -> None:
        """Keep what is left of a damaged item, and let the item begin anew."""
        prefix = lane_prefix(key.lane)
        keys = [f"{prefix}item:{key.item_id}", f"{prefix}damaged", f"{prefix}strata"]
        with available():
            self._set_aside(keys=keys, args=[key.item_id, value, f"{prefix}stratum:"])
        _log.error("a damaged item is set aside and begins anew", lane=str(key.lane), item=key.item_id)

    def _note(self, lane: Lane, damaged: Mapping[str, bytes]) -> None:
        """Remember what a reader found damaged; the next report of ingest counts it."""
        if not damaged:
            return
        noted: list[int] = []
        with suppress(StoreUnavailableError), available(), self._redis.pipeline(transaction=False) as pipeline:
            for name, value in damaged.items():
                pipeline.hsetnx(f"{lane_prefix(lane)}damaged", name, value)
            noted = cast("list[int]", pipeline.execute())
        if new := [name for name, first in zip(damaged, noted, strict=False) if first]:
            _log.error("damaged values are left out", lane=str(lane), values=sorted(new)[:_NAMED], number=len(new))

    def _ranked(self, lane: Lane) -> set[str]:
        """The ids of a lane's items."""
        prefix = lane_prefix(lane)
        with available():
            strata = sorted(cast("set[bytes]", self._redis.smembers(f"{prefix}strata")))
            with self._redis.pipeline(transaction=False) as pipeline:
                for stratum in strata:
                    pipeline.zrange(prefix.encode() + b"stratum:" + stratum, 0, -1)
                found = cast("list[list[bytes] | Exception]", pipeline.execute(raise_on_error=False))
            for ids in found:
                if isinstance(ids, Exception) and not is_of_another_kind(ids):
                    raise ids
        self._note(
            lane,
            {
                f"stratum:{text_of(name)}": b""
                for name, ids in zip(strata, found, strict=True)
                if is_of_another_kind(ids)
            },
        )
        return {text_of(item_id) for ids in found if isinstance(ids, list) for item_id in ids}

    def _counts(self, lane: Lane, name: str) -> dict[str, int]:
        """The counts of a lane that can be read."""
        counts, damaged = self._read_counts(f"{lane_prefix(lane)}{name}")
        self._note(lane, {f"{name}:{one}" if one else name: value for one, value in damaged.items()})
        return counts

    def _read_counts(self, name: str) -> tuple[dict[str, int], dict[str, bytes]]:
        """The counts in a hash, and what is no number (under "": it is no hash)."""
        with available():
            try:
                found = cast("dict[bytes, bytes]", self._redis.hgetall(name))
            except redis.ResponseError as error:
                if not is_of_another_kind(error):
                    raise
                return {}, {"": b""}
        numbers = {text_of(field): value for field, value in sorted(found.items())}
        sound = {field: int(value) for field, value in numbers.items() if value.removeprefix(b"-").isdigit()}
        return sound, {field: value for field, value in numbers.items() if field not in sound}


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
    return lane_prefix(lane), list(checks.items()), items, counts, audits
