"""Several servers as one: the least loaded of those that can be trusted answers.

A version is loaded on every server and asked its golden prompts there before a request reaches it. A server that is
down is left alone until it is back; one that was started anew is given the versions in service again; and one that
talks nonsense is drained and reported, until it has been started anew: its health would not tell.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from serve.engine.vllm import (
    EngineBusyError,
    EngineError,
    Heard,
    PoisonedError,
    Prompt,
    Said,
    UnknownVersionError,
    VllmServer,
)
from store.errors import SwapRefusedError
from store.log.lazy import logger

_log: Final = logger(__name__)
_LOOK_S: Final = 2.0  # between two looks at servers that are down
_PROBE_S: Final = 30.0  # between two golden probes of one that is up

State = Literal["up", "down", "poisoned", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One version as servers know it."""

    name: str
    folder: str  # as the servers see it
    probe: Callable[[Callable[[Prompt], Said]], float]  # deviation from the golden outputs, asked by what is given
    tolerance: float
    whole: bool = False  # a model of its own, on servers that were started with it


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    """One server, and what is known of it."""

    server: VllmServer
    state: State = "up"
    why: str = ""
    in_flight: int = 0
    loaded: set[str] = field(default_factory=set)  # names that were loaded and probed there
    probed_s: float = 0.0


