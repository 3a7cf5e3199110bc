"""A Redis that throws away what it was given is refused; one that loses it at its end is warned of."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ops.checks.redis_standing import RedisStanding, refuse_eviction, standing_of
from ops.processes.run.serve import run_serve
from ops.status.collect import collect
from store.errors import SettingsError, StoreUnavailableError
from tests.ops.sites import make_site, open_site


@pytest.fixture
def evicting(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """A server with a limit, which evicts."""
    before = {name: redis_client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}
    redis_client.config_set("maxmemory", 100 << 20)
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    yield redis_client
    for name, value in before.items():
        redis_client.config_set(name, str(value))


@pytest.mark.parametrize(
    ("standing", "warnings"),
    [
        (RedisStanding(max_bytes=0, policy="allkeys-lru", append_only=True), 0),
        (RedisStanding(max_bytes=5, policy="noeviction", append_only=True), 0),
        (RedisStanding(max_bytes=5, policy="volatile-ttl", append_only=True), 1),
        (RedisStanding(max_bytes=0, policy="noeviction", append_only=False), 1),
        (RedisStanding(max_bytes=5, policy="allkeys-random", append_only=False), 2),
    ],
)
def test_only_what_loses_something_is_warned_of(standing: RedisStanding, warnings: int) -> None:
    assert len(standing.warnings) == warnings


def test_a_server_that_evicts_is_refused_with_what_to_set(evicting: redis.Redis) -> None:
    assert standing_of(evicting).evicts
    with pytest.raises(SettingsError, match=r"redis\.url: .*allkeys-lru.*set maxmemory-policy noeviction"):
        refuse_eviction(evicting)


def test_a_process_does_not_start_on_it_and_status_says_so(
    tmp_path: Path, evicting: redis.Redis, redis_url: str
) -> None:
    del evicting
    site = open_site(make_site(tmp_path / "site", url=f'"{redis_url}"'))
    with pytest.raises(SettingsError, match="evicts"):
        run_serve(site, None)
    assert any("evicts" in warning for warning in collect(site, list(site.settings.lanes)).warnings)


def test_a_server_that_does_not_answer_is_asked_again_later() -> None:
    with (
        redis.Redis.from_url("unix:///nowhere/redis.sock") as client,
        pytest.raises(StoreUnavailableError),
    ):
        refuse_eviction(client)
