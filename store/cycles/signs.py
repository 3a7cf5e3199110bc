"""What the trainer says of itself over Redis: that it lives, how far its cycle has come, and what it waits for.

Nothing depends on it but what people are shown, and whether a cycle may begin in the middle of an import.
"""

from typing import Final, Literal, cast

import msgspec
import redis

from store.buffer.keys import asked
from store.control import CycleKind
from store.errors import StoreUnavailableError
from store.event import Lane

Stage = Literal["starting", "reading", "embedding", "fine_tuning", "fitting", "judging", "publishing"]
LeftBy = Literal["steps", "earlier_cycles"]

SIGN_TTL_S: Final = 10
_IMPORT_TTL_S: Final = 10


class CycleRunning(msgspec.Struct, frozen=True, kw_only=True):
    """A cycle in hand."""

    id: str
    kind: CycleKind
    at_s: float  # when it began, Unix seconds
    request: str  # id of the request that it answers; empty: of the schedule's own
    stage: Stage
    number: int  # of the stage, from 1
    stages: int
    done_ratio: float | None  # of the stage; None: it does not say
    elapsed_s: float
    left_s: float | None  # about; None: unknown
    left_by: LeftBy | None  # what the time left is reckoned from


class TrainerSign(msgspec.Struct, frozen=True, kw_only=True):
    """What a trainer says of one lane, every second."""

    owner: str
    at_s: float  # Unix seconds
    busy_with: str | None  # the lane whose cycle it is at
    cycle: CycleRunning | None  # of this lane


class Signs:
    """The trainer's signs of life. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        """Use an open client with `decode_responses` off."""
        self._redis = client

    def give(self, lane: Lane, sign: TrainerSign) -> None:
        """Say how the trainer is; forgotten after 10 s of silence."""
        self._set(_key(lane, "trainer"), msgspec.json.encode(sign), SIGN_TTL_S)

    def take_back(self, lane: Lane) -> None:
        """Say that the trainer has stopped."""
        self._delete(_key(lane, "trainer"))

    def of(self, lane: Lane) -> TrainerSign | None:
        """What the lane's trainer said in the last 10 s; None where none did, or it cannot be read."""
        value = self._get(_key(lane, "trainer"))
        try:
            return None if value is None else msgspec.json.decode(value, type=TrainerSign)
        except msgspec.MsgspecError:
            return None

    def import_goes_on(self, lane: Lane) -> None:
        """Say that rows are being imported: the schedule waits for the last of them, or for 10 s of silence."""
        self._set(_key(lane, "importing"), b"1", _IMPORT_TTL_S)

    def import_ended(self, lane: Lane) -> None:
        """Say that the last row is there."""
        self._delete(_key(lane, "importing"))

    def importing(self, lane: Lane) -> bool:
        """Whether rows are being imported."""
        return self._get(_key(lane, "importing")) is not None

    def _set(self, name: str, value: bytes, ttl_s: int) -> None:
        try:
            self._redis.set(name, value, ex=ttl_s)
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error

    def _delete(self, name: str) -> None:
        try:
            self._redis.delete(name)
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error

    def _get(self, name: str) -> bytes | None:
        return asked(self._redis, {name: "string"}, lambda: cast("bytes | None", self._redis.get(name)))


def _key(lane: Lane, name: str) -> str:
    return f"{{{lane.use_case}}}:{lane.tenant}:{name}"
