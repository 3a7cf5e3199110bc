"""What became of every cycle, said four times: a log line, a line of the cycle log, Redis, and the metrics.

None of it may fail a cycle: its move has been made, or its error is what matters.
"""

import dataclasses
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from store.control import Control, CycleEnded
from store.errors import StoreError
from store.event import Lane
from store.log.lazy import logger
from store.registry.durable import append_line, make_folder
from trainer import metrics
from trainer.work import CycleReport
from trainer.worker import WorkFailedError

log = logger()

_WHY_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """Where cycles are written down."""

    path: Path  # the cycle log
    control: Control

    def ended(self, lane: Lane, report: CycleReport) -> None:
        """A cycle reached a verdict."""
        names = (lane.tenant, lane.use_case)
        metrics.CYCLES.labels(*names, report.kind, report.verdict).inc()
        metrics.CYCLE_SECONDS.labels(*names, report.kind).observe(report.seconds)
        log.info("cycle ended", **dataclasses.asdict(report))
        self._keep(lane, report)

    def failed(self, lane: Lane, report: CycleReport, error: Exception, *, next_try_in_s: float | None) -> None:
        """A cycle ended in an error: type and message come first, then the traceback, of which a log keeps the end."""
        metrics.CYCLE_ERRORS.labels(lane.tenant, lane.use_case).inc()
        log.error(
            "cycle failed",
            lane=str(lane),
            cycle=report.id,
            kind=report.kind,
            error=summary_of(error),
            next_try_s=None if next_try_in_s is None else round(next_try_in_s),
            exception=_traceback_of(error),
        )
        self._keep(lane, report)

    def _keep(self, lane: Lane, report: CycleReport) -> None:
        why = "; ".join(report.refusals)
        ended = CycleEnded(
            id=report.id,
            at_s=report.at_s,
            seconds=report.seconds,
            kind=report.kind,
            verdict=report.verdict,
            why=why if len(why) <= _WHY_CHARACTERS else why[:_WHY_CHARACTERS] + "…",
            version=report.version,
            next_try_s=report.next_try_s,
            request=report.request,
            nothing_new=report.nothing_new,
        )
        try:
            make_folder(self.path.parent)
            append_line(self.path, msgspec.json.encode(report))
        except OSError as error:
            log.warning("a cycle was not written down", path=str(self.path), error=str(error))
        try:
            self.control.cycle_ended(lane, ended)
        except StoreError as error:
            log.warning("a cycle was not noted in Redis", error=str(error))


def summary_of(error: Exception) -> str:
    """What went wrong: type and message."""
    return str(error) if isinstance(error, WorkFailedError) else f"{type(error).__name__}: {error}"


def _traceback_of(error: Exception) -> str:
    own = "".join(traceback.format_exception(error))
    return f"{own}\nin the training process:\n{error.traceback}" if isinstance(error, WorkFailedError) else own
