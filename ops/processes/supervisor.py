"""Runs the processes of one machine: starts them, restarts one that crashed, stops them in order.

Every child leads its own session, so that Ctrl-C in a terminal reaches the supervisor alone and whatever a child left
behind can be ended with it. It holds the read end of a pipe (its lifeline, see `ops.processes.process`) and so ends
itself should the supervisor be killed.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from store.log.lazy import logger
from store.retry.backoff import Backoff

_log = logger()
_POLL_S: Final = 0.05
_EXCUSED_S: Final = 2.0  # before a child is started again that crashed for want of Redis or of room
SETTINGS_EXIT_CODE: Final = 2
_WRONG_SETTINGS: Final = "its settings are wrong: the line above names the key"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One process to keep alive."""

    name: str
    command: tuple[str, ...]  # `{lifeline}` stands for the number of the pipe's read end
    grace_s: float  # from SIGTERM to SIGKILL
    essential: bool = True  # without it there is no service: given up where it keeps crashing; another is retried on


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How soon a crashed child is started again, and when it is given up."""

    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    crashes: int = 8  # this many within the window: give up
    window_s: float = 120.0
    has_run_s: float = 30.0  # a child that has lived so long once has run: its settings were right then


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the child again after a delay."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No restart will help."""

    why: str


def after_crash(
    crashes_s: Sequence[float], exit_code: int, policy: RestartPolicy, *, essential: bool = True, has_run: bool = False
) -> Restart | GiveUp:
    """What to do about a child that ended unasked. Pure.

    Args:
        crashes_s: monotonic times of its crashes, the one at hand last.
        exit_code: as `subprocess` has it, negative for a signal.
        policy: the limits.
        essential: whether it is given up at all; a gateway goes on answering while ingest waits for a person.
        has_run: whether it has run before. Wrong settings are then no mistake of somebody who is starting it, and end
            nothing that others are served by: it waits for a person to mend them.
    """
    if exit_code == SETTINGS_EXIT_CODE and has_run:
        return Restart(policy.longest_delay_s)
    if exit_code == SETTINGS_EXIT_CODE:
        return GiveUp(_WRONG_SETTINGS)
    recent = _recent(crashes_s, policy)
    if recent >= policy.crashes and essential:
        return GiveUp(f"{recent} crashes within {policy.window_s:g} s")
    return Restart(delay_after(crashes_s, policy))


def delay_after(crashes_s: Sequence[float], policy: RestartPolicy) -> float:
    """How long to wait after a crash, the one at hand last: doubling with those within the window, and bounded."""
    backoff = Backoff(first_s=policy.first_delay_s, most_s=policy.longest_delay_s)
    return backoff.longest_s(_recent(crashes_s, policy))


def _recent(crashes_s: Sequence[float], policy: RestartPolicy) -> int:
    return sum(at_s > crashes_s[-1] - policy.window_s for at_s in crashes_s)


@dataclass(slots=True, kw_only=True)
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    start_at_s: float = 0.0
    started_s: float = 0.0  # the last time, monotonic
    has_run: bool = False
    crashes_s: list[float] = field(default_factory=list)


