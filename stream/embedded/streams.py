"""How the embedded log lies in Redis: one stream per partition with dense ids, written and leased by Lua alone.

`log:{topic}` holds the topic's uuid and number of partitions; `log:{topic}:<uuid>` holds, per partition, the end, the
bytes kept and how far it was read; `log:{topic}:<uuid>:<partition>` is the stream, where offset n has the id (n+1)-0.
The uuid is part of every key, so nothing of a deleted topic is ever read as its successor's.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
import redis

from store.buffer.connect import beside
from store.buffer.ledger import LogSlot
from stream.log import Headers, Record
from stream.outbox import Outgoing, partition_of

DEAD_SUFFIX: Final = ".dead"
_CONNECT_S: Final = 1.0

# Both are set, or the topic would be there for this script and missing for `info`: then nobody could write to it.
_ENSURE: Final = """
redis.call('HSETNX', KEYS[1], 'uuid', ARGV[1])
local partitions = redis.call('HGET', KEYS[1], 'partitions')
if not partitions or not string.match(partitions, '^[1-9]%d*$') then
  redis.call('HSET', KEYS[1], 'partitions', ARGV[2])
end
return 1
"""
# The end of a partition; where the hash has lost it, the stream's own last id is it.
_END: Final = """
local function ending(state, p)
  local known = redis.call('HGET', state, 'end:' .. p)
  if known and string.match(known, '^%d+$') then return tonumber(known) end
  local last = redis.call('XREVRANGE', state .. ':' .. p, '+', '-', 'COUNT', 1)[1]
  local number = last and tonumber(string.match(last[1], '^%d+')) or 0
  redis.call('HSET', state, 'end:' .. p, string.format('%d', number))
  return number
end
"""
# Per record five arguments: partition, timestamp, key, value, headers. Answers one 0 or 1 per record, or nothing when
# the topic was made anew. Records that were read make room for new ones; unread ones never do, except dead letters,
# which nobody acknowledges reading.
_APPEND: Final = f"""{_END}
if redis.call('HGET', KEYS[1], 'uuid') ~= ARGV[1] then return {{}} end
local state, capacity, any = KEYS[1] .. ':' .. ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local function bytes(t, k, v, h) return #t + #k + #v + #h + 100 end
local function make_room(stream, p, excess)
  local read = any and math.huge or tonumber(redis.call('HGET', state, 'read:' .. p) or '0')
  while excess > 0 do
    local freed, last = 0, nil
    for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', 100)) do
      local number, f = tonumber(string.match(entry[1], '^%d+')), entry[2]
      if number > read or freed >= excess then break end
      freed, last = freed + bytes(f[2], f[4], f[6], f[8]), number
    end
    if not last then return false end
    redis.call('XTRIM', stream, 'MINID', string.format('%d-0', last + 1))
    redis.call('HINCRBY', state, 'bytes:' .. p, -freed)
    excess = excess - freed
  end
  return true
