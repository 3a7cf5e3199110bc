"""One executor a device, and the line before it: lanes that compute in one place share it, others do not wait.

Students that answer in one pass, and those that take many, do not wait for one another either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from serve.engine.forward import Elsewhere, RemoteForward
from serve.request.admission import StudentLine
from serve.settings import GatewaySettings
from serve.student.executor import Executor
from serve.student.growing import GrowingExecutor
from serve.student.slot import Slot
from store.student.loaded import Grows, Loaded

Kind = type[Executor] | type[RemoteForward]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What computes on one device."""

    executor: Executor | RemoteForward
    line: StudentLine


class Devices:
    """The devices that versions were loaded on so far. Used from the event loop; health is asked from any thread."""

    def __init__(self, settings: GatewaySettings, observe: Callable[[int, int, float], None]) -> None:
        """Prepare; a device's threads start with the first version on it."""
        self._settings = settings
        self._observe = observe
        self._devices: dict[tuple[str, Kind], Device] = {}

    def of(self, slot: Slot) -> Device:
        """Where a slot's student computes."""
        kind = _kind_of(type(slot.student))
        found = self._devices.get((slot.device, kind))
        if found is None:
            found = self._open(slot.device, kind)
            self._devices = {**self._devices, (slot.device, kind): found}  # whoever iterates in another thread goes on
        found.executor.pace.expect(slot.token_s, tokens=slot.tokens)
        return found

    @property
    def all(self) -> list[Device]:
        """Those that are open."""
        return list(self._devices.values())

    @property
    def hangs_s(self) -> float:
        """How long a student has hung, at most; 0 if none does."""
        return max((device.executor.hangs_s for device in self.all), default=0.0)

    def alive(self) -> bool:
        """Whether all threads run."""
        return all(device.executor.alive() for device in self.all)

    def close(self) -> None:
        """Finish what is queued, and stop."""
        for device in self.all:
            device.executor.close()

    def _open(self, name: str, kind: Kind) -> Device:
        settings = self._settings
        executor = kind(
            max_batch=settings.max_batch,
            max_tokens=settings.max_batch_tokens,
            wait_s=settings.batch_wait_s,
            timeout_s=settings.student_timeout_s,
            line_wait_s=settings.student_wait_s,
            observe=self._observe,
            name=name,
        )
        executor.start()
        return Device(executor=executor, line=StudentLine(pace=executor.pace, wait_s=settings.student_wait_s))


@cache
def _kind_of(student: type[Loaded]) -> Kind:
    """What runs such students; a protocol of many methods takes longer to look at than a request may."""
    if issubclass(student, Elsewhere):
        return RemoteForward
    return GrowingExecutor if issubclass(student, Grows) else Executor
