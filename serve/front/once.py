"""Idempotency-Key: what was answered under a key is given again for a day, and nothing is paid twice.

A request claims its key, is answered, and leaves its answers, never its text, sealed so that only who shows that key
again can have them read: they hold personal data as the client is to see it. The same request meanwhile waits for it
(on this replica) or is told to come again (409, on another); another body under the same key is 422. What was refused
is not kept: of a list, only the texts without an answer are asked again. While Redis does not answer, this process's
memory alone knows, and the answer says so.
"""

import asyncio
import hmac
import zlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final, Generic, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from serve.escalation import Answer, Given
from serve.front.errors import ApiError
from serve.front.kept import KEEP_S, Memory, Remembered, Shared
from store.errors import StoreUnavailableError
from store.log.lazy import logger

_log: Final = logger(__name__)
_HOLD_S: Final = 15.0  # a claim of a replica that died is free again after this
_RENEW_S: Final = 5.0
_PATIENCE_S: Final = 1.0  # with Redis
_QUIET_S: Final = 1.0  # before it is asked again
_CLOSE_S: Final = 5.0
_MOST_WAITING: Final = 16  # for one request: each holds a connection
_RETRY_AFTER_S: Final = 1
_LONGEST_RETRY_S: Final = 5
_NONCE_BYTES: Final = 12
_CRC_BYTES: Final = 4
_NAME_BYTES: Final = 16

T = TypeVar("T")
A = TypeVar("A")


class KeptAnswer(msgspec.Struct, Generic[A], frozen=True, kw_only=True):
    """What a request came to."""

    first_id: str  # event id of its first question, which names the response
    at_s: float  # Unix seconds
    found: list[A | None]  # by question; None where nobody could answer


Work = Callable[[Sequence[Answer | None]], Awaitable[Given]]  # with the answers that there are already; may be empty


