"""Puts the gateway together: its settings, its lanes, and the versions that it loads. torch is imported late."""

import secrets
import sys
import time
from functools import partial
from importlib import import_module
from random import Random

import psutil
import redis
from prometheus_client import CollectorRegistry

from ops.addresses import port_names
from ops.open_log import log_login
from ops.sections import LaneSection
from ops.settings import Settings, read_engine_key
from ops.site import Site
from ops.tasks import TASKS
from ops.wiring.checks import every
from ops.wiring.lanes import lane_ledger, lane_settings, own_student
from ops.wiring.priming import Primer, folder_of
from ops.wiring.tracing import check_tracing
from serve.engine.fleet import Fleet
from serve.engine.vllm import VllmServer
from serve.front.kept import RedisAnswers
from serve.lane.parts import LaneParts, Services
from serve.metrics import ServeMetrics
from serve.request.parts import EventSink
from serve.settings import GatewaySettings
from serve.student.loads import Versions
from store.control import Control
from store.errors import SettingsError
from store.money.books import Books
from store.redact import redact_noting
from store.registry.moves import Standing
from store.registry.registry import Registry
from store.student.loaded import Loaded
from store.tracing.spans import OFF, Tracer


def check_serve(site: Site) -> None:
    """See that all that the settings name for the gateway can be read, before it waits for anything.

    Raises:
        SettingsError: something cannot; the message names every such key, a line each.
    """
    every(
        lambda: site.secret,
        lambda: site.registry,
        lambda: log_login(site),
        lambda: check_tracing(site),
        *(partial(_check_lane, section) for section in site.settings.lanes),
    )


def _check_lane(section: LaneSection) -> None:
    try:
        lane_settings(section)
    except SettingsError as error:
        name = str(section.lane)
        message = str(error) if name in str(error) else f"{error} (of {name})"
        raise SettingsError(message) from error


def gateway_settings(settings: Settings) -> GatewaySettings:
    """What all lanes of the gateway share."""
    gateway = settings.gateway
    return GatewaySettings(
        max_batch=gateway.max_batch,
        batch_wait_s=gateway.batch_wait_ms / 1000,
        student_wait_s=gateway.max_wait_s,
        max_text_chars=gateway.max_text_chars,
        max_message_chars=gateway.max_message_chars,
        allowed_hosts=port_names(gateway.host, gateway.allowed_hosts),
        allowed_origins=frozenset(origin.lower() for origin in gateway.allowed_origins),
    )


def services(
    site: Site, client: redis.Redis, sink: EventSink, registry: CollectorRegistry, tracer: Tracer = OFF
) -> Services:
    """Everything the gateway needs; lanes of a task that this release does not serve are left out."""
    control = Control(client)
    return Services(
        lanes=[_lane_parts(site, client, section) for section in site.settings.lanes],
        sink=sink,
        announce=lambda lane, heartbeat: control.announce(lane, site.replica, heartbeat),
        swaps_path=site.run_directory / "swaps.jsonl",
        metrics=ServeMetrics.create(registry),
        rng=Random(secrets.randbits(128)),  # noqa: S311 - event ids, no secrets
        write=Books(client).write,
        vectors=_vectors,
        tracer=tracer,
    )


def _vectors() -> tuple[int, int, int] | None:
    """What the caches of document vectors have done, once a version has brought them."""
    if "store.student.rank.vectors" not in sys.modules:
        return None
    from store.student.rank.vectors import vector_counts  # noqa: PLC0415 - it is there, and so is torch

    return vector_counts()


def _lane_parts(site: Site, client: redis.Redis, section: LaneSection) -> LaneParts:
    settings = lane_settings(section)
    return LaneParts(
        settings=settings,
        lane_key=site.secret.lane_key(section.lane),
        redact=partial(redact_noting, key=site.secret.redaction_key(section.lane)),
        subject_key=site.secret.subject_key(section.lane),
        audit_key=site.secret.audit_key(section.lane),
        versions=lane_versions(site.registry, section, site.settings),
        ledger=lane_ledger(client, settings),
        spent_path=site.run_directory / f"spent-{section.tenant}.{section.use_case}.json",
        tally_path=site.run_directory / f"tally-{section.tenant}.{section.use_case}.json",
        answers=RedisAnswers(client, section.lane),
    )


def _fleet(section: LaneSection) -> Fleet | None:
    """The servers that run a lane's model, looked after from now on; None: this process runs it."""
    if not section.student.engine:
        return None
    key = read_engine_key(section)
    fleet = Fleet([VllmServer(url, api_key=key) for url in section.student.engine])
    fleet.start()
    return fleet


def lane_versions(registry: Registry, section: LaneSection, settings: Settings) -> Versions:
    """How the gateway reads a lane's registry."""
    versions, moves = registry.versions(section.lane), registry.moves(section.lane)

    own, fleet = own_student(section, settings), _fleet(section)
    primer = Primer(folder_of(settings, section))

    def standing() -> Standing:
        primer.look()
        return moves.standing(time.monotonic())

    def load(version: str) -> Loaded:
        from store.student.tasks import load as load_version  # noqa: PLC0415 - late, as everything that needs torch

        if fleet is not None and section.student.engine_folder is not None:
            from serve.engine.remote import load_remote  # noqa: PLC0415 - as above

            return load_remote(
                versions.open(version),  # all of it verified before a server sees any
                fleet,
                version=f"{section.tenant}.{section.use_case}@{version}",
                folder=section.student.engine_folder,
                device=own.device,
                precision=own.precision,
            )
        loaded = versions.load(version, partial(load_version, device=own.device, precision=own.precision))
        if TASKS[section.task].has_catalogue:
            primer.loaded(loaded)
        return loaded

    def prepare() -> None:
        import_module("store.student.tasks")

    def device() -> str:
        from store.student.encoder import resolve_device  # noqa: PLC0415 - as above

        return str(resolve_device(own.device))

    def ready() -> None:
        import torch  # noqa: PLC0415 - as above

        torch.set_num_threads(own.threads)  # as in training: bf16 sums depend on how they are split

    return Versions(
        standing=standing,
        size_bytes=lambda version: sum(entry.size_bytes for entry in versions.manifest(version).files.values()),
        load=load,
        available_bytes=lambda: int(psutil.virtual_memory().available),
        prepare=prepare,
        device=device,
        ready=ready,
    )
