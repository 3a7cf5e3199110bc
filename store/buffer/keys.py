"""How the buffer's keys are named, and how its talk with Redis ends: in a value, or in one error that callers retry."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Final, TypeVar, cast

import msgspec
import redis

from store.buffer.ledger import LogSlot
from store.errors import StoreUnavailableError
from store.event import Lane
from store.log.lazy import logger

_log = logger(__name__)
_Answer = TypeVar("_Answer")
# All in one step: of two that meet the same key, one sets it aside, and neither what the other has begun anew.
_SET_ASIDE: Final = """
local odd = {}
for i, name in ipairs(KEYS) do
  local found = redis.call('TYPE', name)['ok']
  if found ~= ARGV[i] and found ~= 'none' then
    redis.call('RENAME', name, name .. ':aside')
    odd[#odd + 1] = name .. ' was of type ' .. found .. ', not ' .. ARGV[i]
  end
end
return odd
"""


def lane_prefix(lane: Lane) -> str:
    """What the names of a lane's keys begin with; the use case in braces is their hash tag."""
    return f"{{{lane.use_case}}}:{lane.tenant}:"


def position_key(use_case: str, slot: LogSlot) -> str:
    """The hash of a slot: its fence, its position, who claimed it last."""
    return f"{{{use_case}}}:pos:{slot.uuid}:{slot.partition}"


def settled_key(use_case: str) -> str:
    """The hash of dead letters that were dealt with: reason -> how many."""
    return f"{{{use_case}}}:letters:settled"


def script_of(name: str) -> str:
    """One of the Lua scripts beside this file."""
    return (files("store.buffer") / name).read_text("utf-8")


def text_of(value: bytes) -> str:
    """A name or a number as it lies in Redis; a damaged one is a text all the same."""
    return value.decode(errors="replace")


def slot_of(member: bytes) -> LogSlot | None:
    """A slot as it is listed; None where the entry is damaged: its next claim lists it again."""
    try:
        return msgspec.json.decode(member, type=LogSlot)
    except msgspec.MsgspecError:
        _log.warning("an entry of the list of slots is damaged and left out")
        return None


def is_of_another_kind(found: object) -> bool:
    """Whether a command met a key of the wrong type."""
    return isinstance(found, redis.ResponseError) and "WRONGTYPE" in str(found)


@contextmanager
def available() -> Iterator[None]:
    """Every trouble with Redis, as the one error that callers retry."""
    try:
        yield
    except redis.RedisError as error:
        message = f"Redis: {error}"
        raise StoreUnavailableError(message) from error


def asked(client: redis.Redis, kinds: Mapping[str, str], question: Callable[[], _Answer]) -> _Answer:
    """What Redis answers. A key that is of another type is set aside, as `NAME:aside`, aloud, and it is asked again.

    Args:
        client: an open client.
        kinds: the keys that are asked for, and of which type each has to be.
        question: may be asked twice.

    Raises:
        StoreUnavailableError: Redis did not answer.
    """
    with available():
        try:
            return question()
        except redis.ResponseError as error:
            if not is_of_another_kind(error):
                raise
        odd = cast("list[bytes]", client.eval(_SET_ASIDE, len(kinds), *kinds.keys(), *kinds.values()))
        _log.error("keys of another type were set aside, and begin anew", keys=[text_of(one) for one in odd])
        return question()
