"""What became of every cycle, said four times: a log line, a line of the cycle log, Redis, and the metrics.

None of it may fail a cycle: its move has been made, or its error is what matters.
"""

import dataclasses
import os
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from store.control import Control, CycleEnded
from store.errors import StoreError
from store.event import Lane
from store.faults.points import reach
from store.log.lazy import logger
from store.registry.files.durable import append_line, make_folder
from store.tracing import names
from store.tracing.spans import OFF, Tracer
from trainer import metrics
from trainer.work import CycleReport
from trainer.worker import WorkFailedError

log = logger()

_WHY_CHARACTERS: Final = 500
_LAST_BYTES: Final = 1 << 16  # of the cycle log, in which a cycle of late is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """Where cycles are written down."""

    path: Path  # the cycle log
    control: Control
    tracer: Tracer = OFF

    def ended(self, lane: Lane, report: CycleReport) -> None:
        """A cycle reached a verdict."""
        names = (lane.tenant, lane.use_case)
        metrics.CYCLES.labels(*names, report.kind, report.verdict).inc()
        metrics.CYCLE_SECONDS.labels(*names, report.kind).observe(report.seconds)
        log.info("cycle ended", **dataclasses.asdict(report))
        self._trace(report)
        self._write(report)
        reach("cycle.written")
        self._note(lane, report)

    def ended_before(self, lane: Lane, report: CycleReport) -> None:
        """The same of a cycle whose trainer died meanwhile: only what it had not said is said now."""
        if not self._is_written(report.id):
            self._write(report)
        with suppress(StoreError):  # then it is away for what comes next, too
            if all(one.id != report.id for one in self.control.ended_cycles(lane)):
                self._note(lane, report)

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
        self._trace(report, error_type=type(error).__name__)
        self._write(report)
        self._note(lane, report)

    def _trace(self, report: CycleReport, error_type: str | None = None) -> None:
        said = {
            names.LANE: report.lane,
            names.CYCLE: report.id,
            names.KIND: report.kind,
            names.VERDICT: report.verdict,
            names.VERSION: report.version,
            "understudy.rows_judged": report.rows_judged,
        }
        end_s = report.at_s + report.seconds
        self.tracer.record(
            f"cycle {report.kind}", "internal", said, start_s=report.at_s, end_s=end_s, error_type=error_type
        )

    def _write(self, report: CycleReport) -> None:
        try:
            make_folder(self.path.parent)
            append_line(self.path, msgspec.json.encode(report))
        except OSError as error:
            log.warning("a cycle was not written down", path=str(self.path), error=str(error))

    def _is_written(self, cycle_id: str) -> bool:
        """Whether the end of the cycle log has a cycle."""
        try:
            with self.path.open("rb") as lines:
                lines.seek(-min(_LAST_BYTES, lines.seek(0, os.SEEK_END)), os.SEEK_END)
                return msgspec.json.encode({"id": cycle_id})[1:-1] in lines.read()
        except OSError:
            return False

    def _note(self, lane: Lane, report: CycleReport) -> None:
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
            self.control.cycle_ended(lane, ended)
        except StoreError as error:
            log.warning("a cycle was not noted in Redis", error=str(error))


def summary_of(error: Exception) -> str:
    """What went wrong: type and message."""
    return str(error) if isinstance(error, WorkFailedError) else f"{type(error).__name__}: {error}"


def _traceback_of(error: Exception) -> str:
    own = "".join(traceback.format_exception(error))
    return f"{own}\nin the training process:\n{error.traceback}" if isinstance(error, WorkFailedError) else own
