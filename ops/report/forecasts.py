"""What the next days come to, and how well earlier reports said it. Pure but for the files of earlier reports."""

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import msgspec
from scipy import stats

from ops.report.records import DayShown, Forecast, Kept, Scored
from store.event import Lane
from store.money.reckon import Money
from store.registry.files.durable import make_folder, read_kept, replace

_INSIDE: Final = 0.8
_FEWEST_DAYS: Final = 3
_NEVER_BELOW_ZERO: Final = frozenset({"questions", "answered by the teacher", "spent, $"})


def measured(money: Money) -> dict[str, float]:
    """What is forecast, of some days."""
    found = {
        "questions": float(money.student + money.teacher),
        "answered by the teacher": float(money.teacher),
        "spent, $": money.spent_usd,
    }
    return found if money.saved_usd is None else found | {"saved, $": money.saved_usd}


def forecasts(days: Sequence[DayShown]) -> list[Forecast]:
    """As many days to come as there are: like these, and no trend. None of fewer than three days.

    The sum of N days like n that were seen is within N m ± t s √(N + N²/n) as often as t of n - 1 degrees says, where
    days are independent and normal about one mean (m and s: mean and standard deviation of those seen).
    """
    seen = [measured(one.money) for one in days]
    if len(seen) < _FEWEST_DAYS:
        return []
    n = len(seen)
    t = float(stats.t.ppf((1 + _INSIDE) / 2, n - 1))
    found = []
    for what in seen[0]:
        values = [one.get(what) for one in seen]
        known = [value for value in values if value is not None]
        if len(known) < n:
            continue
        middle = n * statistics.fmean(known)
        half = t * statistics.stdev(known) * math.sqrt(2 * n)
        low = middle - half
        found.append(
            Forecast(
                what=what,
                low=max(0.0, low) if what in _NEVER_BELOW_ZERO else low,
                middle=middle,
                high=middle + half,
            )
        )
    return found


def scored(kept: Mapping[tuple[str, str], Kept], since: str, until: str, came: Mapping[str, float]) -> list[Scored]:
    """Every kept forecast of days whose sums are known: those of other reports, and of this one. The newest first."""
    known = {window: one.came for window, one in kept.items()} | {(since, until): dict(came)}
    found = []
    for one in kept.values():
        following = _after(one.since, one.until)
        for forecast in one.forecasts:
            if forecast.what in (at := known.get(following, {})):
                first, last = following
                found.append(Scored(since=first, until=last, forecast=forecast, came=at[forecast.what]))
    return sorted(found, key=lambda one: (one.until, one.since), reverse=True)


def _after(since: str, until: str) -> tuple[str, str]:
    """As many days, right after these."""
    first, last = date.fromisoformat(since), date.fromisoformat(until)
    return str(last + timedelta(days=1)), str(last + (last - first) + timedelta(days=1))


def read_reports(state_dir: Path, lane: Lane) -> dict[tuple[str, str], Kept]:
    """What earlier reports of a lane kept, by their first and last day; what cannot be read is passed over, aloud."""
    paths = sorted(_folder(state_dir, lane).glob("*.json"))
    found = [one for path in paths if (one := read_kept(path, Kept)) is not None]
    return {(one.since, one.until): one for one in found}


def keep_report(state_dir: Path, lane: Lane, kept: Kept) -> None:
    """Keep what the next reports want; OSError where the disk takes nothing."""
    folder = _folder(state_dir, lane)
    make_folder(folder, mode=0o700)
    replace(folder / f"{kept.since}_{kept.until}.json", msgspec.json.encode(kept))


def _folder(state_dir: Path, lane: Lane) -> Path:
    return state_dir / "reports" / lane.tenant / lane.use_case
