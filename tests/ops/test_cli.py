"""The command line: what it answers, its exit codes, and what it does not import."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from ops.cli.app import app
from ops.exits import exit_code_of
from ops.moves.by_hand import promise_of
from ops.moves.followers import followers
from ops.moves.operator import Followers, Operator
from ops.processes.process import exclusive
from ops.processes.run.all import run_all
from ops.state.run_files import RunFile, write_run_file
from store.buffer.server import private_redis
from store.control import Control, Heartbeat
from store.errors import AlreadyRunningError, MoveConflictError
from store.event import Lane, wall_clock_s
from store.registry.moves import Standing, fold
from tests.ops.children import REPOSITORY
from tests.ops.sites import LANE, make_site, open_site, publish

COMMANDS = [
    ["init"],
    ["run", "serve"],
    ["run", "ingest"],
    ["run", "train"],
    ["run", "all"],
    ["status"],
    ["history"],
    ["show"],
    ["promote"],
    ["rollback"],
    ["pause"],
    ["resume"],
    ["cycle", "start"],
    ["verify"],
    ["dlq", "list"],
    ["dlq", "show"],
    ["dlq", "replay"],
    ["dlq", "drop"],
    ["lag"],
    ["producers"],
    ["import"],
    ["ingest", "skip"],
    ["buffer", "rebuild"],
    ["labels", "list"],
    ["labels", "add"],
    ["labels", "rename"],
    ["labels", "merge"],
    ["labels", "retire"],
    ["answers", "undo"],
    ["prompt", "list"],
    ["prompt", "accept"],
]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(result: Result, code: int = 0) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """An installation whose Redis does not answer."""
    return make_site(tmp_path / "site")


@pytest.fixture
def with_redis(tmp_path: Path, redis_url: str) -> Path:
    """An installation with a real Redis."""
    return make_site(tmp_path / "site", url=f'"{redis_url}"')


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_with_an_example_and_the_exit_codes(command: list[str]) -> None:
    shown = " ".join(call(*command, "--help").output.split())
    assert f"Example: understudy {' '.join(command)}" in shown
    assert "Exit codes: 0 done" in shown


def test_no_command_but_run_and_import_needs_torch_or_kafka(settings: Path) -> None:
    versions = publish(settings, b"one", b"two")
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from ops.cli.app import app\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    CliRunner().invoke(app, line.split())\n"
        "heavy = ('torch', 'transformers', 'sklearn', 'kafka', 'openai', 'starlette', 'serve.gateway', 'trainer')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    lines = [
        "status --help",
        f"history -c {settings}",
        f"show {versions[0]} -c {settings}",
        f"rollback -c {settings}",
        f"resume -c {settings}",
        f"promote {versions[1]} -c {settings}",
        f"status -c {settings}",
    ]
    found = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    assert found.stdout.strip() == "[]", found.stderr
    assert len(open_site(settings).registry.moves(LANE).read()) == 5


def test_init_makes_an_installation_and_does_not_overwrite_it(tmp_path: Path) -> None:
    files = answer(call("init", tmp_path, "-o", "json"))["files"]
    assert (tmp_path / "understudy.toml").exists()
    assert all(one["made"] for one in files)
    assert call("init", tmp_path).exit_code == 2


def test_a_wrong_setting_ends_with_2_and_names_the_key(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_TRAINER__EVERY_S", "never")
    result = call("status", "-c", settings)
    assert result.exit_code == 2
    assert "trainer.every_s" in result.stderr
    assert call("status", "-c", settings.parent / "gone.toml").exit_code == 2


@pytest.mark.parametrize("process", ["serve", "ingest", "train", "all"])
def test_a_process_with_wrong_settings_ends_with_2(
    settings: Path, process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_GATE__DELTA", "7")
    found = subprocess.run(
        [sys.executable, "-m", "ops.cli", "run", process, "-c", settings],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert found.returncode == 2
    assert "gate.delta" in found.stderr


def test_an_unknown_command_or_lane_ends_with_2(settings: Path) -> None:
    assert call("statsu").exit_code == 2
    result = call("status", "-c", settings, "--lane", "acme/other")
    assert result.exit_code == 2
    assert "acme/support" in result.stderr


def test_rollback_works_without_redis_and_pins(settings: Path) -> None:
    one, two = publish(settings, b"one", b"two")
    report = answer(call("rollback", "-c", settings, "--reason", "worse", "-o", "json"))
    assert (report["from"], report["to"], report["pinned"], report["served_by"]) == (two, one, True, {})
    assert report["seconds"] < 5.0
    move = open_site(settings).registry.moves(LANE).read()[-1]
    assert (move.kind, move.version, move.who, move.why) == ("rollback", one, "operator", "worse")


def test_rollback_is_quick_though_redis_hangs(tmp_path: Path) -> None:
    with private_redis(tmp_path / "redis") as url, redis.Redis.from_url(url) as client:
        settings = make_site(tmp_path / "site", url=f'"{url}"')
        one, _ = publish(settings, b"one", b"two")
        pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        try:
            report = answer(call("rollback", "-c", settings, "-o", "json"))
        finally:
            os.kill(pid, signal.SIGCONT)
    assert report["to"] == one
    assert report["seconds"] < 5.0


def test_rollback_waits_until_every_live_gateway_serves_the_version(
    with_redis: Path, redis_client: redis.Redis
) -> None:
    one, two = publish(with_redis, b"one", b"two")
    control = Control(redis_client)
    control.announce(LANE, "live", Heartbeat(version=one, at_s=wall_clock_s() - 26 * 3600.0))  # its clock is wrong
    control.announce(LANE, "stopped", Heartbeat(version=two, at_s=wall_clock_s()))
    (stopped,) = redis_client.keys("*beat:stopped")
    redis_client.pexpire(stopped, 2000)  # it has said nothing for eight seconds
    report = answer(call("rollback", "-c", with_redis, "-o", "json"))
    assert report["followed"] is True
    assert report["served_by"] == {"live": one}


def test_a_gateway_that_does_not_follow_ends_rollback_with_1_but_the_move_stands(
    with_redis: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.moves.operator.FOLLOW_S", 0.3)
    one, two = publish(with_redis, b"one", b"two")
    Control(redis_client).announce(LANE, "stuck", Heartbeat(version=two, at_s=wall_clock_s()))
    report = answer(call("rollback", "-c", with_redis, "-o", "json"), code=1)
    assert (report["followed"], report["served_by"]) == (False, {"stuck": two})
    assert fold(open_site(with_redis).registry.moves(LANE).read()).champion == one


def test_a_gateway_that_runs_here_and_does_not_answer_has_confirmed_nothing(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.moves.operator.FOLLOW_S", 0.3)
    one, _ = publish(settings, b"one", b"two")
    site = open_site(settings)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and says nothing
        record = RunFile(name="serve", pid=os.getpid(), started_s=wall_clock_s(), admin_port=deaf.getsockname()[1])
        write_run_file(site.run_directory, record)
        report = answer(call("rollback", "-c", settings, "-o", "json"), code=1)
        assert (report["followed"], report["served_by"], report["silent"]) == (False, {}, [site.replica])
        result = call("promote", report["from"], "-c", settings)
        assert result.exit_code == 1
        assert "did not answer" in result.stdout
    assert report["to"] == one


def test_a_gateway_that_was_heard_before_the_move_and_not_after_it_has_confirmed_nothing() -> None:
    one, two = "1" * 16, "2" * 16
    heard = Followers(serves={"a": one, "b": two})
    assert heard.confirm(one, heard.serves.keys()) is False
    assert Followers(serves={"a": one}).confirm(one, heard.serves.keys()) is False
    assert Followers(serves={"a": one, "b": one}).confirm(one, heard.serves.keys()) is True
    assert Followers(serves={"a": one, "b": one}, silent=frozenset({"c"})).confirm(one, set()) is False
    assert Followers(serves={}).confirm(one, set()) is True


def test_rollback_expects_a_gateway_that_it_heard_before_the_move(
    with_redis: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.moves.operator.FOLLOW_S", 0.3)
    _, two = publish(with_redis, b"one", b"two")
    Control(redis_client).announce(LANE, "killed", Heartbeat(version=two, at_s=wall_clock_s()))
    site, looks = open_site(with_redis), []

    def look(_: Lane) -> Followers:
        looks.append(followers(site, LANE))
        redis_client.flushall()  # it dies between the first look and the move
        return looks[-1]

    promise = promise_of(site, site.lane(None))
    operator = Operator(
        registry=site.registry, key=site.operator_key(), now=wall_clock_s, promise=lambda _: promise, followers=look
    )
    report = operator.rollback(LANE, to=None, why="worse")
    assert (report.followed, report.served_by, report.silent) == (False, {}, ["killed"])


def test_rollback_to_nothing_to_the_pinned_champion_or_to_an_unknown_version_is_refused(settings: Path) -> None:
    assert call("rollback", "-c", settings).exit_code == 4
    one, _ = publish(settings, b"one", b"two")
    assert call("rollback", "-c", settings, "--to", one[:6]).exit_code == 0
    assert call("rollback", "-c", settings, "--to", one).exit_code == 4
    assert call("rollback", "-c", settings, "--to", "zz").exit_code == 2


def test_rollback_to_a_damaged_version_is_refused_and_moves_nothing(settings: Path) -> None:
    one, two = publish(settings, b"one", b"two")
    site = open_site(settings)
    path = site.registry_root / "acme" / "support" / "versions" / one / "head.safetensors"
    path.chmod(0o644)
    path.write_bytes(b"eno")
    result = call("rollback", "-c", settings)
    assert result.exit_code == 1
    assert "head.safetensors" in result.stderr
    assert fold(site.registry.moves(LANE).read()).champion == two
    assert call("show", one, "-c", settings).exit_code == 1


def test_promote_resume_and_pause_are_signed_moves_and_repeat_is_refused(settings: Path) -> None:
    one, two = publish(settings, b"one", b"two")
    assert answer(call("promote", one, "-c", settings, "-o", "json"))["to"] == one
    assert call("promote", one, "-c", settings).exit_code == 4
    assert answer(call("pause", "-c", settings, "--reason", "night", "-o", "json"))["why"] == "night"
    assert call("pause", "-c", settings).exit_code == 4
    assert call("resume", "-c", settings).exit_code == 0
    assert call("resume", "-c", settings).exit_code == 4
    kinds = [move.kind for move in open_site(settings).registry.moves(LANE).read()]
    assert kinds == ["promote", "promote", "promote", "pause", "resume"]
    assert two != one


def test_cycle_start_asks_the_trainer_and_a_candidate_is_submitted_once(
    with_redis: Path, redis_client: redis.Redis
) -> None:
    (version,) = publish(with_redis, b"one", promoted=False)
    control = Control(redis_client)
    assert answer(call("cycle", "start", "-c", with_redis, "-o", "json"))["kind"] == "head"
    request = control.next_cycle_request(LANE)
    assert request is not None
    assert request.kind == "head"
    control.finish_cycle_request(LANE, request)
    for _ in range(2):
        asked = answer(call("cycle", "start", "-c", with_redis, "--candidate", version[:8], "-o", "json"))
        assert (asked["kind"], asked["candidate"]) == ("candidate", version)
    moves = open_site(with_redis).registry.moves(LANE).read()
    assert [(move.kind, move.version) for move in moves] == [("submit", version)]


def test_cycle_start_without_redis_ends_with_3_and_without_permission_with_4(settings: Path, tmp_path: Path) -> None:
    assert call("cycle", "start", "-c", settings).exit_code == 3
    forbidden = make_site(tmp_path / "forbidden", training_permitted="false")
    assert call("cycle", "start", "-c", forbidden).exit_code == 4


def test_history_lists_moves_and_versions(settings: Path) -> None:
    versions = publish(settings, b"one", b"two")
    report = answer(call("history", "-c", settings, "-o", "json"))
    assert [move["version"] for move in report["moves"]] == versions
    assert {row["id"] for row in report["versions"]} == set(versions)
    assert versions[0] in call("history", "-c", settings).stdout


def test_show_prints_the_manifest(settings: Path) -> None:
    (version,) = publish(settings, b"one")
    report = answer(call("show", version[:5], "-c", settings, "-o", "json"))
    assert (report["id"], report["signed_by"]) == (version, "trainer")
    assert (report["student"]["task"], report["student"]["labels"]) == ("classify", ["refund", "cancel"])
    shown = call("show", version, "-c", settings).stdout
    assert version in shown
    assert "weights in the pool  1.00" in shown


def test_verify_ends_with_0_when_sound_with_1_when_not_and_with_3_without_redis(
    with_redis: Path, tmp_path: Path
) -> None:
    (version,) = publish(with_redis, b"one")
    report = answer(call("verify", "-c", with_redis, "-o", "json"))
    keys = {"from_offset", "complete", "offsets", "expected", "found", "missing", "extra", "chain_ok", "signatures_ok"}
    assert keys <= report.keys()
    assert report["ok"]
    path = open_site(with_redis).registry_root / "acme" / "support" / "versions" / version / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    assert not answer(call("verify", "-c", with_redis, "-o", "json"), code=1)["ok"]
    assert call("verify", "-c", make_site(tmp_path / "other")).exit_code == 3


def test_dlq_list_of_an_empty_log_is_empty_and_knows_the_use_cases(with_redis: Path) -> None:
    assert answer(call("dlq", "list", "-c", with_redis, "-o", "json")) == {
        "total": 0,
        "by_reason": {},
        "kinds": [],
        "letters": [],
    }
    assert call("dlq", "list", "-c", with_redis, "--use-case", "other").exit_code == 2


def test_import_can_be_tried_dry_and_names_bad_rows(settings: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"text": "a", "label": "refund"}\n{"text": "b", "label": "unknown"}\nnonsense\n', "utf-8")
    report = answer(call("import", log, "-c", settings, "--dry-run", "-o", "json"))
    assert (report["published"], [row["line"] for row in report["bad"]]) == (1, [2, 3])
    result = call("import", log, "-c", settings, "--dry-run")
    assert "line 2" in result.stderr


def test_an_import_without_one_good_row_is_no_success(settings: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"text": "b", "label": "unknown"}\n', "utf-8")
    assert call("import", log, "-c", settings, "--dry-run").exit_code == 1


def test_a_second_run_all_on_the_same_state_is_refused(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.processes.run.all.PATIENCE_S", 0.0)
    site = open_site(settings)
    with (
        exclusive(site.run_directory, "all", patience_s=0.0),
        pytest.raises(AlreadyRunningError, match="already runs") as refused,
    ):
        run_all(site, settings)
    assert exit_code_of(refused.value) == 4


def test_run_files_of_the_private_redis_lead_the_command_line_to_it(tmp_path: Path, redis_url: str) -> None:
    path = make_site(tmp_path / "site", url='""')
    assert call("verify", "-c", path).exit_code == 3

    record = RunFile(name="redis", pid=os.getpid(), started_s=wall_clock_s(), url=redis_url)
    write_run_file(open_site(path).run_directory, record)
    assert call("verify", "-c", path).exit_code == 0


def complete(words: str, position: int) -> list[str]:
    """What a shell is offered for the word at a position."""
    environment = {"_UNDERSTUDY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    result = CliRunner().invoke(app, [], prog_name="understudy", env=environment)
    return result.stdout.split()


def test_a_shell_is_offered_lanes_and_versions(settings: Path) -> None:
    versions = publish(settings, b"one", b"two")
    assert complete(f"understudy status --config {settings} --lane ac", 5) == ["acme/support"]
    assert sorted(complete(f"understudy show --config {settings} ", 4)) == sorted(versions)
    assert complete(f"understudy show --config {settings} {versions[0][:6]}", 4) == [versions[0]]
    assert complete("understudy show --config /nowhere ", 4) == []


def test_the_version_is_printed() -> None:
    assert call("--version").output.split()[0] == "understudy"


def test_what_init_makes_is_safe_to_put_under_git(tmp_path: Path) -> None:
    call("init", tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "x").write_text("x")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    shown = subprocess.run(["git", "-C", str(tmp_path), "ls-files"], check=True, capture_output=True, text=True)
    assert shown.stdout.split() == [".gitignore", "prompts/classify.txt", "understudy.toml"]


@pytest.mark.parametrize("kind", ["rollback", "promote", "pause", "resume", "submit"])
def test_a_decision_on_moves_that_somebody_has_added_to_meanwhile_is_refused(settings: Path, kind: str) -> None:
    """Each move carries the number that it was decided for, so that nobody acts on what is no longer so."""
    one, _ = publish(settings, b"one", b"two")
    (third,) = publish(settings, b"three", promoted=False)
    site = open_site(settings)
    promise = promise_of(site, site.lane(None))

    class Hasty(Operator):
        """Reads the moves, and then another operator is quicker."""

        def _read(self, lane: Lane) -> tuple[Standing, int]:
            read = super()._read(lane)
            key = site.operator_key()
            site.registry.moves(LANE).append("pin", version=None, who="ada", why="", key=key, now_s=wall_clock_s())
            return read

    hasty = Hasty(
        registry=site.registry,
        key=site.operator_key(),
        now=wall_clock_s,
        promise=lambda _: promise,
        followers=lambda _: Followers(serves={}),
    )
    if kind == "resume":
        site.registry.moves(LANE).append(
            "pause", version=None, who="ada", why="", key=site.operator_key(), now_s=wall_clock_s()
        )
    decide: dict[str, Callable[[], object]] = {
        "rollback": lambda: hasty.rollback(LANE, to=None, why="w"),
        "promote": lambda: hasty.promote(LANE, version=one, why="w"),
        "pause": lambda: hasty.pause(LANE, why="w"),
        "resume": lambda: hasty.resume(LANE, why="w"),
        "submit": lambda: hasty.submit(LANE, candidate=third, why="w"),
    }
    with pytest.raises(MoveConflictError):
        decide[kind]()
    assert site.registry.moves(LANE).read()[-1].kind == "pin"
