"""Fills the rooms' records from the settings and puts their parts together. What imports torch is imported late."""

import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version as installed_version
from random import Random
from typing import Final

import psutil
import redis
from prometheus_client import CollectorRegistry

from ops.answers.reading import Reading
from ops.brokers.kafka import kafka_settings
from ops.money.prices import prices_of
from ops.open_log import remaker
from ops.processes.limits import connection_limit
from ops.sections import LaneSection
from ops.settings import Settings, read_api_key, read_prompt
from ops.site import Site
from serve.front.admission import host_name
from serve.front.connections import ConnectionLimits, Connections
from serve.front.kept import RedisAnswers
from serve.lifecycle import LaneParts, Services
from serve.metrics import ServeMetrics
from serve.request.parts import EventSink
from serve.settings import BudgetSettings, GatewaySettings, LaneSettings, TeacherSettings
from serve.student.follow import Versions
from serve.student.slot import Student
from serve.teacher.budget import RedisLedger
from store.buffer.ledger import Buffer, Claim, Slot
from store.buffer.repair.lists import LabelList, Lists, ListsHeld
from store.control import Control
from store.cycles.signs import Signs
from store.errors import RegistryError, SettingsError, StoreUnavailableError
from store.event import Lane, wall_clock_s
from store.log.lazy import logger
from store.money.books import Books
from store.redact import redact
from store.registry.moves import fold
from store.registry.versions import Registry
from stream.embedded.log import EmbeddedLog
from stream.ingest import Ingest, IngestSettings, LaneKeys
from stream.kafka.source import KafkaSource
from stream.log import Appender, Source, topic_of
from stream.metrics import IngestMetrics
from trainer.daemon.queues import DeviceQueues
from trainer.due import ScheduleSettings
from trainer.judge.gate import GateLimits
from trainer.schedule import Trainer
from trainer.snapshot import SplitSettings
from trainer.work import CycleSettings, LaneTraining, Places, StudentSettings
from trainer.worker import Worker

_log = logger(__name__)
CYCLE_ENTRY: Final = "trainer.cycle:work_on"
_LEASE_S: Final = 15.0
_TICK_S: Final = 1.0


def teacher_settings(section: LaneSection) -> TeacherSettings:
    """The lane's teacher.

    Raises:
        SettingsError: the prompt or the key's variable is missing.
    """
    teacher, prompt = section.teacher, read_prompt(section)
    return TeacherSettings(
        base_url=teacher.base_url,
        model=teacher.model,
        prompt=prompt,
        parameters=teacher.parameters,
        answer_format=teacher.parser,
        api_key=read_api_key(section) or "none",
        timeout_s=teacher.timeout_s,
        concurrency=teacher.concurrency,
        input_usd_per_mtok=teacher.input_usd_per_mtok,
        output_usd_per_mtok=teacher.output_usd_per_mtok,
        proxy=teacher.proxy,
    )


def lane_settings(section: LaneSection) -> LaneSettings:
    """The lane as the gateway sees it; errors as of `teacher_settings`."""
    return LaneSettings(
        lane=section.lane,
        labels=section.labels,
        training_permitted=section.training_permitted,
        teacher=teacher_settings(section),
        budget=BudgetSettings(
            calls_per_day=section.budget.calls_per_day,
            usd_per_day=section.budget.usd_per_day,
            audit_reserve_ratio=section.budget.audit_reserve_ratio,
        ),
        policy=section.policy,
        metric=section.metric,
        rows_per_day=section.rows_per_day,
        audit_ratio=section.audit_ratio,
        api_keys=section.api_keys,
    )


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


def port_names(host: str, allowed: tuple[str, ...]) -> frozenset[str]:
    """The names that a port may be called by: as it is configured, and the machine's own."""
    return frozenset(host_name(name) for name in (host, socket.gethostname(), *allowed) if name)


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


def lane_ledger(client: redis.Redis, settings: LaneSettings) -> RedisLedger:
    """What the lane's replicas count their spending in."""
    return RedisLedger(client, settings.lane, settings.budget)


def check_serve(site: Site) -> None:
    """See that all that the settings name for the gateway can be read, before it waits for anything.

    Raises:
        SettingsError: something cannot; the message names every such key, a line each.
    """
    lanes = [section for section in site.settings.lanes if section.task == "classify"]
    _all_of(
        lambda: site.secret,
        lambda: site.registry,
        lambda: _log_login(site),
        *(partial(_check_lane, one) for one in lanes),
    )


