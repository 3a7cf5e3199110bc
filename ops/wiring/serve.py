"""Puts the gateway together: its settings, its lanes, and the versions that it loads. torch is imported late."""

import secrets
import time
from functools import partial
from importlib import import_module
from random import Random

import psutil
import redis
from prometheus_client import CollectorRegistry

from ops.addresses import port_names
from ops.open_log import log_login
from ops.processes.limits import connection_limit
from ops.sections import LaneSection
from ops.settings import Settings
from ops.site import Site
from ops.wiring.checks import every
from ops.wiring.lanes import lane_ledger, lane_settings
from serve.front.connections import ConnectionLimits, Connections
from serve.front.kept import RedisAnswers
from serve.lifecycle import LaneParts, Services
from serve.metrics import ServeMetrics
from serve.request.parts import EventSink
from serve.settings import GatewaySettings
from serve.student.follow import Versions
from serve.student.slot import Student
from store.control import Control
from store.errors import SettingsError
from store.money.books import Books
from store.redact import redact
from store.registry.versions import Registry


def check_serve(site: Site) -> None:
    """See that all that the settings name for the gateway can be read, before it waits for anything.

    Raises:
        SettingsError: something cannot; the message names every such key, a line each.
    """
    lanes = [section for section in site.settings.lanes if section.task == "classify"]
    every(
        lambda: site.secret,
        lambda: site.registry,
        lambda: log_login(site),
        *(partial(_check_lane, one) for one in lanes),
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
        max_text_chars=gateway.max_text_chars,
        allowed_hosts=port_names(gateway.host, gateway.allowed_hosts),
        allowed_origins=frozenset(origin.lower() for origin in gateway.allowed_origins),
    )


def connections(settings: Settings, metrics: ServeMetrics, files: int) -> Connections:
    """The connections of the gateway's port, as many as `files` leaves room for."""
    teacher_calls = sum(section.teacher.concurrency for section in settings.lanes)
    limits = ConnectionLimits(connections=connection_limit(files, teacher_calls))
    return Connections(limits, metrics.connections, metrics.connections_closed)


def services(site: Site, client: redis.Redis, sink: EventSink, registry: CollectorRegistry) -> Services:
    """Everything the gateway needs; only lanes of `classify` are served."""
    control = Control(client)
    return Services(
        lanes=[_lane_parts(site, client, section) for section in site.settings.lanes if section.task == "classify"],
        sink=sink,
        announce=lambda lane, heartbeat: control.announce(lane, site.replica, heartbeat),
        swaps_path=site.run_directory / "swaps.jsonl",
        metrics=ServeMetrics.create(registry),
        rng=Random(secrets.randbits(128)),  # noqa: S311 - event ids, no secrets
        write=Books(client).write,
    )


def _lane_parts(site: Site, client: redis.Redis, section: LaneSection) -> LaneParts:
    settings = lane_settings(section)
    return LaneParts(
        settings=settings,
        lane_key=site.secret.lane_key(section.lane),
        redact=partial(redact, key=site.secret.redaction_key(section.lane)),
        subject_key=site.secret.subject_key(section.lane),
        audit_key=site.secret.audit_key(section.lane),
        versions=lane_versions(site.registry, section, site.settings),
        ledger=lane_ledger(client, settings),
        spent_path=site.run_directory / f"spent-{section.tenant}.{section.use_case}.json",
        tally_path=site.run_directory / f"tally-{section.tenant}.{section.use_case}.json",
        answers=RedisAnswers(client, section.lane),
    )


def lane_versions(registry: Registry, section: LaneSection, settings: Settings) -> Versions:
    """How the gateway reads a lane's registry."""
    versions, moves = registry.versions(section.lane), registry.moves(section.lane)

    def load(version: str) -> Student:
        import torch  # noqa: PLC0415 - late, as everything that needs it

        from store.student.student import Student as TorchStudent  # noqa: PLC0415

        torch.set_num_threads(settings.trainer.threads)  # as in training: bf16 sums depend on how they are split
        opened = versions.open(version)
        return TorchStudent.load(opened, device=settings.trainer.device, precision=settings.trainer.precision)

    def prepare() -> None:
        import_module("store.student.student")

    return Versions(
        standing=lambda: moves.standing(time.monotonic()),
        size_bytes=lambda version: sum(entry.size_bytes for entry in versions.manifest(version).files.values()),
        load=load,
        available_bytes=lambda: int(psutil.virtual_memory().available),
        prepare=prepare,
    )
