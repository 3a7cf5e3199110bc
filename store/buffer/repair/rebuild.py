"""A lane's items written aside, and then put in the place of those that are kept, in one step.

Ingest may be at work: the step is taken under fences that were drawn after its last batch, or not at all.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast

import msgspec
import redis

from store.buffer.effects import retention_rank
from store.buffer.item import Item
from store.buffer.keys import available, lane_prefix, position_key, script_of, settled_key, text_of
from store.buffer.ledger import AuditTally, Counters, LogSlot
from store.buffer.stored import decode_item, encode_item
from store.errors import DamagedItemError
from store.event import Lane

_BATCH: Final = 500
_Thing = TypeVar("_Thing")


class Staging:
    """What is to become of one lane. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis, lane: Lane) -> None:
        """Use an open client; `clear` removes what an earlier try has left behind."""
        self._redis = client
        self._lane = lane
        self._prefix = lane_prefix(lane)
        self._staged = f"{self._prefix}rebuild:"
        self._items: dict[str, Item] = {}

    def clear(self) -> None:
        """Forget what was staged."""
        self._items = {}
        with available():
            for names in _some(self._scan(self._staged)):
                self._redis.delete(*names)

    def kept_ids(self) -> set[str]:
        """The id of every item value there is, ranked or not."""
        prefix = f"{self._prefix}item:"
        with available():
            return {text_of(name.removeprefix(prefix.encode())) for name in self._scan(prefix)}

    def sound(self, ids: Iterable[str]) -> dict[str, Item]:
        """Of these, the items as they are kept now, without those that are damaged."""
        found: dict[str, Item] = {}
        for some in _some(ids):
            with available():
                values = cast("list[bytes | None]", self._redis.mget([f"{self._prefix}item:{name}" for name in some]))
            for name, value in zip(some, values, strict=True):
                try:
                    if value is not None:
                        found[name] = decode_item(value, name=name)
                except DamagedItemError:
                    continue
        return found

    def stage(self, items: Mapping[str, Item]) -> None:
        """Exactly these items are to be put; only what changed since the last call is written."""
        gone = [self._items[name] for name in self._items.keys() - items.keys()]
        moved = [
            self._items[name] for name in self._items.keys() & items.keys() if self._items[name] is not items[name]
        ]
        fresh = [item for name, item in items.items() if self._items.get(name) is not item]
        for some in _some([*gone, *moved]):
            with available(), self._redis.pipeline(transaction=False) as pipeline:
                for item in some:
                    pipeline.delete(f"{self._staged}item:{item.item_id}")
                    pipeline.zrem(f"{self._staged}stratum:{item.stratum}", item.item_id)
                pipeline.execute()
        for some in _some(fresh):
            with available(), self._redis.pipeline(transaction=False) as pipeline:
                for item in some:
                    rank: Any = repr(retention_rank(self._lane, item.item_id))  # as text: exactly as ingest sends it
                    pipeline.set(f"{self._staged}item:{item.item_id}", encode_item(item))
                    pipeline.zadd(f"{self._staged}stratum:{item.stratum}", {item.item_id: rank})
                    pipeline.sadd(f"{self._staged}strata", item.stratum)
                pipeline.execute()
        self._items = dict(items)

    def put(
        self,
        items: Mapping[str, Item],
        drop: Iterable[str],
        counters: Counters | None,
        audits: Mapping[str, AuditTally] | None,
    ) -> None:
        """Stage all of it: the items, the ids that are to go first, and the counts (None: they stay as they are)."""
        self.stage(items)
        with available():
            self._redis.delete(*(f"{self._staged}{name}" for name in ("drop", "counters", "audits")))
        for some in _some(drop):
            with available():
                self._redis.sadd(f"{self._staged}drop", *some)
        if counters is not None:
            self._hash("counters", {name: getattr(counters, name) for name in Counters.__slots__})
        if audits is not None:
            tallies = {f"{version}:audits": tally.audits for version, tally in audits.items()}
            self._hash("audits", tallies | {f"{version}:agreed": tally.agreed for version, tally in audits.items()})

    def _hash(self, name: str, values: Mapping[str, int]) -> None:
        if values:
            with available():
                self._redis.hset(f"{self._staged}{name}", mapping=cast("Any", dict(values)))

    def _scan(self, prefix: str) -> list[bytes]:
        """The names that begin so: no slug holds a letter that means something in a pattern."""
        return cast("list[bytes]", list(self._redis.scan_iter(match=f"{prefix}*", count=1000)))


def _some(things: Iterable[_Thing]) -> Iterator[list[_Thing]]:
    """All of them, in lists of a bounded length."""
    rest = list(things)
    while rest:
        yield rest[:_BATCH]
        del rest[:_BATCH]


def stage_dead(client: redis.Redis, use_case: str, dead: Mapping[str, int], settled: Mapping[str, int]) -> None:
    """Put these counts of dead letters, and of those that were dealt with, with the next swap of the use case."""
    for kind, counts in (("dead", dead), ("settled", settled)):
        name = f"{{{use_case}}}:rebuild:{kind}"
        with available():
            client.delete(name)
            if counts:
                client.hset(name, mapping=cast("Any", dict(counts)))


def swap(
    client: redis.Redis, use_case: str, fences: Mapping[LogSlot, int], lanes: Mapping[Lane, bool], *, dead: bool
) -> bool:
    """Put what is staged, in one step; False when ingest has claimed a slot since its fence was drawn.

    Args:
        client: an open client.
        use_case: of the lanes.
        fences: the fence that was drawn for each slot after its position was read.
        lanes: whether all of each lane is staged (else only what is staged is put, and what is dropped goes).
        dead: whether the counts of dead letters are staged.
    """
    script = client.register_script(script_of("repair/rebuild.lua"))
    arguments: list[str | bytes] = [
        msgspec.msgpack.encode([str(fence) for fence in fences.values()]),
        msgspec.msgpack.encode([(lane_prefix(lane), whole) for lane, whole in lanes.items()]),
        f"{{{use_case}}}:",
        settled_key(use_case) if dead else "",
    ]
    with available():
        return bool(script(keys=[position_key(use_case, slot) for slot in fences], args=arguments))
