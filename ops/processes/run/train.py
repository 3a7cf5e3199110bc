"""The trainer, from its start to its end."""

import secrets
from contextlib import ExitStack

from prometheus_client import REGISTRY

from ops.processes.admin import Probes
from ops.processes.run.start import admin, process_of
from ops.processes.run.waiting import keeps_all, patiently
from ops.site import Site
from ops.wiring import train as wiring
from ops.wiring.tracing import open_tracer
from store.errors import UnderstudyError
from trainer.schedule import Trainer


def run_train(site: Site, lifeline: int | None) -> None:
    """Run the trainer until it is stopped; waits for Redis rather than give up.

    Raises:
        SettingsError, AlreadyRunningError: see each.
    """
    wiring.check_train(site)
    with ExitStack() as stack:
        process = stack.enter_context(process_of("train", site, lifeline))
        running: list[Trainer] = []
        waiting = ["it is starting"]  # for what, before there is a trainer
        probes = Probes(
            live=lambda: all(trainer.healthy() for trainer in running),
            ready=lambda: bool(running) and all(trainer.ready() for trainer in running),
            why=lambda: (running[0].trouble() or "") if running else waiting[-1],
        )
        process.announce(admin_port=stack.enter_context(admin(site, site.settings.admin.train_port, probes)))

        def tell(error: UnderstudyError) -> None:
            waiting[:] = [str(error)]

        client = patiently(lambda: stack.enter_context(site.redis_client()), process.stop, tell)
        if client is None:
            return
        if not patiently(lambda: keeps_all(client), process.stop, tell) or process.stop.is_set():
            return  # before a worker is warmed for nothing
        tracer = stack.enter_context(open_tracer(site, "train", REGISTRY))
        running.append(wiring.trainer(site, client, f"{site.replica}-{secrets.token_hex(4)}", tracer))
        running[0].run(process.stop)
