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

QUICK = RestartPolicy(first_delay_s=0.05, longest_delay_s=0.1)


def pid_of(private: PrivateRedis) -> int:
    with redis.Redis.from_url(private.url) as client:
        return int(client.info("server")["process_id"])


def answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client, suppress(redis.RedisError):
        return bool(client.ping())
    return False


def test_it_is_restarted_on_the_same_socket_and_has_lost_nothing(tmp_path: Path) -> None:
    private = PrivateRedis(tmp_path, QUICK)
    try:
        until(lambda: private.look_after() is None)
        with redis.Redis.from_url(private.url) as client:
            client.set("kept", "yes")
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


def test_one_that_keeps_dying_is_never_given_up_and_its_log_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("not a folder", "ascii")
    private = PrivateRedis(tmp_path, RestartPolicy(first_delay_s=0.0, longest_delay_s=0.0, crashes=2))
    try:
        until(lambda: "appendonlydir" in (private.look_after() or ""))
        log = tmp_path / "redis.log"
        until(lambda: private.look_after() is not None and log.read_bytes().count(b"Redis is starting") > 3)
        (tmp_path / "appendonlydir").unlink()
        until(lambda: private.look_after() is None and answers(private.url))
    finally:
        private.close()


def test_on_a_full_disk_it_waits_for_room_and_then_starts_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.processes.private_redis._LOOK_AGAIN_S", 0.05)
    full: list[str | None] = ["the disk is full: free 0.0 MiB"]
    asked: list[Path] = []

    def refusal(folder: Path) -> str | None:
        asked.append(folder)
        return full[0]

    private = PrivateRedis(tmp_path, refusal=refusal)
    try:
        until(lambda: private.look_after() is not None and len(asked) > 2)
        assert "free 0.0 MiB" in (private.look_after() or "")
        assert not answers(private.url)
        assert not (tmp_path / "redis.log").exists()  # each start in vain would read all of its file
        full[0] = None
        until(lambda: private.look_after() is None and answers(private.url))
    finally:
        private.close()


def test_a_server_that_still_owns_the_folder_is_waited_for(tmp_path: Path) -> None:
    first = PrivateRedis(tmp_path, QUICK)
    until(lambda: first.look_after() is None)
    second = PrivateRedis(tmp_path, QUICK)
    try:
        assert "another redis-server runs" in (second.look_after() or "")
        first.close()
        until(lambda: second.look_after() is None and answers(second.url))
    finally:
        first.close()
        second.close()


def test_where_the_path_is_too_long_for_a_socket_it_comes_back_under_the_same_address(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    private = PrivateRedis(directory, QUICK)
    try:
        until(lambda: private.look_after() is None)
        before, url = pid_of(private), private.url
        os.kill(before, signal.SIGKILL)
        until(lambda: gone(before))
        until(lambda: private.look_after() is None and answers(url))
        assert private.url == url
        folder = Path(url.removeprefix("unix://")).parent
        assert folder.stat().st_mode & 0o077 == 0
    finally:
        private.close()
    assert not folder.exists()


def test_nothing_of_it_can_be_read_by_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private = PrivateRedis(tmp_path / "redis", QUICK)
        until(lambda: private.look_after() is None)
        with redis.Redis.from_url(private.url) as client:
            client.set("kept", "yes")
        found = [tmp_path / "redis", *(tmp_path / "redis").rglob("*")]
        assert len(found) > 4
        assert [path for path in found if path.lstat().st_mode & 0o077] == []
    finally:
        private.close()
        os.umask(before)
