"""The note of a restore that has begun to put things in their places: while it lies there nothing of ours starts."""

from pathlib import Path
from typing import Final, Literal

import msgspec

from store.errors import StateUnwritableError
from store.registry.files.durable import make_folder, read_kept, replace, sync_folder

_NAME: Final = "restoring.json"


class HalfRestored(msgspec.Struct, frozen=True, kw_only=True):
    """Which restore, and how far it has come."""

    backup: str  # sha256 of its manifest
    phase: Literal[
        "aside", "place"
    ]  # aside: all that lies there was there before; place: all of it may be the backup's
    stamp: str  # of what is moved aside


def half_restored(state_dir: Path) -> HalfRestored | None:
    """The restore that was not finished, if there is one."""
    return read_kept(state_dir / _NAME, HalfRestored)


def note_restore(state_dir: Path, note: HalfRestored | None) -> None:
    """Note a restore; None: it is finished.

    Raises:
        StateUnwritableError: the disk takes nothing.
    """
    try:
        if note is not None:
            make_folder(state_dir, mode=0o700)
            replace(state_dir / _NAME, msgspec.json.encode(note))
        else:
            (state_dir / _NAME).unlink(missing_ok=True)
            sync_folder(state_dir)
    except OSError as error:
        message = f"state_dir: {state_dir / _NAME}: {error.strerror}"
        raise StateUnwritableError(message) from error
