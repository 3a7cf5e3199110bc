"""What lies in Redis and in folders, as files that people can read and compare, and back again.

What Redis' own clock has put into a value is written as a token: `{bucket}` for the budget's present five minutes,
`{ms}` for a time in milliseconds. It is put back as of now, because what is kept for a day would else be gone.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import redis

from serve.teacher.ledger import BUCKET_S
from store.registry.files.folders import LETTERS
from store.registry.manifest import MANIFEST_NAME
from store.registry.sealed import decode_manifest
from tests.golden.fixed import NOW_S

_KEPT_S = 600  # for keys that expire
_BUCKET, _MS = "{bucket}", "{ms}"


def dump(client: redis.Redis) -> dict[str, Any]:
    """Every key of a Redis by name, with its type and content; keys that expire say so."""
    found: dict[str, Any] = {}
    for name in sorted(cast("list[bytes]", client.keys("*"))):
        kind = cast("bytes", client.type(name)).decode()
        entry: dict[str, Any] = {"type": kind, "value": _content(client, name, kind)}
        if client.pttl(name) > 0:
            entry["expires"] = True
        found[name.decode()] = entry
    return _without_times(found, client)


def hold(client: redis.Redis) -> None:
    """Let what would be gone in seconds stay until it is written down, on whatever machine."""
    for name in cast("list[bytes]", client.keys("*")):
        if client.pttl(name) > 0:
            client.expire(name, _KEPT_S)


def load(client: redis.Redis, stored: dict[str, Any]) -> None:
    """Put a dump into an empty Redis."""
    now_s = _now_s(client)
    text = json.dumps(stored).replace(_BUCKET, str(now_s // BUCKET_S)).replace(_MS, str(now_s * 1000))
    for name, entry in json.loads(text).items():
        value: Any = entry["value"]
        match entry["type"]:
            case "string":
                client.set(name, _bytes(value))
            case "hash":
                client.hset(name, mapping={field: _bytes(one) for field, one in value.items()})
            case "list":
                client.rpush(name, *map(_bytes, value))
            case "set":
                client.sadd(name, *map(_bytes, value))
            case "zset":
                client.execute_command("ZADD", name, *(part for member, score in value for part in (score, member)))  # type: ignore[no-untyped-call] # the library's
            case "stream":
                for number, fields in value:
                    client.xadd(name, {field: _bytes(one) for field, one in fields.items()}, id=number)
            case other:
                message = f"{name}: keys of type {other} are not stored"
                raise TypeError(message)
        if entry.get("expires"):
            client.expire(name, _KEPT_S)


def _now_s(client: redis.Redis) -> int:
    """By the clock that has written the times."""
    any_client: Any = client
    return int(any_client.time()[0])


def _content(client: Any, name: bytes, kind: str) -> Any:
    readers: dict[str, Callable[[], Any]] = {
        "string": lambda: _shown(client.get(name)),
        "hash": lambda: _fields(client.hgetall(name)),
        "list": lambda: [_shown(value) for value in client.lrange(name, 0, -1)],
        "set": lambda: [_shown(value) for value in sorted(client.smembers(name))],
        "zset": lambda: [
            [member.decode(), repr(score)] for member, score in client.zrange(name, 0, -1, withscores=True)
        ],
        "stream": lambda: [[number.decode(), _fields(fields)] for number, fields in client.xrange(name)],
    }
    return readers[kind]()


def _fields(found: dict[bytes, bytes]) -> dict[str, Any]:
    return {name.decode(): _shown(value) for name, value in sorted(found.items())}


def _shown(value: bytes) -> Any:
    """Text as it is; what is no text one character a byte, so that what is text in it can be read."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"latin-1": value.decode("latin-1")}


def _bytes(value: Any) -> bytes:
    return value["latin-1"].encode("latin-1") if isinstance(value, dict) else str(value).encode()


def _without_times(found: dict[str, Any], client: redis.Redis) -> dict[str, Any]:
    text = json.dumps(found)
    text = re.sub(rf"(?<![0-9]){int(NOW_S // BUCKET_S)}(?![0-9])", _BUCKET, text)
    text = re.sub(rf"(?<![0-9]){str(_now_s(client))[:6]}[0-9]{{7}}(?![0-9])", _MS, text)
    return cast("dict[str, Any]", json.loads(text))


def common(old: Any, new: Any) -> Any:
    """The new value without the fields that the old one does not have, as a reader of the old one sees it."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {name: common(old[name], one) for name, one in new.items() if name in old}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [common(one, other) for one, other in zip(old, new, strict=True)]
    return new


def write_json(path: Path, value: Any) -> None:
    """One key or element a line where it is long: a difference shows where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text("utf-8"))


def pack_registry(root: Path, target: Path) -> None:
    """Copy a registry; a version's files are not copied, because the blobs have them."""
    shutil.copytree(root / "blobs", target / "blobs")
    for path in sorted(root.rglob("*.json")) + sorted(root.rglob("*.sig")):
        inside = path.relative_to(root)
        if (
            path.name in {MANIFEST_NAME, "manifest.sig"}
            or inside.parts[-2] in {"moves", "rulings"}
            or inside.parts[0] == LETTERS
        ):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside)


def unpack_registry(packed: Path, root: Path) -> None:
    """Make the registry again, its versions' files as hard links of the blobs."""
    shutil.copytree(packed, root)
    for path in sorted(root.glob(f"*/*/versions/*/{MANIFEST_NAME}")):
        manifest = decode_manifest(path.read_bytes())
        for name, entry in manifest.files.items():
            target = path.parent / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(root / "blobs" / entry.sha256)
