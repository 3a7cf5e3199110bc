"""How the processes of a lane talk to one another, over Redis: heartbeats, requests for a cycle, the trainer's lease.

None of it is needed to answer a request or to roll back: both work on files alone while Redis is down.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeVar, cast

import msgspec
import redis

from store.buffer.keys import asked, available, is_of_another_kind
from store.errors import LeaseLostError, StoreUnavailableError
from store.event import Lane
from store.log.lazy import logger

_log = logger(__name__)
_Kept = TypeVar("_Kept")
CycleKind = Literal["head", "fine_tune", "candidate"]

REMEMBERED_REQUESTS: Final = 500  # that a replica remembers of a lane
REMEMBERED_S: Final = 300.0  # for how long


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway replica says of one lane, every second."""

    version: str | None  # serving now; None while cold
    at_s: float  # Unix seconds
    requests: int = 0  # since the replica started
    escalated: int = 0  # of these, answered by the teacher
    withheld: int = 0
    recent_requests: int = 0  # of the last REMEMBERED_S, at most REMEMBERED_REQUESTS
    recent_escalated: int = 0
    budget_used_calls: int = 0
    budget_limit_calls: int = 0
    suspended: bool = False  # the budget binds
    teacher_answers: int = 0  # since the replica started, audits included
    teacher_unread: int = 0  # of these, the ones that could not be read as a label


class CycleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants a cycle now."""

    kind: CycleKind
    who: str
    why: str
    at_s: float
    candidate: str | None = None  # version id, for kind "candidate"
    id: str = ""  # by which whoever asked finds what came of it; empty: nobody waits


class TrainingState(msgspec.Struct, frozen=True, kw_only=True):
    """What the schedule remembers of a lane; losing it makes the next cycle start sooner, and the lane young again."""

    items_at_cycle: int = 0  # rows that cycles have drawn, each counted once: up to the last one
    items_at_fine_tune: int = 0
    labels: int = 0  # that the last cycle's version knew; 0 before there was one
    learned_labels: int = 0  # of these, the ones with items enough to be learned
    learned_at_fine_tune: int = 0
    last_cycle_s: float = 0.0  # Unix seconds
    first_cycle_s: float = 0.0  # of the first that made a version; 0 before there was one
    fine_tuned_s: float = 0.0  # of the last that made a fine-tuned member
    counted_at_cycle: int | None = None  # events counted when the last cycle began; None: nobody has noted it
    waiting_at_cycle: int = 0  # kept items that it did not draw
    prompt_version: str = ""  # whose answers it drew, and how they were read: `Drawing.digest`


class CycleEnded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one cycle, for people."""

    id: str
    at_s: float  # when it began, Unix seconds
    seconds: float
    kind: CycleKind
    verdict: Literal["pass", "fail", "inconclusive", "held", "error"]
    why: str  # the refusals, or what the error was
    version: str | None = None
    next_try_s: float | None = None  # after an error, Unix seconds
    request: str = ""  # id of the request that it answers
    nothing_new: bool = False  # there was nothing to learn from that the champion had not learned


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The right to train a lane, until it expires; the fence grows with each holder."""

    name: str
    owner: str
    fence: int


HEARTBEAT_TTL_S: Final = 10
LIVE_S: Final = 3.0  # who spoke within it follows; a stopped replica is remembered for longer
ENDED_KEPT: Final = 100  # cycles
_ACQUIRE: Final = """
local function whole(name)
  local found = redis.call('TYPE', name)['ok']
  if found == 'string' or found == 'none' then return true end
  redis.call('RENAME', name, name .. ':aside')
  return false
