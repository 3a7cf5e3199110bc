"""The live watch of a lane: the promise from its audits, and what the schedule stands at, as gauges."""

from collections import Counter
from typing import Final, get_args

from store.buffer.ledger import Buffer
from store.control import Control, TrainingState
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


def show_items(training: LaneTraining, buffer: Buffer) -> None:
    """Say how many kept items have an answer under the present prompt, by label; it reads all of them."""
    states = ("fresh", "stale")
    counted = Counter(
        (item.stratum, states[not item.answers(training.prompt_version)]) for item in buffer.items(training.lane)
    )
    for label in {label for label, _ in counted} | set(training.labels):
        for state in states:
            metrics.ITEMS.labels(training.lane.tenant, training.lane.use_case, label, state).set(counted[label, state])


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
