"""`understudy doctor`: each fault provoked once, on a real Redis; and what is down hides nothing else."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import redis
import torch
from typer.testing import CliRunner

import ops.doctor.store
from ops.checks.redis_standing import RedisStanding
from ops.cli.app import app
from ops.doctor.checks import CHECKS
from ops.doctor.finding import Check, Finding, Visit, diagnose
from ops.doctor.store import _server
from ops.doctor.teacher import teacher
from ops.exits import BAD_SETTINGS, FAILED_CHECK
from ops.state.run_files import RunFile, write_run_file
from store.event import wall_clock_s
from store.money.books import Books
from tests.ops.sites import LANE, make_site, open_site, publish
from tests.ops.stand import standing, until
from tests.ops.test_answers import put, take_in
from tests.tiny import tiny_encoder

KEY: Final = "sk-a-key-that-nobody-may-read"


def visit(path: Path) -> Visit:
    return Visit(site=open_site(path), outage_s=3600.0, ask_teacher=False)


def look(name: str, path: Path) -> list[Finding]:
    """What one check finds."""
    (check,) = [one for one in CHECKS if one.name == name]
    return diagnose(visit(path), [check]).findings


def worst(findings: list[Finding]) -> Finding:
    """The one finding that is not fine; it says what mends it."""
    (found,) = [one for one in findings if one.level != "ok"]
    assert found.mend
    return found


@pytest.fixture
def path(tmp_path: Path, redis_url: str) -> Path:
    return make_site(tmp_path / "site", url=f'"{redis_url}"')


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), "utf-8")


def test_a_sound_installation_has_no_fault_and_every_check_says_something(path: Path) -> None:
    found = CliRunner().invoke(app, ["doctor", "--no-teacher", "-c", str(path), "-o", "json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert (told["ok"], told["faults"]) == (True, 0)
    assert {one.name for one in CHECKS} <= {one["check"] for one in told["findings"]}
    assert all(one["mend"] for one in told["findings"] if one["level"] != "ok")
    table = CliRunner().invoke(app, ["doctor", "--no-teacher", "-c", str(path)])
    assert "0 faults" in table.stdout


def test_settings_that_cannot_be_read_are_the_one_thing_that_is_told(path: Path) -> None:
    edit(path, "[lanes.budget]", "[lanes.budget]\nnonsense = 1")
    found = CliRunner().invoke(app, ["doctor", "-c", str(path), "-o", "json"])
    assert found.exit_code == BAD_SETTINGS
    (one,) = json.loads(found.stdout)["findings"]
    assert (one["check"], one["level"]) == ("settings", "fault")
    assert "nonsense" in one["why"]


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ('#host = "127.0.0.1"', 'host = "0.0.0.0"', "has no lanes.api_keys"),
        ("training_permitted = true", "training_permitted = false", "nothing is learned from it"),
        ("#usd_per_day = ", "usd_per_day = 40.0 #", "the teacher has no prices"),
    ],
)
def test_settings_that_surprise_are_warned_of(path: Path, before: str, after: str, why: str) -> None:
    edit(path, before, after)
    found = worst(look("settings", path))
    assert found.level == "warning"
    assert why in found.why


def test_a_key_that_is_open_not_trusted_or_not_there_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {one.level for one in look("keys", path)} == {"ok"}
    (path.parent / "keys" / "trusted" / "operator.pub").unlink()
    assert "keys.operator: what it signs counts nowhere" in worst(look("keys", path)).why
    (path.parent / "keys" / "operator").unlink()
    assert worst(look("keys", path)).level == "warning"
    (path.parent / "data.secret").chmod(0o644)
    levels = {one.level for one in look("keys", path)}
    assert levels == {"ok", "warning", "fault"}
    edit(path, "#api_key_env = ", 'api_key_env = "NO_SUCH_VARIABLE" #')
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    assert any("NO_SUCH_VARIABLE is not set" in one.why for one in look("keys", path))


@contextmanager
def endpoint(status: int, body: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """A teacher that always says the same; its address, and the keys that it was asked with."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.headers["Authorization"])
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
        finally:
            server.shutdown()
            thread.join()