def check_ingest(site: Site) -> None:
    """The same for ingest."""
    _all_of(lambda: site.secret, lambda: _log_login(site))


def check_train(site: Site) -> None:
    """The same for the trainer."""
    _all_of(lambda: site.registry, site.trainer_key, lambda: cycle_settings(site.settings))


def check_all(site: Site) -> None:
    """The same for all of them at once."""
    _all_of(*(partial(check, site) for check in (check_ingest, check_train, check_serve)))


def _all_of(*checks: Callable[[], object]) -> None:
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except SettingsError as error:
            problems += str(error).splitlines()
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(problems)))


def _check_lane(section: LaneSection) -> None:
    try:
        lane_settings(section)
    except SettingsError as error:
        name = str(section.lane)
        message = str(error) if name in str(error) else f"{error} (of {name})"
        raise SettingsError(message) from error


def _log_login(site: Site) -> None:
    if site.settings.log.kind == "kafka":
        kafka_settings(site)


def lane_versions(registry: Registry, section: LaneSection, settings: Settings) -> Versions:
    """How the gateway reads a lane's registry."""
    versions, moves = registry.versions(section.lane), registry.moves(section.lane)

    def load(version: str) -> Student:
        import torch  # noqa: PLC0415 - late, as everything that needs it

        from store.student.classify import Student as TorchStudent  # noqa: PLC0415

        torch.set_num_threads(settings.trainer.threads)  # as in training: bf16 sums depend on how they are split
        opened = versions.open(version)
        return TorchStudent.load(opened, device=settings.trainer.device, precision=settings.trainer.precision)

    def prepare() -> None:
        import_module("store.student.classify")

    return Versions(
        standing=lambda: fold(moves.read()),
        size_bytes=lambda version: sum(entry.size_bytes for entry in versions.manifest(version).files.values()),
        load=load,
        available_bytes=lambda: int(psutil.virtual_memory().available),
        prepare=prepare,
    )


def student_settings(section: LaneSection) -> StudentSettings:
    """What a lane says of its own student."""
    own = section.student
    return StudentSettings(
        encoder=None if own.encoder is None else str(own.encoder),
        device=own.device,
        precision=own.precision,
        threads=own.threads,
        max_tokens=own.max_tokens,
    )


def ingest(
    site: Site, client: redis.Redis, appender: Appender, use_case: str, owner: str, metrics: IngestMetrics
) -> Ingest:
    """One use case's ingest loop."""
    buffer, lanes = site.buffer(client), lane_keys(site, use_case, _lists_held(client, use_case))
    return Ingest(
        _source(site, client, buffer, use_case, owner, lanes),
        buffer,
        appender,
        use_case=use_case,
        lanes=lanes,
        secret=site.secret,
        settings=IngestSettings(),
        metrics=metrics,
        rng=Random(secrets.randbits(128)),  # noqa: S311 - jitter
    )


def lane_keys(site: Site, use_case: str, held: Sequence[ListsHeld] = ()) -> dict[Lane, LaneKeys]:
    """What ingest has to know of the lanes of a use case; `held` as of `Reading.rules`."""
    return {
        section.lane: LaneKeys(
            lane_key=site.secret.lane_key(section.lane),
            redaction_key=site.secret.redaction_key(section.lane),
            subject_key=site.secret.subject_key(section.lane),
            task=section.task,
            training_permitted=section.training_permitted,
            terms=section.terms(_earlier_labels(site, section.lane)),
            prompts=_counting(site, section, held),
        )
        for section in site.settings.lanes
        if section.use_case == use_case
    }


def _counting(site: Site, section: LaneSection, held: Sequence[ListsHeld]) -> tuple[str, ...]:
    """Under what answers of the lane count, the present prompt first; none where ingest cannot tell."""
    try:
        reading = Reading.of(section)
        return (reading.key(), *sorted(reading.rules(site, held).prompts - {reading.key()}))
    except (RegistryError, SettingsError, OSError):
        return ()


def _lists_held(client: redis.Redis, use_case: str) -> list[ListsHeld]:
    """None while Redis does not answer: ingest then warns of answers that count, and keeps them all the same."""
    try:
        return Lists(client).held(use_case)
    except StoreUnavailableError:
        return []


