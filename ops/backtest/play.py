"""One run over a log: the real gateway path, budget, buffer, schedule, trainer and gate on a simulated clock.

A cycle takes no simulated time: its version serves from the next row on. What is learned is `trainer.attempt`'s work.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, ParamSpec, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from ops.backtest.log import Log
from ops.backtest.records import Answers, Ask, Run
from ops.backtest.scores import Cycles, RowAnswer, to_answers, to_run
from ops.backtest.stream import (
    PROMPT_VERSION,
    BufferSink,
    Cursor,
    LogHorizon,
    RecordedTeacher,
    Stream,
)
from ops.backtest.tasks.tasks import TASKS
from serve.counts import Counts
from serve.escalation import Answer, Question
from serve.gateway import LaneService
from serve.metrics import ServeMetrics
from serve.routing.budget import BudgetRouting
from serve.routing.pace import Pace
from serve.routing.promise import PromiseRouting
from serve.settings import BudgetSettings, LaneSettings, TeacherSettings
from serve.student.slot import Slot, Slots
from serve.tasks.tasks import TASKS as FACES
from serve.teacher.audit import Audits
from serve.teacher.budget import Budget
from serve.teacher.ledger import BUCKET_S
from serve.teacher.memory_ledger import MemoryLedger
from store.buffer.memory import MemoryBuffer
from store.control import CycleKind, TrainingState
from store.event import Lane
from store.registry.memory import MemoryMoves
from store.registry.moves import promoted
from store.registry.students.records import StudentRecord
from store.secrets import unit_hash
from trainer.attempt import Attempt, attempt, freeze_rows
from trainer.due import ScheduleSettings, after, due
from trainer.judge.gate import Judged
from trainer.learn.enough import NotEnoughLabelsError
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import Features, Lineage, Rival
from trainer.learn.tasks import TASKS as LEARNED
from trainer.work import CycleSettings, LaneTraining

P = ParamSpec("P")
T = TypeVar("T")

LANE: Final = Lane("backtest", "log")
_TICK_S: Final = 60.0
_DRAW_SALT: Final = "audit"  # no secret: a backtest draws the same audits every time
_SHOWN_EVERY: Final = 50
_NAMESPACE: Final = uuid.UUID("0b6f0a0e-52cf-5a7b-8e52-8d4b3d4f6a77")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """What the replay keeps of a version; the live service reads the same from the registry."""

    rival: Rival
    judged: Judged
    record: StudentRecord


class Play:
    """One run in progress: the service's parts over one stream."""

    def __init__(
        self,
        log: Log,
        stream: Stream,
        ask: Ask,
        *,
        base: BaseEncoder,
        features: Features,
        cycle: CycleSettings,
        schedule: ScheduleSettings,
        usd_per_call: float,
        promoted: Callable[[int, Attempt], None],
    ) -> None:
        """Put the parts together.

        Args:
            log: whose labels and truth the stream's are.
            stream: its rows in the order of the run.
            ask: budget, seed, policy.
            base: the encoder.
            features: of the log's items.
            cycle: how a cycle freezes, fits and judges; the seed is the ask's.
            schedule: when one is due; whether it fine-tunes is the ask's.
            usd_per_call: of the teacher.
            promoted: told of each version: the row it serves from, and what it came out of.
        """
        self._log, self._stream, self._ask = log, stream, ask
        self._base, self._features = base, features
        self._told = promoted
        self._cycle = replace(cycle, seed=ask.seed, limits=replace(cycle.limits, seed=ask.seed))
        self._schedule = replace(schedule, fine_tune=ask.fine_tune, head_first=False)  # here training takes no time
        self._training = LaneTraining(
            lane=LANE,
            task=log.task,
            prompt_version=PROMPT_VERSION,
            target=ask.target if ask.target is not None else 0.95,
            confidence=ask.confidence,
            policy=ask.policy,
            metric=ask.metric,
            terms=replace(log.terms, labels=()),  # whatever the teacher says is learned
        )
        self._rules, self._part = log.rules, TASKS[log.task]
        self._cursor = Cursor(now_s=float(stream.times_s[0]))
        self._teacher = RecordedTeacher(stream, self._cursor, usd_per_call, self._part.teach)
        self._sink = BufferSink(lane=LANE, buffer=MemoryBuffer(k=max(1, stream.rows)), rules=self._rules)
        self._slots = Slots()
        self._moves = MemoryMoves(LANE)
        self._versions: dict[str, _Version] = {}
        self._state = TrainingState()
        self._cycles = Cycles()
        self._budget, self._service = self._gateway()

    def _gateway(self) -> tuple[Budget, LaneService]:
        """The gateway's path with our parts in it."""
        ask, stream, now = self._ask, self._stream, self._now
        limits = BudgetSettings(
            calls_per_day=ask.budget,
            usd_per_day=None,
            audit_reserve_ratio=ask.kept_for_audits,
        )
        settings = LaneSettings(
            lane=LANE,
            task=self._log.task,
            terms=self._log.terms,
            policy=ask.policy,
            metric=ask.metric,
            training_permitted=True,
            teacher=TeacherSettings(base_url="http://localhost", model="recorded", prompt=self._part.prompt),
            budget=limits,
            audit_ratio=ask.audit_ratio,
        )
        whole_log = int((stream.times_s[-1] - stream.times_s[0]) // BUCKET_S) + 2
        count = iter(range(1 << 62))
        budget = Budget(
            limits,
            MemoryLedger(limits, now=now, buckets_kept=whole_log),
            now=now,
            monotonic=now,
            new_id=lambda: str(next(count)),
            call=_at_once,
        )
        horizon = LogHorizon(
            budget=ask.budget,
            audit_ratio=ask.audit_ratio,
            reserved=int(ask.budget * limits.audit_reserve_ratio),
            forecast_rows=ask.horizon_ratio * stream.rows,
            teacher=self._teacher,
            cursor=self._cursor,
        )
        routing = BudgetRouting(horizon, Pace()) if ask.policy == "budget" else PromiseRouting()
        forward = self._part.forward(stream, self._cursor)
        service = LaneService(
            settings,
            face=FACES[self._log.task],
            rules=self._rules,
            routing=routing,
            slots=self._slots,
            forward=lambda _: forward,
            teacher=self._teacher,
            budget=budget,
            audits=Audits(size=8, workers=1),
            sink=self._sink,
            metrics=ServeMetrics.create(CollectorRegistry()),
            counts=Counts(),
            monotonic=now,
            draw=lambda question: unit_hash(_DRAW_SALT, question.event_id),
            redact=lambda _: "",  # nothing of a log is told
        )
        return budget, service

    def _now(self) -> float:
        return self._cursor.now_s

    async def play(self, progress: Callable[[int, int], None]) -> tuple[Run, Answers]:
        """Answer every row in its turn, and learn in between."""
        started_s, ticked_s = time.monotonic(), self._now()
        self._service.audits.start()
        rows: list[RowAnswer] = []
        for row in range(self._stream.rows):
            self._cursor.row, self._cursor.now_s = row, float(self._stream.times_s[row])
            if self._now() - ticked_s >= _TICK_S:
                ticked_s = self._now()
                await self._budget.tick()
            rows.append(await self._answer(row))
            self._learn(row)
            if row % _SHOWN_EVERY == 0 or row + 1 == self._stream.rows:
                progress(row + 1, self._stream.rows)
        await self._service.audits.drain(1.0)
        await self._budget.close()
        answers = to_answers(self._stream, rows, self._part)
        run = to_run(
            self._ask,
            self._log,
            self._stream,
            answers,
            rows,
            self._cycles,
            calls=self._teacher.calls,
            unusable=self._teacher.unusable,
            seconds=time.monotonic() - started_s,
        )
        run = msgspec.structs.replace(
            run,
            others=self._part.others(self._log, self._stream, answers, run.calls),
            measures=self._part.measures(self._log, self._stream, answers),
        )
        return run, answers

    async def _answer(self, row: int) -> RowAnswer:
        question = Question(
            value=self._stream.values[row],
            redacted=self._stream.values[row],
            item_id=self._stream.item_ids[row],
            event_id=str(uuid.uuid5(_NAMESPACE, f"{self._ask.seed}/{self._stream.places[row]}")),
            at_s=self._now(),
            subject=None,
            forced=False,
        )
        calls = self._teacher.calls
        found = await self._service.answer(question)
        await self._service.audits.settled()
        published = self._sink.take()
        return RowAnswer(
            answer=found if isinstance(found, Answer) else None,
            opinion=published.student if published is not None else None,
            called=self._teacher.calls > calls,
        )

    def _learn(self, row: int) -> None:
        """Run the cycle that is due, if one is."""
        items = self._sink.counters.new_items
        kind = due(
            self._moves.standing(),
            self._state,
            items=items,
            labels=len(self._log.label_set),
            request=None,
            now_s=self._now(),
            settings=self._schedule,
            ripe=LEARNED[self._training.task].ripe,
        )
        if kind is None:
            return
        started_s = time.process_time()
        label_items: Mapping[str, int] = {}
        try:
            label_items = self._cycle_of(kind, row).draft.learned
        except NotEnoughLabelsError:
            pass  # the same verdict as in the service: wait for more
        finally:
            self._cycles.cpu_s += time.process_time() - started_s
        self._state = after(self._state, kind, items=items, label_items=label_items, now_s=self._now())

    def _cycle_of(self, kind: CycleKind, row: int) -> Attempt:
        """Run it, and let its version serve if it passed."""
        lineage = self._lineage()
        frozen = freeze_rows(
            self._sink.buffer.items(LANE),
            lineage,
            training=self._training,
            settings=self._cycle,
            base=self._base,
            features=self._features,
            now_s=self._now(),
            positions={},
        )
        made = attempt(kind, frozen, lineage, training=self._training, settings=self._cycle)
        self._cycles.count(kind, made)
        if made.verdict.outcome == "pass":
            self._promote(made, row)
        return made

    def _lineage(self) -> Lineage:
        """What the moves and the versions say of what came before."""
        standing, known = self._moves.standing(), self._versions
        champion, anchor = (
            known[version].rival if version is not None else None for version in (standing.champion, standing.anchor)
        )
        return Lineage(
            champion=champion,
            anchor=anchor if anchor is not champion else None,
            history=[known[version].judged for version in promoted(self._moves.read())],
            records={version: one.record for version, one in known.items()},
        )

    def _promote(self, made: Attempt, row: int) -> None:
        """What the trainer does with a pass, and the gateway with the move."""
        version, student = f"v{len(self._versions) + 1}", made.draft.student(made.policy)
        self._versions[version] = _Version(
            rival=Rival(student=student, trained=made.trained),
            judged=Judged(labels=len(made.frozen.snapshot.rows), verdict=made.verdict),
            record=made.draft.record,
        )
        self._moves.append("promote", version=version, who="trainer", why="pass", now_s=self._now(), anchor=made.anchor)
        self._slots.publish(Slot(version=version, student=student))
        self._cycles.encoder_parameters = self._base.record.parameters
        self._cycles.promoted(row, student.served_parameters, certified=made.policy.threshold is not None)
        self._told(row + 1, made)


async def _at_once(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The memory ledger does not block."""
    return function(*arguments, **named)
