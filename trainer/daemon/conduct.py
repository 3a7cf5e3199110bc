"""One cycle as the daemon conducts it: its work, the lease kept meanwhile, the move, what is remembered of it."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from store.answers.rules import Drawing
from store.buffer.ledger import Counters
from store.control import Control, CycleEnded, CycleKind, CycleRequest, Lease, TrainingState
from store.errors import MoveConflictError, StoreUnavailableError
from store.event import Lane, wall_clock_s
from store.faults.points import reach
from store.log.lazy import logger
from store.registry.files.durable import clear_away
from store.registry.manifest import Verdict
from store.registry.moves import MoveKind, Moves, Standing, fold
from store.registry.signing import SigningKey
from store.registry.versions import Versions
from trainer.daemon.ending import Ending, Endings, learned, report_of
from trainer.daemon.journal import Journal, summary_of
from trainer.daemon.progress import Beacon, Progress, earlier_seconds
from trainer.due import ScheduleSettings, settle
from trainer.news import Stock
from trainer.work import (
    CycleReport,
    CycleResult,
    CycleSettings,
    CycleWork,
    LaneTraining,
    Places,
    draft_folder,
    drawing_of,
    settings_of,
)
from trainer.worker import Worker

log = logger()


class RegistryOf(Protocol):
    """The registry, as far as the schedule needs it."""

    def moves(self, lane: Lane) -> Moves:
        """The chain of moves of a lane."""

    def versions(self, lane: Lane) -> Versions:
        """The versions of a lane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView:
    """What one look at a lane has found."""

    standing: Standing
    state: TrainingState
    counters: Counters
    unfinished: bool = False  # a cycle has moved, and not all that follows was done


