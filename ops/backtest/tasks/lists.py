"""A user's own log of rankings as a backtest reads it: lists as an item keeps them, and the teacher's answers."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ops.backtest.log import KEY, Log, LogLine, check_days, log_of
from ops.readers.columns import ID_COLUMNS
from ops.readers.files import BadRow
from ops.readers.lists.columns import find_list_columns
from ops.readers.lists.rows import ListRow, read_lists
from ops.readers.lists.spread import Spread
from ops.readers.lists.values import Said
from ops.readers.rows import PublishedRows
from ops.readers.times import TIME_COLUMNS
from store.errors import InvalidAnswerError, SettingsError, TooLaboriousError, WrongShapeError
from store.event import EscalationCause, Lane, utc
from store.tasks.rank import RankRules, Tolerance

_PLAIN_EPSILON: Final = 0.05  # where no score says how large a tolerance is
FACTS: Final = PublishedRows(
    id=str(uuid.UUID("0b6f0a0e-52cf-5a7b-8e52-8d4b3d4f6a77")),
    time=utc(1_767_225_600.0),
    lane=Lane("backtest", "log"),
    model="recorded",
    prompt_version="log",
    cause=EscalationCause(reason="cold", threshold=None, propensity=1.0),
)


def read_rankings(
    path: Path, named: Mapping[str, str], days: float | None, *, k: int = 1, epsilon: float | None = None
) -> Log:
    """Read a log of lists.

    Args:
        path: the file.
        named: columns that the user named, by flag.
        days: as of `read_log`.
        k: first places that count.
        epsilon: what a place may lose; None: what the teacher's own scores propose.

    Raises:
        SettingsError: the file cannot be read, a column cannot be told, or no list is answered; it names the flag.
    """
    check_days(days)
    ids = (named["--id"],) if "--id" in named else ID_COLUMNS
    times = (named["--time"],) if "--time" in named else TIME_COLUMNS
    rules, spread = RankRules(), Spread()
    bad, lines = list[BadRow](), list[LogLine]()
    for row in read_lists(path, find_list_columns(path, named), ids=ids, times=times):
        line = row if isinstance(row, BadRow) else _line(row, rules)
        if isinstance(line, BadRow):
            bad.append(line)
            continue
        lines.append(line)
        if isinstance(row, ListRow) and row.said is not None:
            spread.add(row.question, row.documents, row.said)
    if not any(line.label for line in lines):
        why = f": line {bad[0].line}: {bad[0].why}" if bad else ""
        message = f"{path}: no list has an answer that can be read, so there is nothing to learn{why}"
        raise SettingsError(message)
    proposed = spread.epsilon if spread.epsilon is not None else _PLAIN_EPSILON
    tolerance = Tolerance(k=k, epsilon=epsilon if epsilon is not None else float(f"{proposed:.2g}"))
    return replace(log_of(path, lines, bad, days), task="rank", tolerance=tolerance, proposal=spread.told)


def _line(row: ListRow, rules: RankRules) -> LogLine | BadRow:
    """A list as its item keeps it, the answer in the same order."""
    answered = row if row.said is not None else replace(row, said=Said(order=(0,)))
    try:
        event = rules.normal(answered.event(FACTS), KEY)
    except (InvalidAnswerError, WrongShapeError, TooLaboriousError) as error:
        return BadRow(line=row.line, why=str(error))
    return LogLine(
        number=row.line,
        time_s=row.moment.time_s,
        time_column=row.moment.column,
        id=row.id,
        text=rules.words(event.input),
        label=rules.said(event) if row.said is not None else None,
        gold=None,
        value=event.input,
    )
