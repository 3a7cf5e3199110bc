"""Publishes calls from a thread of its own, so that whoever hands them over never waits, whatever the log does.

An event is acknowledged by the log or fsynced to a spool of this process's own, as the gateway's are; what was handed
over and not yet published is lost with the process.
"""

import asyncio
import atexit
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from ops.imports.importing import into
from ops.open_log import open_appender
from ops.producing.calls import Calls, UnusableCallError
from ops.settings import Settings, read_prompt
from ops.site import Site
from store.errors import LogError, SettingsError
from store.event import wall_clock_s
from store.log.lazy import logger
from stream.publisher import Publisher
from stream.spool import Spool

_log: Final = logger(__name__)
_MOST_WAITING: Final = 10_000
_AT_ONCE: Final = 16
_MOST_SPOOLS: Final = 64  # processes that publish from one state_dir
_CLOSE_S: Final = 10.0

Opened = Callable[[], AbstractAsyncContextManager[Publisher]]


class Producer:
    """One lane's calls on their way into its topic. May be used from any thread."""

    def __init__(self, calls: Calls, opened: Opened, *, now: Callable[[], float] = wall_clock_s) -> None:
        """Nothing runs before the first call."""
        self._calls = calls
        self._opened = opened
        self._now = now
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop = asyncio.new_event_loop()
        self._queue: asyncio.Queue[tuple[Mapping[str, Any], Collection[str]] | None] = asyncio.Queue()
        self.counts: Counter[str] = Counter()  # published, unusable, lost

    def offer(self, call: Mapping[str, Any], models: Collection[str] = ()) -> None:
        """Take a call; arguments as of `Calls.event`. Never waits, and raises nothing."""
        with self._turn:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="understudy producer", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        if self._queue.qsize() >= _MOST_WAITING:
            self._lose("too many calls wait to be published")
            return
        with suppress(RuntimeError):  # it was closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (call, models))

    def close(self) -> None:
        """Publish what waits, within a bound."""
        atexit.unregister(self.close)
        if self._thread is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._queue.put_nowait, None)
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._publish_all())
        except Exception as error:  # noqa: BLE001 - nobody else hears of it
            _log.error("calls are published no more", error=f"{type(error).__name__}: {error}")
        finally:
            self._loop.close()

    async def _publish_all(self) -> None:
        room = asyncio.Semaphore(_AT_ONCE)
        async with self._opened() as publisher, asyncio.TaskGroup() as tasks:
            while (taken := await self._queue.get()) is not None:
                await room.acquire()
                tasks.create_task(self._publish(publisher, *taken)).add_done_callback(lambda _: room.release())

    async def _publish(self, publisher: Publisher, call: Mapping[str, Any], models: Collection[str]) -> None:
        try:
            event, item = self._calls.event(call, models=models, now_s=self._now())
            await publisher.publish(event, item)
            self.counts["published"] += 1
        except UnusableCallError as error:
            self.counts["unusable"] += 1
            _log.info("a call was left out", why=str(error))
        except LogError as error:
            self._lose(str(error))

    def _lose(self, why: str) -> None:
        self.counts["lost"] += 1
        _log.error("a call was lost", why=why)


def producer_for(config: Path | None, lane: str | None) -> Producer:
    """Publishes into a lane of a settings file.

    Args:
        config: the file; None: where the command line looks for it.
        lane: tenant/use_case; None: the only one.

    Raises:
        SettingsError: the settings cannot be read, or nobody may train on the lane's answers.
    """
    site = Site(Settings.load(config))
    section = site.lane(lane)
    if not section.training_permitted:
        message = f"{section.lane}: only lanes whose training_permitted is true take calls of other programs"
        raise SettingsError(message)
    calls = Calls(
        into=into(site, section),
        task=section.task,
        labels=section.labels,
        rules=site.rules(section.lane),
        prompt=read_prompt(section),
    )
    return Producer(calls, lambda: _publisher(site))


@asynccontextmanager
async def _publisher(site: Site) -> AsyncIterator[Publisher]:
    with site.redis_client(url=site.redis_url_to_be()) as client:
        spool = _own_spool(site.settings.state_dir / "spool-producers", site.settings.spool.max_bytes)
        timeout_s = site.settings.log.ack_timeout_s
        publisher = Publisher(open_appender(site, client), spool, ack_timeout_s=timeout_s)
        await publisher.start()
        try:
            yield publisher
        finally:
            await publisher.close()


def _own_spool(folder: Path, most_bytes: int) -> Spool:
    """The first spool that no other process holds; what an earlier one left in it is sent first.

    Raises:
        LogError: there are none.
    """
    for place in range(_MOST_SPOOLS):
        with suppress(LogError):
            return Spool(folder / str(place), most_bytes)
    message = f"{_MOST_SPOOLS} processes publish from {folder} already"
    raise LogError(message)