@dataclass(kw_only=True)
class Conductor:
    """Runs cycles, one at a time in each device's thread."""

    registry: RegistryOf
    control: Control
    key: SigningKey
    schedule: ScheduleSettings
    cycle: CycleSettings
    places: Places
    journal: Journal
    beacon: Beacon
    alive: Callable[[], None]  # told that the schedule lives, several times a second
    away: Callable[[Lane, Exception | None], None]  # told that Redis is away in the middle of a cycle, or is back
    clock: Callable[[], float] = wall_clock_s
    monotonic: Callable[[], float] = time.monotonic
    _begun: int = 0
    _endings: Endings = field(init=False)

    def __post_init__(self) -> None:
        """Cycles end by the same registry and journal."""
        self._endings = Endings(registry=self.registry, control=self.control, journal=self.journal)

    def drawing(self, training: LaneTraining, now_s: float) -> Drawing:
        """What a cycle draws at this time."""
        return drawing_of(training, self.cycle, now_s)

    def run(
        self,
        training: LaneTraining,
        work: CycleWork,
        look: LaneView,
        request: CycleRequest | None,
        stock: Stock,
        lease: Lease,
        worker: Worker,
        stop: threading.Event,
    ) -> None:
        """Run it, move, say what it came to, remember it, and answer the request for it.

        Raises:
            WorkerStoppedError, LeaseLostError: it was dropped, and nothing moved.
            StoreUnavailableError: Redis is away: when that is back, it is begun anew, or finished if it had moved.
        """
        lane, started_s = training.lane, self.monotonic()
        log.info("cycle begins", lane=str(lane), cycle=work.cycle_id, kind=work.kind)
        drawing = self.drawing(training, work.now_s)
        seen = None if work.kind == "candidate" else stock.seen(lane, drawing, look.state, look.counters)
        self.beacon.begin(lane, self._progress(work, started_s))
        result: CycleResult = worker.run(
            work,
            timeout_s=self.schedule.cycle_timeout_s,
            stop=stop,
            tick=self._keeper(lane, lease),
            told=lambda stage, done: self.beacon.told(lane, stage, done),
        )
        self.control.renew(lease, self.schedule.lease_s)
        reach("cycle.judged")
        state, drawn = learned(work, look.state, result, seen)
        ending = self._move(work, result, look.standing, state, drawn, request, started_s)
        self._endings.finish(lane, ending)

    def resume(self, lane: Lane) -> None:
        """Finish what is left of a cycle whose move was made; errors as of `Endings.resume`."""
        self._endings.resume(lane)

    def failed(self, work: CycleWork, error: Exception, *, seconds: float, next_try_in_s: float | None) -> None:
        """A cycle ended in an error: what it left is removed, and everybody is told; None: it is not tried again."""
        lane = work.training.lane
        self.sweep(lane)
        report = CycleReport(
            id=work.cycle_id,
            at_s=work.now_s,
            seconds=round(seconds, 3),
            lane=str(lane),
            kind=work.kind,
            candidate=work.candidate,
            verdict="error",
            refusals=[summary_of(error)],
            rows_judged=0,
            difference=None,
            lower=None,
            delta=self.cycle.limits.delta,
            rows_needed=0,
            version=None,
            next_try_s=None if next_try_in_s is None else self.clock() + next_try_in_s,
            request=work.request,
        )
        self.journal.failed(lane, report, error, next_try_in_s=next_try_in_s)

    def sweep(self, lane: Lane) -> None:
        """Remove the draft that a cycle which did not come to its end may have left."""
        clear_away(draft_folder(self.places.cache, lane))

    def work(
        self, training: LaneTraining, kind: CycleKind, request: CycleRequest | None, standing: Standing, now_s: float
    ) -> CycleWork:
        """What the cycle's process is handed."""
        candidate = None
        self._begun += 1
        if kind == "candidate":
            asked = request.candidate if request is not None else None
            candidate = asked or next(iter(standing.candidates), None)
        return CycleWork(
            cycle_id=f"{int(now_s * 1000):x}-{self._begun}",  # a clock that was set back would give an id again
            training=training,
            kind=kind,
            candidate=candidate,  # None: there is none to judge
            request=request.id if request is not None else "",
            champion=standing.champion,
            anchor=standing.anchor,
            now_s=now_s,
            settings=settings_of(training, self.cycle),
            redis_url=self.places.redis_url,
            items_per_stratum=self.places.items_per_stratum,
            registry_root=self.places.registry_root,
            trusted_keys=self.places.trusted_keys,
            signing_key=self.places.signing_key,
            cache=self.places.cache,
            code_version=self.places.code_version,
        )

    def _progress(self, work: CycleWork, started_s: float) -> Progress:
        ended = list[CycleEnded]()
        with suppress(StoreUnavailableError):
            ended = self.control.ended_cycles(work.training.lane)
        return Progress(
            id=work.cycle_id,
            kind=work.kind,
            at_s=work.now_s,
            request=work.request,
            started_s=started_s,
            earlier_s=earlier_seconds(ended, work.kind),
        )

    def _keeper(self, lane: Lane, lease: Lease) -> Callable[[], None]:
        """Renews the lease three times in its life while a cycle runs; whether it still is ours is seen at the end.

        A Redis that is away for a moment need not cost the work of minutes: nothing moves before the last renewal.
        """
        renewed = self.monotonic()

        def keep() -> None:
            nonlocal renewed
            self.alive()
            self.beacon.give()
            if self.monotonic() - renewed < self.schedule.lease_s / 3:
                return
            renewed = self.monotonic()
            try:
                self.control.renew(lease, self.schedule.lease_s)
            except StoreUnavailableError as error:
                self.away(lane, error)
            else:
                self.away(lane, None)

        return keep

    def _move(
        self,
        work: CycleWork,
        result: CycleResult,
        before: Standing,
        state: TrainingState,
        drawn: bytes | None,
        request: CycleRequest | None,
        started_s: float,
    ) -> Ending:
        """Append what the verdict says; a person's move that came in between is read again and wins."""
        lane = work.training.lane
        moves = self.registry.moves(lane)
        while True:
            history = moves.read()
            outcome, refusals = settle(result, before, fold(history))
            ending = Ending(
                report=report_of(work, result, outcome, refusals, seconds=self.monotonic() - started_s),
                number=len(history) + 1,
                state=state,
                drawn=drawn,
                request=request,
            )
            self._endings.note(lane, ending)
            if result.version is None:
                return ending
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
                    expected=ending.number,
                )
            except MoveConflictError:
                continue
            reach("cycle.moved")
            return ending


def _reason(verdict: Verdict, refusals: Sequence[str]) -> str:
    return "; ".join(refusals) if refusals else f"{verdict.phase} test on {verdict.rows_judged} rows"