end
local answer = {{}}
for i = 4, #ARGV, 5 do
  local p, t, k, v, h = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local stream, size = state .. ':' .. p, bytes(t, k, v, h)
  local kept = tonumber(redis.call('HGET', state, 'bytes:' .. p) or '0')
  if size > capacity or kept + size > capacity and not make_room(stream, p, kept + size - capacity) then
    answer[#answer + 1] = 0
  else
    ending(state, p)
    local n = redis.call('HINCRBY', state, 'end:' .. p, 1)
    redis.call('XADD', stream, string.format('%d-0', n), 't', t, 'k', k, 'v', v, 'h', h)
    redis.call('HINCRBY', state, 'bytes:' .. p, size)
    answer[#answer + 1] = 1
  end
end
return answer
"""
# Takes or renews the lease of each partition: the numbers of those that are ours, then the end of every partition.
_LEASE: Final = f"""{_END}
local mine = {{}}
local ends = {{}}
for p = 0, tonumber(ARGV[3]) - 1 do
  local lease = KEYS[1] .. ':' .. p .. ':lease'
  local holder = redis.call('GET', lease)
  if not holder or holder == ARGV[1] then
    redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
    mine[#mine + 1] = p
  end
  ends[#ends + 1] = ending(KEYS[1], p)
end
return {{mine, ends}}
"""
_RELEASE: Final = """
for p = 0, tonumber(ARGV[2]) - 1 do
  local lease = KEYS[1] .. ':' .. p .. ':lease'
  if redis.call('GET', lease) == ARGV[1] then redis.call('DEL', lease) end
end
return 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicInfo:
    """One incarnation of a topic."""

    topic: str
    uuid: str
    partitions: int


class Streams:
    """The commands. Every method raises redis.RedisError at once while Redis is down: nothing is retried here."""

    def __init__(self, client: redis.Redis, timeout_s: float) -> None:
        """Use the client's address, but not its retries: a write that is sent again would be appended twice."""
        self._redis = beside(client, answer_s=timeout_s, connect_s=_CONNECT_S)
        self._ensure = self._redis.register_script(_ENSURE)
        self._append = self._redis.register_script(_APPEND)
        self._lease = self._redis.register_script(_LEASE)
        self._release = self._redis.register_script(_RELEASE)

    def ensure(self, topic: str, uuid: str, partitions: int) -> None:
        """Create the topic unless it is there whole."""
        self._ensure(keys=[_topic_key(topic)], args=[uuid, partitions])

    def info(self, topic: str) -> TopicInfo | None:
        """The topic's present incarnation."""
        uuid, partitions = cast(
            "tuple[bytes | None, bytes | None]", self._redis.hmget(_topic_key(topic), ["uuid", "partitions"])
        )
        if uuid is None or partitions is None or not partitions.isdigit() or not int(partitions):
            return None
        return TopicInfo(topic=topic, uuid=uuid.decode(), partitions=int(partitions))

    def append(self, info: TopicInfo, records: Sequence[Outgoing], capacity_bytes: int) -> list[bool]:
        """Append records of one topic in one step; False: refused for want of room. [] when the topic was made anew."""
        arguments: list[str | int | bytes] = [info.uuid, capacity_bytes, int(info.topic.endswith(DEAD_SUFFIX))]
        for record in records:
            headers = msgspec.msgpack.encode(record.headers) if record.headers else b""
            partition = partition_of(record.key, info.partitions)
            arguments += [partition, record.timestamp_ms, record.key, record.value, headers]
        return [bool(kept) for kept in cast("list[int]", self._append(keys=[_topic_key(info.topic)], args=arguments))]

    def bounds(self, slot: LogSlot) -> tuple[int, int]:
        """(first offset kept, offset after the last)."""
        end = cast("bytes | None", self._redis.hget(_state_key(slot), f"end:{slot.partition}"))
        oldest = self.range(slot, 0, 1)
        end_offset = int(end) if end is not None and end.isdigit() else self._last(slot)
        return (oldest[0].offset if oldest else end_offset), end_offset

    def _last(self, slot: LogSlot) -> int:
        """The offset after the last record that is kept."""
        newest = cast("list[Any]", self._redis.xrevrange(_stream_key(slot), count=1))
        return _record(slot, newest[0]).offset + 1 if newest else 0

    def range(self, slot: LogSlot, start: int, count: int) -> list[Record]:
        """At most `count` kept records from `start` on, without waiting."""
        found = self._redis.xrange(_stream_key(slot), min=f"{start + 1}-0", max="+", count=count)
        return [_record(slot, entry) for entry in cast("list[Any]", found)]

    def read(self, positions: Sequence[tuple[LogSlot, int]], count: int, wait_s: float) -> dict[LogSlot, list[Record]]:
        """At most `count` records of each slot from its offset on; waits for the first of them (not at all for 0)."""
        keys = {_stream_key(slot).encode(): slot for slot, _ in positions}
        ids: Any = {_stream_key(slot): f"{offset}-0" for slot, offset in positions}
        block_ms = max(1, int(wait_s * 1000)) if wait_s > 0 else None
        found = cast("list[Any]", self._redis.xread(ids, count=count, block=block_ms) or [])
        return {keys[name]: [_record(keys[name], entry) for entry in entries] for name, entries in found}

    def lease(self, info: TopicInfo, owner: str, ttl_s: float) -> tuple[list[LogSlot], list[int]]:
        """Take or renew every lease that is free or ours: (the slots that are ours, the end of each partition)."""
        args: list[str | int] = [owner, int(ttl_s * 1000), info.partitions]
        mine, ends = cast("tuple[list[int], list[int]]", self._lease(keys=[_info_key(info)], args=args))
        return [LogSlot(info.topic, info.uuid, number) for number in mine], ends

    def release(self, info: TopicInfo, owner: str) -> None:
        """Give our leases back, so that another need not wait for them to run out."""
        self._release(keys=[_info_key(info)], args=[owner, info.partitions])

    def set_read(self, slot: LogSlot, offset: int) -> None:
        """Say how far a slot was applied: what lies below may make room for new records."""
        self._redis.hset(_state_key(slot), f"read:{slot.partition}", str(offset))

    def close(self) -> None:
        """Drop the connections."""
        self._redis.connection_pool.disconnect()


def pause(deadline: float) -> None:
    """Wait until `deadline` (monotonic seconds), so that a caller in a loop does not spin while Redis is down."""
    if (remaining_s := deadline - time.monotonic()) > 0:
        time.sleep(remaining_s)


def _record(slot: LogSlot, entry: tuple[bytes, dict[bytes, bytes]]) -> Record:
    """A stream's entry as a record. One that is damaged is a record all the same, and dead if its value is."""
    number, fields = entry
    stamp = fields.get(b"t", b"")
    return Record(
        topic=slot.topic,
        partition=slot.partition,
        offset=int(number.split(b"-", 1)[0]) - 1,
        key=fields.get(b"k", b""),
        value=fields.get(b"v", b""),
        headers=_headers(fields.get(b"h", b"")),
        timestamp_ms=int(stamp) if stamp.removeprefix(b"-").isdigit() else 0,
    )


def _headers(packed: bytes) -> Headers:
    try:
        return msgspec.msgpack.decode(packed, type=tuple[tuple[str, bytes], ...]) if packed else ()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()


def _topic_key(topic: str) -> str:
    return f"log:{{{topic}}}"


def _info_key(info: TopicInfo) -> str:
    return f"log:{{{info.topic}}}:{info.uuid}"


def _state_key(slot: LogSlot) -> str:
    return f"log:{{{slot.topic}}}:{slot.uuid}"


def _stream_key(slot: LogSlot) -> str:
    return f"log:{{{slot.topic}}}:{slot.uuid}:{slot.partition}"
