"""When a cycle runs: the trainer daemon.

The daemon itself never imports torch; a warm child does the heavy work (trainer.worker). It looks at every lane each
tick, whatever cycles run; a cycle runs in its device's own thread. One trainer at a time moves a lane: the lease is
renewed while the child works and once more right before the move.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from store.answers.rules import NO_RULES, Rules
from store.buffer.ledger import Buffer
from store.control import Control, CycleKind, CycleRequest, Lease
from store.cycles.signs import Signs
from store.errors import LeaseLostError, StoreUnavailableError, UnknownVersionError
from store.event import Lane, wall_clock_s
from store.faults.points import reach
from store.log.lazy import logger
from store.money.books import Books
from store.registry.lineage import Audited
from store.registry.moves import Moves, Standing, fold
from store.registry.signing import SigningKey
from store.tracing.spans import OFF, Tracer
from trainer import metrics
from trainer.daemon.conduct import Conductor, LaneView, RegistryOf
from trainer.daemon.journal import Journal, summary_of
from trainer.daemon.progress import Beacon
from trainer.daemon.pulse import Age, Pulse, run_ticks
from trainer.daemon.queues import Queues
from trainer.daemon.training_books import TrainingBooks
from trainer.due import ScheduleSettings, due
from trainer.learn.tasks import TASKS
from trainer.news import Stock, items_at_most
from trainer.watch import AnswersGauge, show_promise, show_schedule
from trainer.work import CycleSettings, CycleWork, LaneTraining, Places, settings_of
from trainer.worker import Worker, WorkerStoppedError

log = logger()

_BACKOFF_S: Final = 30.0
_MAX_BACKOFF_S: Final = 1800.0
_AWAY_S: Final = 5.0
_SILENT_S: Final = 60.0  # neither a tick nor a sign from a cycle in hand for so long: the schedule stands still
_NOT_SEEN: Final = "not looked at yet"

Found = TypeVar("Found")


@dataclass(slots=True)
class _Patience:
    """Backoff after failed cycles, per lane: one that cannot work must not spin. A look that fails is no cycle."""

    failures: int = 0
    asked: CycleRequest | None = None  # the request that failed
    not_before_s: float = 0.0  # monotonic

    def failed(self, monotonic_s: float, asked: CycleRequest | None) -> float:
        """Put the next try off by so many seconds."""
        self.failures, self.asked = self.failures + 1, asked
        wait_s = min(_BACKOFF_S * 2.0 ** min(self.failures - 1, 10), _MAX_BACKOFF_S)
        self.not_before_s = monotonic_s + wait_s
        return wait_s

    def put_off(self, monotonic_s: float, asked: CycleRequest | None) -> None:
        """The same without a failure: what the cycle needs was away."""
        self.asked = asked
        self.not_before_s = monotonic_s + _AWAY_S


@dataclass(slots=True, kw_only=True)
class _LaneWatch:
    """What the daemon itself remembers of a lane; a restart forgets it, and nothing is lost."""

    moves: Moves
    stock: Stock
    age: Age  # of the last cycle
    audited: Audited
    answers: AnswersGauge
    patience: _Patience = field(default_factory=_Patience)
    trouble: str | None = _NOT_SEEN  # why it could not be looked at the last time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A cycle that is due."""

    kind: CycleKind
    request: CycleRequest | None  # that it answers
    now_s: float


