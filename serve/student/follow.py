"""Following the moves: load, verify, warm up, check, then one assignment. Any failure before it changes nothing.

The moves are looked at while a version is being loaded, too: a newer move stops the load, and a rollback to the version
that is warm does not wait for it.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import msgspec

from serve.metrics import ServeMetrics
from serve.settings import GatewaySettings
from serve.student.loads import AbandonedError, Loads, Standing, Versions
from serve.student.slot import Slot, Slots
from store.errors import RegistryError
from store.event import Lane, TaskInput
from store.faults.points import reach
from store.log.lazy import logger

_log: Final = logger(__name__)
_LONGEST_RETRY: Final = 10  # times the first
_Found = TypeVar("_Found")


class SwapRecord(msgspec.Struct, frozen=True, kw_only=True, rename={"before": "from", "after": "to"}):
    """One line of `swaps.jsonl`."""

    lane: str
    before: str | None
    after: str
    publish_s: float | None  # the assignment alone; None when it did not come to that
    load_s: float  # all that came before it, off the request path; about 0 for a warm version
    failed: bool
    error: str | None
    at_s: float  # Unix seconds


@dataclass(slots=True)
class _Retry:
    at_s: float  # monotonic
    delay_s: float


class Follow:
    """Keeps one lane's slots where its moves say, and the version before warm."""

    def __init__(
        self,
        lane: Lane,
        slots: Slots,
        versions: Versions,
        settings: GatewaySettings,
        *,
        sample: TaskInput,
        metrics: ServeMetrics,
        record: Callable[[SwapRecord], None],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """Prepare; `record` blocks and is called in a thread, `sample` is a question to warm a student up with."""
        self._lane = lane
        self._slots = slots
        self._versions = versions
        self._settings = settings
        self._metrics = metrics
        self._record = record
        self._now = now
        self._monotonic = monotonic
        self._labels = (lane.tenant, lane.use_case)
        # A thread of its own: a rollback must not queue behind calls that wait for a Redis that hangs.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"follow-{lane.use_case}")
        self._loads = Loads(lane.use_case, versions, settings, sample)
        self._catching_up: asyncio.Task[None] | None = None
        self._wanted: tuple[str | None, str | None] = (None, None)
        self._retries: dict[str, _Retry] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._refused: str | None = None
        self.settled = False  # the champion was restored, or tried, or there is none

    async def run(self) -> None:
        """Look at the moves until cancelled."""
        await self.look()
        if self._slots.current is None and self._wanted[0] is None:  # cold: the first version will not wait for it
            with suppress(ImportError):  # its load will say so
                await self._loads.prepare()
        while True:
            await self.look()
            await asyncio.sleep(self._settings.follow_s)

    def close(self) -> None:
        """Let the threads end; a load that runs is finished and forgotten."""
        self._loads.close()
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def step(self) -> None:
        """Look once, and wait until what is due has been done."""
        await self.look()
        if self._catching_up is not None:
            await asyncio.wait({self._catching_up})

    async def look(self) -> None:
        """Look once, and begin what is due; what needs no load is done at once, whatever is being loaded."""
        standing = await self._read()
        if standing is None:
            self._tell()
            return
        wanted = (standing.champion, standing.previous)
        if wanted != self._wanted:
            self._wanted = wanted
            self._retries.clear()
        if self._loads.version not in wanted:
            self._loads.abandon()
        if standing.champion not in {None, self._slots.version} and self._slots.warm(standing.champion or ""):
            await self._swap(standing.champion or "", standing)
        if self._catching_up is None:
            self._catching_up = asyncio.create_task(self._catch_up(standing), name=f"load {self._lane}")
            self._catching_up.add_done_callback(self._caught_up)

    def _caught_up(self, task: asyncio.Task[None]) -> None:
        self._catching_up = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the moves are not followed", lane=str(self._lane), error=repr(error))

    async def _catch_up(self, standing: Standing) -> None:
        """Load what is missing, in its order."""
        if standing.champion is not None and standing.champion != self._slots.version:
            await self._swap(standing.champion, standing)
        if standing.previous is not None and standing.previous in self._wanted:
            await self._back_up(standing.previous, standing)
        self._tell()

    def _tell(self) -> None:
        self._metrics.served.labels(*self._labels).set(self._slots.current is not None)
        self.settled = True

    async def _read(self) -> Standing | None:
        """The standing, or None while the registry cannot be read or trusted: what serves, serves on."""
        try:
            standing = await self._in_thread(self._versions.standing)
        except (RegistryError, OSError) as error:
            self._metrics.registry_refused.labels(*self._labels).set(1)
            if str(error) != self._refused:
                _log.error("the moves are not followed", lane=str(self._lane), error=str(error))
            self._refused = str(error)
            return None
        self._metrics.registry_refused.labels(*self._labels).set(0)
        self._refused = None
        return standing

    async def _back_up(self, previous: str, standing: Standing) -> None:
        """Keep the previous version warm; serve it where the champion cannot be loaded and nothing else serves."""
        if self._slots.current is None:
            await self._swap(previous, standing)
        elif self._slots.spare is None and self._slots.version != previous and self._due(previous):
            try:
                slot = await self._loads.load(previous)
            except AbandonedError:
                return
            except Exception as error:  # noqa: BLE001 - whatever a version's files do to a loader
                self._put_off(previous)
                _log.warning("no warm version to roll back to", version=previous, error=str(error))
                return
            self._keep(slot)

    def _keep(self, slot: Slot) -> None:
        """Hold a version warm that a rollback would go to; any other is let go."""
        wanted = slot.version in self._wanted and self._slots.warm(slot.version) is None
        replaced = self._slots.keep_warm(slot) if wanted else slot
        if replaced is not None:
            self._retire([replaced])

    async def _swap(self, version: str, standing: Standing) -> None:
        if not self._due(version):
            return
        started_s = time.perf_counter()
        before = self._slots.version
        try:
            slot = self._slots.warm(version)
            if slot is None:
                slot = await self._loads.load(version)
            serving = self._slots.current  # it may be another by now
            slot.student.check_follows(None if serving is None else serving.student, removal_declared=standing.pinned)
        except AbandonedError:
            _log.info("a load was stopped by a newer move", lane=str(self._lane), version=version)
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._put_off(version)
            load_s = time.perf_counter() - started_s
            _log.exception("a swap failed; the version before it serves on", lane=str(self._lane), version=version)
            await self._note(before, version, None, load_s, f"{type(error).__name__}: {error}")
            return
        if version != self._wanted[0] and (serving is not None or version not in self._wanted):
            self._keep(slot)  # there was a newer move meanwhile
            return
        load_s = time.perf_counter() - started_s
        reach("swap.loaded")
        publish_s, unneeded = self._slots.publish(slot)
        reach("swap.published")
        self._retries.pop(version, None)
        if unneeded is not None:
            self._retire([unneeded])
            del unneeded
        _log.info("swapped", lane=str(self._lane), before=before, version=version, publish_s=publish_s, load_s=load_s)
        await self._note(before, version, publish_s, load_s, None)

    async def _in_thread(self, work: Callable[[], _Found]) -> _Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _retire(self, holder: list[Slot]) -> None:
        """Free a slot once its requests are done; `holder` has the last reference, so it is freed in a thread."""

        async def free() -> None:
            if not await holder[0].drained(self._settings.drain_s):
                _log.error("a version was retired with requests on it", version=holder[0].version)
            await self._in_thread(holder.clear)

        task = asyncio.create_task(free())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _note(
        self, before: str | None, after: str, publish_s: float | None, load_s: float, error: str | None
    ) -> None:
        self._metrics.swaps.labels(*self._labels, "failed" if error else "done").inc()
        swap = SwapRecord(
            lane=str(self._lane),
            before=before,
            after=after,
            publish_s=publish_s,
            load_s=load_s,
            failed=error is not None,
            error=error,
            at_s=self._now(),
        )
        try:
            await self._in_thread(partial(self._record, swap))
        except OSError as problem:
            _log.warning("a swap was not written down", error=str(problem))

    def _due(self, version: str) -> bool:
        retry = self._retries.get(version)
        return retry is None or self._monotonic() >= retry.at_s

    def _put_off(self, version: str) -> None:
        before = self._retries.get(version)
        longest_s = self._settings.retry_s * _LONGEST_RETRY
        delay_s = self._settings.retry_s if before is None else min(2 * before.delay_s, longest_s)
        self._retries[version] = _Retry(self._monotonic() + delay_s, delay_s)
