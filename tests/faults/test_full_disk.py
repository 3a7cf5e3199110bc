"""The disk of the state directory is full, and later it is not: answers go on, nothing gives up, nothing is lost."""

import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import redis

from ops.open_log import open_history
from ops.state.run_files import read_run_file
from store.buffer.server import url_of
from tests.faults.claims import read_log
from tests.faults.disks import Disk, SmallDisk, small_disk
from tests.faults.installation import LANE, Installation, installation

_LIMIT_S: Final = 550.0  # a minute, on a machine that is not busy
_MIB: Final = 320  # versions take a hundred of them


class Asked:
    """What the gateway said to every question of this test."""

    def __init__(self, made: Installation) -> None:
        self.made = made
        self.accepted: set[str] = set()  # the teacher's answers whose event is in the log or the spool, they say
        self.dropped = 0

    def ask(self, text: str, *, forced: bool = False) -> dict[str, Any]:
        """Ask; there must be an answer."""
        answer = httpx.post(
            f"{self.made.gateway_url()}/v1/classify",
            json={"model": LANE.use_case, "input": text},
            headers={"X-Understudy-Force": "teacher"} if forced else {},
            timeout=20.0,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["data"][0]
        if found["served_by"] == "teacher":
            if found["degraded"] == "escalation_dropped":
                assert found["event_id"] is None
                self.dropped += 1
            else:
                self.accepted.add(found["event_id"])
        return found


def metric(made: Installation, name: str) -> float:
    """A metric of the gateway, summed over its labels."""
    record = read_run_file(made.site.run_directory, "serve")
    assert record is not None
    lines = httpx.get(f"http://127.0.0.1:{record.admin_port}/metrics", timeout=10.0, trust_env=False).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def redis_answers(made: Installation) -> bool:
    with redis.Redis.from_url(url_of(made.site.settings.state_dir / "redis"), socket_timeout=5.0) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def in_log(made: Installation) -> list[str]:
    """The event ids of the log."""
    with made.site.redis_client() as client, open_history(made.site, client) as history:
        return [event_id for event_id, _ in read_log(history, LANE, made.site.secret.lane_key(LANE))]


def answers(port: int, text: str) -> bool:
    """Whether the student of a gateway that has no run file answers."""
    body = {"model": LANE.use_case, "input": text}
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/classify", json=body, timeout=20.0, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and answer.json()["data"][0]["served_by"] == "student"


def readable_by_others(folder: Path) -> list[str]:
    found = [folder, *folder.rglob("*")]
    return [
        f"{path} {stat.S_IMODE(path.lstat().st_mode):o}"
        for path in found
        if not path.is_symlink() and path.name != "filler" and path.lstat().st_mode & 0o077
    ]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_full_disk_ends_nothing_and_all_goes_on_by_itself_once_there_is_room() -> None:
    deadline_s = time.monotonic() + _LIMIT_S
    disks: list[Disk] = []

    @contextmanager
    def on_a_small_disk(root: Path) -> Iterator[None]:
        with small_disk(root, _MIB) as disk:
            disks.append(disk)
            yield

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with installation(5, deadline_s, state=on_a_small_disk, port=port) as made:
        (disk,) = disks
        asked, known = Asked(made), [row.text for row in made.known]
        for number in range(5):
            asked.ask(known[number], forced=True)
        assert len(asked.accepted) == 5

        disk.fill()
        number = 5
        while redis_answers(made):  # until something has to be written
            number += 1
            asked.ask(known[number], forced=True)
        first = made.pid("serve")
        for _ in range(20):
            number += 1
            asked.ask(known[number], forced=number % 2 == 0)
        made.until("an event is dropped, and said", lambda: _asked_in_vain(asked, known), deadline_s)
        assert metric(made, "understudy_escalations_dropped_total") == asked.dropped > 0
        assert metric(made, "understudy_spool_limit_bytes") == made.site.settings.spool.max_bytes
        if isinstance(disk, SmallDisk):  # with the other one, the log's file may not grow either
            made.until("the cause is said", lambda: b"redis_waits_for_room" in made.log_file.read_bytes(), deadline_s)

        assert first is not None
        os.kill(first, signal.SIGKILL)
        if isinstance(disk, SmallDisk):  # a gateway also starts in this state, and answers from its version
            made.until("another gateway answers", lambda: answers(port, known[0]), deadline_s)
            assert not redis_answers(made)

        disk.free()
        made.until("redis answers", lambda: redis_answers(made), deadline_s)
        made.until("the gateway is found", lambda: made.pid("serve") not in {None, first}, deadline_s)
        made.until("all are ready", lambda: all(map(made.ready, ("serve", "ingest", "train"))), deadline_s)
        made.until("the champion serves", lambda: made.served() == {made.standing().champion}, deadline_s)
        made.until("events are accepted again", lambda: _is_accepted(asked, known[0]), deadline_s)
        for number in range(10):
            asked.ask(known[number], forced=True)
        made.until("all that was accepted is in the log", lambda: asked.accepted <= set(in_log(made)), deadline_s)
        made.until("lag 0", lambda: (found := made.status().buffer) is not None and not found.lag_records, deadline_s)
        buffer = made.status().buffer
        assert buffer is not None
        assert buffer.counted == len(set(in_log(made)))
        assert b"supervisor_gives_up" not in made.log_file.read_bytes()
        assert readable_by_others(made.site.settings.state_dir) == []


def _asked_in_vain(asked: Asked, known: list[str]) -> bool:
    asked.ask(known[-1], forced=True)
    return asked.dropped > 0


def _is_accepted(asked: Asked, text: str) -> bool:
    before = len(asked.accepted)
    asked.ask(text, forced=True)
    return len(asked.accepted) > before
