"""A publisher in a process of its own, for tests that kill it at its fail points.

Run as `python -m tests.faults.spooling REDIS_URL SPOOL_FOLDER FIRST COUNT FAIL_POINT`: with the log down it publishes
so many events and prints the id of each that was accepted; then the log is there, and it ends when the spool is empty.
"""

import asyncio
import sys
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import redis

from store.errors import LogUnavailableError
from store.faults.points import arm
from stream.embedded.log import EmbeddedLog
from stream.log import Headers
from stream.publisher import Publisher
from stream.spool import Spool
from tests.contracts.escalations import escalation


class Broken(EmbeddedLog):
    """A log that is down until somebody says otherwise."""

    down = True

    def append(
        self, topic: str, *, key: bytes, value: bytes, headers: Headers = (), timestamp_ms: int | None = None
    ) -> Future[None]:
        """As the log itself, once it is there."""
        if self.down:
            refused: Future[None] = Future()
            refused.set_exception(LogUnavailableError("down"))
            return refused
        return super().append(topic, key=key, value=value, headers=headers, timestamp_ms=timestamp_ms)


async def play(log: Broken, spool: Spool, first: int, count: int) -> None:
    """Publish, then drain."""
    publisher = Publisher(log, spool, ack_timeout_s=30.0)
    await publisher.start()

    async def one(number: int) -> None:
        event = escalation(f"question {number}", number=number)
        await publisher.publish(event, f"item {number}")
        sys.stdout.write(f"{event.id}\n")
        sys.stdout.flush()

    for number in range(first, first + count, 5):
        await asyncio.gather(*map(one, range(number, number + 5)))
    log.down = False
    while not spool.empty:  # noqa: ASYNC110 - it is another thread that empties it
        await asyncio.sleep(0.02)
    await publisher.close()


def main(url: str, folder: Path, first: int, count: int, fail_point: str) -> None:
    """Play it all."""
    arm(fail_point or None)
    with redis.Redis.from_url(url) as client, closing(Broken(client)) as log:
        asyncio.run(play(log, Spool(folder, 1 << 22), first, count))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
