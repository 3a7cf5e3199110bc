"""The processes: gateway, ingest and trainer, each from its start to its end, and all of them under one supervisor."""

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Final, TypeVar

import redis
import uvicorn
from prometheus_client import REGISTRY

from ops import wiring
from ops.answers.standing import tell_at_start
from ops.cli.output import RefusedError
from ops.logs import lines as logs
from ops.open_log import ensure_topics, open_appender
from ops.processes.admin import Probes, admin_server, name_process
from ops.processes.limits import raise_file_limit
from ops.processes.private_redis import PrivateRedis
from ops.processes.process import Daemon, RunFile, daemon, exclusive, keep_trying, ticks_of, write_run_file
from ops.processes.redis_standing import refuse_eviction
from ops.processes.reload import reload_gateway
from ops.processes.signals import listen
from ops.processes.supervisor import ChildSpec, RestartPolicy, Supervisor
from ops.site import REDIS_RUN_NAME, Site
from ops.state.disk import refusal
from ops.state.private_files import tighten
from serve.app import build_app
from serve.drain import Drain
from serve.front.connections import Connections, protocol_of
from serve.front.listener import Listener
from serve.lifecycle import Gateway
from store.errors import (
    LogUnavailableError,
    SettingsError,
    StateUnwritableError,
    StoreUnavailableError,
    UnderstudyError,
)
from store.event import wall_clock_s
from store.log.lazy import logger
from stream.ingest import Ingest
from stream.metrics import IngestMetrics
from stream.publisher import Publisher
from stream.spool import Spool
from trainer.schedule import Trainer

_log = logger(__name__)
_PATIENCE_S: Final = 30.0  # for a predecessor on its way out
_WATCH_S: Final = 0.1
_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 10.0
_SILENT_S: Final = 15.0
_REDIS_LOOK_S: Final = 1.0
_KEEP_ALIVE_S: Final = 75  # longer than clients and load balancers keep theirs, or questions meet a closed connection
_CUT_S: Final = 12.0  # for requests in flight; then they are told to go elsewhere, before the server hangs up on them
_LAME_DUCK_S: Final = 0.3  # in which what has just arrived is answered, and clients are told to connect elsewhere
_DRAIN_S: Final = 15  # of open connections, before the gateway's own grace begins
GRACE_S: Final = {"serve": 56.0, "train": 20.0, "ingest": 30.0}  # then a process ends itself by force
_KILL_AFTER_S: Final = 2.0  # beyond its grace, the supervisor does

Opened = TypeVar("Opened")


