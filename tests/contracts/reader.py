"""A reader of a log in a process of its own, to be killed: it applies batches to a ledger in Redis.

python -m tests.contracts.reader LOG REDIS_URL BOOTSTRAP TOPIC
"""

import sys
import time
from collections import deque
from itertools import count
from typing import Final, cast
from uuid import uuid4

import redis

from store.buffer.ledger import Applied, Claim, LogSlot
from store.errors import StoreUnavailableError
from stream.embedded.log import EmbeddedLog
from stream.kafka.cluster import KafkaSettings
from stream.kafka.source import KafkaSource
from stream.log import Batch, CommitOutcome, Source

_IN_HAND: Final = 2  # batches
_WORK_S: Final = 0.01  # for each: so that a blow falls between reading and applying
_CLAIM: Final = """
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
return {fence, redis.call('HGET', KEYS[1], 'next') or '-1'}
"""
_APPLY: Final = """
local state = redis.call('HMGET', KEYS[1], 'fence', 'next')
if state[1] ~= ARGV[1] then return {'fenced', state[2] or '-1'} end
if (state[2] or '-1') ~= ARGV[2] then return {'moved', state[2] or '-1'} end
for i = 4, #ARGV do redis.call('HINCRBY', 'applied', ARGV[i], 1) end
redis.call('HSET', KEYS[1], 'next', ARGV[3])
return {'ok', ARGV[3]}
"""


class RedisLedger:
    """Claim, and apply by compare-and-set; `applied` counts how often each value was."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)
        self._claim = self._redis.register_script(_CLAIM)
        self._apply = self._redis.register_script(_APPLY)

    def claim(self, slot: LogSlot) -> Claim:
        try:
            fence, position = cast("tuple[int, bytes]", self._claim(keys=[_key(slot)]))
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error
        return Claim(fence, position.decode())

    def apply(self, batch: Batch) -> Applied:
        """Retries until Redis answers; a batch that went through says `moved` to its own end."""
        values = [record.value for record in batch.records]
        for _ in count():
            try:
                outcome, position = cast(
                    "tuple[bytes, bytes]",
                    self._apply(keys=[_key(batch.slot)], args=[batch.fence, batch.start, batch.next, *values]),
                )
            except redis.RedisError:
                time.sleep(0.05)
                continue
            if outcome == b"moved" and position.decode() == batch.next:
                return Applied("ok", batch.next)
            return Applied(cast("CommitOutcome", outcome.decode()), position.decode())
        raise AssertionError


def _key(slot: LogSlot) -> str:
    return f"pos:{slot.uuid}:{slot.partition}"


def _source(kind: str, url: str, bootstrap: str, topic: str, ledger: RedisLedger) -> Source:
    if kind == "embedded":
        log = EmbeddedLog(redis.Redis.from_url(url))
        return log.source(topic, owner=str(uuid4()), claim=ledger.claim, lease_s=1.0)
    settings = KafkaSettings(bootstrap=bootstrap, group=topic, session_timeout_ms=1500)
    return KafkaSource(settings, topic, ledger.claim)


def main() -> None:
    """Read and apply until killed; like ingest, it reads on while earlier batches are still being worked on."""
    kind, url, bootstrap, topic = sys.argv[1:]
    ledger = RedisLedger(url)
    source = _source(kind, url, bootstrap, topic, ledger)
    in_hand: deque[Batch] = deque()
    while True:
        in_hand.extend(source.poll(0.01 if in_hand else 0.5, 50))
        while len(in_hand) > _IN_HAND:
            time.sleep(_WORK_S)
            batch = in_hand.popleft()
            source.done(batch, ledger.apply(batch).outcome)
        if in_hand:
            batch = in_hand.popleft()
            source.done(batch, ledger.apply(batch).outcome)


if __name__ == "__main__":
    main()
