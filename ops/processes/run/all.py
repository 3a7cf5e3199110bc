"""Gateway, ingest and trainer under one supervisor, with a private Redis unless there is another."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from ops.processes.limits import raise_file_limit
from ops.processes.private_redis import PrivateRedis
from ops.processes.process import exclusive, keep_trying
from ops.processes.run.start import GRACE_S, PATIENCE_S, refuse_half_restored
from ops.processes.run.waiting import patiently, refuse_evicting
from ops.processes.signals import listen
from ops.processes.supervisor import ChildSpec, RestartPolicy, Supervisor
from ops.site import REDIS_RUN_NAME, Site
from ops.state.disk import refusal
from ops.state.private_files import tighten
from ops.state.run_files import RunFile, ticks_of, write_run_file
from ops.wiring.checks import every
from ops.wiring.ingest import check_ingest
from ops.wiring.serve import check_serve
from ops.wiring.train import check_train
from store.event import wall_clock_s

_KILL_AFTER_S: Final = 2.0  # beyond its grace, the supervisor does


def run_all(site: Site, settings_file: Path | None) -> int:
    """Run everything under one supervisor, with a private Redis unless there is another; the exit code.

    Raises:
        SettingsError: one of the processes could not start.
        AlreadyRunningError: another `run all` works on the state directory.
    """
    every(*(partial(check, site) for check in (check_ingest, check_train, check_serve)))
    refuse_half_restored(site)
    state_dir = site.settings.state_dir
    raise_file_limit()  # Redis and the processes inherit it
    with ExitStack() as stack:
        signals = stack.enter_context(listen())
        tighten(state_dir)
        if patiently(lambda: stack.enter_context(_alone(site)), signals.stop) is None:
            return 0
        refuse_evicting(site)
        beside: Callable[[], str | None] = lambda: None  # noqa: E731 - one of two
        if not site.settings.redis.url:
            beside = stack.enter_context(_redis_of_our_own(site, signals.stop))
        file = () if settings_file is None else ("--config", str(settings_file))
        specs = [
            ChildSpec(
                name=name,
                command=(sys.executable, "-m", "ops.cli", "run", name, *file, "--lifeline", "{lifeline}"),
                grace_s=GRACE_S[name] + _KILL_AFTER_S,
                essential=name == "serve",
            )
            for name in ("ingest", "train", "serve")  # stopped in the opposite order
        ]
        supervisor = Supervisor(specs, RestartPolicy(), beside=beside, excuse=lambda: refusal(state_dir))
        signals.on_hangup(supervisor.hangup.set)
        return supervisor.run(signals.stop)


@contextmanager
def _alone(site: Site) -> Iterator[bool]:
    """The one `run all` of its state directory; errors are those of `exclusive`."""
    with exclusive(site.run_directory, "all", patience_s=PATIENCE_S):
        yield True


@contextmanager
def _redis_of_our_own(site: Site, stop: threading.Event) -> Iterator[Callable[[], str | None]]:
    """A private Redis, announced in a run file before it answers; yields what looks after it."""
    record = site.run_directory / f"{REDIS_RUN_NAME}.json"
    with closing(PrivateRedis(site.settings.state_dir / "redis")) as private:
        found = RunFile(
            name=REDIS_RUN_NAME,
            pid=os.getpid(),
            started_s=wall_clock_s(),
            started_ticks=ticks_of(os.getpid()),
            url=private.url,
        )
        keep_trying(lambda: write_run_file(site.run_directory, found), "run file of redis", stop)
        try:
            yield private.look_after
        finally:
            with suppress(OSError):
                record.unlink(missing_ok=True)
