"""The processes: gateway, ingest and trainer, each from its start to its end, and all of them under one supervisor."""

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final, TypeVar

import redis
import structlog
import uvicorn
from prometheus_client import REGISTRY

from ops import wiring
from ops.cli.output import RefusedError
from ops.open_log import ensure_topics, open_appender
from ops.processes import logs
from ops.processes.admin import Probes, admin_server
from ops.processes.private_redis import PrivateRedis
from ops.processes.process import Daemon, RunFile, daemon, exclusive, stop_on_signals, write_run_file
from ops.processes.redis_standing import refuse_eviction
from ops.processes.supervisor import ChildSpec, RestartPolicy, Supervisor
from ops.site import REDIS_RUN_NAME, Site
from serve.app import build_app
from serve.lifecycle import Gateway
from store.errors import LogUnavailableError, StoreUnavailableError, UnderstudyError
from store.event import wall_clock_s
from stream.ingest import Ingest
from stream.metrics import IngestMetrics
from stream.publisher import Publisher
from stream.spool import Spool
from trainer.schedule import Trainer

_log = structlog.get_logger(__name__)
_PATIENCE_S: Final = 30.0  # for a predecessor on its way out
_WATCH_S: Final = 0.1
_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 10.0
_SILENT_S: Final = 15.0
_REDIS_LOOK_S: Final = 1.0
_KEEP_ALIVE_S: Final = 75  # longer than clients and load balancers keep theirs, or questions meet a closed connection
_DRAIN_S: Final = 15  # of open connections, before the gateway's own grace begins
GRACE_S: Final = {"serve": 56.0, "train": 20.0, "ingest": 30.0}  # then a process ends itself by force
_KILL_AFTER_S: Final = 2.0  # beyond its grace, the supervisor does

Opened = TypeVar("Opened")


def run_serve(site: Site, lifeline: int | None) -> None:
    """Run the gateway until it is stopped.

    Raises:
        SettingsError, AlreadyRunningError: see each.
        RefusedError: the port is taken.
        StoreUnavailableError: there is no Redis to speak of.
    """
    settings = site.settings
    wiring.check_serve(site)
    if settings.gateway.debug:
        logs.show_debug("serve")
    with ExitStack() as stack:
        process = stack.enter_context(_daemon("serve", site, lifeline))
        _refuse_eviction(site)
        client = stack.enter_context(site.redis_client())
        threading.Thread(target=lambda: _make_topics(site, client, process.stop), daemon=True).start()
        # A cold lane is ready at once; its first version must not wait for seconds of imports.
        threading.Thread(target=import_module, args=("store.student.student",), daemon=True).start()
        spool = Spool(settings.state_dir / "spool", settings.spool.max_bytes)
        publisher = Publisher(open_appender(site, client), spool, ack_timeout_s=settings.log.ack_timeout_s)
        services = wiring.services(site, client, publisher, REGISTRY)
        app = build_app(services, wiring.gateway_settings(settings))
        gateway: Gateway = app.state.gateway
        probes = Probes(live=gateway.healthy, ready=gateway.ready, lanes=lambda: _served(site, gateway))
        admin_port = stack.enter_context(_admin(site, settings.admin.serve_port, probes))
        listener = stack.enter_context(closing(_listen(settings.gateway.host, settings.gateway.port)))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_DRAIN_S,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="gateway")
        thread.start()  # not on the main thread, so that uvicorn leaves the signals to us
        try:
            _await_start(server, thread, process.stop)
            process.announce(admin_port=admin_port, port=listener.getsockname()[1])
            _watch([thread], process.stop)
        finally:
            asked = process.stop.is_set()
            server.should_exit = True
            thread.join()
        if not asked:
            message = "the gateway ended unasked: the lines above say why"
            raise UnderstudyError(message)


def run_ingest(site: Site, lifeline: int | None) -> None:
    """Run ingest for every use case until it is stopped; waits for Redis and the log rather than give up.

    Raises:
        SettingsError, AlreadyRunningError: see each.
        PositionOutsideLogError, CorruptItemError: a person must look.
    """
    wiring.check_ingest(site)
    with ExitStack() as stack:
        process = stack.enter_context(_daemon("ingest", site, lifeline))
        loops: list[Ingest] = []
        admin_port = stack.enter_context(
            _admin(
                site,
                site.settings.admin.ingest_port,
                Probes(
                    live=lambda: all(time.monotonic() - loop.last_tick_s < _SILENT_S for loop in loops),
                    ready=lambda: bool(loops) and all(loop.ready for loop in loops),
                ),
            )
        )
        process.announce(admin_port=admin_port)
        client = _patiently(lambda: stack.enter_context(site.redis_client()), process.stop)
        if client is None or not _make_topics(site, client, process.stop):
            return
        _patiently(lambda: _warn_of(refuse_eviction(client)), process.stop)
        appender = stack.enter_context(closing(open_appender(site, client)))
        metrics, owner = IngestMetrics.create(REGISTRY), f"{site.replica}-{secrets.token_hex(4)}"
        loops += [wiring.ingest(site, client, appender, use_case, owner, metrics) for use_case in site.use_cases]
        failures: list[Exception] = []
        threads = [
            threading.Thread(target=_into(failures, loop.run), args=(process.stop,), name="ingest") for loop in loops
        ]
        for thread in threads:
            thread.start()
        try:
            _watch(threads, process.stop)
        finally:
            process.stop.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]