def _of_an_earlier_release(value: bytes) -> bytes:
    """Until 0.2 answers were not sealed: CRC-32 and JSON. They are kept for a day."""
    crc, body = value[:_CRC_BYTES], value[_CRC_BYTES:]
    return body if crc == zlib.crc32(body).to_bytes(_CRC_BYTES, "big") else b""


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A request under its key. Of neither can anything be guessed from what is stored."""

    name: str
    request: str
    key: bytes  # of AES-256-GCM: the lane's and the client's together

    def write(self, outcome: KeptAnswer[Any]) -> bytes:
        """What is stored of an outcome."""
        body = msgspec.json.encode(outcome)
        nonce = hmac.digest(self.key, body, "sha256")[:_NONCE_BYTES]  # a function of what is sealed
        return nonce + AESGCM(self.key).encrypt(nonce, body, self.name.encode())

    def read(self, value: bytes, kind: type[KeptAnswer[Any]]) -> KeptAnswer[Any] | None:
        """What was stored; None where it is nothing, or damaged."""
        try:
            body = AESGCM(self.key).decrypt(value[:_NONCE_BYTES], value[_NONCE_BYTES:], self.name.encode())
        except (InvalidTag, ValueError):
            body = _of_an_earlier_release(value)
        try:
            found: KeptAnswer[Any] = msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return found


@dataclass(slots=True)
class _Running:
    request: str
    task: asyncio.Task[Given]
    waiting: int = 0  # others with the same request


class Once:
    """One lane's keyed requests. Used from the event loop alone; Redis is spoken to in threads."""

    def __init__(
        self,
        shared: Shared | None,
        lane_key: bytes,
        *,
        answer_type: type[Answer],
        new_id: Callable[[], str],
        monotonic: Callable[[], float],
    ) -> None:
        """Nothing is running. Without `shared` the memory of this process is all there is.

        Args:
            shared: what all replicas know.
            lane_key: keeps keys and requests from being guessed from what is stored.
            answer_type: of the lane's task.
            new_id: names of claims.
            monotonic: seconds.
        """
        kind: Any = answer_type
        self._kind: type[KeptAnswer[Any]] = KeptAnswer[kind]
        self._shared = shared
        self._key = lane_key
        self._new_id = new_id
        self._monotonic = monotonic
        self._memory = Memory()
        self._running: dict[str, _Running] = {}
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="once")
        self._quiet_until_s = 0.0

    async def answer(self, key: str, body: object, work: Work) -> Given:
        """The answers under a key: those of an earlier request with this body, or else those of `work`.

        Args:
            key: as the client sent it.
            body: all of the request that shapes its answers, as what JSON can hold.
            work: answers the texts that have none.

        Raises:
            ApiError: 422 for another body under this key, 409 while another replica is at work, or what `work` raises.
        """
        keyed = _Keyed(
            name=self._digest("key", key.encode()).hex()[: 2 * _NAME_BYTES],
            request=self._digest("request", msgspec.json.encode(body)).hex(),
            key=self._digest("seal", key.encode()),
        )
        running = self._running.get(keyed.name)
        if running is not None:
            if running.request != keyed.request:
                raise _reused()
            if running.waiting >= _MOST_WAITING:
                raise _in_progress(_RETRY_AFTER_S)
            running.waiting += 1
            try:
                return replace(await asyncio.shield(running.task), replayed=True)
            finally:
                running.waiting -= 1
        task = asyncio.create_task(self._answer(keyed, work))  # a client that hangs up does not end it
        self._running[keyed.name] = _Running(keyed.request, task)
        task.add_done_callback(lambda done: self._end(keyed.name, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Let requests that are at work leave their answers, within a bound."""
        tasks = [one.task for one in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_CLOSE_S)
            for task in late:
                task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _end(self, name: str, task: asyncio.Task[Given]) -> None:
        self._running.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever waits for it is told; nobody may be

    async def _answer(self, keyed: _Keyed, work: Work) -> Given:
        name, request = keyed.name, keyed.request
        remembered = self._memory.get(name, self._monotonic())
        if remembered is not None and remembered.request != request:
            raise _reused()
        if (
            remembered is not None
            and remembered.complete
            and (old := keyed.read(remembered.answers, self._kind)) is not None
        ):
            return _again(old)
        owner = self._new_id()
        claim = await self._ask(lambda shared: shared.claim(name, request, owner, _HOLD_S))
        if claim is not None and claim.state == "other":
            raise _reused()
        if claim is not None and claim.state == "busy":
            raise _in_progress(min(1 + ceil(claim.wait_s), _LONGEST_RETRY_S))
        so_far = keyed.read(claim.answers, self._kind) if claim is not None else None
        if so_far is None and remembered is not None:
            so_far = keyed.read(remembered.answers, self._kind)
        if so_far is not None and None not in so_far.found:
            self._remember(keyed, so_far)
            return _again(so_far)
        try:
            given = await self._holding(work([] if so_far is None else so_far.found), name, owner)
        except BaseException:
            with suppress(asyncio.CancelledError):
                await self._ask(lambda shared: shared.release(name, owner))
            raise
        return await self._keep(keyed, owner, given)

    async def _holding(self, work: Awaitable[Given], name: str, owner: str) -> Given:
        """Do the work, and hold the claim for as long as it takes."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=_RENEW_S))[0]:
                await self._ask(lambda shared: shared.renew(name, owner, _HOLD_S))
        finally:
            task.cancel()  # changes nothing once it is done
        return task.result()

    async def _keep(self, keyed: _Keyed, owner: str, given: Given) -> Given:
        answers = [one if isinstance(one, Answer) else None for one in given.found]
        if not any(answers):
            await self._ask(lambda shared: shared.release(keyed.name, owner))
            return given
        outcome: KeptAnswer[Any] = KeptAnswer(first_id=given.first_id, at_s=given.at_s, found=answers)
        self._remember(keyed, outcome)
        value, complete = keyed.write(outcome), None not in answers
        kept = await self._ask(lambda shared: shared.keep(keyed.name, keyed.request, owner, value, complete=complete))
        return replace(given, shared=bool(kept))

    def _remember(self, keyed: _Keyed, outcome: KeptAnswer[Any]) -> None:
        until_s, complete = self._monotonic() + KEEP_S, None not in outcome.found
        answers = keyed.write(outcome)
        remembered = Remembered(request=keyed.request, answers=answers, complete=complete, until_s=until_s)
        self._memory.put(keyed.name, remembered)

    async def _ask(self, call: Callable[[Shared], T]) -> T | None:
        """What Redis says; None where it does not, and then it is left alone for a second."""
        shared = self._shared
        if shared is None or self._monotonic() < self._quiet_until_s:
            return None
        work = asyncio.get_running_loop().run_in_executor(self._threads, call, shared)
        try:
            return await asyncio.wait_for(work, _PATIENCE_S)
        except (StoreUnavailableError, TimeoutError) as error:
            self._quiet_until_s = self._monotonic() + _QUIET_S
            _log.warning("no Redis for idempotency keys: this replica's memory alone knows them", error=str(error))
            return None

    def _digest(self, purpose: str, value: bytes) -> bytes:
        """Keyed, so that neither keys nor texts can be guessed from what is stored."""
        return hmac.digest(self._key, b"idempotency/" + purpose.encode() + b"\0" + value, "sha256")


def _again(outcome: KeptAnswer[Any]) -> Given:
    return Given(
        first_id=outcome.first_id, at_s=outcome.at_s, found=[one for one in outcome.found if one], replayed=True
    )


def _reused() -> ApiError:
    message = "this Idempotency-Key was used for another request"
    return ApiError(422, "idempotency_key_reused", message, "Idempotency-Key")


def _in_progress(retry_after_s: int) -> ApiError:
    message = "a request with this Idempotency-Key is being answered"
    return ApiError(409, "idempotency_in_progress", message, retry_after_s=retry_after_s)
