"""Puts the trainer together: its lanes, when a cycle is due, and how one freezes, fits and judges."""

import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Final

import redis

from ops.answers.reading import Reading
from ops.money.prices import prices_of
from ops.sections import LaneSection
from ops.settings import Settings
from ops.site import Site
from ops.tasks import TASKS
from ops.wiring.checks import every
from ops.wiring.office import Office
from ops.wiring.tracing import check_tracing
from store.buffer.repair.lists import Lists
from store.control import Control
from store.cycles.signs import Signs
from store.money.books import Books
from store.student.chat.folder import look_for_decoder
from store.student.folder import find_encoder
from store.tracing.spans import OFF, Tracer
from trainer.daemon.queues import DeviceQueues
from trainer.due import ScheduleSettings
from trainer.judge.gate import GateLimits
from trainer.judge.referee import RefereeEntry
from trainer.schedule import Trainer
from trainer.snapshot import SplitSettings
from trainer.work import CycleSettings, LaneTraining, Places, StudentSettings
from trainer.worker import Worker

CYCLE_ENTRY: Final = "trainer.cycle:work_on"
REFEREE_ENTRY: Final = "ops.wiring.referee:open_referee"
_LEASE_S: Final = 15.0
_TICK_S: Final = 1.0


def check_train(site: Site) -> None:
    """See that all that the settings name for the trainer can be read, before it waits for anything.

    Raises:
        SettingsError: something cannot; the message names every such key, a line each.
    """
    settings = site.settings
    bases = [partial(check_base, settings, section) for section in settings.lanes]
    models = [
        partial(look_for_decoder, section.student.model, f"lanes.student.model of {section.lane}")
        for section in settings.lanes
        if section.training_permitted and section.student.model is not None
    ]
    tracing = partial(check_tracing, site)
    every(lambda: site.registry, site.trainer_key, tracing, settings.encoder_directory, *bases, *models)


def check_base(settings: Settings, section: LaneSection) -> Path:
    """The folder of the encoder that is named for a lane, where the lane's students can stand on it.

    Raises:
        SettingsError: they cannot.
    """
    own = section.student.encoder
    named = "trainer.encoder" if own is None else f"lanes.student.encoder of {section.lane}"
    directory = find_encoder(settings.trainer.encoder if own is None else own, named)
    TASKS[section.task].check_base(directory, named)
    return directory


def trainer(site: Site, client: redis.Redis, owner: str, tracer: Tracer = OFF) -> Trainer:
    """The trainer daemon; lanes whose answers may not be trained on are left out.

    Raises:
        SettingsError: the trainer's key or the encoder is missing.
    """
    settings = site.settings
    settings.encoder_directory()  # said now rather than by the first cycle
    readings = {section.lane: Reading.of(section) for section in settings.lanes}
    rulings = {section.lane: site.registry.rulings(section.lane) for section in settings.lanes}
    return Trainer(
        lanes=[
            replace(
                lane_training(settings, section, readings[section.lane]),
                referee=RefereeEntry(entry=REFEREE_ENTRY, about=Office(section=section, redis_url=site.redis_url()))
                if section.chat.referee == "teacher"
                else None,
            )
            for section in settings.lanes
            if section.training_permitted
        ],
        registry=site.registry,
        buffer=site.buffer(client),
        control=Control(client),
        rules=lambda lane: readings[lane].rules_by(
            rulings[lane].follow(time.monotonic()), Lists(client).held(lane.use_case)
        ),
        signs=Signs(client),
        books=Books(client),
        tracer=tracer,
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


def lane_training(settings: Settings, section: LaneSection, reading: Reading) -> LaneTraining:
    """What the trainer knows of a lane."""
    return LaneTraining(
        lane=section.lane,
        task=section.task,
        prompt_version=reading.key(),
        target=section.promise.target,
        confidence=section.promise.confidence,
        policy=section.policy,
        terms=section.terms(),
        metric=section.metric,
        student=student_settings(section),
        prices=prices_of(settings, section),
    )


def student_settings(section: LaneSection) -> StudentSettings:
    """What a lane says of its own student."""
    own = section.student
    return StudentSettings(
        encoder=None if own.encoder is None else str(own.encoder),
        model=None if own.model is None else str(own.model),
        device=own.device,
        precision=own.precision,
        threads=own.threads,
        max_tokens=own.max_tokens,
        ranks=own.ranks,
        strategy=own.strategy,
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
    """How a cycle freezes, fits and judges."""
    section, gate, split = settings.trainer, settings.gate, settings.split
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
