"""Following the moves: load, verify, warm up, check, then one assignment. Any failure before it changes nothing."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec

from serve.metrics import ServeMetrics
from serve.settings import GatewaySettings
from serve.student.slot import Slot, Slots, Student
from store.errors import RegistryError, SwapRefusedError
from store.event import Lane
from store.labels import check_label_map
from store.log.lazy import logger

_log: Final = logger(__name__)
_WARM_UP: Final = "a text to warm up with"
_LONGEST_RETRY: Final = 10  # times the first
_Found = TypeVar("_Found")


class Standing(Protocol):
    """Where a lane stands after its verified moves."""

    @property
    def champion(self) -> str | None:
        """The version that should serve."""

    @property
    def previous(self) -> str | None:
        """Where a rollback would go."""

    @property
    def pinned(self) -> bool:
        """A person chose the champion."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """How a lane's registry is read. Each call blocks and raises a RegistryError for what is not to be trusted."""

    standing: Callable[[], Standing]  # what is new verified at each look, the whole chain once a minute
    size_bytes: Callable[[str], int]  # of a version's files, from its signed manifest
    load: Callable[[str], Student]  # signature, every hash, architecture and shapes checked
    available_bytes: Callable[[], int]  # memory free for a second version
    prepare: Callable[[], None] = lambda: None  # what takes seconds of the first load and needs no version: imports


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
        metrics: ServeMetrics,
        record: Callable[[SwapRecord], None],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """Prepare; `record` blocks and is called in a thread."""
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
        self._wanted: tuple[str | None, str | None] = (None, None)
        self._retries: dict[str, _Retry] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._refused: str | None = None
        self.settled = False  # the champion was restored, or tried, or there is none

    async def run(self) -> None:
        """Look at the moves until cancelled."""
        await self.step()
        if self._slots.current is None:  # cold: the first version will not have to wait for it
            with suppress(ImportError):  # its load will say so
                await self._in_thread(self._versions.prepare)
        while True:
            await self.step()
            await asyncio.sleep(self._settings.follow_s)

    def close(self) -> None:
        """Let the thread end; a load that runs is finished and forgotten."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def step(self) -> None:
        """Look once, and do what is due."""
        standing = await self._read()
        if standing is not None:
            wanted = (standing.champion, standing.previous)
            if wanted != self._wanted:
                self._wanted = wanted
                self._retries.clear()
            if standing.champion is not None and standing.champion != self._slots.version:
                await self._swap(standing.champion, standing)
            if standing.previous is not None:
                await self._back_up(standing.previous, standing)
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
                slot = await self._in_thread(partial(self._load, previous))
            except Exception as error:  # noqa: BLE001 - whatever a version's files do to a loader
                self._put_off(previous)
                _log.warning("no warm version to roll back to", version=previous, error=str(error))
                return
            self._slots.keep_warm(slot)

    async def _swap(self, version: str, standing: Standing) -> None:
        if not self._due(version):
            return
        started_s = time.perf_counter()
        before = self._slots.version
        serving = () if self._slots.current is None else tuple(self._slots.current.student.labels)
        try:
            slot = self._slots.warm(version)
            if slot is None:
                slot = await self._in_thread(partial(self._load, version))
            check_label_map(serving, slot.student.labels, removal_declared=standing.pinned)
        except Exception as error:  # noqa: BLE001 - as above
            self._put_off(version)
            load_s = time.perf_counter() - started_s
            _log.exception("a swap failed; the version before it serves on", lane=str(self._lane), version=version)
            await self._note(before, version, None, load_s, f"{type(error).__name__}: {error}")
            return
        load_s = time.perf_counter() - started_s
        publish_s, unneeded = self._slots.publish(slot)
        self._retries.pop(version, None)
        if unneeded is not None:
            self._retire([unneeded])
            del unneeded
        _log.info("swapped", lane=str(self._lane), before=before, version=version, publish_s=publish_s, load_s=load_s)
        await self._note(before, version, publish_s, load_s, None)

    async def _in_thread(self, work: Callable[[], _Found]) -> _Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _load(self, version: str) -> Slot:
        """In a thread: the verified version, warm, with its golden outputs matched.

        Raises:
            SwapRefusedError: memory is short, or it computes something else than the trainer saw.
            RegistryError: it is not to be trusted.
        """
        needed = int(self._versions.size_bytes(version) * self._settings.memory_factor)
        free = self._versions.available_bytes() - self._settings.memory_reserve_bytes
        if needed > free:
            message = f"version {version} takes {needed} bytes, {max(0, free)} are free: give the gateway more memory"
            raise SwapRefusedError(message)
        student = self._versions.load(version)
        started_s = time.perf_counter()
        for count in (1, self._settings.max_batch):
            started_s = time.perf_counter()
            student.predict([_WARM_UP] * count)
        text_s = (time.perf_counter() - started_s) / self._settings.max_batch
        deviation = student.check_golden()
        if not deviation <= student.golden_tolerance:  # also refuses what is no number
            message = f"version {version} deviates by {deviation} from the trainer's outputs"
            raise SwapRefusedError(message)
        return Slot(version=version, student=student, text_s=text_s)

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