def said(label: str) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": label}}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@pytest.mark.parametrize(
    ("status", "body", "level", "why", "calls"),
    [
        (200, said("refund"), "ok", "one call, $0.0012 by the lane's prices", 1),
        (200, said("no label at all"), "warning", "with nothing that the lane takes", 1),
        (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}, "fault", "refuses the API key", 0),
        (404, {"error": {"message": "no such model"}}, "fault", "no such model", 0),
    ],
)
def test_the_teacher_is_asked_once_and_its_price_is_told_and_booked(
    path: Path,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: dict[str, Any],
    level: str,
    why: str,
    calls: int,
) -> None:
    monkeypatch.setenv("A_TEACHERS_KEY", KEY)
    edit(path, "#api_key_env = ", 'api_key_env = "A_TEACHERS_KEY" #')
    edit(path, "#input_usd_per_mtok = 0.0", "input_usd_per_mtok = 10.0")
    edit(path, "#output_usd_per_mtok = 0.0", "output_usd_per_mtok = 20.0")
    with endpoint(status, body) as (url, asked):
        text = path.read_text("utf-8")
        line = next(one for one in text.splitlines() if one.startswith("base_url = "))
        edit(path, line, f'base_url = "{url}"')
        asking = Visit(site=open_site(path), outage_s=1.0, ask_teacher=True)
        (found,) = diagnose(asking, [Check(name="teacher", look=teacher)]).findings
        assert asked == [f"Bearer {KEY}"], "once, with its key"
    assert (found.level, why in found.why) == (level, True), found.why
    assert KEY not in f"{found}"
    assert Books(redis_client).read(LANE).ever.calls == calls


def test_a_teacher_that_is_not_there_is_a_fault_and_without_asking_it_nothing_is_known(path: Path) -> None:
    text = path.read_text("utf-8")
    line = next(one for one in text.splitlines() if one.startswith("base_url = "))
    edit(path, line, 'base_url = "http://127.0.0.1:9/v1"')
    asking = Visit(site=open_site(path), outage_s=1.0, ask_teacher=True)
    found = worst(list(teacher(asking)))
    assert (found.level, "nothing was paid" in found.why) == ("fault", True)
    assert worst(look("teacher", path)).level == "not_checked"


@pytest.fixture
def settable(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """A server that is as it was when the test is over."""
    names = ("maxmemory", "maxmemory-policy", "appendonly")
    before = {name: redis_client.config_get(name)[name] for name in names}
    yield redis_client
    for name, value in before.items():
        redis_client.config_set(name, str(value))


@pytest.mark.parametrize(
    ("settings", "check", "level", "why"),
    [
        ({"maxmemory": 1 << 40, "maxmemory-policy": "allkeys-lru"}, "redis", "fault", "evicts keys"),
        ({"appendonly": "no"}, "redis", "warning", "no append-only file"),
        ({"maxmemory": 32 << 20}, "redis memory", "warning", "of maxmemory"),
    ],
)
def test_a_redis_that_does_not_keep_what_it_is_given_is_named(
    path: Path, settable: redis.Redis, settings: dict[str, Any], check: str, level: str, why: str
) -> None:
    for name, value in settings.items():
        settable.config_set(name, value)
    found = worst(look("redis", path))
    assert (found.check, found.level, why in found.why) == (check, level, True), found


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"redis_version": "5.0.14"}, "6.2 or later is needed"),
        ({"redis_version": "7.0.1", "role": "slave"}, "takes no writes"),
        ({"redis_version": "7.0.1", "aof_last_write_status": "err"}, "its disk is full"),
    ],
)
def test_a_redis_of_the_wrong_kind_is_a_fault(info: dict[str, str], why: str) -> None:
    standing = RedisStanding(max_bytes=0, policy="noeviction", append_only=True)
    found = worst(list(_server(info, standing, private=False)))
    assert (found.level, why in found.why) == ("fault", True)


@pytest.mark.parametrize(("ahead_s", "level"), [(0.0, "ok"), (5.0, "warning"), (-90.0, "fault")])
def test_a_clock_that_is_not_redis_own_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float, level: str
) -> None:
    monkeypatch.setattr(ops.doctor.store, "wall_clock_s", lambda: wall_clock_s() + ahead_s)
    (found,) = look("clock", path)
    assert found.level == level


def test_an_encoder_that_is_none_or_too_small_is_named(path: Path) -> None:
    folder = tiny_encoder(path.parent / "encoder", layers=1)
    edit(path, '#encoder = "minilm"', f'encoder = "{folder}"')
    assert "has places for 64 tokens" in worst(look("encoder", path)).why
    edit(path, "#max_tokens = 256", "max_tokens = 32")
    assert [one.level for one in look("encoder", path)] == ["ok"]
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    assert "is no tokenizer" in worst(look("encoder", path)).why
    (folder / "model.safetensors").unlink()
    assert "it lacks model.safetensors" in worst(look("encoder", path)).why


