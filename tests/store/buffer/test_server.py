"""The private redis-server dies with its owner, and two never share a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from store.buffer import server
from store.buffer.server import private_redis
from store.errors import StoreUnavailableError
from tests.ops.children import REPOSITORY, gone, until

OWNS = (
    "import sys, time\nfrom pathlib import Path\nfrom store.buffer.server import private_redis\n"
    "with private_redis(Path(sys.argv[1])) as url:\n    print(url, flush=True)\n    time.sleep(600)\n"
)


def kill_its_owner_and_freeze_the_server(directory: Path) -> int:
    """The pid of a redis-server whose owner was killed and which has not yet ended."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNS, str(directory)], cwd=REPOSITORY, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().decode().strip()
        with redis.Redis.from_url(url) as client:
            client.set("kept", "yes")
        pid = psutil.Process(owner.pid).children()[0].pid
        os.kill(pid, signal.SIGSTOP)
        owner.kill()
    return int(pid)


def test_the_next_server_waits_until_the_one_before_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = kill_its_owner_and_freeze_the_server(tmp_path)
    try:
        assert not gone(pid)
        monkeypatch.setattr(server, "_STOP_S", 0.2)
        with pytest.raises(StoreUnavailableError, match="another redis-server"), private_redis(tmp_path):
            pass
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: gone(pid))
    with private_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"


def test_the_server_stops_with_its_context(tmp_path: Path) -> None:
    with private_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        pid = int(client.info("server")["process_id"])
    assert gone(pid)
