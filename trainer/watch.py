"""The live watch of a lane: the promise from its audits, and what the schedule stands at, as gauges."""

from collections.abc import Callable
from typing import Final, get_args

from store.answers.census import STATES, present_census, tell
from store.answers.rules import Drawing
from store.buffer.ledger import Buffer, Counters
from store.control import Control, TrainingState
from store.event import Lane
from store.promise import State, promise_state
from store.registry.lineage import Audited
from store.registry.moves import Standing
from trainer import metrics
from trainer.work import LaneTraining

PROMISE_STATES: Final = get_args(State)


def show_schedule(
    training: LaneTraining, standing: Standing, state: TrainingState, *, items: int, every_s: float, since_s: float
) -> None:
    """Say how the lane's schedule stands.

    Args:
        training: the lane.
        standing: where its moves have led.
        state: what the schedule remembers.
        items: items ever made.
        every_s: the longest time between cycles.
        since_s: Unix time from which a lane that never had a cycle is overdue.
    """
    names = (training.lane.tenant, training.lane.use_case)
    metrics.CYCLE_INTERVAL.labels(*names).set(every_s)
    metrics.FRESH_ITEMS.labels(*names).set(items - state.items_at_cycle)
    metrics.LAST_CYCLE.labels(*names).set(max(state.last_cycle_s, since_s))
    metrics.PINNED.labels(*names).set(standing.pinned)


class AnswersGauge:
    """How the lane's answers are read, as gauges, and in the log at the start and whenever what is to be done changes.

    A count takes seconds where there are a hundred thousand items, and is made anew for a fiftieth of the time.
    """

    def __init__(self, buffer: Buffer, control: Control, *, alive: Callable[[], None]) -> None:
        self._buffer = buffer
        self._control = control
        self._alive = alive
        self._shown: set[str] = set()
        self._told: object = None

    def show(self, lane: Lane, drawing: Drawing, counters: Counters) -> None:
        """Count, if that can have changed, and say it.

        Raises:
            StoreUnavailableError: Redis does not answer.
            CorruptItemError: a stored value was written by another release.
        """
        census = present_census(
            lane, drawing, buffer=self._buffer, control=self._control, counters=counters, alive=self._alive
        )
        for label in self._shown - census.labels.keys():
            for state in STATES:
                metrics.ITEMS.remove(lane.tenant, lane.use_case, label, state)
        self._shown = set(census.labels)
        for label, states in census.labels.items():
            for state in STATES:
                metrics.ITEMS.labels(lane.tenant, lane.use_case, label, state).set(states.get(state, 0))
        wrong = tuple(kind for kind in STATES if kind not in {"fresh", "quarantined"} and census.of(kind))
        if self._told != (census.reading, wrong):
            self._told = (census.reading, wrong)
            tell(lane, census)


def show_promise(
    training: LaneTraining, champion: str | None, buffer: Buffer, control: Control, audited: Audited
) -> None:
    """Say what the audits of the champion, and of versions that answer as it does, prove of the promise."""
    names = (training.lane.tenant, training.lane.use_case)
    tally = audited.of(champion, buffer.audits(training.lane))
    promise = promise_state(
        audits=tally.audits,
        agreed=tally.agreed,
        target=training.target,
        confidence=training.confidence,
        suspended=any(beat.suspended for beat in control.heartbeats(training.lane).values()),
    )
    for name in PROMISE_STATES:
        promised = training.policy == "promise"  # a lane that promises nothing is in no state
        metrics.PROMISE_STATE.labels(*names, name).set(promised and name == promise.state)
    for bound, value in (("estimate", promise.estimate), ("low", promise.low), ("high", promise.high)):
        if value is not None:
            metrics.ANSWERED_AGREEMENT.labels(*names, bound).set(value)