def test_a_machine_without_room_for_a_second_version_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(path, b"a head")
    assert [one.level for one in look("device", path)] == ["ok"]
    free = psutil.virtual_memory()._replace(available=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    found = worst(look("device", path))
    assert (found.level, "a swap would be refused" in found.why) == ("fault", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_a_fault(path: Path) -> None:
    edit(path, '#device = "auto"', 'device = "cuda"')
    assert "torch sees no CUDA device" in worst(look("device", path)).why


def test_a_disk_that_takes_nothing_or_is_nearly_full_is_told(path: Path) -> None:
    assert {one.level for one in look("disk", path)} == {"ok"}
    edit(path, "#max_bytes = 1073741824", f"max_bytes = {1 << 60}")
    assert worst(look("disk", path)).level == "warning"
    (path.parent / "file").write_text("no folder", "utf-8")
    edit(path, "#registry_dir = ", f'registry_dir = "{path.parent / "file"}" #')
    assert "takes nothing" in next(one for one in look("disk", path) if one.level == "fault").why


def test_a_port_that_somebody_else_has_is_a_fault(path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        edit(path, "ingest_port = 0", f"ingest_port = {port}")
        found = worst(look("ports", path))
        assert (found.level, f"127.0.0.1:{port}" in found.why) == ("fault", True)


def test_a_process_that_does_not_answer_is_a_fault(path: Path) -> None:
    assert {one.level for one in look("processes", path)} == {"ok"}
    site = open_site(path)
    me = psutil.Process()
    write_run_file(site.run_directory, RunFile(name="ingest", pid=me.pid, started_s=me.create_time(), admin_port=9))
    assert "does not answer on its admin port" in worst(look("processes", path)).why


def test_a_damaged_version_is_a_fault_and_names_verify(path: Path) -> None:
    (version,) = publish(path, b"a head")
    assert [one.level for one in look("versions", path)] == ["ok"]
    folder = open_site(path).registry.versions(LANE).open(version)
    name = next(iter(folder.manifest.files))
    file = next(iter(path.parent.rglob(f"{version}/{name}")))
    file.chmod(0o644)
    file.write_bytes(b"other bytes")
    found = worst(look("versions", path))
    assert (found.level, found.mend) == ("fault", f"understudy verify --lane {LANE}")


def test_answers_that_were_paid_under_another_prompt_and_records_that_nobody_reads_are_told(
    tmp_path: Path, redis_url: str
) -> None:
    with standing(tmp_path, redis_url, partitions="1") as stand:
        put(stand, 3, "refund", paid_under="another")
        assert "3 records are not read yet" in worst(look("lag", stand.path)).why
        take_in(stand)
        until(lambda: [one.level for one in look("lag", stand.path)] == ["ok"])
        found = worst(look("answers", stand.path))
        assert (found.level, "3 of 3 items were paid under another prompt" in found.why) == ("warning", True)


def test_a_check_that_hangs_or_breaks_hides_no_other_and_what_it_had_found_is_told(path: Path) -> None:
    never = threading.Event()

    def hangs(_: Visit) -> Iterator[Finding]:
        yield Finding(check="slow", level="ok", why="the first half")
        never.wait()

    def breaks(_: Visit) -> Iterator[Finding]:
        yield Finding(check="broken", level="ok", why="the first half")
        raise ZeroDivisionError

    def fine(_: Visit) -> Iterator[Finding]:
        yield Finding(check="fine", level="ok", why="all of it")

    checks = [
        Check(name="slow", look=hangs, limit_s=0.2),
        Check(name="broken", look=breaks),
        Check(name="fine", look=fine),
    ]
    try:
        found = diagnose(visit(path), checks)
    finally:
        never.set()
    told = [(one.check, one.level) for one in found.findings]
    assert told == [
        ("slow", "ok"),
        ("slow", "not_checked"),
        ("broken", "ok"),
        ("broken", "not_checked"),
        ("fine", "ok"),
    ]
    assert "within 0.2 s" in found.findings[1].why


def test_a_redis_that_says_nothing_keeps_nobody_waiting_and_its_password_is_nowhere(path: Path, redis_url: str) -> None:
    with closing(socket.socket()) as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        port = mute.getsockname()[1]
        edit(path, redis_url, f"redis://:a%23secret@127.0.0.1:{port}/0")
        found = CliRunner().invoke(app, ["doctor", "--no-teacher", "-c", str(path), "-o", "json"])
    assert found.exit_code == FAILED_CHECK
    assert "secret@" not in found.output
    assert "a#secret" not in found.output
    told = {one["check"]: one["level"] for one in json.loads(found.stdout)["findings"]}
    assert (told["redis"], told["clock"], told["answers"], told["lag"]) == ("fault", *["not_checked"] * 3)
    assert (told["keys"], told["encoder"], told["ports"], told["versions"]) == ("ok", "ok", "ok", "ok")


def test_a_secret_that_a_library_puts_into_its_error_is_taken_out(path: Path) -> None:
    edit(path, "#api_keys = ", f'api_keys = ["{KEY}"] #')

    def tells(_: Visit) -> Iterator[Finding]:
        yield Finding(check="loud", level="fault", why=f"refused: {KEY}", mend=f"use {KEY}")
        raise RuntimeError(KEY)

    found = diagnose(visit(path), [Check(name="loud", look=tells)])
    assert KEY not in f"{found}"
    assert "[secret]" in found.findings[0].why