def run_serve(site: Site, lifeline: int | None, settings_file: Path | None = None) -> None:
    """Run the gateway until it is stopped. It works on files and leases while there is no Redis.

    Raises:
        SettingsError, AlreadyRunningError, StateUnwritableError: see each.
        RefusedError: the port is taken.
    """
    settings = site.settings
    wiring.check_serve(site)
    if settings.gateway.debug:
        logs.show_debug("serve")
    with ExitStack() as stack:
        process = stack.enter_context(_daemon("serve", site, lifeline))
        _refuse_eviction(site)
        client = stack.enter_context(site.redis_client(url=site.redis_url_to_be()))
        tell_at_start(site, process.stop)
        threading.Thread(target=lambda: _make_topics(site, client, process.stop), daemon=True).start()
        # A cold lane is ready at once; its first version must not wait for seconds of imports.
        threading.Thread(target=import_module, args=("store.student.classify",), daemon=True).start()
        spool = Spool(settings.state_dir / "spool", settings.spool.max_bytes)
        publisher = Publisher(open_appender(site, client), spool, ack_timeout_s=settings.log.ack_timeout_s)
        services = wiring.services(site, client, publisher, REGISTRY)
        services.metrics.watch_spool(lambda: spool.bytes_kept, settings.spool.max_bytes)
        app = build_app(services, wiring.gateway_settings(settings))
        gateway: Gateway = app.state.gateway
        probes = Probes(
            live=gateway.healthy,
            ready=gateway.ready,
            why=gateway.why_not,
            degraded=gateway.degraded,
            lanes=lambda: _served(site, gateway),
        )
        admin_port = stack.enter_context(_admin(site, settings.admin.serve_port, probes))
        drain = Drain(app)
        connections = wiring.connections(settings, services.metrics, raise_file_limit())
        listener = stack.enter_context(closing(_listen(settings.gateway.host, settings.gateway.port, connections)))
        config = uvicorn.Config(
            drain,
            http=protocol_of(connections),
            loop="asyncio",  # whose way to accept the listener knows
            ws="none",
            proxy_headers=False,  # the gateway reads them itself
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
            process.on_hangup(lambda: reload_gateway(site, client, app, settings_file))
            _watch([thread], process.stop)
        finally:
            asked = process.stop.is_set()
            drain.close()
            time.sleep(_LAME_DUCK_S)
            drain.cut_after(_CUT_S)
            gateway.on_loop(gateway.stop_asking, after_s=_CUT_S)
            server.should_exit = True
            thread.join()
        if not asked:
            message = "the gateway ended unasked: the lines above say why"
            raise UnderstudyError(message)


def run_ingest(site: Site, lifeline: int | None) -> None:
    """Run ingest for every use case until it is stopped; waits for Redis and the log rather than give up.

    Raises:
        SettingsError, AlreadyRunningError: see each.
    """
    wiring.check_ingest(site)
    with ExitStack() as stack:
        process = stack.enter_context(_daemon("ingest", site, lifeline))
        loops: list[Ingest] = []
        waiting: list[str] = []  # for what, before there is a loop
        metrics = IngestMetrics.create(REGISTRY)
        admin_port = stack.enter_context(
            _admin(
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
        client = _patiently(lambda: stack.enter_context(site.redis_client()), process.stop, tell)
        if client is None or not _make_topics(site, client, process.stop, tell):
            return
        if not _patiently(lambda: _keeps_all(client), process.stop, tell):
            return
        tell_at_start(site, process.stop)
        appender = stack.enter_context(closing(open_appender(site, client)))
        owner = f"{site.replica}-{secrets.token_hex(4)}"
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
        waiting = ["it is starting"]  # for what, before there is a trainer
        probes = Probes(
            live=lambda: all(trainer.healthy() for trainer in running),
            ready=lambda: bool(running) and all(trainer.ready() for trainer in running),
            why=lambda: (running[0].trouble() or "") if running else waiting[-1],
        )
        process.announce(admin_port=stack.enter_context(_admin(site, site.settings.admin.train_port, probes)))

        def tell(error: UnderstudyError) -> None:
            waiting[:] = [str(error)]

        client = _patiently(lambda: stack.enter_context(site.redis_client()), process.stop, tell)
        if client is None:
            return
        if not _patiently(lambda: _keeps_all(client), process.stop, tell) or process.stop.is_set():
            return  # before a worker is warmed for nothing
        running.append(wiring.trainer(site, client, f"{site.replica}-{secrets.token_hex(4)}"))
        running[0].run(process.stop)


def run_all(site: Site, settings_file: Path | None) -> int:
    """Run everything under one supervisor, with a private Redis unless there is another; the exit code.

    Raises:
        SettingsError: one of the processes could not start.
        AlreadyRunningError: another `run all` works on the state directory.
    """
    wiring.check_all(site)
    state_dir = site.settings.state_dir
    raise_file_limit()  # Redis and the processes inherit it
    with ExitStack() as stack:
        signals = stack.enter_context(listen())
        tighten(state_dir)
        if _patiently(lambda: stack.enter_context(_alone(site)), signals.stop) is None:
            return 0
        _refuse_eviction(site)
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
    with exclusive(site.run_directory, "all", patience_s=_PATIENCE_S):
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


def _daemon(name: str, site: Site, lifeline: int | None) -> AbstractContextManager[Daemon]:
    raise_file_limit()
    name_process(name)
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
            hosts = wiring.port_names(site.settings.admin.host, site.settings.admin.allowed_hosts)
            listening = stack.enter_context(admin_server(site.settings.admin.host, port, probes, hosts=hosts))
        except OSError as error:
            message = f"admin: cannot listen on {site.settings.admin.host}:{port}: {error.strerror}"
            raise RefusedError(message) from error
        yield listening


def _listen(host: str, port: int, connections: Connections) -> Listener:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        message = f"gateway: cannot listen on {host}:{port}: {error.strerror}"
        raise RefusedError(message) from error
    return Listener(listening, connections.make_room, connections.count_refused)


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


def _patiently(
    attempt: Callable[[], Opened], stop: threading.Event, tell: Callable[[UnderstudyError], None] = lambda _: None
) -> Opened | None:
    """What `attempt` gives, tried with backoff while Redis, the log or room is wanting; None when stopped before.

    `tell` hears of each attempt that failed.
    """
    delay_s = _FIRST_WAIT_S
    while not stop.is_set():
        try:
            return attempt()
        except (StateUnwritableError, StoreUnavailableError, LogUnavailableError) as error:
            _log.warning("waiting", why=str(error), again_in_s=delay_s)
            tell(error)
            stop.wait(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_WAIT_S)
    return None


def _make_topics(
    site: Site, client: redis.Redis, stop: threading.Event, tell: Callable[[UnderstudyError], None] = lambda _: None
) -> bool:
    """Make the topics that are not there, however long the log is away; False when stopped before."""

    def make() -> bool:
        ensure_topics(site, client)
        return True

    return bool(_patiently(make, stop, tell))


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


def _keeps_all(client: redis.Redis) -> bool:
    """Whether Redis keeps what it is given: one that evicts is waited for, like one that is away.

    Somebody may have set it so hours after the start, and may set it right again.

    Raises:
        StoreUnavailableError: it evicts, or does not answer.
    """
    try:
        return _warn_of(refuse_eviction(client))
    except SettingsError as error:
        raise StoreUnavailableError(str(error)) from error


def _warn_of(warnings: list[str]) -> bool:
    for warning in warnings:
        _log.warning("redis", why=warning)
    return True


def _served(site: Site, gateway: Gateway) -> dict[str, dict[str, str | None]]:
    """What this replica serves, by lane, in the shape of the heartbeats."""
    return {str(lane.parts.settings.lane): {site.replica: lane.service.slots.version} for lane in gateway.lanes}
