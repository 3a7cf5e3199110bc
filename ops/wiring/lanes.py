"""A lane as its settings have it, for whoever asks its teacher: the gateway, and the commands that ask again."""

from dataclasses import dataclass
from typing import Literal

import redis

from ops.sections import LaneSection
from ops.settings import Settings, read_api_key, read_prompt
from serve.settings import BudgetSettings, LaneSettings, TeacherSettings
from serve.teacher.ledger import RedisLedger


def teacher_settings(section: LaneSection) -> TeacherSettings:
    """The lane's teacher.

    Raises:
        SettingsError: the prompt or the key's variable is missing.
    """
    teacher, prompt = section.teacher, read_prompt(section)
    return TeacherSettings(
        kind=teacher.kind,
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
        search_usd=teacher.search_usd,
        window_documents=teacher.window_documents,
        proxy=teacher.proxy,
    )


def lane_settings(section: LaneSection) -> LaneSettings:
    """The lane as the gateway sees it; errors as of `teacher_settings`."""
    return LaneSettings(
        lane=section.lane,
        task=section.task,
        terms=section.terms(),
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


def lane_ledger(client: redis.Redis, settings: LaneSettings) -> RedisLedger:
    """What the lane's replicas count their spending in."""
    return RedisLedger(client, settings.lane, settings.budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnStudent:
    """Where and how a lane's student computes: as the lane says, and else as the trainer does."""

    device: str
    precision: Literal["auto", "fp32", "bf16"]
    threads: int


def own_student(section: LaneSection, settings: Settings) -> OwnStudent:
    """The lane's own student."""
    own, usual = section.student, settings.trainer
    return OwnStudent(
        device=own.device or usual.device,
        precision=own.precision or usual.precision,
        threads=own.threads or usual.threads,
    )
