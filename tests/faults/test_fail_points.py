"""A real process is killed at each point that has a name: nothing that was accepted is lost, nothing counts twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis

from ops.state.run_files import read_run_file
from store.errors import SettingsError
from store.event import decode
from store.faults import points
from stream.embedded.log import EmbeddedLog
from stream.log import dead_topic_of, topic_of
from tests.contracts.escalations import escalation
from tests.ops.children import REPOSITORY, until
from tests.ops.sites import LANE
from tests.ops.stand import Stand, standing

TOPIC = topic_of(LANE.use_case)
START_S = 240.0  # a slow machine imports torch
EVENTS = 40
INGEST = ["apply.read", "apply.buried", "apply.applied", "apply.applied@2"]
SPOOL = ["spool.written", "spool.synced", "spool.synced@3", "spool.resent", "spool.sent"]
SWAP = ["swap.loaded", "swap.published"]


def test_every_point_is_tried() -> None:
    """Here, or in `test_cycle_fail_points`."""
    here = {point.partition("@")[0] for point in [*INGEST, *SPOOL, *SWAP]}
    assert here == {point for point in points.POINTS if not point.startswith("cycle.")}


def test_a_point_that_nobody_knows_is_refused_by_name() -> None:
    for said in ("spool.lost", "spool.sent@often"):
        with pytest.raises(SettingsError, match=said):
            points.arm(said)


@contextmanager
def process(*command: str | Path, fail_point: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    variables = {} if fail_point is None else {"UNDERSTUDY_FAIL_POINT": fail_point}
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        env={**os.environ, **variables},  # noqa: TID251 - of a process that a test starts
        stderr=subprocess.DEVNULL,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def killed(*command: str | Path, fail_point: str) -> None:
    """Run it until it dies at the point."""
    with process(*command, fail_point=fail_point) as started:
        assert started.wait(START_S) == -signal.SIGKILL


def run(command: str, stand: Stand) -> tuple[str | Path, ...]:
    return ("ops.cli", "run", command, "-c", stand.path)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fail_point", INGEST)
def test_ingest_counts_each_event_once_wherever_it_dies(tmp_path: Path, redis_url: str, fail_point: str) -> None:
    with standing(tmp_path, redis_url) as stand:
        stand.appender.append(TOPIC, key=b"k", value=b"no event").result(10)
        stand.send(EVENTS)
        killed(*run("ingest", stand), fail_point=fail_point)
        with process(*run("ingest", stand)):
            until(lambda: stand.counters.counted == EVENTS, seconds=START_S)
            until(lambda: sum(stand.buffer.dead(LANE.use_case).values()) == 1, seconds=START_S)
        assert stand.verify().ok
        assert sum(item.count for item in stand.items().values()) == EVENTS
        with closing(EmbeddedLog(stand.client)) as log:
            (slot,) = log.slots(dead_topic_of(LANE.use_case))
            assert len(list(log.read(slot, *log.bounds(slot)))) >= 1, (
                "a letter may be there twice, and never not at all"
            )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fail_point", SPOOL)
def test_what_a_publisher_accepted_is_in_the_log_wherever_it_dies(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis, fail_point: str
) -> None:
    def play(first: int, count: int, at: str) -> tuple[int, set[str]]:
        command = [
            sys.executable,
            "-m",
            "tests.faults.spooling",
            redis_url,
            str(tmp_path / "spool"),
            str(first),
            str(count),
            at,
        ]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=START_S)
        return done.returncode, set(done.stdout.split())

    with closing(EmbeddedLog(redis_client)) as log:
        log.ensure(TOPIC, 2)
        code, accepted = play(0, EVENTS, fail_point)
        assert code == -signal.SIGKILL
        code, more = play(EVENTS, 5, "")
        assert code == 0
        records = [record for slot in log.slots(TOPIC) for record in log.read(slot, *log.bounds(slot))]
    logged = {event.id for record in records if hasattr(event := decode(record.value), "id")}
    assert accepted | more <= logged
    assert logged <= {escalation("", number=number).id for number in range(EVENTS + 5)}
    assert len(more) == 5
    if fail_point in {"spool.written", "spool.synced"}:
        assert accepted == set(), "it died before it had told anybody"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fail_point", SWAP)
def test_a_gateway_that_dies_in_a_swap_serves_the_champion_when_it_is_back(
    tmp_path: Path, redis_url: str, fail_point: str
) -> None:
    with standing(tmp_path, redis_url) as stand:
        gateway = ("tests.faults.stopping", stand.path, "0.0", "12.0")
        killed(*gateway, fail_point=fail_point)
        swaps = stand.site.run_directory / "swaps.jsonl"
        assert not swaps.exists() or swaps.read_bytes() == b""
        with process(*gateway):
            until(lambda: swaps.exists() and b'"slow"' in swaps.read_bytes(), seconds=START_S)
            until(lambda: read_run_file(stand.site.run_directory, "serve") is not None, seconds=START_S)
        assert len(swaps.read_bytes().splitlines()) == 1