@dataclass(kw_only=True)
class Trainer:
    """The trainer daemon: looks every tick, runs what is due, moves the champion when the gate lets it."""

    lanes: Sequence[LaneTraining]
    registry: RegistryOf
    buffer: Buffer
    control: Control
    signs: Signs
    books: Books
    key: SigningKey
    queues: Queues
    owner: str  # this process, in the lease
    schedule: ScheduleSettings
    cycle: CycleSettings
    places: Places
    rules: Callable[[Lane], Rules] = lambda _: NO_RULES  # how older answers are read, at each look anew
    tracer: Tracer = OFF
    clock: Callable[[], float] = wall_clock_s
    monotonic: Callable[[], float] = time.monotonic
    _watches: dict[Lane, _LaneWatch] = field(init=False)
    _pulse: Pulse = field(init=False)
    _beacon: Beacon = field(init=False)
    _training_books: TrainingBooks = field(init=False)
    _conductor: Conductor = field(init=False)
    _started_s: float = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """A lane that never had a cycle is overdue from the start of this process on."""
        self._started_s = self.clock()
        self._pulse = Pulse(self.monotonic)
        lanes = [training.lane for training in self.lanes]
        self._beacon = Beacon(
            signs=self.signs, owner=self.owner, lanes=lanes, clock=self.clock, monotonic=self.monotonic
        )
        self._training_books = TrainingBooks(
            self.books, self.lanes, self.places.cycle_log.parent, monotonic=self.monotonic
        )
        self._conductor = Conductor(
            registry=self.registry,
            control=self.control,
            key=self.key,
            schedule=self.schedule,
            cycle=self.cycle,
            places=self.places,
            journal=Journal(path=self.places.cycle_log, control=self.control, tracer=self.tracer),
            beacon=self._beacon,
            alive=self._pulse.beat,
            away=lambda lane, error: self._sees(lane) if error is None else self._blind(lane, error),
            clock=self.clock,
            monotonic=self.monotonic,
        )
        self._watches = {
            training.lane: _LaneWatch(
                moves=self.registry.moves(training.lane),
                stock=Stock(self.buffer, self.control, monotonic=self.monotonic, alive=self._pulse.beat),
                age=Age(self.monotonic),
                audited=Audited(self.registry.versions(training.lane)),
                answers=AnswersGauge(self.buffer, self.control, alive=self._pulse.beat),
            )
            for training in self.lanes
        }
        for lane in self._watches:  # from nought on, or the first error would be no increase
            metrics.CYCLE_ERRORS.labels(lane.tenant, lane.use_case)

    def run(self, stop: threading.Event) -> None:
        """LaneView for work every tick until `stop` is set; a cycle in hand is dropped then."""
        self._stop = stop
        for training in self.lanes:
            self._conductor.sweep(training.lane)
        for device in sorted({self._device(training) for training in self.lanes}):
            self.queues.warm(device)
        try:
            run_ticks(self.tick, tick_s=self.schedule.tick_s, stop=stop, monotonic=self.monotonic, now_s=self.clock)
        finally:
            self.queues.close()
            self._beacon.stop()

    def healthy(self) -> bool:
        """Whether the schedule still ticks; a cycle in hand counts while its worker is waited for."""
        return self._pulse.silent_s < _SILENT_S + 10 * self.schedule.tick_s

    def ready(self) -> bool:
        """Whether every lane could be looked at the last time, which is not long ago; a cycle in hand counts."""
        return self.trouble() is None

    def trouble(self) -> str | None:
        """Why it is not ready, if it is not: Redis or the registry is away, a lane is unseen yet, the ticks stopped."""
        if not self.healthy():
            return f"no sign of life for {self._pulse.silent_s:.0f} s"
        found = [f"{lane}: {watch.trouble}" for lane, watch in self._watches.items() if watch.trouble is not None]
        return "; ".join(found) or None

    def tick(self) -> None:
        """LaneView at every lane once. An error in one lane does not keep the others waiting."""
        self._pulse.beat()
        self._beacon.give()
        self._training_books.show()
        looks: dict[Lane, LaneView] = {}
        for training in self.lanes:  # all of them are shown before any cycle, which may take an hour
            if (look := self._attempt(training, self._see)) is not None:
                looks[training.lane] = look
            self._pulse.beat()
        for training in self.lanes:
            if self._stop.is_set():
                return
            if training.lane in looks and not self.queues.busy(training.lane):
                self._attempt(training, partial(self._look, looks[training.lane]))
            self._pulse.beat()
        if all(watch.trouble is None for watch in self._watches.values()):
            metrics.LAST_TICK.set(self.clock())

    def _attempt(self, training: LaneTraining, look: Callable[[LaneTraining], Found]) -> Found | None:
        """LaneView at a lane by today's rules, and keep why that could not be done."""
        try:
            return look(replace(training, readings=self.rules(training.lane)))
        except (WorkerStoppedError, LeaseLostError) as error:
            log.warning("cycle dropped", lane=str(training.lane), reason=str(error))
        except Exception as error:  # noqa: BLE001 - the schedule must outlive whatever one lane does
            self._blind(training.lane, error)
        return None

    def _blind(self, lane: Lane, error: Exception) -> None:
        """A lane cannot be looked at: no cycle has failed, and it is said once for each kind of reason."""
        away = isinstance(error, StoreUnavailableError)
        trouble = f"waiting for Redis: {error}" if away else summary_of(error)
        watch = self._watches[lane]
        if watch.trouble is None or watch.trouble.partition(":")[0] != trouble.partition(":")[0]:
            log.warning("a lane cannot be looked at", lane=str(lane), why=trouble, exc_info=None if away else error)
        watch.trouble = trouble
        metrics.BLIND.labels(lane.tenant, lane.use_case).set(1)

    def _sees(self, lane: Lane) -> None:
        watch = self._watches[lane]
        if watch.trouble not in {None, _NOT_SEEN}:
            log.info("the lane can be looked at again", lane=str(lane))
        watch.trouble = None
        metrics.BLIND.labels(lane.tenant, lane.use_case).set(0)

    def _read(self, training: LaneTraining, standing: Standing) -> LaneView:
        """Where a lane stands, by moves that were read just now."""
        lane = training.lane
        return LaneView(
            standing=standing,
            state=self.control.training_state(lane),
            counters=self.buffer.counters(lane),
            unfinished=self.control.ending(lane) is not None,
        )

    def _see(self, training: LaneTraining) -> LaneView:
        """Read where a lane stands, and show it."""
        watch = self._watches[training.lane]
        look = self._read(training, watch.moves.standing(self.monotonic()))
        standing, state, counters = look.standing, look.state, look.counters
        drawing = self._conductor.drawing(training, self.clock())
        known = watch.stock.known(state, counters, drawing.digest)
        show_schedule(training, standing, state, items=known, every_s=self.schedule.every_s, since_s=self._started_s)
        show_promise(training, standing.champion, self.buffer, self.control, watch.audited)
        watch.answers.show(training.lane, drawing, counters)
        self._sees(training.lane)
        return look

    def _wanted(self, training: LaneTraining, look: LaneView) -> _Wanted | None:
        """The cycle that is due now."""
        lane, watch = training.lane, self._watches[training.lane]
        request = self.control.next_cycle_request(lane)
        if self.monotonic() < watch.patience.not_before_s and request in {None, watch.patience.asked}:
            return None  # who has asked since then knows better: there is room again, say
        now_s = self.clock()
        kind = self._due(training, look, request, now_s)
        if kind is None or (request is None and kind != "candidate" and self.signs.importing(lane)):
            return None  # of half an import a head would be made in vain, and a fine-tuning keeps the rest waiting
        return _Wanted(kind=kind, request=request, now_s=now_s)

    def _device(self, training: LaneTraining) -> str:
        return settings_of(training, self.cycle).device

    def _look(self, look: LaneView, training: LaneTraining) -> None:
        """Have the cycle of a lane run that is due, or finished that was cut short, when its device is free."""
        if look.unfinished or self._wanted(training, look) is not None:
            self.queues.put(
                self._device(training),
                training.lane,
                lambda worker: self._attempt(training, partial(self._run_due, worker)),
            )

    def _run_due(self, worker: Worker, training: LaneTraining) -> None:
        """Run what is due once the lane is ours: while it waited, another trainer may have had it, or a person."""
        lane = training.lane
        if self._stop.is_set():
            return
        lease = self.control.acquire(lane, self.owner, self.schedule.lease_s)
        if lease is None:
            return
        begun_s = self.monotonic()
        reach("cycle.leased")
        try:
            self._conductor.resume(lane)
            look = self._read(training, fold(self.registry.moves(lane).read()))
            wanted = self._wanted(training, look)
            if wanted is None:
                return
            self._sees(lane)  # it was, and whatever comes of the cycle is another matter
            work = self._conductor.work(training, wanted.kind, wanted.request, look.standing, wanted.now_s)
            self._cycle(training, work, look, wanted.request, lease, worker)
        finally:
            self._beacon.end(lane)
            self._training_books.trained(lane, self.monotonic() - begun_s)
            with suppress(StoreUnavailableError):
                self.control.release(lease)

    def _cycle(
        self,
        training: LaneTraining,
        work: CycleWork,
        look: LaneView,
        request: CycleRequest | None,
        lease: Lease,
        worker: Worker,
    ) -> None:
        """Run a cycle; one that fails is written down and tried again, one that has nothing to judge is not."""
        lane, watch, started_s = training.lane, self._watches[training.lane], self.monotonic()
        if work.kind == "candidate" and work.candidate is None:
            error = UnknownVersionError("no candidate is waiting to be judged")
            self._conductor.failed(work, error, seconds=0.0, next_try_in_s=None)
            if request is not None:
                self.control.finish_cycle_request(lane, request)
            return
        try:
            self._conductor.run(training, work, look, request, watch.stock, lease, worker, self._stop)
            watch.age.since(work.now_s, self.clock())  # known from now on, before anybody sets the clock
            watch.patience = _Patience()
        except (WorkerStoppedError, LeaseLostError):
            self._conductor.sweep(lane)
            raise
        except StoreUnavailableError:  # no cycle failed: it is begun anew when Redis is back
            watch.patience.put_off(self.monotonic(), request)
            self._conductor.sweep(lane)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is written down, and tried again
            seconds, wait_s = self.monotonic() - started_s, watch.patience.failed(self.monotonic(), request)
            self._conductor.failed(work, error, seconds=seconds, next_try_in_s=wait_s)

    def _due(
        self, training: LaneTraining, look: LaneView, request: CycleRequest | None, now_s: float
    ) -> CycleKind | None:
        """What is due: first by what there may be at most, then by what there is."""
        lane, watch, state = training.lane, self._watches[training.lane], look.state
        counters = look.counters
        aged_s = state.last_cycle_s + watch.age.since(state.last_cycle_s, now_s) if state.last_cycle_s else now_s

        def kind(items: int) -> CycleKind | None:
            return due(
                look.standing,
                state,
                items=items,
                labels=len(training.labels),
                request=request,
                now_s=aged_s,
                settings=self.schedule,
                ripe=TASKS[training.task].ripe,
            )

        drawing = self._conductor.drawing(training, now_s)
        found = kind(items_at_most(state, counters, drawing.digest))
        if found is None or request is not None or found == "candidate":
            return found
        return kind(watch.stock.items(lane, drawing, state, counters))