end
local holder = whole(KEYS[1]) and redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
local known = whole(KEYS[2])
local fence = known and redis.call('GET', KEYS[2])
if not known or (fence and not string.match(fence, '^%d+$')) then -- damaged: one that is higher than any drawn so far
  local now = redis.call('TIME')
  redis.call('SET', KEYS[2], string.format('%d', tonumber(now[1]) * 1000000 + tonumber(now[2])))
  holder = false
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if holder then return tonumber(redis.call('GET', KEYS[2])) end
return redis.call('INCR', KEYS[2])
"""
_RENEW: Final = """
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] or redis.pcall('GET', KEYS[2]) ~= ARGV[3] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
_RELEASE: Final = """
if redis.pcall('GET', KEYS[1]) == ARGV[1] and redis.pcall('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[1]) end
return 1
"""


class Control:
    """The control plane. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        """Use an open client with `decode_responses` off."""
        self._redis = client
        self._acquire = client.register_script(_ACQUIRE)
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)

    def announce(self, lane: Lane, replica: str, heartbeat: Heartbeat) -> None:
        """Say that a replica is alive and what it serves; forgotten after 10 s of silence."""
        try:
            self._redis.set(_key(lane, f"beat:{replica}"), msgspec.json.encode(heartbeat), ex=HEARTBEAT_TTL_S)
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error

    def heartbeats(self, lane: Lane, *, within_s: float = HEARTBEAT_TTL_S) -> Mapping[str, Heartbeat]:
        """The replicas that spoke lately, by name; one whose word cannot be read is left out.

        How long ago that was is by Redis' clock: the replicas' own may be wrong by hours.
        """
        prefix = _key(lane, "beat:")
        found: dict[str, Heartbeat] = {}
        try:
            for key in sorted(cast("list[bytes]", list(self._redis.scan_iter(match=f"{prefix}*", count=1000)))):
                left_ms = self._redis.pttl(key)
                beat = _decoded(self._beat(key), Heartbeat, key)
                if beat is not None and HEARTBEAT_TTL_S - left_ms / 1000 < within_s:
                    found[key.decode().removeprefix(prefix)] = beat
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error
        return found

    def _beat(self, key: bytes) -> bytes | None:
        """A heartbeat as it lies there; what is no text is none, and its replica writes over it within a second."""
        try:
            return cast("bytes | None", self._redis.get(key))
        except redis.ResponseError as error:
            if not is_of_another_kind(error):
                raise
            return str(error).encode()

    def request_cycle(self, lane: Lane, request: CycleRequest) -> None:
        """Ask the trainer for a cycle; it takes requests in order."""
        name = _key(lane, "cycles")
        asked(self._redis, {name: "list"}, lambda: self._redis.rpush(name, msgspec.json.encode(request)))

    def next_cycle_request(self, lane: Lane) -> CycleRequest | None:
        """The oldest request, left in place until `finish_cycle_request`: a killed trainer finds it again.

        One that cannot be read is dropped, aloud: it would hold up all that come after it.
        """
        name = _key(lane, "cycles")
        while (value := self._first(name)) is not None:
            request = _decoded(value, CycleRequest, name)
            if request is not None:
                return request
            with available():
                self._redis.lrem(name, 1, cast("str", value))
        return None

    def _first(self, name: str) -> bytes | None:
        return asked(self._redis, {name: "list"}, lambda: cast("bytes | None", self._redis.lindex(name, 0)))

    def finish_cycle_request(self, lane: Lane, request: CycleRequest) -> None:
        """Take a request off the list, however it is spelt there; a second call changes nothing."""
        name = _key(lane, "cycles")
        value = self._first(name)
        spelt = value if _decoded(value, CycleRequest, name) == request else msgspec.json.encode(request)
        with available():
            self._redis.lrem(name, 1, cast("str", spelt))

    def training_state(self, lane: Lane) -> TrainingState:
        """What the schedule remembers of the lane; what cannot be read counts as lost."""
        name = _key(lane, "training")
        return _decoded(self._text(name), TrainingState, name) or TrainingState()

    def remember(self, lane: Lane, state: TrainingState, drawn: bytes | None = None) -> None:
        """Keep what the schedule must know after a restart; with it, where given, the rows that the cycle drew."""
        try:
            with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.set(_key(lane, "training"), msgspec.json.encode(state))
                if drawn is not None:
                    pipeline.set(_key(lane, "drawn"), drawn)
                pipeline.execute()
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error

    def drawn(self, lane: Lane) -> bytes | None:
        """The rows that the last cycle drew, as `remember` was given them; None where nobody has noted them."""
        return self._text(_key(lane, "drawn"))

    def cycle_ended(self, lane: Lane, ended: CycleEnded) -> None:
        """Note what became of a cycle; the newest 100 are kept."""
        name = _key(lane, "ended")

        def note() -> None:
            with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.lpush(name, msgspec.json.encode(ended))
                pipeline.ltrim(name, 0, ENDED_KEPT - 1)
                pipeline.execute()

        asked(self._redis, {name: "list"}, note)

    def ended_cycles(self, lane: Lane, limit: int = ENDED_KEPT) -> list[CycleEnded]:
        """The last cycles of the lane, oldest first; one that cannot be read is left out."""
        name = _key(lane, "ended")
        found = asked(self._redis, {name: "list"}, lambda: cast("list[bytes]", self._redis.lrange(name, 0, limit - 1)))
        known = (_decoded(value, CycleEnded, name) for value in reversed(found))
        return [one for one in known if one is not None]

    def keep_ending(self, lane: Lane, ending: bytes | None) -> None:
        """Keep what a cycle comes to until all that follows from it is done; None: it is."""
        name = _key(lane, "ending")
        with available():
            if ending is None:
                self._redis.delete(name)
            else:
                self._redis.set(name, ending)

    def ending(self, lane: Lane) -> bytes | None:
        """What `keep_ending` was given last, if that is not done."""
        return self._text(_key(lane, "ending"))

    def keep_census(self, lane: Lane, census: bytes) -> None:
        """Keep what the last count of the lane's answers came to, for whoever wants to know it soon after."""
        try:
            self._redis.set(_key(lane, "census"), census)
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error

    def census(self, lane: Lane) -> bytes | None:
        """The last count of the lane's answers, as `keep_census` was given it."""
        return self._text(_key(lane, "census"))

    def _text(self, name: str) -> bytes | None:
        return asked(self._redis, {name: "string"}, lambda: cast("bytes | None", self._redis.get(name)))

    def acquire(self, lane: Lane, owner: str, ttl_s: float) -> Lease | None:
        """The lane's trainer lease, or None while another owner holds it."""
        name = _key(lane, "lease")
        try:
            fence = cast("int", self._acquire(keys=[name, f"{name}:fence"], args=[owner, int(ttl_s * 1000)]))
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error
        return Lease(name=name, owner=owner, fence=int(fence)) if fence else None

    def renew(self, lease: Lease, ttl_s: float) -> None:
        """Hold the lease for longer; call it right before a move, too.

        Raises:
            LeaseLostError: it expired, or another trainer has taken it since.
        """
        keys = [lease.name, f"{lease.name}:fence"]
        try:
            held = self._renew(keys=keys, args=[lease.owner, int(ttl_s * 1000), str(lease.fence)])
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error
        if not held:
            message = f"the lease {lease.name} is no longer ours: another trainer may be at work"
            raise LeaseLostError(message)

    def release(self, lease: Lease) -> None:
        """Give the lease back, if it is still ours."""
        keys = [lease.name, f"{lease.name}:fence"]
        try:
            self._release(keys=keys, args=[lease.owner, str(lease.fence)])
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error


def _decoded(value: bytes | None, kind: type[_Kept], name: bytes | str) -> _Kept | None:
    """A stored record, or None where there is none or it is damaged."""
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _log.error("a record in Redis cannot be read and counts as lost", key=str(name), why=str(error))
        return None


def _key(lane: Lane, name: str) -> str:
    return f"{{{lane.use_case}}}:{lane.tenant}:{name}"