def run_train(site: Site, lifeline: int | None) -> None:
    """Run the trainer until it is stopped; waits for Redis rather than give up.

    Raises:
        SettingsError, AlreadyRunningError: see each.
    """
    wiring.check_train(site)
    with ExitStack() as stack:
        process = stack.enter_context(_daemon("train", site, lifeline))
        running: list[Trainer] = []
        probes = Probes(
            live=lambda: all(trainer.healthy() for trainer in running),
            ready=lambda: bool(running) and all(trainer.ready() for trainer in running),
        )
        process.announce(admin_port=stack.enter_context(_admin(site, site.settings.admin.train_port, probes)))
        client = _patiently(lambda: stack.enter_context(site.redis_client()), process.stop)
        if client is None:
            return
        _patiently(lambda: _warn_of(refuse_eviction(client)), process.stop)
        running.append(wiring.trainer(site, client, f"{site.replica}-{secrets.token_hex(4)}"))
        running[0].run(process.stop)


def run_all(site: Site, settings_file: Path | None) -> int:
    """Run everything under one supervisor, with a private Redis unless there is another; the exit code.

    Raises:
        SettingsError: one of the processes could not start.
        AlreadyRunningError: another `run all` works on the state directory.
        StoreUnavailableError: the private Redis did not start.
    """
    wiring.check_all(site)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        stack.enter_context(exclusive(site.run_directory, "all", patience_s=_PATIENCE_S))
        _refuse_eviction(site)
        beside = stack.enter_context(_redis_of_our_own(site)) if not site.settings.redis.url else _nothing_beside
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
        return Supervisor(specs, RestartPolicy(), beside=beside).run(stop)


def _nothing_beside() -> str | None:
    return None


@contextmanager
def _redis_of_our_own(site: Site) -> Iterator[Callable[[], str | None]]:
    """A private Redis, announced in a run file; yields what looks after it."""
    record = site.run_directory / f"{REDIS_RUN_NAME}.json"
    with closing(PrivateRedis(site.settings.state_dir / "redis", RestartPolicy())) as private:
        write_run_file(
            site.run_directory,
            RunFile(name=REDIS_RUN_NAME, pid=os.getpid(), started_s=wall_clock_s(), url=private.url),
        )
        try:
            yield private.look_after
        finally:
            record.unlink(missing_ok=True)


def _daemon(name: str, site: Site, lifeline: int | None) -> AbstractContextManager[Daemon]:
    return daemon(
        name,
        site.settings.state_dir,
        lifeline=lifeline,
        grace_s=GRACE_S[name],
        patience_s=_PATIENCE_S,
        now_s=wall_clock_s(),
    )


@contextmanager
def _admin(site: Site, port: int, probes: Probes) -> Iterator[int]:
    with ExitStack() as stack:
        try:
            listening = stack.enter_context(admin_server(site.settings.admin.host, port, probes))
        except OSError as error:
            message = f"admin: cannot listen on {site.settings.admin.host}:{port}: {error.strerror}"
            raise RefusedError(message) from error
        yield listening


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        message = f"gateway: cannot listen on {host}:{port}: {error.strerror}"
        raise RefusedError(message) from error


def _await_start(server: uvicorn.Server, thread: threading.Thread, stop: threading.Event) -> None:
    while not server.started and not stop.wait(_WATCH_S):
        if not thread.is_alive():
            message = "the gateway did not start: the lines above say why"
            raise RefusedError(message)


def _watch(threads: list[threading.Thread], stop: threading.Event) -> None:
    """Wait until the stop, or until a thread has ended without one."""
    while not stop.wait(_WATCH_S):
        if not all(thread.is_alive() for thread in threads):
            return


def _into(failures: list[Exception], run: Callable[[threading.Event], None]) -> Callable[[threading.Event], None]:
    """`run`, keeping what it raises for the main thread."""

    def keep(stop: threading.Event) -> None:
        try:
            run(stop)
        except Exception as error:  # noqa: BLE001 - raised again on the main thread
            failures.append(error)

    return keep


def _patiently(attempt: Callable[[], Opened], stop: threading.Event) -> Opened | None:
    """What `attempt` gives, tried with backoff while Redis or the log is away; None when stopped before."""
    delay_s = _FIRST_WAIT_S
    while not stop.is_set():
        try:
            return attempt()
        except (StoreUnavailableError, LogUnavailableError) as error:
            _log.warning("waiting", why=str(error), again_in_s=delay_s)
            stop.wait(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_WAIT_S)
    return None


def _make_topics(site: Site, client: redis.Redis, stop: threading.Event) -> bool:
    """Make the topics that are not there, however long the log is away; False when stopped before."""

    def make() -> bool:
        ensure_topics(site, client)
        return True

    return bool(_patiently(make, stop))


def _refuse_eviction(site: Site) -> None:
    """Refuse a Redis that evicts, where it answers; warn where it would lose what it has at its end.

    Raises:
        SettingsError: it evicts.
    """
    try:
        with site.redis_client(answer_s=_REDIS_LOOK_S) as client:
            _warn_of(refuse_eviction(client))
    except StoreUnavailableError:
        return  # nothing here waits for Redis: ingest and trainer look again once it answers


def _warn_of(warnings: list[str]) -> bool:
    for warning in warnings:
        _log.warning("redis", why=warning)
    return True


def _served(site: Site, gateway: Gateway) -> dict[str, dict[str, str | None]]:
    """What this replica serves, by lane, in the shape of the heartbeats."""
    return {str(lane.parts.settings.lane): {site.replica: lane.service.slots.version} for lane in gateway.lanes}
