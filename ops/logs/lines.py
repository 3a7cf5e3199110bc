"""Log lines: JSON on standard error for machines, readable where it is a terminal.

Events are words and numbers: no line of ours carries a text, an answer or a key, and every field is bounded. Lines at
debug level, which are asked for, carry what a teacher said, redacted.
"""

import logging
import sys
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from ops.logs.repeats import RepeatLimit

MAX_FIELD_CHARACTERS: Final = 500
MAX_TRACEBACK_CHARACTERS: Final = 6000
_LOUD_LIBRARIES: Final = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "kafka", "urllib3", "transformers")


def configure(process: str) -> None:
    """Send everything, libraries' lines included, to standard error, stamped with the process's name."""

    def stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process  # not a context variable: new threads start without those
        return event

    shared: list[Processor] = [
        stamp,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        bound_fields,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    handler.addFilter(RepeatLimit())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for library in _LOUD_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it warns of each tick that a long cycle skips


def show_debug(room: str) -> None:
    """Let the debug lines of one room through, and no library's."""
    logging.getLogger(room).setLevel(logging.DEBUG)


def bound_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Cut long fields: a log line must never be the thing that fills a disk. Of a traceback the end is kept."""
    return {name: _bounded(name, value) for name, value in event.items()}


def _bounded(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name == "exception":
        return value[-MAX_TRACEBACK_CHARACTERS:]
    if len(value) > MAX_FIELD_CHARACTERS:
        return value[:MAX_FIELD_CHARACTERS] + f"… ({len(value)} characters)"
    return value
