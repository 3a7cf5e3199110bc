"""The gateway, from its start to its end."""

import threading
import time
from contextlib import ExitStack, closing
from importlib import import_module
from pathlib import Path
from typing import Final

import uvicorn
from prometheus_client import REGISTRY

from ops.answers.standing import tell_at_start
from ops.console.app import Console
from ops.exits import RefusedError
from ops.logs import lines as logs
from ops.open_log import open_appender
from ops.processes.admin import Probes
from ops.processes.limits import connection_limit, raise_file_limit
from ops.processes.reload import reload_gateway
from ops.processes.run.start import WATCH_S, admin, process_of, watch
from ops.processes.run.topics import make_topics
from ops.processes.run.waiting import refuse_evicting
from ops.settings import Settings
from ops.site import Site
from ops.wiring import serve as wiring
from ops.wiring.tracing import open_tracer
from serve.app import build_app
from serve.drain import Drain, DrainingServer
from serve.front.connections import ConnectionLimits, Connections, protocol_of
from serve.front.listener import Listener, listen
from serve.lifecycle import Gateway
from serve.metrics import ServeMetrics
from store.errors import UnderstudyError
from stream.publisher import Publisher
from stream.spool import Spool

_KEEP_ALIVE_S: Final = 75  # longer than clients and load balancers keep theirs, or questions meet a closed connection
_CUT_S: Final = 12.0  # for requests in flight; then they are told to go elsewhere, before the server hangs up on them
_LAME_DUCK_S: Final = 0.3  # in which what has just arrived is answered, and clients are told to connect elsewhere
_DRAIN_S: Final = 15  # of open connections, before the gateway's own grace begins


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
        process = stack.enter_context(process_of("serve", site, lifeline))
        refuse_evicting(site)
        client = stack.enter_context(site.redis_client(url=site.redis_url_to_be()))
        tell_at_start(site, process.stop)
        threading.Thread(target=lambda: make_topics(site, client, process.stop), daemon=True).start()
        # A cold lane is ready at once; its first version must not wait for seconds of imports.
        threading.Thread(target=import_module, args=("store.student.tasks",), daemon=True).start()
        spool = Spool(settings.state_dir / "spool", settings.spool.max_bytes)
        tracer = stack.enter_context(open_tracer(site, "serve", REGISTRY))
        publisher = Publisher(open_appender(site, client), spool, ack_timeout_s=settings.log.ack_timeout_s)
        services = wiring.services(site, client, publisher, REGISTRY, tracer)
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
        console = stack.enter_context(closing(Console(site)))
        admin_port = stack.enter_context(admin(site, settings.admin.serve_port, probes, console))
        drain = Drain(app)
        connections = _connections(settings, services.metrics, raise_file_limit())
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
        server = DrainingServer(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="gateway")
        thread.start()  # not on the main thread, so that uvicorn leaves the signals to us
        try:
            _await_start(server, thread, process.stop)
            process.announce(admin_port=admin_port, port=listener.getsockname()[1])
            process.on_hangup(lambda: reload_gateway(site, client, app, settings_file, console.become))
            watch([thread], process.stop)
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


def _connections(settings: Settings, metrics: ServeMetrics, files: int) -> Connections:
    """The connections of the gateway's port, as many as `files` leaves room for."""
    teacher_calls = sum(section.teacher.concurrency for section in settings.lanes)
    limits = ConnectionLimits(connections=connection_limit(files, teacher_calls))
    return Connections(limits, metrics.connections, metrics.connections_closed)


def _listen(host: str, port: int, connections: Connections) -> Listener:
    try:
        listening = listen(host, port)
    except OSError as error:
        message = f"gateway: cannot listen on {host}:{port}: {error.strerror}"
        raise RefusedError(message) from error
    return Listener(listening, connections.make_room, connections.count_refused)


def _await_start(server: uvicorn.Server, thread: threading.Thread, stop: threading.Event) -> None:
    while not server.started and not stop.wait(WATCH_S):
        if not thread.is_alive():
            message = "the gateway did not start: the lines above say why"
            raise RefusedError(message)


def _served(site: Site, gateway: Gateway) -> dict[str, dict[str, str | None]]:
    """What this replica serves, by lane, in the shape of the heartbeats."""
    return {str(lane.parts.settings.lane): {site.replica: lane.service.slots.version} for lane in gateway.lanes}
