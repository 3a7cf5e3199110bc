"""How a command ends: the meaning of each exit code, and the error of what makes no sense as things stand."""

from typing import Final

from store.errors import (
    AlreadyRunningError,
    BadSignatureError,
    BrokenChainError,
    CorruptItemError,
    CorruptVersionError,
    LogUnavailableError,
    MoveConflictError,
    PositionOutsideLogError,
    SettingsError,
    StateUnwritableError,
    StoreUnavailableError,
    UnderstudyError,
    UnknownVersionError,
)

OK: Final = 0
FAILED_CHECK: Final = 1
BAD_SETTINGS: Final = 2
UNAVAILABLE: Final = 3
REFUSED: Final = 4
EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 a check failed (a mismatch, a damaged version, a move that no gateway followed, an import"
    " without one good row, a crashing child); 2 bad settings or usage; 3 Redis, Kafka or a process did not answer;"
    " 4 refused, declined by the gate, or in conflict with somebody else's move."
)


class RefusedError(UnderstudyError):
    """What was asked for makes no sense as things stand; the message says why."""


_CODES: Final[tuple[tuple[type[UnderstudyError], int], ...]] = (
    (SettingsError, BAD_SETTINGS),
    (UnknownVersionError, BAD_SETTINGS),
    (StateUnwritableError, UNAVAILABLE),
    (StoreUnavailableError, UNAVAILABLE),
    (LogUnavailableError, UNAVAILABLE),
    (RefusedError, REFUSED),
    (MoveConflictError, REFUSED),
    (AlreadyRunningError, REFUSED),
    (CorruptVersionError, FAILED_CHECK),
    (BadSignatureError, FAILED_CHECK),
    (BrokenChainError, FAILED_CHECK),
    (CorruptItemError, FAILED_CHECK),
    (PositionOutsideLogError, FAILED_CHECK),
)


def exit_code_of(error: UnderstudyError) -> int:
    """The exit code for an error that ends a command."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED_CHECK)
