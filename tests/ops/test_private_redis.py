"""The private Redis comes back after a kill, with everything that it had acknowledged."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from ops.processes.private_redis import PrivateRedis
from ops.processes.supervisor import RestartPolicy
from tests.ops.children import gone, until


def pid_of(private: PrivateRedis) -> int:
    with redis.Redis.from_url(private.url) as client:
        return int(client.info("server")["process_id"])


def answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client, suppress(redis.RedisError):
        return bool(client.ping())
    return False


def test_it_is_restarted_on_the_same_socket_and_has_lost_nothing(tmp_path: Path) -> None:
    private = PrivateRedis(tmp_path, RestartPolicy(first_delay_s=0.05))
    try:
        with redis.Redis.from_url(private.url) as client:
            client.set("kept", "yes")
        assert private.look_after() is None
        before, url = pid_of(private), private.url
        os.kill(before, signal.SIGKILL)
        until(lambda: gone(before))
        until(lambda: private.look_after() is None and answers(url))
        with redis.Redis.from_url(url) as client:
            assert client.get("kept") == b"yes"
        after = pid_of(private)
        assert after != before
    finally:
        private.close()
    until(lambda: gone(after))


def test_one_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    private = PrivateRedis(tmp_path, RestartPolicy(first_delay_s=0.0, crashes=2))
    reasons: list[str] = []

    def dies_again() -> bool:
        if (why := private.look_after()) is not None:
            reasons.append(why)
            return True
        with suppress(redis.RedisError):  # not back yet
            os.kill(pid_of(private), signal.SIGKILL)
        return False

    try:
        until(dies_again)
    finally:
        private.close()
    assert "2 crashes" in reasons[0]


def test_one_that_cannot_start_says_where_its_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "appendonlydir").write_text("not a folder", "ascii")
    with pytest.raises(Exception, match=r"redis\.log"):
        PrivateRedis(tmp_path, RestartPolicy())
