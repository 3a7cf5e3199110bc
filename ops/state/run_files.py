"""Where a running process can be found: the files that say so, believed only while the process lives."""

from pathlib import Path
from typing import Final

import msgspec

from store.errors import StateUnwritableError
from store.registry.files import durable

_SAME_PROCESS_S: Final = 2.0
_OVER: Final = (b"Z", b"X")  # states of a process that has ended
_START_TICKS: Final = 19  # place of field 22 of /proc/PID/stat, counted from the state, field 3


class RunFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a running process can be found: `state_dir/run/<name>.json`."""

    name: str
    pid: int
    started_s: float
    admin_port: int | None = None
    port: int | None = None
    url: str | None = None  # of the private Redis
    started_ticks: int | None = None  # the kernel's, since boot: no wall clock that is set moves them


def run_directory(state_dir: Path) -> Path:
    """Where run files, locks and the records of cycles and swaps lie; made where it is missing.

    Raises:
        StateUnwritableError: it is missing, and cannot be made.
    """
    directory = state_dir / "run"
    try:
        durable.make_folder(directory, mode=0o700)
    except OSError as error:
        message = f"state_dir: {directory} cannot be made: {error.strerror}"
        raise StateUnwritableError(message) from error
    return directory


def write_run_file(directory: Path, record: RunFile) -> None:
    """Write a run file in one step.

    Raises:
        OSError: the disk takes nothing; the file that was there is as it was.
    """
    durable.replace(directory / f"{record.name}.json", msgspec.json.encode(record))


def read_run_file(directory: Path, name: str) -> RunFile | None:
    """The run file of a process that is alive, else None: a killed process leaves its file behind."""
    try:
        record = msgspec.json.decode((directory / f"{name}.json").read_bytes(), type=RunFile)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if _is_alive(record) else None


def _is_alive(record: RunFile) -> bool:
    """Whether the pid is still the process that wrote the file: pids are used again."""
    fields = _stat_of(record.pid)
    if record.started_ticks is not None and len(fields) > _START_TICKS:
        return fields[0] not in _OVER and int(fields[_START_TICKS]) == record.started_ticks
    import psutil  # noqa: PLC0415 - most commands need it for nothing

    try:  # a file of an older release, or another system than Linux
        process = psutil.Process(record.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(process.create_time() <= record.started_s + _SAME_PROCESS_S)
    except psutil.NoSuchProcess:
        return False


def ticks_of(pid: int) -> int | None:
    """When the kernel started a process, in ticks since boot; None where there is no such process, or no /proc."""
    fields = _stat_of(pid)
    return int(fields[_START_TICKS]) if len(fields) > _START_TICKS else None


def _stat_of(pid: int) -> tuple[bytes, ...]:
    """What /proc says of a process from its state on; its name, which comes before, may hold anything."""
    try:
        return tuple(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split())
    except OSError:
        return ()
