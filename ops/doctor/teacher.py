"""Is the teacher there, and is its key good? One small question to each endpoint, paid like any other."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, assert_never
from uuid import uuid4

from ops.doctor.finding import Finding, Visit
from ops.money.dollars import usd
from ops.sections import LaneSection
from ops.site import Site
from ops.wiring.lanes import lane_settings
from serve.settings import LaneSettings
from serve.tasks.tasks import TASKS as FACES
from serve.teacher.ask.tasks import asking_of
from serve.teacher.client import Answered, Invalid, Reply, Teacher, Unavailable
from serve.teacher.faults import FaultReason
from store.errors import SettingsError, StoreError
from store.money.books import Books
from store.money.deeds import call_of
from store.money.tally import Tally

_CHECK: Final = "teacher"
_MENDS: Final[dict[FaultReason, str]] = {
    "key": "export {variable}=…",
    "model": "lanes.teacher.model = …",
    "address": "lanes.teacher.base_url = …",
    "parameters": "lanes.teacher.parameters = {{}}",
    "quota": "raise the quota with the provider",
}


def teacher(visit: Visit) -> Iterator[Finding]:
    """Ask each endpoint once; lanes that share model, address and key share the call."""
    seen: dict[object, str] = {}
    for section in visit.site.settings.lanes:
        one, lane = section.teacher, str(section.lane)
        same = (one.kind, one.base_url, one.model, one.api_key_env, repr(one.parameters), one.proxy, section.task)
        if not visit.ask_teacher:
            why = f"{one.model} at {one.base_url} was not asked: --no-teacher"
            yield Finding(check=_CHECK, level="not_checked", why=why, mend="understudy doctor", lane=lane)
        elif same in seen:
            why = f"{one.model} at {one.base_url}: as for {seen[same]}, nothing was paid"
            yield Finding(check=_CHECK, level="ok", why=why, lane=lane)
        else:
            seen[same] = lane
            yield _asked(visit.site, section)


def _asked(site: Site, section: LaneSection) -> Finding:
    lane, where = str(section.lane), f"{section.teacher.model} at {section.teacher.base_url}"
    try:
        settings = lane_settings(section)
    except SettingsError as error:
        return Finding(check=_CHECK, level="fault", why=str(error), mend="understudy doctor --no-teacher", lane=lane)
    started_s = time.monotonic()
    reply, bound_usd, refused = asyncio.run(_ask(settings))
    took = f"in {time.monotonic() - started_s:.1f} s"
    match reply:
        case Answered(answer=answer):
            paid = _booked(site, section, answer.cost_usd, bounded=not answer.usage.prompt_tokens)
            return Finding(check=_CHECK, level="ok", why=f"{where} answered {took}; {paid}", lane=lane)
        case Invalid(detail=detail, cost_usd=cost_usd, usage=usage):
            paid = _booked(site, section, cost_usd, bounded=not usage.prompt_tokens)
            why = f"{where} answered {took}, and with nothing that the lane takes ({detail}); {paid}"
            return Finding(check=_CHECK, level="warning", why=why, mend="lanes.teacher.prompt_file", lane=lane)
        case Unavailable(detail=detail, billed=billed):
            paid = _booked(site, section, bound_usd, bounded=True) if billed else "nothing was paid"
            mend = (
                _MENDS[refused].format(variable=section.teacher.api_key_env)
                if refused
                else f"curl -sv {section.teacher.base_url}"
            )
            return Finding(check=_CHECK, level="fault", why=f"{where}: {detail}; {paid}", mend=mend, lane=lane)
        case _:
            assert_never(reply)


async def _ask(settings: LaneSettings) -> tuple[Reply, float, FaultReason | None]:
    """One call, never sent again: the reply, what it can cost at most, and what of our settings is refused."""
    once = replace(settings, teacher=replace(settings.teacher, attempts=1))
    asked, question = Teacher(once.teacher, asking_of(once), monotonic=time.monotonic), FACES[settings.task].sample
    try:
        return await asked.ask(question), asked.cost_bound_usd(question), asked.refused
    finally:
        await asked.close()


def _booked(site: Site, section: LaneSection, cost_usd: float, *, bounded: bool) -> str:
    """Write the call into the lane's books; what it cost, in words."""
    price = f"{usd(cost_usd)} {'at most ' if bounded else ''}by the lane's prices"
    tally = Tally(lambda: uuid4().hex)
    tally.add(call_of(cost_usd, bounded=bounded))
    try:
        with site.redis_client() as client:
            tally.flush(Books(client).write, section.lane)
    except StoreError:
        return f"one call, {price}, which is in no books: Redis does not answer"
    return f"one call, {price}"
