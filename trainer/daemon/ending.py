"""How a cycle ends, so that a death half way is made good: noted, moved, told, remembered, and the note taken away.

The move is what counts, one file with champion and anchor in it. Who finds a note whose move was made does the rest of
it, each part once; a note whose move was not made is thrown away, and the cycle begins anew.
"""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from store.control import Control, CycleRequest, TrainingState
from store.event import Lane
from store.faults.points import reach
from store.log.lazy import logger
from store.registry.manifest import Outcome
from store.registry.moves import Moves
from trainer.daemon.journal import Journal
from trainer.due import after
from trainer.news import Seen, items_with
from trainer.work import CycleReport, CycleResult, CycleWork

log = logger()


class MovesOf(Protocol):
    """The registry, as far as an ending needs it."""

    def moves(self, lane: Lane) -> Moves:
        """The chain of moves of a lane."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What a cycle comes to, and all that follows from it."""

    report: CycleReport
    number: int  # that its move gets; nothing is moved where the report names no version
    state: TrainingState  # that the schedule is to remember
    drawn: bytes | None  # rows that it drew
    request: CycleRequest | None  # that it answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Endings:
    """The ends of a registry's cycles. Everything here needs the lane's lease."""

    registry: MovesOf
    control: Control
    journal: Journal

    def note(self, lane: Lane, ending: Ending) -> None:
        """Note what is about to be moved; noted again, it takes the place of what was.

        Raises:
            StoreUnavailableError: it is not noted: do not move.
        """
        self.control.keep_ending(lane, msgspec.json.encode(ending))
        reach("cycle.noted")

    def finish(self, lane: Lane, ending: Ending) -> None:
        """Do what follows from a move that was made.

        Raises:
            StoreUnavailableError: the rest is done by whoever calls `resume` next.
        """
        self.journal.ended(lane, ending.report)
        self._remember(lane, ending)

    def resume(self, lane: Lane) -> None:
        """Finish what a trainer left that died, or whose Redis did.

        Raises:
            StoreUnavailableError: it waits on.
        """
        said = self.control.ending(lane)
        if said is None:
            return
        try:
            ending = msgspec.json.decode(said, type=Ending)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("what a cycle came to cannot be read and counts as lost", lane=str(lane), why=str(error))
            self.control.keep_ending(lane, None)
            return
        if self._was_moved(lane, ending):
            log.info("a cycle that was cut short after its move is finished", lane=str(lane), cycle=ending.report.id)
            self.journal.ended_before(lane, ending.report)
            self._remember(lane, ending)
        else:
            self.control.keep_ending(lane, None)

    def _was_moved(self, lane: Lane, ending: Ending) -> bool:
        if ending.report.version is None:
            return True  # there was nothing to move
        moves = self.registry.moves(lane).read()
        if len(moves) < ending.number:
            return False
        made = moves[ending.number - 1]
        return made.kind in {"promote", "decline"} and made.version == ending.report.version

    def _remember(self, lane: Lane, ending: Ending) -> None:
        reach("cycle.told")
        if self.control.training_state(lane).last_cycle_s <= ending.state.last_cycle_s:  # else a later cycle has ended
            self.control.remember(lane, ending.state, ending.drawn)
        reach("cycle.remembered")
        if ending.request is not None:
            self.control.finish_cycle_request(lane, ending.request)
        reach("cycle.answered")
        self.control.keep_ending(lane, None)


def _asked(result: CycleResult) -> list[str]:
    """What the referee cost, where it was asked."""
    return [f"the referee was asked {result.asked} times, for ${result.asked_usd:.6g}"] if result.asked else []


def report_of(
    work: CycleWork, result: CycleResult, outcome: Outcome, refusals: list[str], *, seconds: float
) -> CycleReport:
    """What a cycle came to, for people."""
    verdict = result.verdict
    return CycleReport(
        id=work.cycle_id,
        at_s=work.now_s,
        seconds=round(seconds, 3),
        lane=str(work.training.lane),
        kind=work.kind,
        candidate=work.candidate,
        verdict=outcome,
        refusals=[*refusals, *_asked(result), *verdict.notes],
        rows_judged=verdict.rows_judged,
        difference=verdict.difference,
        lower=verdict.lower,
        delta=verdict.delta,
        rows_needed=verdict.rows_needed,
        version=result.version,
        request=work.request,
        nothing_new=result.nothing_new,
    )


def learned(
    work: CycleWork, state: TrainingState, result: CycleResult, seen: Seen | None
) -> tuple[TrainingState, bytes | None]:
    """What the schedule is to remember, and the rows that were drawn."""
    drawn = None
    if seen is not None:
        drawn = result.drawn if result.drawn is not None else seen.drawn.digests
    items = state.items_at_cycle if seen is None or drawn is None else items_with(seen, drawn)
    known = after(state, work.kind, items=items, label_items=result.label_items, now_s=work.now_s)
    if seen is not None:
        known = msgspec.structs.replace(
            known,
            counted_at_cycle=seen.counters.counted,
            waiting_at_cycle=seen.drawn.waiting,
            prompt_version=seen.reading,
        )
    return known, drawn
