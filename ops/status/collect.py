"""`understudy status`: where every lane stands, from the registry's files, Redis and the processes themselves.

Each source may be down; what could not be read is null, and `unavailable` says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec
import redis

from ops.checks.cycles import logged_cycles
from ops.checks.probe import ask_process
from ops.checks.redis_standing import standing_of
from ops.money.prices import prices_of
from ops.sections import LaneSection
from ops.site import Site
from ops.state.run_files import read_run_file
from ops.status.answers import AnswersShown, answers_of
from ops.status.report import BudgetShown, BufferShown, LaneStatus, MoveShown, ProcessStatus, PromiseShown, StatusReport
from ops.tasks import TASKS
from store.buffer.ledger import AuditTally, Counters
from store.control import LIVE_S, Control, CycleEnded, Heartbeat
from store.cycles.signs import Signs, TrainerSign
from store.errors import LogError, RegistryError, StoreError
from store.event import Lane
from store.money.books import Books
from store.money.reckon import LaneMoney, reckon, total
from store.policy import Decide, Policy
from store.registry.lineage import Audited
from store.registry.moves import Standing, fold

PROCESSES: Final = ("serve", "ingest", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Live:
    """What Redis says of one lane."""

    beats: Mapping[str, Heartbeat]
    audits: Mapping[str, AuditTally]
    counters: Counters
    cycles: list[CycleEnded]
    answers: AnswersShown | None
    money: LaneMoney
    trainer: TrainerSign | None


def collect(site: Site, sections: list[LaneSection]) -> StatusReport:
    """Ask everything that can be asked; nothing of it raises for a source that is down.

    Raises:
        SettingsError: there are no trusted keys.
    """
    unavailable: list[str] = []
    lives: dict[Lane, _Live] = {}
    lags: dict[str, int] = {}
    dead: dict[str, dict[str, int]] = {}
    warnings: list[str] = []
    try:
        with site.redis_client() as client:
            warnings = standing_of(client).warnings
            for section in sections:
                lives[section.lane] = _live(site, client, section, unavailable)
            for use_case in sorted({section.use_case for section in sections}):
                dead[use_case] = {why: n for why, n in site.buffer(client).open_dead(use_case).items() if n}
            lags = _lags(site, client, sorted(dead), unavailable)
    except StoreError as error:
        unavailable.append(f"Redis: {error}")
    local = {} if lives else local_versions(site)
    processes = [_process(site, name) for name in PROCESSES]
    heard = any(live.beats or live.trainer is not None for live in lives.values())
    return StatusReport(
        lanes=[_lane(site, section, lives.get(section.lane), local, lags, unavailable) for section in sections],
        processes=processes,
        dead_letters=dead,
        unavailable=unavailable,
        warnings=warnings,
        answering=heard or any(process.ready is not None for process in processes),
        money=total(live.money for live in lives.values()) if lives else None,
    )


def local_versions(site: Site) -> dict[str, dict[str, str | None]]:
    """What this machine's gateway says it serves: lane -> replica -> version; empty when it does not run."""
    answer = ask_process(site, read_run_file(site.run_directory, "serve"), "/lanes")
    try:
        return msgspec.json.decode(answer[1], type=dict[str, dict[str, str | None]]) if answer else {}
    except msgspec.MsgspecError:
        return {}


def _live(site: Site, client: redis.Redis, section: LaneSection, unavailable: list[str]) -> _Live:
    control, buffer, lane = Control(client), site.buffer(client), section.lane
    return _Live(
        beats=control.heartbeats(lane, within_s=LIVE_S),
        audits=buffer.audits(lane),
        counters=buffer.counters(lane),
        cycles=control.ended_cycles(lane, 1),
        answers=answers_of(site, client, section, unavailable),
        money=reckon(Books(client).read(lane), prices_of(site.settings, section)),
        trainer=Signs(client).of(lane),
    )


def _lags(site: Site, client: redis.Redis, use_cases: list[str], unavailable: list[str]) -> dict[str, int]:
    """Records that ingest has still to apply, by use case."""
    from ops.checks.lag import partitions  # noqa: PLC0415 - a rollback asks this file for versions alone
    from ops.open_log import open_history  # noqa: PLC0415 - as above

    buffer = site.buffer(client)
    try:
        with open_history(site, client) as history:
            return {
                use_case: sum(one.lag_records for one in partitions(history, use_case, buffer.positions(use_case)))
                for use_case in use_cases
            }
    except LogError as error:
        unavailable.append(f"log: {error}")
        return {}


