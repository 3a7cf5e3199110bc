"""Where a slot is read from, moved because a person says so; each such move is kept beside the positions."""

from typing import cast

import msgspec
import redis

from store.buffer.keys import available, position_key, script_of
from store.buffer.ledger import LogSlot
from store.log.lazy import logger

_log = logger(__name__)


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    """One decision to read on elsewhere."""

    slot: LogSlot
    at: str  # the position before
    to: str  # the position after
    unread: tuple[int, int]  # offsets [from, to) that are never read; equal where none are
    again: tuple[int, int]  # offsets [from, to) of which some or all were applied before, and are read again
    who: str
    why: str
    at_s: float  # Unix seconds


class Positions:
    """Moves positions. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        """Use an open client with `decode_responses` off."""
        self._redis = client
        self._skip = client.register_script(script_of("repair/skip.lua"))

    def move(self, use_case: str, skip: Skip, fence: int) -> bool:
        """Read on where the skip says; False when the slot was claimed since `fence` was drawn: look again."""
        keys = [position_key(use_case, skip.slot), _skips_key(use_case)]
        with available():
            return bool(self._skip(keys=keys, args=[str(fence), skip.to, msgspec.json.encode(skip)]))

    def skips(self, use_case: str) -> list[Skip]:
        """Every such decision, oldest first; one that cannot be read is left out, aloud."""
        with available():
            found = cast("list[bytes]", self._redis.lrange(_skips_key(use_case), 0, -1))
        skips: list[Skip] = []
        for value in found:
            try:
                skips.append(msgspec.json.decode(value, type=Skip))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                _log.error("a record of a skip cannot be read", use_case=use_case, why=str(error))
        return skips


def _skips_key(use_case: str) -> str:
    return f"{{{use_case}}}:skips"
