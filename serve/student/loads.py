"""Loading a version: verified, warm, and its golden outputs matched, in a thread of its own that a newer move stops."""

import asyncio
import atexit
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

from serve.settings import GatewaySettings
from serve.student.slot import Slot
from store.errors import SwapRefusedError
from store.event import TaskInput
from store.student.loaded import Loaded

_ALONE: Final = 1  # a question without company has shapes of its own


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """How a lane's registry is read. Each call blocks and raises a RegistryError for what is not to be trusted."""

    standing: Callable[[], Standing]  # what is new verified at each look, the whole chain once a minute
    size_bytes: Callable[[str], int]  # of a version's files, from its signed manifest
    load: Callable[[str], Loaded]  # signature, every hash, architecture and shapes checked
    available_bytes: Callable[[], int]  # memory free for a second version
    prepare: Callable[[], None] = lambda: None  # what takes seconds of the first load and needs no version: imports
    device: Callable[[], str] = lambda: "cpu"  # where the lane's students compute; asked once one is loaded
    ready: Callable[[], None] = lambda: None  # before one computes: threads are the process', and lanes may differ


class AbandonedError(Exception):
    """Nobody wants this version any more."""


class Loads:
    """One lane's loads, one at a time."""

    def __init__(self, name: str, versions: Versions, settings: GatewaySettings, sample: TaskInput) -> None:
        """Prepare; `sample` is a question to warm a student up with."""
        self._versions = versions
        self._settings = settings
        self._sample = sample
        # Not the thread that reads the moves: a rollback must not queue behind a load.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"load-{name}")
        self._abandoned: threading.Event | None = None
        self.version: str | None = None  # that is being loaded

    async def load(self, version: str) -> Slot:
        """A version, ready to serve.

        Raises:
            AbandonedError: it was not wanted any more.
            SwapRefusedError: memory is short, or it computes something else than the trainer saw.
            Exception: whatever its files do to a loader; a RegistryError: it is not to be trusted.
        """
        abandoned = threading.Event()
        self._abandoned, self.version = abandoned, version
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._load, version, abandoned)
        try:
            return await work
        finally:
            abandoned.set()
            self._abandoned = self.version = None

    def abandon(self) -> None:
        """Stop the load that runs at its next step; what it has loaded is let go in its thread."""
        if self._abandoned is not None:
            self._abandoned.set()

    async def prepare(self) -> None:
        """Do what the first load would have to wait for.

        Raises:
            ImportError: that load will say so.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._versions.prepare)

    def close(self) -> None:
        """Let the thread end; a load that runs is finished and forgotten."""
        self.abandon()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self, version: str, abandoned: threading.Event) -> Slot:
        _go_on(abandoned)
        needed = int(self._versions.size_bytes(version) * self._settings.memory_factor)
        free = self._versions.available_bytes() - self._settings.memory_reserve_bytes
        if needed > free:
            message = f"version {version} takes {needed} bytes, {max(0, free)} are free: give the gateway more memory"
            raise SwapRefusedError(message)
        student = self._versions.load(version)
        device = self._versions.device()
        self._versions.ready()
        started_s = time.perf_counter()
        for count in (_ALONE, self._settings.max_batch):
            _go_on(abandoned)
            started_s = time.perf_counter()
            student.look([self._sample] * count)
        question_s = (time.perf_counter() - started_s) / self._settings.max_batch
        _go_on(abandoned)
        deviation = student.check_golden()
        if not deviation <= student.golden_tolerance:  # also refuses what is no number
            message = f"version {version} deviates by {deviation} from the trainer's outputs"
            raise SwapRefusedError(message)
        _go_on(abandoned)
        tokens = max(1, student.tokens(self._sample))
        _leave_aside_what_is_imported()
        return Slot(
            version=version,
            student=student,
            device=device,
            ready=self._versions.ready,
            token_s=question_s / tokens,
            tokens=tokens,
        )


def _go_on(abandoned: threading.Event) -> None:
    if abandoned.is_set():
        raise AbandonedError


@cache
def _leave_aside_what_is_imported() -> None:
    """Collect garbage once more, and from then on only among what comes now.

    A round over the half a million objects of torch and transformers stops every request for .4 s. They stay for as
    long as the process; of a version nothing hangs in cycles, so that a retired one goes all the same.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # what ends with the process is taken down as ever
