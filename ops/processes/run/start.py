"""What every process begins with: its name, its place in the state directory, and its admin server."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

from ops.addresses import port_names
from ops.console.web import Pages
from ops.exits import RefusedError
from ops.processes.admin import Probes, admin_server, name_process
from ops.processes.limits import raise_file_limit
from ops.processes.process import Daemon, daemon
from ops.settings import fail_point
from ops.site import Site
from ops.state.restoring import half_restored
from store.event import wall_clock_s
from store.faults.points import arm

PATIENCE_S: Final = 30.0  # for a predecessor on its way out
WATCH_S: Final = 0.1
GRACE_S: Final = {"serve": 56.0, "train": 20.0, "ingest": 30.0}  # then a process ends itself by force


def refuse_half_restored(site: Site) -> None:
    """See that no restore has stopped half way.

    Raises:
        RefusedError: one has.
    """
    if half_restored(site.settings.state_dir) is not None:
        message = (
            f"a restore into {site.settings.state_dir} was not finished: run `understudy restore` with the same backup"
            " again, which goes on with it"
        )
        raise RefusedError(message)


def process_of(name: str, site: Site, lifeline: int | None) -> AbstractContextManager[Daemon]:
    """The process under its name, alone on its state directory; errors are those of `daemon`."""
    arm(fail_point())
    refuse_half_restored(site)
    raise_file_limit()
    name_process(name)
    return daemon(
        name,
        site.settings.state_dir,
        lifeline=lifeline,
        grace_s=GRACE_S[name],
        patience_s=PATIENCE_S,
        now_s=wall_clock_s(),
    )


@contextmanager
def admin(site: Site, port: int, probes: Probes, pages: Pages | None = None) -> Iterator[int]:
    """The process' admin server while the block runs, with the console's pages where it has them; yields its port.

    Raises:
        RefusedError: the port is taken.
    """
    with ExitStack() as stack:
        try:
            hosts = port_names(site.settings.admin.host, site.settings.admin.allowed_hosts)
            listening = stack.enter_context(
                admin_server(site.settings.admin.host, port, probes, hosts=hosts, pages=pages)
            )
        except OSError as error:
            message = f"admin: cannot listen on {site.settings.admin.host}:{port}: {error.strerror}"
            raise RefusedError(message) from error
        yield listening


def watch(threads: list[threading.Thread], stop: threading.Event) -> None:
    """Wait until the stop, or until a thread has ended without one."""
    while not stop.wait(WATCH_S):
        if not all(thread.is_alive() for thread in threads):
            return
