"""The real processes: they wait for what is away, stop on SIGTERM, and none outlives a killed supervisor."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from ops.moves.followers import followers
from ops.processes.run.all import run_all
from ops.processes.run.ingest import run_ingest
from ops.processes.run.serve import run_serve
from ops.processes.run.train import run_train
from ops.site import Site
from ops.state.run_files import RunFile, read_run_file, write_run_file
from store.errors import SettingsError
from store.event import wall_clock_s
from tests.ops.children import REPOSITORY, gone, until
from tests.ops.sites import LANE, make_site, open_site, publish

START_S = 90.0
_JSON = {"Content-Type": "application/json"}


@contextmanager
def running(settings: Path, name: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-m", "ops.cli", "run", name, "-c", settings],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        env={**os.environ, **variables},  # noqa: TID251 - of a process that a test starts
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def found(settings: Path, name: str) -> RunFile:
    """The run file of a process, once it is there."""
    directory = open_site(settings).run_directory
    until(lambda: read_run_file(directory, name) is not None, seconds=START_S)
    record = read_run_file(directory, name)
    assert record is not None
    return record


def status_of(record: RunFile, path: str) -> int:
    return httpx.get(f"http://127.0.0.1:{record.admin_port}{path}").status_code


def body_of(record: RunFile, path: str) -> str:
    return httpx.get(f"http://127.0.0.1:{record.admin_port}{path}").text


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error.decode()


@pytest.fixture
def evicting(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """A Redis that may throw away what it holds."""
    redis_client.config_set("maxmemory", 10**9)
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    yield redis_client
    redis_client.config_set("maxmemory-policy", "noeviction")
    redis_client.config_set("maxmemory", 0)


@pytest.mark.parametrize("name", ["ingest", "train"])
def test_ingest_and_train_wait_for_redis_and_while_it_evicts_and_say_so_and_stop_on_sigterm(
    tmp_path: Path, redis_url: str, evicting: redis.Redis, name: str
) -> None:
    settings = make_site(tmp_path / "site", url='""')
    with running(settings, name) as process:
        record = found(settings, name)
        assert (status_of(record, "/livez"), status_of(record, "/readyz")) == (200, 503)
        process.send_signal(signal.SIGHUP)  # there is nothing to reload: it goes on
        until(lambda: "no private Redis runs" in body_of(record, "/readyz"), seconds=START_S)
        redis_file = RunFile(name="redis", pid=os.getpid(), started_s=wall_clock_s(), url=redis_url)
        write_run_file(open_site(settings).run_directory, redis_file)
        until(lambda: "noeviction" in body_of(record, "/readyz"), seconds=START_S)
        evicting.config_set("maxmemory-policy", "noeviction")
        until(lambda: status_of(record, "/readyz") == 200, seconds=START_S)
        assert "understudy_" in httpx.get(f"http://127.0.0.1:{record.admin_port}/metrics").text
        stop(process)


def holds_hangups_back(pid: int) -> bool:
    blocked = re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text("utf-8"))
    return blocked is not None and int(blocked[1], 16) == 1 << (signal.SIGHUP - 1)  # a fork holds all back for a moment


@pytest.mark.skipif(sys.platform != "linux", reason="the mask is read from /proc")
def test_a_hangup_while_a_process_still_imports_does_not_end_it(tmp_path: Path) -> None:
    settings = make_site(tmp_path / "site", url='""')
    with running(settings, "ingest") as process:
        until(lambda: holds_hangups_back(process.pid))
        process.send_signal(signal.SIGHUP)
        record = found(settings, "ingest")
        assert status_of(record, "/livez") == 200
        assert not holds_hangups_back(process.pid), "what it starts would have it blocked"
        stop(process)


@pytest.mark.parametrize(
    ("run", "key"),
    [
        (lambda site: run_serve(site, None), "data_secret"),
        (lambda site: run_ingest(site, None), "data_secret"),
        (lambda site: run_train(site, None), "trainer"),
        (lambda site: run_all(site, None), "trusted"),
    ],
)
def test_a_file_that_the_settings_name_and_nobody_can_read_is_said_before_anything_is_waited_for(
    tmp_path: Path, run: Callable[[Site], object], key: str
) -> None:
    site = open_site(make_site(tmp_path / "site", url='""', **{key: '"gone"'}))
    with pytest.raises(SettingsError, match=rf"keys\.{key}: .*gone"):
        run(site)


def test_serve_with_redis_down_answers_probes_hangs_up_after_its_clients_and_stops_on_sigterm(tmp_path: Path) -> None:
    settings = make_site(tmp_path / "site")
    with running(settings, "serve") as process:
        record = found(settings, "serve")
        until(lambda: status_of(record, "/readyz") == 200, seconds=START_S)
        assert status_of(record, "/livez") == 200
        with closing(HTTPConnection("127.0.0.1", record.port or 0)) as connection:
            for pause_s in (0.0, 6.0):  # httpx lets a connection rest for 5 s, and then takes another
                time.sleep(pause_s)
                connection.request("POST", "/v1/chat/completions", body=b'{"model": "support"}', headers=_JSON)
                answer = connection.getresponse()
                assert (answer.status, bool(answer.read())) == (400, True)
            stop(process)  # also while a client rests


def test_serve_starts_without_the_private_redis_and_reloads_its_keys_on_sighup(tmp_path: Path) -> None:
    settings = make_site(tmp_path / "site", url='""')
    with running(settings, "serve") as process:
        record = found(settings, "serve")
        until(lambda: status_of(record, "/readyz") == 200, seconds=START_S)
        url, body = f"http://127.0.0.1:{record.port}/classify", {"model": "support", "input": "hello"}
        assert httpx.post(url, json=body, timeout=30).status_code == 503  # no lease, no student
        text = settings.read_text("utf-8")
        settings.write_text(text.replace("#api_keys", "api_keys"), "utf-8")
        process.send_signal(signal.SIGHUP)
        until(lambda: httpx.post(url, json=body, timeout=30).status_code == 401)
        stop(process)


def test_a_port_that_is_taken_ends_serve_with_4(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = make_site(tmp_path / "site", port=str(taken.getsockname()[1]))
        process = subprocess.run(
            [sys.executable, "-m", "ops.cli", "run", "serve", "-c", settings],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
    assert process.returncode == 4
    assert "gateway: cannot listen" in process.stderr


@contextmanager
def the_family(settings: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """`run all`, with its three processes and redis-server; and none of them is there afterwards."""
    with running(settings, "all") as supervisor:
        for name in ("ingest", "train", "serve"):
            found(settings, name)
        family = psutil.Process(supervisor.pid).children(recursive=True)
        assert len(family) >= 4
        yield supervisor, family
        until(lambda: all(gone(child.pid) for child in family), seconds=60)


def test_run_all_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    with the_family(make_site(tmp_path / "site", url='""')) as (supervisor, family):
        supervisor.send_signal(signal.SIGHUP)  # passed on, and the end of nobody
        time.sleep(0.5)
        assert not any(gone(child.pid) for child in family)
        supervisor.kill()
        supervisor.wait(60)


def test_a_redis_that_freezes_is_waited_for_and_said_and_all_goes_on_when_it_thaws_until_ctrl_c(tmp_path: Path) -> None:
    settings = make_site(tmp_path / "site", url='""')
    with the_family(settings) as (supervisor, family):
        ingest, train, serve = (found(settings, name) for name in ("ingest", "train", "serve"))
        (server,) = (child for child in family if child.name() == "redis-server")
        until(lambda: all(status_of(one, "/readyz") == 200 for one in (ingest, train, serve)), seconds=START_S)
        until(lambda: not withholds(serve), seconds=START_S)
        server.suspend()
        try:
            until(lambda: all("Redis" in body_of(one, "/readyz") for one in (ingest, train)), seconds=START_S)
            until(lambda: withholds(serve), seconds=START_S)
            assert [status_of(one, "/readyz") for one in (ingest, train, serve)] == [503, 503, 200]
            assert not any(gone(child.pid) for child in family), "held, not ended and begun again"
        finally:
            server.resume()
        until(lambda: all(status_of(one, "/readyz") == 200 for one in (ingest, train)), seconds=START_S)
        until(lambda: not withholds(serve), seconds=START_S)
        assert not any(gone(child.pid) for child in family)
        supervisor.send_signal(signal.SIGINT)
        supervisor.wait(60)
        assert supervisor.returncode == 0


def withholds(serve: RunFile) -> bool:
    """Whether a gateway says that it asks no teacher, since nobody says what is left of the budget."""
    metrics = httpx.get(f"http://127.0.0.1:{serve.admin_port}/metrics").text
    return re.search(r"^understudy_promise_suspended\{[^}]*\} 1\.0$", metrics, re.MULTILINE) is not None


def test_two_gateways_on_one_machine_share_a_registry_and_keep_their_names(tmp_path: Path, redis_url: str) -> None:
    settings = make_site(tmp_path / "site", url=f'"{redis_url}"')
    site = open_site(settings)
    other = {"UNDERSTUDY_STATE_DIR": "state-2", "UNDERSTUDY_REGISTRY_DIR": "state/registry"}
    key = site.operator_key()

    def replicas() -> Mapping[str, str | None]:
        return followers(site, LANE).serves

    with running(settings, "serve") as first, running(settings, "serve", **other) as second:
        until(lambda: len(replicas()) == 2, seconds=START_S)
        names = set(replicas())
        (version,) = publish(settings, b"not a head", promoted=False)
        site.registry.moves(LANE).append("promote", version=version, who="x", why="y", key=key, now_s=wall_clock_s())
        second_run = site.settings.state_dir.with_name("state-2") / "run" / "swaps.jsonl"
        for swaps in (site.run_directory / "swaps.jsonl", second_run):  # each tried it, and refused what is no student
            until(lambda file=swaps: file.is_file() and version in file.read_text(), seconds=START_S)  # type: ignore[misc]
        stop(second)
        stop(first)
    until(lambda: not replicas())
    with running(settings, "serve", **other) as again:
        until(lambda: bool(replicas()), seconds=START_S)
        assert set(replicas()) < names
        stop(again)
