"""What short commands do not import: the start of the command line is most of what they take."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import redis

from ops.cli.start.commands import COMMANDS
from store.control import Control
from store.event import wall_clock_s
from stream.embedded.log import EmbeddedLog
from stream.log import topic_of
from tests.bench.start import measure
from tests.ops.children import REPOSITORY
from tests.ops.sites import LANE, make_site, publish
from tests.ops.test_status import beat

LEARNING: Final = ("torch", "transformers", "sklearn", "numpy", "scipy", "matplotlib", "faiss", "safetensors")
SERVING: Final = ("openai", "httpx", "starlette", "uvicorn", "kafka", "apscheduler", "prometheus_client", "psutil")
STORES: Final = ("redis", "cryptography", "pydantic", "msgspec")
PROGRAM: Final = """
import json, sys
from ops.cli.app import app
sys.argv = json.loads(sys.argv[1])
try:
    app(prog_name="understudy")
except SystemExit as end:
    code = end.code or 0
print(json.dumps([code, sorted(sys.modules)]))
"""


def imported(*arguments: str | Path, code: int | None = 0) -> set[str]:
    """What a command has imported once it has ended, with that exit code where it is certain."""
    words = json.dumps(["understudy", *map(str, arguments)])
    command = [sys.executable, "-c", PROGRAM, words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    ended, modules = json.loads(done.stdout.splitlines()[-1])
    assert code in {ended, None}, done.stderr
    return set(modules)


def ours(found: set[str]) -> set[str]:
    """Without what the client of Redis brings along wherever OpenTelemetry's SDK is installed."""
    return found - {"psutil"} if "opentelemetry.sdk.resources" in found else found


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []], ids=["help", "version", "nothing"])
def test_the_list_of_commands_imports_no_command_and_no_store(arguments: list[str]) -> None:
    found = imported(*arguments, code=0 if arguments else 2)
    assert not found & {*LEARNING, *SERVING, *STORES, "structlog"}
    assert not found & {place.module for place in COMMANDS.values()}


def test_status_of_a_lane_that_serves_imports_only_what_it_asks(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    path = make_site(tmp_path / "site", url=f'"{redis_url}"')
    version = publish(path, b"one")[0]
    EmbeddedLog(redis_client).ensure(topic_of(LANE.use_case), 1)
    Control(redis_client).announce(LANE, "one", beat(version, at_s=wall_clock_s()))
    found = imported("status", "-c", path, code=None)  # on a slow machine the beat is too old by now
    assert {"redis", "store.promise"} <= found, "it has asked Redis, and weighed the audits"
    assert not ours(found) & {*LEARNING, *SERVING, "structlog", "pydantic_settings"}


ALIEN: Final = {
    "serve": {"trainer", "stream.ingest", "stream.reading", "kafka", "apscheduler", "faiss"},
    "ingest": {
        *LEARNING,
        "openai",
        "httpx",
        "httpx2",
        "starlette",
        "uvicorn",
        "kafka",
        "apscheduler",
        "psutil",
        "trainer",
    },
    "train": {"torch", "transformers", "faiss", "openai", "httpx", "httpx2", "starlette", "uvicorn", "kafka", "stream"},
}
OF_THE_SETTINGS: Final = {
    *("serve", "serve.front", "serve.front.names", "serve.teacher", "serve.teacher.parameters"),
    *("serve.teacher.ask", "serve.teacher.ask.prompts"),
}


@pytest.mark.parametrize("process", ["serve", "ingest", "train"])
def test_a_process_imports_nothing_that_only_another_needs(process: str) -> None:
    program = f"import json, sys, ops.processes.run.{process}; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    found = set(json.loads(done.stdout))
    assert f"ops.wiring.{process}" in found
    assert not ours(found) & ALIEN[process]
    if process != "serve":
        assert {name for name in found if name.partition(".")[0] == "serve"} <= OF_THE_SETTINGS


def test_what_the_start_takes_can_be_measured(tmp_path: Path) -> None:
    found = measure(tmp_path, runs=1)
    assert found["pass_cpu_s"] > 0
    assert found["status"] > found["import_typer"] > 1


def test_a_command_shows_what_the_list_shows_of_it() -> None:
    for name, place in COMMANDS.items():
        command = place.load(name)
        first = (command.help or "").strip().split("\n\n")[0]
        assert " ".join(first.split()) == place.help, name


def test_no_command_of_a_module_is_left_out_of_the_list() -> None:
    modules = {place.module for place in COMMANDS.values() if place.group is None}
    defined = {name for module in modules for name in _names_in(module)}
    assert defined == {name for name, place in COMMANDS.items() if place.group is None}


def _names_in(module: str) -> list[str]:
    app = sys.modules[module].app
    return [found.name or found.callback.__name__ for found in app.registered_commands]


def test_completion_offers_the_names_of_commands_without_importing_them() -> None:
    command = [sys.executable, "-m", "ops.cli"]
    asked = {"_UNDERSTUDY_COMPLETE": "complete_bash", "COMP_WORDS": "understudy st", "COMP_CWORD": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | asked, capture_output=True, text=True, check=True)  # noqa: TID251
    assert done.stdout.split() == ["status"]


@pytest.mark.parametrize("command", ["import", "backtest"])
@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04" + bytes(40), b"PAR1" + bytes(40), bytes(range(256)), None])
def test_what_is_no_log_is_refused_before_anything_is_imported_for_it(
    tmp_path: Path, command: str, raw: bytes | None
) -> None:
    log = tmp_path / "log.jsonl"
    if raw is None:
        log.mkdir()
    else:
        log.write_bytes(raw)
    for path in (log, tmp_path / "missing.jsonl"):
        assert not imported(command, path, code=2) & {*LEARNING, *SERVING, *STORES} - {
            "msgspec",
            "pydantic",
        }  # typer has both
