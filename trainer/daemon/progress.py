"""How far the cycle in hand has come, and about how long it will take: what the lanes' signs say every second."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from store.control import CycleEnded, CycleKind
from store.cycles.signs import CycleRunning, LeftBy, Signs, Stage, TrainerSign
from store.errors import StoreUnavailableError
from store.event import Lane, wall_clock_s
from trainer import metrics

_EVERY_S: Final = 1.0
_ENOUGH_RATIO: Final = 0.05  # of a stage's steps, to reckon with their pace
_REMEMBERED: Final = 5  # earlier cycles of a kind
_STAGES: Final[dict[CycleKind, tuple[Stage, ...]]] = {
    "head": ("starting", "reading", "embedding", "fitting", "judging", "publishing"),
    "fine_tune": ("starting", "reading", "embedding", "fine_tuning", "fitting", "judging", "publishing"),
    "candidate": ("starting", "reading", "embedding", "judging", "publishing"),
}


def earlier_seconds(ended: Iterable[CycleEnded], kind: CycleKind) -> list[float]:
    """How long the last few cycles of a kind took that came to a verdict on rows."""
    return [one.seconds for one in ended if one.kind == kind and one.verdict != "error" and one.version][-_REMEMBERED:]


@dataclass(slots=True, kw_only=True)
class Progress:
    """One cycle, as it is told of; times are monotonic seconds but for `at_s`."""

    id: str
    kind: CycleKind
    at_s: float  # Unix seconds
    request: str
    started_s: float
    earlier_s: Sequence[float]  # of `earlier_seconds`
    stage: Stage = "starting"
    done_ratio: float | None = None
    stage_started_s: float = field(init=False)

    def __post_init__(self) -> None:
        """It begins with its first stage."""
        self.stage_started_s = self.started_s

    def told(self, stage: Stage, done_ratio: float | None, now_s: float) -> None:
        """The cycle has come so far."""
        if stage != self.stage:
            self.stage, self.stage_started_s = stage, now_s
        self.done_ratio = done_ratio

    def left(self, now_s: float) -> tuple[float | None, LeftBy | None]:
        """About how many seconds are left, and what that is reckoned from.

        Fine-tuning is nearly all of a cycle that has it, and its steps are alike: they tell more than other cycles do.
        Where the earlier ones were shorter than this one already is, nothing is known.
        """
        if self.stage == "fine_tuning" and self.done_ratio is not None and self.done_ratio >= _ENOUGH_RATIO:
            return (now_s - self.stage_started_s) * (1 - self.done_ratio) / self.done_ratio, "steps"
        if self.earlier_s and (left_s := median(self.earlier_s) - (now_s - self.started_s)) > 0:
            return left_s, "earlier_cycles"
        return None, None

    def shown(self, now_s: float) -> CycleRunning:
        """What others are told of it."""
        stages = _STAGES[self.kind]
        left_s, left_by = self.left(now_s)
        return CycleRunning(
            id=self.id,
            kind=self.kind,
            at_s=self.at_s,
            request=self.request,
            stage=self.stage,
            number=stages.index(self.stage) + 1 if self.stage in stages else len(stages),
            stages=len(stages),
            done_ratio=self.done_ratio,
            elapsed_s=now_s - self.started_s,
            left_s=left_s,
            left_by=left_by,
        )


@dataclass(slots=True, kw_only=True)
class Beacon:
    """Gives the trainer's signs for all its lanes, once a second at most; while Redis is away, to Prometheus alone."""

    signs: Signs
    owner: str
    lanes: Sequence[Lane]
    clock: Callable[[], float] = wall_clock_s
    monotonic: Callable[[], float] = time.monotonic
    _running: dict[Lane, Progress] = field(default_factory=dict)
    _given_s: float = -math.inf

    def begin(self, lane: Lane, progress: Progress) -> None:
        """A cycle of the lane is in hand from now on."""
        self._running[lane] = progress
        self.give(at_once=True)

    def told(self, lane: Lane, stage: Stage, done_ratio: float | None) -> None:
        """The lane's cycle has come so far."""
        if (progress := self._running.get(lane)) is not None:
            progress.told(stage, done_ratio, self.monotonic())

    def end(self, lane: Lane) -> None:
        """No cycle of the lane is in hand any more."""
        self._running.pop(lane, None)
        self.give(at_once=True)

    def give(self, *, at_once: bool = False) -> None:
        """Say how things stand, if the last time is a second ago."""
        now_s = self.monotonic()
        if not at_once and now_s - self._given_s < _EVERY_S:
            return
        self._given_s = now_s
        running = dict(self._running)  # cycles begin and end in other threads
        busy = next(iter(running), None)
        for lane in self.lanes:
            cycle = running[lane].shown(now_s) if lane in running else None
            _show(lane, cycle)
            sign = TrainerSign(
                owner=self.owner,
                at_s=self.clock(),
                busy_with=None if busy is None else str(lane if lane in running else busy),
                cycle=cycle,
            )
            with suppress(StoreUnavailableError):
                self.signs.give(lane, sign)

    def stop(self) -> None:
        """The trainer stops."""
        for lane in self.lanes:
            with suppress(StoreUnavailableError):
                self.signs.take_back(lane)


def _show(lane: Lane, cycle: CycleRunning | None) -> None:
    names = (lane.tenant, lane.use_case)
    for stage in _STAGES["fine_tune"]:
        metrics.CYCLE_STAGE.labels(*names, stage).set(cycle is not None and cycle.stage == stage)
    left_s = cycle.left_s if cycle is not None else None
    metrics.CYCLE_LEFT.labels(*names).set(math.nan if left_s is None else left_s)
