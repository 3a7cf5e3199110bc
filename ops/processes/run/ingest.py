"""Ingest, from its start to its end: a thread for every use case."""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Final

from prometheus_client import REGISTRY

from ops.answers.standing import tell_at_start
from ops.open_log import open_appender
from ops.processes.admin import Probes
from ops.processes.run.start import admin, process_of, watch
from ops.processes.run.topics import make_topics
from ops.processes.run.waiting import keeps_all, patiently
from ops.site import Site
from ops.wiring import ingest as wiring
from ops.wiring.tracing import open_tracer
from store.errors import StoreUnavailableError, UnderstudyError
from stream.ingest import Ingest
from stream.metrics import IngestMetrics

_SILENT_S: Final = 15.0


def run_ingest(site: Site, lifeline: int | None) -> None:
    """Run ingest for every use case until it is stopped; waits for Redis and the log rather than give up.

    Raises:
        SettingsError, AlreadyRunningError: see each.
    """
    wiring.check_ingest(site)
    with ExitStack() as stack:
        process = stack.enter_context(process_of("ingest", site, lifeline))
        loops: list[Ingest] = []
        waiting: list[str] = []  # for what, before there is a loop
        metrics = IngestMetrics.create(REGISTRY)
        admin_port = stack.enter_context(
            admin(
                site,
                site.settings.admin.ingest_port,
                Probes(
                    live=lambda: all(time.monotonic() - loop.last_tick_s < _SILENT_S for loop in loops),
                    ready=lambda: bool(loops) and all(loop.ready for loop in loops),
                    why=lambda: "\n".join(_troubles(loops, waiting)),
                ),
            )
        )
        process.announce(admin_port=admin_port)
        tell = _waits(site, metrics, waiting)
        client = patiently(lambda: stack.enter_context(site.redis_client()), process.stop, tell)
        if client is None or not make_topics(site, client, process.stop, tell):
            return
        if not patiently(lambda: keeps_all(client), process.stop, tell):
            return
        tell_at_start(site, process.stop)
        appender = stack.enter_context(closing(open_appender(site, client)))
        owner = f"{site.replica}-{secrets.token_hex(4)}"
        tracer = stack.enter_context(open_tracer(site, "ingest", REGISTRY))
        loops += [
            wiring.ingest(site, client, appender, use_case, owner, metrics, tracer) for use_case in site.use_cases
        ]
        failures: list[Exception] = []
        threads = [
            threading.Thread(target=_into(failures, loop.run), args=(process.stop,), name="ingest") for loop in loops
        ]
        for thread in threads:
            thread.start()
        try:
            watch(threads, process.stop)
        finally:
            process.stop.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]


def _into(failures: list[Exception], run: Callable[[threading.Event], None]) -> Callable[[threading.Event], None]:
    """`run`, keeping what it raises for the main thread."""

    def keep(stop: threading.Event) -> None:
        try:
            run(stop)
        except Exception as error:  # noqa: BLE001 - raised again on the main thread
            failures.append(error)

    return keep


def _waits(site: Site, metrics: IngestMetrics, waiting: list[str]) -> Callable[[UnderstudyError], None]:
    """Shows what ingest waits for before there is a loop to say so."""

    def tell(error: UnderstudyError) -> None:
        waiting[:] = [str(error)]
        dependency = "redis" if isinstance(error, StoreUnavailableError) else "log"
        for use_case in site.use_cases:
            metrics.dependency_up.labels(use_case, dependency).set(0)

    return tell


def _troubles(loops: list[Ingest], waiting: list[str]) -> list[str]:
    return [why for loop in loops for why in loop.troubles] if loops else (waiting or ["it is starting"])
