"""A failover that leaves the old primary alive as a replica, on two real servers behind one address."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from store.buffer.connect import beside, connect, leads_elsewhere
from store.buffer.redis import RedisBuffer
from store.buffer.server import private_redis
from store.control import Control, Heartbeat
from tests.contracts.escalations import LANE, Partition, escalation
from tests.store.buffer.failover import Pair, failover_pair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with failover_pair(tmp_path) as made:
        yield made


def test_a_client_follows_a_failover_that_leaves_the_old_primary_as_a_replica(pair: Pair) -> None:
    with connect(pair.url, answer_s=5.0) as client:
        client.set("before", "1")
        pair.fail_over()
        client.set("after", "2")  # the connection is open still, and leads to a replica
        assert client.get("before") == b"1"
        assert pair.new.get("after") == b"2"


def test_a_script_a_pipeline_and_the_control_plane_follow_it_too(pair: Pair) -> None:
    with connect(pair.url, answer_s=5.0) as client:
        buffer, control = RedisBuffer(client, 9), Control(client)
        reader = Partition(buffer, 0)
        reader.apply([escalation("a", number=1)])
        pair.fail_over()
        assert reader.apply([escalation("b", number=2)]).outcome == "ok"
        control.announce(LANE, "r1", Heartbeat(version="v1", at_s=1.0))
        with client.pipeline() as pipeline:
            pipeline.set("x", "1").set("y", "2")
            pipeline.execute()
        assert RedisBuffer(pair.new, 9).counters(LANE).counted == 2
        assert Control(pair.new).heartbeats(LANE).keys() == {"r1"}


def test_every_connection_of_the_pool_is_given_up_not_only_the_one_that_wrote(pair: Pair) -> None:
    with connect(pair.url, answer_s=5.0) as client:
        pool = client.connection_pool
        writer, reader, busy = pool.get_connection(), pool.get_connection(), pool.get_connection()
        for connection in (reader, writer):
            pool.release(connection)
        pair.fail_over()
        client.set("x", "1")  # takes the writer
        pool.release(busy)
        ports = set()
        for connection in [pool.get_connection() for _ in range(3)]:
            connection.send_command("CONFIG", "GET", "port")
            answer = connection.read_response()
            ports.add(int(answer[b"port"] if isinstance(answer, dict) else answer[1]))
            pool.release(connection)
        assert ports == {pair.new_port}


def test_a_client_that_sends_once_fails_once_and_then_follows(pair: Pair) -> None:
    with connect(pair.url, answer_s=5.0) as client, beside(client, answer_s=2.0, connect_s=1.0) as once:
        once.set("x", "1")
        pair.fail_over()
        with pytest.raises(redis.ConnectionError, match="not the primary any more"):
            once.set("x", "2")
        once.set("x", "3")
        assert pair.new.get("x") == b"3"


def test_an_error_that_is_no_failover_keeps_the_connection(redis_url: str) -> None:
    with connect(redis_url, answer_s=5.0) as client:
        client.set("text", "x")
        before = client.client_id()
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.lpush("text", "y")
        assert client.client_id() == before


@pytest.mark.parametrize(
    ("text", "elsewhere"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write against a replica.", True),
        ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("MISCONF Redis is configured to save RDB snapshots", False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
    ],
)
def test_what_leads_elsewhere_is_told_from_what_does_not(text: str, *, elsewhere: bool) -> None:
    assert leads_elsewhere(redis.ResponseError(text)) is elsewhere


def test_a_url_may_set_its_own_time_outs(tmp_path: Path) -> None:
    with private_redis(tmp_path) as url, connect(f"{url}?socket_timeout=0.5", answer_s=5.0) as client:
        assert client.connection_pool.connection_kwargs["socket_timeout"] == 0.5
        assert client.ping()