class Fleet:
    """Satisfies what a remote student asks of its servers. `answer` is for one event loop; the rest for any thread."""

    def __init__(
        self, servers: Sequence[VllmServer], *, monotonic: Callable[[], float] = time.monotonic, look_s: float = _LOOK_S
    ) -> None:
        """Know nothing of them yet."""
        self.replicas = [Replica(server=server) for server in servers]
        self._monotonic = monotonic
        self._look_s = look_s
        self._adapters: dict[str, Adapter] = {}
        self._lock = threading.RLock()  # over loads and looks: a server is spoken to by one of them at a time
        self._gone: deque[str] = deque()
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._run, name="engine-watch", daemon=True)

    def start(self) -> None:
        """Look after the servers from now on."""
        self._watch.start()

    def close(self) -> None:
        """Leave them alone."""
        self._stop.set()
        if self._watch.is_alive():
            self._watch.join(10 * self._look_s)

    @property
    def available(self) -> bool:
        """Whether some server is up."""
        return any(one.state == "up" for one in self.replicas)

    def drain(self, url: str) -> None:
        """Give a server no more; what it has in flight ends."""
        self._of(url).state = "draining"

    def resume(self, url: str) -> None:
        """Look at a drained server anew."""
        self._of(url).state = "down"

    def load(self, adapter: Adapter) -> None:
        """Load a version on every server that is up, the least loaded one first, and see that it answers as it should.

        Raises:
            SwapRefusedError: the first server refused it, or answered something else; none serves it then.
        """
        with self._lock:
            up = sorted((one for one in self.replicas if one.state == "up"), key=lambda one: one.in_flight)
            if not up:
                message = "no server of the lane's engine is up: the version waits until one is"
                raise SwapRefusedError(message)
            if not (up := [one for one in up if _suits(one.server, adapter)]):
                message = (
                    f"all servers run weights of other versions: start one anew with the base, for {adapter.name}"
                    if not adapter.whole
                    else f"no server runs this version's own weights yet: stop one of several, and start it anew with "
                    f"--model {adapter.folder} --served-model-name {adapter.name}; the version is loaded then"
                )
                raise SwapRefusedError(message)
            self._bring(up[0], adapter)
            self._adapters[adapter.name] = adapter
            for replica in up[1:]:
                try:
                    self._bring(replica, adapter)
                except SwapRefusedError as error:
                    self._leave(replica, "down", str(error))

    def forget(self, name: str) -> None:
        """As `release`, at the next look; from any thread, without waiting for a server."""
        self._gone.append(name)

    def release(self, name: str) -> None:
        """Nobody needs a version any more. Its folder stays: a server that still knows the name would die without."""
        with self._lock:
            gone = self._adapters.pop(name, None)
            for replica in self.replicas:
                if name in replica.loaded:
                    replica.loaded.discard(name)
                    if gone is not None and gone.whole:
                        continue
                    try:
                        replica.server.unload(name)
                    except EngineError as error:
                        _log.warning("a version was not unloaded", server=replica.server.url, why=str(error))

    async def answer(self, prompt: Prompt, heard: Heard | None = None) -> Said:
        """An answer of the least loaded server; where it fails, of the next one, unless it was `heard` to begin.

        Raises:
            EngineBusyError: all that are up are full.
            EngineError: none is up, or none could answer.
        """
        tried: set[int] = set()
        begun: list[bool] = []

        def hear(said: Said) -> None:
            begun.append(True)
            if heard is not None:
                heard(said)

        failed: EngineError = EngineError("no server is up")
        while (replica := self._pick(prompt.version, tried)) is not None:
            tried.add(id(replica))
            replica.in_flight += 1
            try:
                return await replica.server.answer(prompt, None if heard is None else hear)
            except EngineBusyError as error:
                failed = error
            except PoisonedError as error:
                self._leave(replica, "poisoned", str(error))
                failed = error
            except UnknownVersionError as error:
                replica.loaded.discard(prompt.version)
                self._leave(replica, "down", str(error))
                failed = error
            except EngineError as error:
                self._leave(replica, "down", str(error))
                failed = error
            finally:
                replica.in_flight -= 1
            if begun:
                break
        raise failed

    def look(self) -> None:
        """Look at every server once: whether it is back, and whether it still says what it should."""
        while self._gone:
            self.release(self._gone.popleft())
        for replica in self.replicas:
            with self._lock:
                if replica.state in {"down", "poisoned"}:
                    self._try(replica)
                elif replica.state == "up" and self._monotonic() - replica.probed_s >= _PROBE_S:
                    self._probe(replica)

    def _pick(self, version: str, tried: set[int]) -> Replica | None:
        fit = [one for one in self.replicas if one.state == "up" and version in one.loaded and id(one) not in tried]
        return min(fit, key=lambda one: one.in_flight, default=None)

    def _bring(self, replica: Replica, adapter: Adapter) -> None:
        """Load and probe; what fails the probe is unloaded again.

        Raises:
            SwapRefusedError: it cannot serve there.
        """
        server = replica.server
        try:
            if not adapter.whole and adapter.name not in server.names():
                server.load(adapter.name, adapter.folder)
            deviation = adapter.probe(server.ask)
        except PoisonedError as error:
            self._leave(replica, "poisoned", str(error))
            message = f"{server.url}: {error}"
            raise SwapRefusedError(message) from error
        except EngineError as error:
            message = f"{server.url}: {error}"
            raise SwapRefusedError(message) from error
        if not deviation <= adapter.tolerance:
            try:
                if not adapter.whole:
                    server.unload(adapter.name)
            except EngineError as error:
                _log.warning("a version was not unloaded", server=server.url, why=str(error))
            message = f"{server.url} answers golden prompts otherwise: {deviation:.3g}, {adapter.tolerance:.3g} allowed"
            raise SwapRefusedError(message)
        replica.loaded.add(adapter.name)
        replica.probed_s = self._monotonic()

    def _try(self, replica: Replica) -> None:
        """A server that was left alone: up again with all versions in service, or not."""
        server = replica.server
        if not server.healthy():
            return
        try:
            names = server.names()
            if replica.state == "poisoned" and names & replica.loaded:
                return  # the same process, and what it says is not to be trusted
            replica.loaded &= names
            for adapter in self._adapters.values():
                if _suits(server, adapter):
                    self._bring(replica, adapter)
        except (EngineError, SwapRefusedError) as error:
            if replica.why != str(error):
                _log.warning("a server of the engine does not come back", server=server.url, why=str(error))
            replica.why = str(error)
            return
        replica.state, replica.why = "up", ""
        _log.info("a server of the engine is up", server=server.url)

    def _probe(self, replica: Replica) -> None:
        replica.probed_s = self._monotonic()
        for adapter in list(self._adapters.values()):
            if adapter.name not in replica.loaded:
                continue
            try:
                deviation = adapter.probe(replica.server.ask)
            except PoisonedError as error:
                self._leave(replica, "poisoned", str(error))
                return
            except EngineError as error:
                self._leave(replica, "down", str(error))
                return
            if not deviation <= adapter.tolerance:
                self._leave(replica, "poisoned", f"golden prompts of {adapter.name} deviate by {deviation:.3g}")
                return

    def _leave(self, replica: Replica, state: State, why: str) -> None:
        if replica.state != state:
            _log.error("a server of the engine is left alone", server=replica.server.url, state=state, why=why)
        replica.state, replica.why = state, why

    def _of(self, url: str) -> Replica:
        return next(one for one in self.replicas if one.server.url == url.rstrip("/"))

    def _run(self) -> None:
        while not self._stop.wait(self._look_s):
            self.look()


def _suits(server: VllmServer, adapter: Adapter) -> bool:
    """Whether it runs a version's own weights, or the base that an adapter stands on; not, where it does not say."""
    try:
        roots = {Path(one) for one in server.roots()}
    except EngineError:
        return False
    folder = Path(adapter.folder)
    return folder in roots if adapter.whole else all(one.parent != folder.parent for one in roots)
