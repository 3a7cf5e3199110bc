"""Copies keys of Redis as they are at one instant, while everybody writes.

Items, which are nearly all of it, are copied before that; then one script reads the rest and says which of them changed
(an item begins with its checksum). Entries of a stream never change: they are read after it, between the ends it saw.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, BinaryIO, Final, cast

import msgspec
import redis

from store.buffer.keys import available
from store.buffer.stored import CHECKSUM_BYTES
from store.copies.records import Key, read_raw, write_key, write_raw

LIVES_ON_MS: Final = 60_000  # what is gone sooner says who is alive: leases and signs of life belong to nobody later
_SOME: Final = 500


def script_of(name: str) -> str:
    """A script of this folder, with what all of them begin with."""
    return "".join((files("store.copies") / part).read_text("utf-8") for part in ("names.lua", name))


_SCRIPT: Final = script_of("take.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was copied."""

    at_s: float  # the instant, Unix seconds by Redis' clock
    keys: int


def take(
    client: redis.Redis,
    patterns: Sequence[str],
    *,
    early: Sequence[str],
    left_out: Sequence[str],
    scratch: BinaryIO,
    out: BinaryIO,
    seen: Callable[[Key], None] = lambda _: None,
) -> Taken:
    """Copy every key whose name fits, as they all are at one instant.

    Args:
        client: an open client with `decode_responses` off, which waits for long answers.
        patterns: of the names, as Redis matches them; no name fits two.
        early: patterns of values that begin with their checksum: copied before the instant, and again where changed.
        left_out: names that are left out, as Lua matches them.
        scratch: an empty file to work in.
        out: takes the records.
        seen: told of every key but those of `early` and streams.

    Raises:
        StoreUnavailableError: Redis did not answer.
        OSError: a file takes nothing.
    """
    places = _copy_early(client, early, scratch)
    known = {name.decode(): head.decode("latin-1") for name, (head, _) in places.items()}
    arguments: list[bytes | int] = [msgspec.msgpack.encode(one) for one in (patterns, left_out, known)]
    with available():
        found = cast("list[Any]", client.eval(_SCRIPT, 0, *cast("Any", [*arguments, LIVES_ON_MS])))
    at_ms, *keys = found
    for name, kind, expires, parts in keys:
        expires_ms = int(expires)
        match kind:
            case b"same":
                scratch.seek(places[name][1])
                write_raw(out, read_raw(scratch) or b"")
            case b"stream":
                for key in _entries(client, name, *parts):
                    write_key(out, key)
            case _:
                key = Key(name=name, kind=kind.decode(), parts=parts, expires_ms=expires_ms)
                write_key(out, key)
                seen(key)
    return Taken(at_s=int(at_ms) / 1000, keys=len(keys))


def _copy_early(client: redis.Redis, patterns: Sequence[str], scratch: BinaryIO) -> dict[bytes, tuple[bytes, int]]:
    """Copy values that hardly change: by name, how each began and where its record lies."""
    places: dict[bytes, tuple[bytes, int]] = {}
    for names in _scanned(client, patterns):
        with available(), client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.get(name)
            values = cast("list[bytes | Exception | None]", pipeline.execute(raise_on_error=False))
        for name, value in zip(names, values, strict=True):
            if isinstance(value, bytes):
                places[name] = value[:CHECKSUM_BYTES], scratch.tell()
                write_key(scratch, Key(name=name, kind="string", parts=[value]))
    return places


def _scanned(client: redis.Redis, patterns: Sequence[str]) -> Iterator[list[bytes]]:
    for pattern in patterns:
        with available():
            names = cast("list[bytes]", sorted(set(client.scan_iter(match=pattern, count=1000))))
        for start in range(0, len(names), _SOME):
            yield names[start : start + _SOME]


def _entries(client: redis.Redis, name: bytes, first: bytes, last_id: bytes) -> Iterator[Key]:
    """A stream's entries in records; what was trimmed meanwhile had been read, and is gone there as well."""
    start = first
    while start:
        with available():
            found = cast("list[Any]", client.xrange(name, min=cast("str", start), max=last_id.decode(), count=_SOME))
        if not found:
            break
        packed = [msgspec.msgpack.encode([part for pair in fields.items() for part in pair]) for _, fields in found]
        parts = [part for (number, _), fields in zip(found, packed, strict=True) for part in (number, fields)]
        yield Key(name=name, kind="stream", parts=parts)
        start = b"(" + found[-1][0]
    yield Key(name=name, kind="stream", parts=[], last_id=last_id)
