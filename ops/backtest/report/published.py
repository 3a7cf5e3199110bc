"""Numbers that others published for a log, to be drawn beside our own."""

from pathlib import Path

import msgspec

from store.errors import SettingsError


class PublishedScore(msgspec.Struct, frozen=True, kw_only=True):
    """A number that somebody else published for this log."""

    name: str
    calls: float
    accuracy: float  # of all answers, in [0, 1]


def read_published(path: Path) -> list[PublishedScore]:
    """A JSON list of published numbers.

    Raises:
        SettingsError: the file cannot be read as one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[PublishedScore])
    except (OSError, msgspec.MsgspecError) as error:
        message = f"--published {path}: {error}"
        raise SettingsError(message) from error
