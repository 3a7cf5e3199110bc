"""A log, and a replay of it that costs nothing: a student that is now and then wrong, and learns with each call."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ops.backtest.log import Log
from ops.backtest.records import Answers, Ask, Run, Slice
from ops.backtest.runs.work import Seen
from ops.backtest.tasks.texts import ColumnNames, read_log
from store.errors import SettingsError
from trainer.due import ScheduleSettings
from trainer.work import CycleSettings

LABELS = ("refund", "delivery", "account", "other")
ROWS = 1000
SLICES = 20


def write_log(path: Path, *, rows: int = ROWS, gold: bool = True, noise: float = 0.2) -> Path:
    """A log whose teacher is wrong now and then; every 50th row has no usable answer."""
    rng = np.random.default_rng(5)
    with path.open("w") as file:
        for row in range(rows):
            true = LABELS[int(rng.integers(4))]
            said = LABELS[int(rng.integers(4))] if rng.random() < noise else true
            label = "null" if row % 50 == 49 else f'"{said}"'
            known = f', "gold": "{true}"' if gold else ""
            file.write(f'{{"id": "q{row}", "text": "question {row} <b>", "label": {label}{known}}}\n')
    return path


def made_log(folder: Path, *, rows: int = ROWS, gold: bool = True, days: float = 1.0) -> Log:
    """The same, read."""
    return read_log(write_log(folder / "log.jsonl", rows=rows, gold=gold), ColumnNames(), days)


class FakeReplay:
    """Answers in the shape of the real replay; budgets and seeds that are named fail in the way that is named."""

    def __init__(
        self,
        log: Log,
        *,
        slow_s: float = 0.0,
        notes: str = "",
        raises: tuple[int, int] | None = None,
        dies: tuple[int, int] | None = None,
        unreadable: bool = False,
        binds_below: int = 0,
        encoder: str = "",
        cache: Path | None = None,
        threads: int = 1,
        cycle: CycleSettings | None = None,
        schedule: ScheduleSettings | None = None,
    ) -> None:
        self.log, self.slow_s, self.binds_below = log, slow_s, binds_below
        self.raises, self.dies, self.unreadable = raises, dies, unreadable
        self.notes = Path(notes) if notes else None
        self._note(f"worker runs {os.getpid()}")
        if cycle is not None and schedule is not None:
            self._note(f"max_tokens {cycle.max_tokens} quarantine_s {cycle.quarantine_s} every_s {schedule.every_s}")

    def prepare(self, progress: Seen) -> None:
        if self.unreadable:
            message = "the encoder's folder holds no encoder"
            raise SettingsError(message)
        for half in (1, 2):
            progress(9 * half * self.log.rows // 2, 9 * self.log.rows)  # a query and eight documents a row

    def run(self, ask: Ask, progress: Seen) -> tuple[Run, Answers]:
        self._note(f"begins {ask.budget} {ask.seed}")
        if (ask.budget, ask.seed) == self.dies:
            os._exit(9)
        if (ask.budget, ask.seed) == self.raises:
            message = "a label that nobody knows"
            raise RuntimeError(message)
        for part in range(10):
            progress(part * self.log.rows // 10, self.log.rows)
            time.sleep(self.slow_s / 10)
        run, answers = replayed(self.log, ask, self.binds_below)
        progress(self.log.rows, self.log.rows)
        return run, answers

    @property
    def features(self) -> NDArray[np.float32]:
        return np.random.default_rng(1).random((self.log.rows, 4), np.float32)

    def _note(self, line: str) -> None:
        if self.notes is not None:
            with self.notes.open("a") as file:
                file.write(line + "\n")


def one_raises(*arguments: Any, **options: Any) -> FakeReplay:
    """One whose run of 100 calls with seed 1 fails."""
    return FakeReplay(*arguments, raises=(100, 1), **options)


def unreadable(*arguments: Any, **options: Any) -> FakeReplay:
    """One that finds no encoder."""
    return FakeReplay(*arguments, unreadable=True, **options)


def noted(*arguments: Any, cache: Path, **options: Any) -> FakeReplay:
    """A slow one that notes what it does beside its cache."""
    return FakeReplay(*arguments, slow_s=1.5, notes=str(cache.parent / "notes"), **options)


def replayed(log: Log, ask: Ask, binds_below: int = 0) -> tuple[Run, Answers]:
    """One run; deterministic in the log and the ask."""
    rng = np.random.default_rng([11, ask.seed])
    shuffled = ask.shuffled and ask.seed > 0
    order = rng.permutation(log.rows) if shuffled else np.arange(log.rows)
    hard = np.random.default_rng(3).random(log.rows)[order]
    needed = ask.budget if ask.target is None else min(ask.budget, binds_below or ask.budget)
    asked = _asked(hard, needed)
    skill = 0.45 + 0.5 * np.cumsum(asked) / (np.cumsum(asked) + 150)
    knows = rng.random(log.rows) < np.clip(skill + 0.35 * (0.5 - hard), 0, 1)
    labels = [log.labels[row] for row in order]
    student = [
        label if know and label is not None else LABELS[int(rng.integers(4))]
        for label, know in zip(labels, knows, strict=True)
    ]
    paid = asked & np.array([label is not None for label in labels])
    answers = [label if bought else own for label, bought, own in zip(labels, paid, student, strict=True)]
    named = [answer or "" for answer in answers]
    truth = [log.gold[row] for row in order]
    picked = np.zeros(log.rows, np.bool_)
    picked[rng.permutation(log.rows)[: int(asked.sum())]] = True
    wrong = np.array([own != label for own, label in zip(student, labels, strict=True)])
    best = np.zeros(log.rows, np.bool_)
    best[np.argsort(~wrong, kind="stable")[: int(asked.sum())]] = True

    def ratio(given: list[str], true: list[str | None]) -> float | None:
        known = [(a, b) for a, b in zip(given, true, strict=True) if b is not None]
        return float(np.mean([a == b for a, b in known])) if known else None

    def with_calls(calls: NDArray[np.bool_]) -> list[str]:
        return [label if call and label else own for label, call, own in zip(labels, calls, student, strict=True)]

    suspended = 0 if ask.target is None or ask.budget >= binds_below else (binds_below - ask.budget) // 2
    own = ~paid
    run = Run(
        ask=ask,
        rows=log.rows,
        calls=int(asked.sum()),
        unspent=ask.budget - int(asked.sum()),
        audits=0,
        unusable=int(asked.sum() - paid.sum()),
        spared=int((~asked).sum()),
        unanswered=0,
        suspended_rows=suspended,
        suspended_s=60.0 * suspended,
        score=ratio(named, truth),
        agreement=ratio(named, labels),
        student_accuracy=None,
        paid_accuracy=None,
        student_rows=int(own.sum()),
        answered_agreement=ratio(
            [one for one, kept in zip(named, own, strict=True) if kept],
            [one for one, kept in zip(labels, own, strict=True) if kept],
        ),
        answered_rows=int(own.sum()),
        random_score=ratio(with_calls(picked), truth),
        oracle_score=ratio(with_calls(best), truth),
        random_agreement=ratio(with_calls(picked), labels),
        oracle_agreement=ratio(with_calls(best), labels),
        first_version_row=int(np.argmax(np.cumsum(asked) >= 30)),
        certified_row=None,
        head_cycles=12,
        fine_tune_cycles=0,
        refused_cycles=0,
        encoder_parameters=22_700_000,
        served_parameters=22_700_000,
        training_cpu_s=20.0 + ask.budget / 50,
        seconds=5.0,
        slices=_slices(asked, named, labels, truth),
    )
    return run, Answers(
        rows=order.astype(np.int64),
        answer=named,
        by_teacher=paid,
        reason=["low_confidence" if bought else "confident" for bought in paid],
        propensity=np.where(asked, 1.0, 0.0),
        confidence=np.where(np.arange(log.rows) < 30, np.nan, 1 - hard),
        version=["" if row < 30 else "v1" for row in range(log.rows)],
        student=["" if row < 30 else one for row, one in enumerate(student)],
    )


def _asked(hard: NDArray[np.float64], budget: int) -> NDArray[np.bool_]:
    """A tenth of the budget outright, then the hardest of each stretch of rows."""
    asked = np.zeros(len(hard), np.bool_)
    first = max(1, budget // 10)
    asked[:first] = True
    limit = np.sort(hard[first:])[::-1][: budget - first]
    if len(limit):
        asked[first:] = hard[first:] >= limit[-1]
    return asked


def _slices(
    asked: NDArray[np.bool_], given: list[str], labels: list[str | None], truth: list[str | None]
) -> list[Slice]:
    found = []
    for part in np.array_split(np.arange(len(asked)), SLICES):
        pairs = [(given[row], labels[row], truth[row]) for row in part]
        found.append(
            Slice(
                first_row=int(part[0]),
                rows=len(part),
                calls=int(asked[part].sum()),
                spared=int((~asked[part]).sum()),
                agreement=float(np.mean([a == b for a, b, _ in pairs if b is not None])),
                accuracy=float(np.mean([a == c for a, _, c in pairs])) if truth[0] is not None else None,
                suspended=0,
            )
        )
    return found
