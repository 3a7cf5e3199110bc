"""Puts a copy of Redis' keys back: staged under other names first, so that all are there in one step, or none."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import msgspec
import redis

from store.buffer.keys import available, text_of
from store.copies.records import Key
from store.copies.take import LIVES_ON_MS, script_of

_STAGED: Final = "{restoring}:"  # in the form of all our names: a user of Redis may have rights to no other
_SOME: Final = 500
_SCRIPT: Final = script_of("put.lua")


class Putting:
    """One copy on its way back. Every method raises StoreUnavailableError while Redis does not answer."""

    def __init__(self, client: redis.Redis, patterns: Sequence[str]) -> None:
        """Use an open client with `decode_responses` off; `patterns` of the keys' names, as they were copied by."""
        self._redis: Any = client
        self._patterns = patterns

    def present(self) -> list[str]:
        """The names of keys that are there already, without those that say who is alive."""
        with available():
            names = {name for one in self._patterns for name in self._redis.scan_iter(match=one, count=1000)}
            return sorted(text_of(name) for name in names if not 0 <= self._redis.pttl(name) < LIVES_ON_MS)

    def clear(self) -> None:
        """Forget what an earlier try has staged."""
        with available():
            names = list(self._redis.scan_iter(match=f"{_STAGED}*", count=1000))
            for start in range(0, len(names), _SOME):
                self._redis.delete(*names[start : start + _SOME])

    def stage(self, keys: Iterable[Key]) -> int:
        """Write keys aside; how many. What has expired since it was copied is left out."""
        with available():
            seconds, micro = self._redis.time()
        now_ms = seconds * 1000 + micro // 1000
        names: set[bytes] = set()
        for key in keys:
            if not key.expires_ms or key.expires_ms > now_ms:
                self._write(key)
                names.add(key.name)
        return len(names)

    def move_aside(self, prefix: str) -> None:
        """Rename the keys that are there: their names begin so from now on."""
        self._run("", prefix)

    def swap(self, *, drop: bool = False) -> str | None:
        """Give what is staged its names; the name of a key that lies there already, and then nothing was changed.

        Args:
            drop: delete what lies there instead: an earlier try has put it.
        """
        count, name = self._run(_STAGED, "drop" if drop else "refuse")
        return text_of(name) if count < 0 else None

    def _run(self, staged: str, present: str) -> tuple[int, bytes]:
        arguments = [staged, msgspec.msgpack.encode(self._patterns), present, LIVES_ON_MS]
        with available():
            return cast("tuple[int, bytes]", self._redis.eval(_SCRIPT, 0, *arguments))

    def _write(self, key: Key) -> None:
        name = _STAGED.encode() + key.name
        with available(), self._redis.pipeline(transaction=False) as pipeline:
            if key.kind == "stream":
                self._stream(pipeline, name, key)
            else:
                step = 2 * _SOME
                for start in range(0, len(key.parts), step):
                    _add(pipeline, name, key, key.parts[start : start + step])
            if key.expires_ms:
                pipeline.pexpireat(name, key.expires_ms)
            pipeline.execute()

    def _stream(self, pipeline: Any, name: bytes, key: Key) -> None:
        for number, packed in zip(key.parts[::2], key.parts[1::2], strict=True):
            pipeline.execute_command("XADD", name, number, *msgspec.msgpack.decode(packed, type=list[bytes]))
        if key.last_id:  # the last record of a stream, which may have no entry, tells where it ended
            pipeline.execute_command("XGROUP", "CREATE", name, "none", "$", "MKSTREAM")
            pipeline.execute_command("XGROUP", "DESTROY", name, "none")
            if key.last_id != b"0-0":
                pipeline.execute_command("XSETID", name, key.last_id)


def _add(pipeline: Any, name: bytes, key: Key, parts: Sequence[bytes]) -> None:
    match key.kind:
        case "string":
            pipeline.set(name, *parts)
        case "zset":
            pairs = zip(parts[::2], parts[1::2], strict=True)
            pipeline.execute_command("ZADD", name, *(part for member, score in pairs for part in (score, member)))
        case "hash":
            pipeline.execute_command("HSET", name, *parts)
        case "set":
            pipeline.sadd(name, *parts)
        case _:
            pipeline.rpush(name, *parts)