class Supervisor:
    """Keeps children alive until it is told to stop."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        policy: RestartPolicy,
        *,
        beside: Callable[[], str | None] = lambda: None,
        excuse: Callable[[], str | None] = lambda: None,
        environment: dict[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            specs: in the order of starting; they are stopped in the opposite order.
            policy: restarts.
            beside: asked at every turn: what is the matter with what the children need (the private Redis), None where
                nothing is. A crash meanwhile is not the child's own, and counts for nothing.
            excuse: the same, asked only when a child has crashed (is the disk full?).
            environment: of the children, None for the supervisor's own.
            directory: working directory of the children, None for the supervisor's own.
        """
        self._children = [_Child(spec=spec) for spec in specs]
        self._policy = policy
        self._beside = beside
        self._excuse = excuse
        self.hangup = threading.Event()  # set it to pass a SIGHUP on
        self._environment = environment
        self._directory = directory
        self._lifeline: tuple[int, int] | None = None

    def run(self, stop: threading.Event) -> int:
        """Start the children, keep them alive until `stop` is set, then stop them; 0, or 1 after giving up."""
        self._lifeline = os.pipe()  # neither end is inheritable unless it is passed on by name
        try:
            why = self._keep_alive(stop)
        finally:
            self._stop_all()
            for end in self._lifeline:
                os.close(end)
        if why is not None:
            _log.critical("supervisor_gives_up", why=why)
        return 0 if why is None else 1

    def _keep_alive(self, stop: threading.Event) -> str | None:
        while not stop.is_set():
            trouble = self._beside()
            now_s = time.monotonic()
            for child in self._children:
                if child.process is None and now_s >= child.start_at_s:
                    self._start(child, now_s)
                elif child.process is not None and (why := self._look_after(child, now_s, trouble)) is not None:
                    return why
            if self.hangup.is_set():
                self.hangup.clear()
                self._pass_on(signal.SIGHUP)
            stop.wait(_POLL_S)
        return None

    def _pass_on(self, number: signal.Signals) -> None:
        for child in self._children:
            if child.process is not None:
                _log.info("signal_passed_on", child=child.spec.name, signal=number.name)
                os.kill(child.process.pid, number)  # not reaped yet: the pid is the child's

    def _start(self, child: _Child, now_s: float) -> None:
        """Start a child; a machine that has no room for it now is a crash like another."""
        if self._lifeline is None:
            message = "children are started by `run` alone"
            raise RuntimeError(message)
        lifeline = self._lifeline[0]
        command = [part.replace("{lifeline}", str(lifeline)) for part in child.spec.command]
        # Held back until the child has its handler (`ops.processes.process`): by default it would end it.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            child.process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=(lifeline,),
                start_new_session=True,
                env=self._environment,
                cwd=self._directory,
            )
        except OSError as error:
            child.crashes_s = [*child.crashes_s, now_s][-self._policy.crashes :]
            child.start_at_s = now_s + delay_after(child.crashes_s, self._policy)
            _log.error("child_not_started", child=child.spec.name, why=str(error))
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        child.started_s = now_s
        _log.info("child_started", child=child.spec.name, pid=child.process.pid)

    def _look_after(self, child: _Child, now_s: float, trouble: str | None) -> str | None:
        """Restart a child that has ended; the reason for giving up, if there is one."""
        exit_code = _end_if_over(child)
        if exit_code is None:
            return None
        name = child.spec.name
        child.has_run = child.has_run or now_s - child.started_s >= self._policy.has_run_s
        if exit_code != SETTINGS_EXIT_CODE and (trouble := trouble or self._excuse()) is not None:
            _log.error("child_ended", child=name, exit_code=exit_code, restart_in_s=_EXCUSED_S, not_counted=trouble)
            child.start_at_s = now_s + _EXCUSED_S
            return None
        child.crashes_s = [*child.crashes_s, now_s][-self._policy.crashes :]
        essential, has_run = child.spec.essential, child.has_run
        match after_crash(child.crashes_s, exit_code, self._policy, essential=essential, has_run=has_run):
            case Restart(delay_s=delay_s):
                why = {"why": _WRONG_SETTINGS} if exit_code == SETTINGS_EXIT_CODE else {}
                _log.error("child_ended", child=name, exit_code=exit_code, restart_in_s=delay_s, **why)
                child.start_at_s = now_s + delay_s
                return None
            case GiveUp(why=why):
                return f"{name} ended with code {exit_code}: {why}"

    def _stop_all(self) -> None:
        for child in reversed(self._children):
            if child.process is None:
                continue
            _log.info("child_stopping", child=child.spec.name, pid=child.process.pid, grace_s=child.spec.grace_s)
            os.kill(child.process.pid, signal.SIGTERM)  # not `send_signal`: it would reap a child that has just ended
            deadline_s = time.monotonic() + child.spec.grace_s
            while (exit_code := _end_if_over(child)) is None and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
            if exit_code is None:
                _log.error("child_killed", child=child.spec.name, why="its grace is over")
                _kill_session(child.process.pid)
                child.process.wait()
                child.process = None
            else:
                _log.info("child_stopped", child=child.spec.name, exit_code=exit_code)


def _end_if_over(child: _Child) -> int | None:
    """The exit code of a child that has ended, after ending whatever it left behind in its session.

    It is looked at without being reaped first: until then its process group cannot belong to anybody else.
    """
    if child.process is None:
        return None
    if os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return None
    _kill_session(child.process.pid)
    exit_code = child.process.wait()
    child.process = None
    return exit_code


def _kill_session(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
