"""When a cycle runs, and what becomes of its verdict: the trainer daemon.

The daemon itself never imports torch; a warm child does the heavy work (trainer.worker). One trainer at a time moves a
lane: the lease is renewed while the child works and once more right before the move.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from store.buffer.ledger import Buffer
from store.control import Control, CycleKind, CycleRequest, Lease
from store.errors import LeaseLostError, MoveConflictError, RegistryError, StoreError, UnderstudyError
from store.event import Lane, wall_clock_s
from store.registry.manifest import Outcome, Verdict
from store.registry.moves import MoveKind, Moves, Standing, fold
from store.registry.signing import SigningKey
from trainer import metrics
from trainer.due import ScheduleSettings, after, due, settle
from trainer.watch import show_promise, show_schedule
from trainer.work import CycleReport, CycleResult, CycleSettings, CycleWork, LaneTraining
from trainer.worker import Worker, WorkerStoppedError

log = structlog.get_logger()

_BACKOFF_S: Final = 30.0
_MAX_BACKOFF_S: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the cycle's process finds things."""

    redis_url: str
    items_per_stratum: int
    registry_root: Path
    trusted_keys: Path
    signing_key: Path
    cache: Path
    cycle_log: Path
    code_version: str


class MovesOf(Protocol):
    """The registry, as far as the schedule needs it."""

    def moves(self, lane: Lane) -> Moves:
        """The chain of moves of a lane."""


@dataclass(slots=True)
class _Patience:
    """Backoff after failed cycles, per lane: one that cannot work must not spin. A look that fails is no cycle."""

    failures: int = 0
    not_before_s: float = 0.0

    def failed(self, now_s: float) -> None:
        self.failures += 1
        self.not_before_s = now_s + min(_BACKOFF_S * 2 ** (self.failures - 1), _MAX_BACKOFF_S)