def _lane(
    site: Site,
    section: LaneSection,
    seen: _Live | None,
    local: Mapping[str, dict[str, str | None]],
    lags: Mapping[str, int],
    unavailable: list[str],
) -> LaneStatus:
    lane = section.lane
    standing = _standing(site, lane, unavailable)
    known = standing or Standing()
    beats = seen.beats if seen else {}
    return LaneStatus(
        lane=str(lane),
        policy=section.policy,
        served={name: beat.version for name, beat in beats.items()} if seen else local.get(str(lane), {}),
        champion=known.champion,
        previous=known.previous,
        anchor=known.anchor,
        pinned=known.pinned,
        paused=known.paused,
        candidates=list(known.candidates),
        moves_ok=standing is not None,
        last_move=None if known.last_move is None else MoveShown.of(known.last_move),
        promise=_promise(site, section, known.champion, seen),
        budget=BudgetShown(
            used=max((beat.budget_used_calls for beat in beats.values()), default=None),
            limit=section.budget.calls_per_day,
        ),
        escalated_ratio=_escalated_ratio(beats),
        buffer=_buffer(seen, lags.get(section.use_case)),
        training_permitted=section.training_permitted,
        unread_ratio=_unread_ratio(beats),
        answers=seen.answers if seen else None,
        last_cycle=next(reversed(seen.cycles if seen else logged_cycles(site, lane)), None),
        trainer=seen.trainer if seen else None,
        money=seen.money if seen else None,
        decides=section.student.decide,
        coverage=_coverage(site, lane, known.champion),
    )


def _coverage(site: Site, lane: Lane, champion: str | None) -> dict[Decide, float]:
    """What deciding early costs: what the champion may answer at each moment that it was calibrated for."""
    if champion is None:
        return {}
    try:
        policy = site.registry.versions(lane).manifest(champion).policy
    except (RegistryError, OSError):
        return {}
    return {} if policy is None else {"end": policy.coverage_ratio, **_early(policy)}


def _early(policy: Policy) -> dict[Decide, float]:
    return {moment: found.coverage_ratio for moment, found in policy.early.items()}


def _standing(site: Site, lane: Lane, unavailable: list[str]) -> Standing | None:
    try:
        return fold(site.registry.moves(lane).read())
    except (RegistryError, OSError) as error:
        unavailable.append(f"moves of {lane}: {error}")
        return None


def _promise(site: Site, section: LaneSection, champion: str | None, seen: _Live | None) -> PromiseShown:
    target = section.promise.target if section.policy == "promise" else None
    if seen is None:
        return PromiseShown(
            target=target,
            state=None,
            estimate=None,
            low=None,
            high=None,
            audits=None,
            audits_short=None,
            agreement=TASKS[section.task].agreement(section),
        )
    from store.promise import promise_state  # noqa: PLC0415 - scipy, half a second that a rollback need not wait for

    tally = Audited(site.registry.versions(section.lane)).of(champion, seen.audits)
    found = promise_state(
        tally.audits,
        tally.agreed,
        section.promise.target,  # where nothing is promised, the guess that the interval starts from
        section.promise.confidence,
        suspended=any(beat.suspended for beat in seen.beats.values()),
    )
    return PromiseShown(
        target=target,
        state=found.state if target is not None else "none",
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        audits=found.n,
        audits_short=found.audits_short if target is not None else None,
        agreement=TASKS[section.task].agreement(section),
    )


def _escalated_ratio(beats: Mapping[str, Heartbeat]) -> float | None:
    requests = sum(beat.recent_requests for beat in beats.values())
    return sum(beat.recent_escalated for beat in beats.values()) / requests if requests else None


def _unread_ratio(beats: Mapping[str, Heartbeat]) -> float | None:
    answers = sum(beat.teacher_answers for beat in beats.values())
    return sum(beat.teacher_unread for beat in beats.values()) / answers if answers else None


def _buffer(seen: _Live | None, lag_records: int | None) -> BufferShown | None:
    if seen is None:
        return None
    counters = seen.counters
    return BufferShown(
        counted=counters.counted,
        repeats=counters.repeats,
        ineligible=counters.ineligible,
        evicted=counters.evicted,
        items_ever=counters.new_items,
        lag_records=lag_records,
    )


def _process(site: Site, name: str) -> ProcessStatus:
    found = read_run_file(site.run_directory, name)
    answer = ask_process(site, found, "/readyz")
    return ProcessStatus(
        name=name,
        pid=found.pid if found else None,
        port=found.port if found else None,
        admin_port=found.admin_port if found else None,
        started_s=found.started_s if found else None,
        ready=answer[0] == HTTPStatus.OK if answer else None,
        why=[line for line in answer[1].decode(errors="replace").splitlines() if line != "ok"] if answer else [],
    )
