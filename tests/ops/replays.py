"""Logs that a tiny encoder can learn, the same logs with another future, and replays of them in a second or two."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Final

from ops.backtest.log import Log
from ops.backtest.records import Answers, Ask, Run
from ops.backtest.replay import DEFAULT_CYCLE, DEFAULT_SCHEDULE, Replay
from ops.backtest.tasks.texts import ColumnNames, read_log
from tests.tiny import FILLER, TOPICS, tiny_encoder
from trainer.judge.gate import GateLimits

LABELS: Final = tuple(sorted(TOPICS))
NEW_LABELS: Final = ("complaint", "praise")
PAGES: Final = (1, 3, 8, 20, 60)  # words of filler: the last is more than the encoder reads
MAX_TOKENS: Final = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """One line of a log."""

    id: str
    text: str
    label: str | None
    gold: str


def text_of(rng: Random, label: str, number: int, filler: int) -> str:
    """Seven words of the topic among filler, and a number that no other text has."""
    words = rng.choices(TOPICS[label], k=7) + rng.choices(FILLER, k=filler)
    rng.shuffle(words)
    return f"{' '.join(words)} {number}"


def log_rows(count: int, *, seed: int = 0, noise: float = 0.0, unusable: float = 0.04) -> list[LogRow]:
    """Distinct questions of all lengths; the teacher errs on a share of them and says nothing usable to another."""
    rng = Random(seed)
    rows = []
    for number in range(count):
        gold = rng.choice(LABELS)
        text = text_of(rng, gold, number, rng.choices(PAGES, (4, 4, 4, 2, 1))[0])
        label = rng.choice(LABELS) if rng.random() < noise else gold
        rows.append(LogRow(id=f"q{number}", text=text, label=None if rng.random() < unusable else label, gold=gold))
    return rows


def with_another_future(
    rows: list[LogRow], past: Collection[int], *, labels: tuple[str, ...], pages: tuple[int, ...], seed: int = 1
) -> list[LogRow]:
    """The log with another text and another teacher's answer in every row outside the past, and no true label kept.

    Args:
        rows: the log.
        past: places of the rows that keep text and answer.
        labels: that the teacher may give in the rest.
        pages: words of filler of the rest's texts.
        seed: of the rest.
    """
    rng = Random(seed)
    made = []
    for place, row in enumerate(rows):
        one = replace(row, gold=rng.choice([label for label in (*LABELS, "none of these") if label != row.gold]))
        if place not in past:
            topic = rng.choice(LABELS)
            text = text_of(rng, topic, len(rows) + place, rng.choice(pages))
            label = rng.choice([label for label in (*labels, None) if label != row.label])
            one = replace(one, text=text, label=label)
        made.append(one)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A folder with a tiny encoder, where logs are written and replayed."""

    folder: Path

    @staticmethod
    def at(folder: Path) -> "Bench":
        """With an encoder in it."""
        tiny_encoder(folder / "encoder")
        return Bench(folder=folder)

    def log(self, rows: list[LogRow], days: float = 1.0) -> Log:
        """The rows, written and read, over so many days."""
        path = self.folder / "log.jsonl"
        lines = [{"id": row.id, "text": row.text, "label": row.label, "gold": row.gold} for row in rows]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return read_log(path, ColumnNames(), days)

    def replay(
        self, rows: list[LogRow], *, min_new_labels: int = 10, cache: Path | None = None, days: float = 1.0
    ) -> Replay:
        """Ready to run; a gate for few rows, and features that no other replay has kept unless its folder is given."""
        return Replay(
            self.log(rows, days),
            encoder=str(self.folder / "encoder"),
            cache=cache or Path(mkdtemp(dir=self.folder)),
            cycle=replace(
                DEFAULT_CYCLE,
                device="cpu",
                precision="fp32",
                max_tokens=MAX_TOKENS,
                min_items_per_label=3,
                limits=GateLimits(delta=0.1, min_rows=20),
            ),
            schedule=replace(DEFAULT_SCHEDULE, min_new_labels=min_new_labels),
        )

    def run(self, rows: list[LogRow], ask: Ask, *, min_new_labels: int = 10) -> tuple[Run, Answers]:
        """One run over the rows."""
        return self.replay(rows, min_new_labels=min_new_labels).run(ask, unseen)


unseen: Callable[[int, int], None] = lambda _done, _rows: None  # noqa: E731 - a progress that nobody looks at


def given(answers: Answers, rows: int | None = None) -> list[tuple[object, ...]]:
    """What each of the first rows got, to the last bit; NaN is told as a word, because it equals nothing."""
    columns = zip(
        answers.rows.tolist(),
        answers.answer,
        answers.by_teacher.tolist(),
        answers.reason,
        answers.propensity.tolist(),
        ["none" if value != value else value for value in answers.confidence.tolist()],  # noqa: PLR0124 - NaN
        answers.version,
        answers.student,
        strict=True,
    )
    return list(columns)[:rows]
