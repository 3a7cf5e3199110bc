"""Errors, each named for what the caller should do about it."""

from typing import Literal


class UnderstudyError(Exception):
    """Any error of ours; its message says what to do."""


class SettingsError(UnderstudyError):
    """A setting is missing or wrong. Never retry: the message names the key."""


class TooLaboriousError(UnderstudyError):
    """Redacting a text would take too long. Never retry, never keep it as it is: refuse it, or bury its record."""


class WrongShapeError(UnderstudyError):
    """The parts of an event do not fit one another. Never retry, never keep it: bury its record, mend the producer."""


class StateUnwritableError(UnderstudyError):
    """The state directory takes no write: its disk is full, or it may not be written. Make room and try again."""


class StoreError(UnderstudyError):
    """The replay buffer refused or failed."""


class StoreUnavailableError(StoreError):
    """Redis did not answer in time. Retry: every write is idempotent."""


class CorruptItemError(StoreError):
    """A stored item cannot be read: another release has written it. Never use it; rebuild the buffer from the log."""


class DamagedItemError(CorruptItemError):
    """A stored value disagrees with its checksum. Leave it out and say so; a rebuild mends it."""


class LogError(UnderstudyError):
    """The log of escalations refused or failed."""


class LogUnavailableError(LogError):
    """The log did not acknowledge in time. Spool the event and retry: ids make a repeat harmless."""


class RecordTooLargeError(LogError):
    """A record is over the log's size limit. Never retry it as it is."""


class PositionOutsideLogError(LogError):
    """The stored position is no longer (or not yet) in the log. A person must decide; never jump silently."""


class DamagedRecordError(LogError):
    """A record of the log fails its checksum. A person must decide: repair the log, or step over it."""


class SpoolFullError(LogError):
    """The disk spool is at its limit: the event was dropped, counted, and must raise an alert."""


class RegistryError(UnderstudyError):
    """The registry of versions and moves refused or failed."""


class UnknownVersionError(RegistryError):
    """No version with that id, or more than one with that prefix."""


class CorruptVersionError(RegistryError):
    """A version's files disagree with its manifest. Never retry, never serve."""


class BadSignatureError(RegistryError):
    """A manifest or a move is not signed by a trusted key. Never load it, never act on it."""


class BrokenChainError(RegistryError):
    """A move does not name the hash of the one before it. Never act on it or on any after it."""


class MoveConflictError(RegistryError):
    """Another writer appended this move first. Read the moves again and decide anew."""


class SwapRefusedError(UnderstudyError):
    """A version could not be taken into service. The one before it serves on."""


class TeacherError(UnderstudyError):
    """The teacher could not be asked, or its answer was of no use."""


AnswerFault = Literal["empty", "off_list", "several", "not_json", "truncated"]


class InvalidAnswerError(TeacherError):
    """The teacher answered, but not with one of the lane's labels. It was paid for; never train on it."""

    def __init__(self, message: str, *, kind: AnswerFault = "off_list") -> None:
        """`kind` is what is wrong with it, for a metric."""
        super().__init__(message)
        self.kind: AnswerFault = kind


class DamagedCopyError(UnderstudyError):
    """A backup is damaged, cut short, or no backup of ours. Never restore from it: take another one."""


class LeaseLostError(UnderstudyError):
    """Another trainer holds the lease now. Drop what was made; do not move the champion."""


class AlreadyRunningError(UnderstudyError):
    """Another process of this name works on the same state directory. Stop it first."""
