"""Log lines that repeat: of the same event so many a minute, and then how many were left out.

The same event is the same words at the same level from the same logger about the same lane, with the same kind of
error. Lines of libraries count as the same when only their numbers differ. A library's warning or error (Kafka's client
says ten times a second that its group is refused) is written once; while it goes on, a line a minute says how often, in
its words. All lines are counted, left out or not.
"""

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from store.log.lazy import logger

LINES_A_MINUTE: Final = 10
_OF_A_LIBRARY: Final = 1  # warnings and errors, which it repeats until somebody comes
_WINDOW_S: Final = 60.0
_MOST_EVENTS: Final = 1024
_EVENT_CHARACTERS: Final = 200
_LEFT_OUT: Final = "log_lines_left_out"
_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|\d+")
_ABOUT: Final = ("lane", "tenant", "use_case", "kind", "name", "outcome", "reason", "code", "error", "why")
_ABOUT_CHARACTERS: Final = 80
_MOST_OF_ALL_KINDS: Final = 10  # times as many of an event, whatever it is about
_LEVELS: Final = {logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "critical"}

Key = tuple[str, int, str, str]


@dataclass(frozen=True, slots=True)
class _Event:
    """Of what a line tells."""

    logger: str
    level: int
    kind: str  # the words that stand in the code
    about: str  # what else makes two lines different; a library's: the line itself
    in_words: str  # for the line that says how many were left out
    of_a_library: bool

    @property
    def key(self) -> Key:
        """The same for the same event."""
        return self.logger, self.level, self.kind, self.about

    @property
    def of_all_kinds(self) -> Key:
        """The same for these words, whatever they are about."""
        return self.logger, self.level, self.kind, ""


@dataclass(slots=True)
class _Window:
    """What became of one event's lines since the window opened."""

    event: _Event
    since_s: float
    passed: int = 0
    left_out: int = 0
    goes_on: bool = False  # it was said in the window before: none passes


class RepeatLimit(logging.Filter):
    """Put it on the handler, so that it sees libraries' lines, too."""

    def __init__(
        self,
        *,
        most: int = LINES_A_MINUTE,
        monotonic: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] | None = None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """Nothing was said yet.

        Args:
            most: lines of one event in a window.
            monotonic: the clock.
            later: calls a function after so many seconds; a daemon thread unless told otherwise.
            registry: of the counters.
        """
        super().__init__()
        self._most = most
        self._monotonic = monotonic
        self._later = later or _in_a_thread
        self._windows: OrderedDict[Key, _Window] = OrderedDict()
        self._lock = threading.Lock()
        self._report_is_due = False
        self._lines = Counter(
            "understudy_log_lines", "Lines of the log by level, left out or not.", ["level"], registry=registry
        )
        self._left_out = Counter(
            "understudy_log_lines_left_out",
            "Lines of the log that were left out, because the same event had been said often enough in a minute.",
            ["level"],
            registry=registry,
        )

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        level = _LEVELS.get(record.levelno, "info")
        self._lines.labels(level).inc()
        event = _event(record)
        if event.kind == _LEFT_OUT:
            return True
        most = _OF_A_LIBRARY if event.of_a_library else self._most
        with self._lock:
            now_s = self._monotonic()
            passes = self._count(event, event.key, most, now_s)
            passes = passes and self._count(event, event.of_all_kinds, _MOST_OF_ALL_KINDS * most, now_s)
            starts = not passes and not self._report_is_due
            self._report_is_due |= starts
        if not passes:
            self._left_out.labels(level).inc()
        if starts:
            self._later(_WINDOW_S, self.report)
        return passes

    def report(self) -> None:
        """Say what was left out in the windows that are over; again later, while others are open."""
        with self._lock:
            now_s = self._monotonic()
            over = [(key, one) for key, one in self._windows.items() if now_s - one.since_s >= _WINDOW_S]
            for key, one in over:
                del self._windows[key]
                if one.left_out and one.event.of_a_library:
                    self._windows[key] = _Window(one.event, now_s, goes_on=True)
            self._report_is_due = any(one.left_out for one in self._windows.values())
            again = self._report_is_due
        for key, one in over:
            if one.left_out:
                _say(one, one.event.in_words if key == one.event.key else one.event.kind)
        if again:
            self._later(_WINDOW_S, self.report)

    def _count(self, event: _Event, key: Key, most: int, now_s: float) -> bool:
        """Count a line; whether it passes."""
        window = self._windows.get(key)
        if window is None or (now_s - window.since_s >= _WINDOW_S and not window.left_out):
            window = self._windows[key] = _Window(event, now_s)
            self._windows.move_to_end(key)
            if len(self._windows) > _MOST_EVENTS:
                self._windows.popitem(last=False)  # its next line passes
        if window.passed < most and not window.goes_on:
            window.passed += 1
            return True
        window.left_out += 1
        return False


def _event(record: logging.LogRecord) -> _Event:
    """What makes two lines the same event."""
    if isinstance(record.msg, dict):
        fields: dict[str, Any] = record.msg
        about = [str(fields[name])[:_ABOUT_CHARACTERS] for name in _ABOUT if name in fields]
        about.append(str(fields.get("exception", "")).rpartition("\n")[2].partition(":")[0])
        kind = str(fields.get("event", ""))[:_EVENT_CHARACTERS]
        of_it = "about " + _NUMBERS.sub("#", " ".join(about))
        return _Event(record.name, record.levelno, kind, of_it, kind, of_a_library=False)
    line, error = (
        _first(_message(record)),
        record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else "",
    )
    return _Event(
        record.name,
        record.levelno,
        _first(str(record.msg)),
        f"about {line} {error}",
        line,
        of_a_library=record.levelno >= logging.WARNING,
    )


def _message(record: logging.LogRecord) -> str:
    """A library's line; as it stands in its code, where its arguments do not fit."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return str(record.msg)


def _first(text: str) -> str:
    """The first line, cut, whatever numbers are in it."""
    return _NUMBERS.sub("#", text.partition("\n")[0][:_EVENT_CHARACTERS])


def _say(window: _Window, of: str) -> None:
    logger(window.event.logger).log(window.event.level, _LEFT_OUT, of=of, lines=window.left_out, seconds=_WINDOW_S)


def _in_a_thread(seconds: float, function: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