@dataclass(kw_only=True)
class Trainer:
    """The trainer daemon: looks every tick, runs what is due, moves the champion when the gate lets it."""

    lanes: Sequence[LaneTraining]
    registry: MovesOf
    buffer: Buffer
    control: Control
    key: SigningKey
    worker: Worker
    owner: str  # this process, in the lease
    schedule: ScheduleSettings
    cycle: CycleSettings
    places: Places
    clock: Callable[[], float] = wall_clock_s
    _patience: dict[Lane, _Patience] = field(default_factory=dict)
    _last_tick_s: float = field(default_factory=time.monotonic)
    _looked: bool = False
    _started_s: float = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """A lane that never had a cycle is overdue from the start of this process on."""
        self._started_s = self.clock()

    def run(self, stop: threading.Event) -> None:
        """Look for work every tick until `stop` is set; a cycle in hand is dropped then."""
        self._stop = stop
        self.worker.warm()
        scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        scheduler.add_job(self.tick, "interval", seconds=self.schedule.tick_s, id="tick")
        scheduler.start()
        try:
            stop.wait()
        finally:
            scheduler.shutdown(wait=True)
            self.worker.close()

    def healthy(self) -> bool:
        """Whether the schedule still ticks; a cycle in hand counts, for as long as it may take."""
        return time.monotonic() - self._last_tick_s < self.schedule.cycle_timeout_s + 10 * self.schedule.tick_s

    def ready(self) -> bool:
        """Whether it has looked at every lane once."""
        return self._looked

    def tick(self) -> None:
        """Look at every lane once. An error in one lane does not keep the others waiting."""
        for training in self.lanes:
            if self._stop.is_set():
                return
            try:
                self._look(training)
            except (WorkerStoppedError, LeaseLostError) as error:
                log.warning("cycle dropped", lane=str(training.lane), reason=str(error))
            except (StoreError, RegistryError, UnderstudyError) as error:
                self._failed(training.lane, error)
            except Exception as error:  # noqa: BLE001 - the schedule must outlive whatever one cycle does
                self._failed(training.lane, error)
        self._looked = True
        self._last_tick_s = time.monotonic()
        metrics.LAST_TICK.set(self.clock())

    def _failed(self, lane: Lane, error: Exception) -> None:
        metrics.CYCLE_ERRORS.labels(lane.tenant, lane.use_case).inc()
        wait_s = max(0, round(self._patience[lane].not_before_s - self.clock())) if lane in self._patience else 0
        log.error("cycle failed", lane=str(lane), error=str(error), next_try_s=wait_s)

    def _look(self, training: LaneTraining) -> None:
        lane, now_s = training.lane, self.clock()
        standing = fold(self.registry.moves(lane).read())
        state, items = self.control.training_state(lane), self.buffer.counters(lane).new_items
        show_schedule(training, standing, state, items=items, every_s=self.schedule.every_s, since_s=self._started_s)
        show_promise(training, standing.champion, self.buffer, self.control)
        if now_s < self._patience.setdefault(lane, _Patience()).not_before_s:
            return
        request = self.control.next_cycle_request(lane)
        kind = due(
            standing,
            state,
            items=items,
            labels=len(training.labels),
            request=request,
            now_s=now_s,
            settings=self.schedule,
        )
        if kind is None:
            return
        lease = self.control.acquire(lane, self.owner, self.schedule.lease_s)
        if lease is None:
            return
        try:
            found = self._cycle(training, kind, request, standing, lease)
            self.control.remember(lane, after(state, kind, items=items, label_items=found.label_items, now_s=now_s))
            if request is not None:
                self.control.finish_cycle_request(lane, request)
            self._patience[lane] = _Patience()
        except (WorkerStoppedError, LeaseLostError):
            raise
        except Exception:
            self._patience[lane].failed(self.clock())
            raise
        finally:
            self.control.release(lease)

    def _cycle(
        self, training: LaneTraining, kind: CycleKind, request: CycleRequest | None, before: Standing, lease: Lease
    ) -> CycleResult:
        """Run it, move, and say what it came to."""
        started_s, started = self.clock(), time.monotonic()
        work = self._work(training, kind, request, before, started_s)
        log.info("cycle begins", lane=str(training.lane), cycle=work.cycle_id, kind=kind)
        result: CycleResult = self.worker.run(
            work, timeout_s=self.schedule.cycle_timeout_s, stop=self._stop, tick=self._keeper(lease)
        )
        self.control.renew(lease, self.schedule.lease_s)
        outcome, refusals = self._move(training, work, result, before)
        verdict = result.verdict
        report = CycleReport(
            id=work.cycle_id,
            at_s=started_s,
            seconds=round(time.monotonic() - started, 3),
            lane=str(training.lane),
            kind=kind,
            candidate=work.candidate,
            verdict=outcome,
            refusals=refusals,
            rows_judged=verdict.rows_judged,
            difference=verdict.difference,
            lower=verdict.lower,
            delta=verdict.delta,
            rows_needed=verdict.rows_needed,
            version=result.version,
        )
        self._record(training.lane, report)
        return result

    def _work(
        self, training: LaneTraining, kind: CycleKind, request: CycleRequest | None, standing: Standing, now_s: float
    ) -> CycleWork:
        candidate = None
        if kind == "candidate":
            asked = request.candidate if request is not None else None
            candidate = asked or standing.candidates[0]
        return CycleWork(
            cycle_id=f"{int(now_s * 1000):x}",
            training=training,
            kind=kind,
            candidate=candidate,
            champion=standing.champion,
            anchor=standing.anchor,
            now_s=now_s,
            settings=self.cycle,
            redis_url=self.places.redis_url,
            items_per_stratum=self.places.items_per_stratum,
            registry_root=self.places.registry_root,
            trusted_keys=self.places.trusted_keys,
            signing_key=self.places.signing_key,
            cache=self.places.cache,
            code_version=self.places.code_version,
        )

    def _keeper(self, lease: Lease) -> Callable[[], None]:
        """Renews the lease three times in its life while a cycle runs."""
        renewed = time.monotonic()

        def keep() -> None:
            nonlocal renewed
            if time.monotonic() - renewed >= self.schedule.lease_s / 3:
                self.control.renew(lease, self.schedule.lease_s)
                renewed = time.monotonic()

        return keep

    def _move(
        self, training: LaneTraining, work: CycleWork, result: CycleResult, before: Standing
    ) -> tuple[Outcome, list[str]]:
        """Append what the verdict says; a person's move that came in between is read again and wins."""
        moves = self.registry.moves(training.lane)
        while True:
            history = moves.read()
            outcome, refusals = settle(result, before, fold(history))
            if result.version is None:
                return outcome, refusals
            kind: MoveKind = "promote" if outcome == "pass" else "decline"
            try:
                moves.append(
                    kind,
                    version=result.version,
                    candidate=work.candidate,
                    anchor=outcome == "pass" and result.anchor,
                    who=self.key.name,
                    why=f"{outcome}: {_reason(result.verdict, refusals)}",
                    key=self.key,
                    now_s=self.clock(),
                    expected=len(history) + 1,
                )
            except MoveConflictError:
                continue
            return outcome, refusals

    def _record(self, lane: Lane, report: CycleReport) -> None:
        names = (lane.tenant, lane.use_case)
        metrics.CYCLES.labels(*names, report.kind, report.verdict).inc()
        metrics.CYCLE_SECONDS.labels(*names, report.kind).observe(report.seconds)
        log.info("cycle ended", **dataclasses.asdict(report))
        self.places.cycle_log.parent.mkdir(parents=True, exist_ok=True)
        with self.places.cycle_log.open("ab") as file:
            file.write(msgspec.json.encode(report) + b"\n")


def _reason(verdict: Verdict, refusals: Sequence[str]) -> str:
    return "; ".join(refusals) if refusals else f"{verdict.phase} test on {verdict.rows_judged} rows"
