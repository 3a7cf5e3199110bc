"""The log as our modules write to it: structlog, imported with the first line that is written.

It takes as long to import as a short command takes for everything else, and most commands write none.
"""

import sys
from functools import cached_property
from typing import Any


def to_standard_error() -> None:
    """Write lines to standard error: standard output is for what a command answers."""
    import structlog  # noqa: PLC0415 - as below

    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def logger(*names: str) -> "Logger":
    """The logger of a module, by its name."""
    return Logger(names)


class Logger:
    """Stands for structlog's logger; a process that has not configured it logs to standard error."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Made by `logger`."""
        self._names = names

    @cached_property
    def _lines(self) -> Any:
        import structlog  # noqa: PLC0415 - this is what the file is for

        if not structlog.is_configured():
            to_standard_error()
        return structlog.get_logger(*self._names)

    def __getattr__(self, method: str) -> Any:
        return getattr(self._lines, method)