def _earlier_labels(site: Site, lane: Lane) -> tuple[str, ...]:
    """Labels that rulings tell of; none where they cannot be read: their events are dead letters then."""
    try:
        return site.rules(lane).earlier
    except (RegistryError, SettingsError, OSError) as error:
        _log.error("rulings cannot be read: labels that they tell of are off the list", lane=str(lane), why=str(error))
        return ()


def _source(
    site: Site, client: redis.Redis, buffer: Buffer, use_case: str, owner: str, lanes: Mapping[Lane, LaneKeys]
) -> Source:
    topic, lists = topic_of(use_case), Lists(client)
    read_by = {lane: LabelList.of(keys.terms) for lane, keys in lanes.items()}

    def claim(slot: Slot) -> Claim:
        claimed = buffer.claim(use_case, slot, owner)
        lists.note(use_case, slot, claimed, read_by, now_s=wall_clock_s())  # before anything is applied under it
        return claimed

    remake = remaker(site, client)
    if site.settings.log.kind == "kafka":
        return KafkaSource(kafka_settings(site), topic, claim, remake=remake)
    lease_s = site.settings.log.lease_s
    return EmbeddedLog(client).source(topic, owner=owner, claim=claim, lease_s=lease_s, remake=remake)


def trainer(site: Site, client: redis.Redis, owner: str) -> Trainer:
    """The trainer daemon; lanes whose answers may not be trained on are left out.

    Raises:
        SettingsError: the trainer's key or the encoder is missing.
    """
    settings = site.settings
    readings = {section.lane: Reading.of(section) for section in settings.lanes if section.task == "classify"}
    return Trainer(
        lanes=[
            LaneTraining(
                lane=section.lane,
                task=section.task,
                prompt_version=readings[section.lane].key(),
                target=section.promise.target,
                confidence=section.promise.confidence,
                policy=section.policy,
                terms=section.terms(),
                metric=section.metric,
                student=student_settings(section),
                prices=prices_of(settings, section),
            )
            for section in settings.lanes
            if section.task == "classify" and section.training_permitted
        ],
        registry=site.registry,
        buffer=site.buffer(client),
        control=Control(client),
        rules=lambda lane: readings[lane].rules(site, Lists(client).held(lane.use_case)),
        signs=Signs(client),
        books=Books(client),
        key=site.trainer_key(),
        queues=DeviceQueues(lambda: Worker(CYCLE_ENTRY)),
        owner=owner,
        schedule=schedule_settings(settings),
        cycle=cycle_settings(settings),
        places=Places(
            redis_url=site.redis_url(),
            items_per_stratum=settings.buffer.items_per_stratum,
            registry_root=site.registry_root,
            trusted_keys=settings.keys.trusted,
            signing_key=settings.keys.trainer,
            cache=settings.state_dir / "cache",
            cycle_log=site.run_directory / "cycles.jsonl",
            code_version=installed_version("understudy"),
        ),
    )


def schedule_settings(settings: Settings) -> ScheduleSettings:
    """When a cycle is due."""
    section = settings.trainer
    return ScheduleSettings(
        tick_s=_TICK_S,
        every_s=section.every_s,
        min_new_labels=section.min_new_labels,
        growth_ratio=section.growth_ratio,
        fine_tune=section.fine_tune,
        fine_tune_growth_ratio=section.fine_tune_growth_ratio,
        lease_s=_LEASE_S,
        cycle_timeout_s=section.cycle_timeout_s,
        head_first=True,
    )


def cycle_settings(settings: Settings) -> CycleSettings:
    """How a cycle freezes, fits and judges.

    Raises:
        SettingsError: there is no encoder.
    """
    section, gate, split = settings.trainer, settings.gate, settings.split
    settings.encoder_directory()  # said now rather than by the first cycle
    return CycleSettings(
        encoder=str(section.encoder),
        device=section.device,
        precision=section.precision,
        threads=section.threads,
        max_tokens=section.max_tokens,
        seed=section.seed,
        min_items_per_label=section.min_items_per_label,
        quarantine_s=section.quarantine_s,
        novelty_quantile=section.novelty_quantile,
        split=SplitSettings(salt=split.salt, calibrate_ratio=split.calibrate_ratio, judge_ratio=split.judge_ratio),
        limits=GateLimits(
            delta=gate.delta,
            min_rows=gate.min_rows,
            alpha=gate.alpha,
            growth_factor=gate.growth_factor,
            seed=section.seed,
        ),
    )
