"""What a backtest's figures are for, and what changes how its headline is to be read."""

from typing import Final

from ops.backtest.records import Backtest

_MANY_SKIPPED: Final = 0.05  # of the rows; fewer are told quietly


def span(backtest: Backtest, *, of: str = " over the log") -> str:
    """What per-day figures are for: a day, or the whole log where nobody knows how long it is."""
    return " a day" if backtest.per_day else of


def warnings(backtest: Backtest) -> list[str]:
    """What changes how the headline is to be read, a sentence each."""
    found = []
    if backtest.untimed_why is not None:
        found.append(f"{backtest.untimed_why[0].upper()}{backtest.untimed_why[1:]}.")
    if not backtest.per_day:
        why = "cover only a part of a day" if backtest.timed else "could not be read"
        found.append(
            f"Nothing is told for a day: the log's times {why}, so all figures are for the log as a whole."
            " Say with --days how many days it covers."
        )
    if backtest.spellings > backtest.labels:
        found.append(
            f"The teacher's answers have {backtest.spellings:,} spellings of {backtest.labels:,} labels: spellings of"
            " one label were taken as one, as the service takes them."
        )
    if backtest.off_list:
        found.append(
            f"{backtest.off_list:,} of {backtest.rows:,} answers are none of the lane's labels: they are paid, and"
            " unusable."
        )
    if backtest.skipped > _MANY_SKIPPED * (backtest.rows + backtest.skipped):
        found.append(skipped(backtest))
    return found


def skipped(backtest: Backtest) -> str:
    """How many rows are not in it, and why the first is not; nothing where all are."""
    if not backtest.skipped:
        return ""
    first = backtest.bad[0]
    return f"{backtest.skipped:,} rows of the log were skipped, the first is line {first['line']}: {first['why']}."
