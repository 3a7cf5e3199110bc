"""Redis: its version, what it keeps when it ends or is full, whether the buffer will fit, and its clock beside ours."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import redis

from ops.checks.redis_standing import RedisStanding, standing_of
from ops.doctor.finding import Finding, Level, Visit
from ops.sections import LaneSection
from ops.site import Site
from store.buffer.stored import encode_item
from store.errors import CorruptItemError, StoreUnavailableError
from store.event import wall_clock_s

_OLDEST: Final = (6, 2)
_SAMPLED: Final = 200  # items, for what one takes
_UNSEEN_BYTES: Final = 2048  # of an item of a lane that has none yet
_AROUND: Final = 1.5  # memory that a value takes in Redis, with its key, rank and fragmentation
_TIGHT: Final = 0.8  # of the memory that there is
_SKEWED_S: Final = (1.0, 30.0)  # a warning, a fault
_MIB: Final = 1 << 20
_ANSWER_S: Final = 5.0


def store(visit: Visit) -> Iterator[Finding]:
    """Whether Redis can be used as it is."""
    site = visit.site
    mend = "redis-cli -u … ping" if site.settings.redis.url else "understudy run all"
    try:
        with site.redis_client(answer_s=_ANSWER_S) as client:
            info = _info(client)
            standing = standing_of(client)
            yield from _server(info, standing, private=not site.settings.redis.url)
            yield _room(site, client, info, standing)
    except StoreUnavailableError as error:
        yield Finding(check="redis", level="fault", why=str(error), mend=mend)


def clock(visit: Visit) -> Iterator[Finding]:
    """Whether this machine's clock and Redis' agree: quarantine, budget and leases go by both."""
    with visit.site.redis_client(answer_s=_ANSWER_S) as client:
        before_s = wall_clock_s()
        try:
            seconds, micros = client.time()
        except redis.RedisError as error:
            raise StoreUnavailableError(str(error)) from error
        after_s = wall_clock_s()
    there_s = seconds + micros / 1e6
    apart_s = max(0.0, before_s - there_s, there_s - after_s)
    level: Level = "fault" if apart_s > _SKEWED_S[1] else "warning" if apart_s > _SKEWED_S[0] else "ok"
    why = f"this clock and Redis' are {apart_s:.1f} s apart" if level != "ok" else "this clock and Redis' agree"
    yield Finding(check="clock", level=level, why=why, mend=None if level == "ok" else "timedatectl set-ntp true")


def _info(client: redis.Redis) -> Mapping[str, Any]:
    try:
        return client.info()
    except redis.RedisError as error:
        raise StoreUnavailableError(str(error)) from error


def _server(info: Mapping[str, Any], standing: RedisStanding, *, private: bool) -> Iterator[Finding]:
    version = str(info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < _OLDEST:
        why = f"Redis {version}: 6.2 or later is needed"
        yield Finding(check="redis", level="fault", why=why, mend="apt-get install redis-server")
    else:
        yield Finding(check="redis", level="ok", why=f"Redis {version} answers{', the private one' if private else ''}")
    if info.get("role", "master") != "master":
        why = f"redis.url leads to a {info['role']}, which takes no writes"
        yield Finding(check="redis", level="fault", why=why, mend="redis.url = …")
    if standing.evicts:
        mend = "redis-cli CONFIG SET maxmemory-policy noeviction && redis-cli CONFIG REWRITE"
        yield Finding(check="redis", level="fault", why=standing.warnings[0], mend=mend)
    if not standing.append_only:
        mend = "redis-cli CONFIG SET appendonly yes && redis-cli CONFIG REWRITE"
        yield Finding(check="redis", level="warning", why=standing.warnings[-1], mend=mend)
    elif str(info.get("aof_last_write_status", "ok")) != "ok":
        why = "the last write to Redis' append-only file failed: its disk is full, or takes nothing"
        yield Finding(check="redis", level="fault", why=why, mend="df -h")
    if not standing.evicts and standing.append_only:
        yield Finding(check="redis", level="ok", why="it keeps what it is given: an append-only file, and no eviction")


def _room(site: Site, client: redis.Redis, info: Mapping[str, Any], standing: RedisStanding) -> Finding:
    """Whether a buffer that is full of items fits, beside what else is there."""
    limit = standing.max_bytes or int(info.get("total_system_memory", 0))
    lanes = [_lane_bytes(site, client, section) for section in site.settings.lanes]
    kept = sum(kept_bytes for kept_bytes, _ in lanes)
    full = sum(full_bytes for _, full_bytes in lanes)
    used = int(info.get("used_memory", 0))
    wanted = max(0, used - kept) + full
    said = (
        f"{used / _MIB:,.0f} MiB are used; with full strata (buffer.items_per_stratum ="
        f" {site.settings.buffer.items_per_stratum:,}) it will be about {wanted / _MIB:,.0f} MiB"
    )
    if not limit:
        return Finding(check="redis memory", level="not_checked", why=f"{said}; Redis does not say how much there is")
    where = f"{limit / _MIB:,.0f} MiB {'of maxmemory' if standing.max_bytes else 'on its machine'}"
    if wanted <= _TIGHT * limit:
        return Finding(check="redis memory", level="ok", why=f"{said}, of {where}")
    fitting = int(site.settings.buffer.items_per_stratum * _TIGHT * limit / wanted)
    mend = f"buffer.items_per_stratum = {max(1, fitting)}, or give Redis more memory"
    return Finding(check="redis memory", level="warning", why=f"{said}, and there are {where}", mend=mend)


def _lane_bytes(site: Site, client: redis.Redis, section: LaneSection) -> tuple[int, int]:
    """What a lane's items take now, and with every stratum full; by the mean of some of them."""
    counters = site.buffer(client).counters(section.lane)
    try:
        sizes = [len(encode_item(one)) for one in islice(site.buffer(client).items(section.lane), _SAMPLED)]
    except CorruptItemError:
        sizes = []
    mean = _AROUND * (sum(sizes) / len(sizes) if sizes else _UNSEEN_BYTES)
    strata = max(1, len(section.labels))
    kept = max(0, counters.new_items - counters.evicted)
    return int(mean * kept), int(mean * strata * site.settings.buffer.items_per_stratum)
