"""What each command ends with: a row for each command and outcome, as the README says; no command without a row."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from ops.cli.app import app
from ops.cli.output import exit_code_of
from ops.open_log import ensure_topics
from ops.processes.process import RunFile, write_run_file
from store.errors import UnderstudyError
from store.event import wall_clock_s
from tests.ops.sites import LANE, make_site, open_site, publish

DONE, FAILED_CHECK, BAD_SETTINGS, UNAVAILABLE, REFUSED = range(5)

Row = tuple[str, str, Callable[["Place"], list[str | Path]], int]


class Place:
    """Where a row is played: an installation, with Redis or with one that does not answer."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self._redis_url = redis_url
        self._open: list[Any] = []

    def site(self, **values: str) -> Path:
        return make_site(self.folder / "site", **values)

    def with_redis(self, **values: str) -> Path:
        path = self.site(url=f'"{self._redis_url}"', **values)
        with open_site(path).redis_client() as client:
            ensure_topics(open_site(path), client)
        return path

    def log(self, *lines: str) -> Path:
        path = self.folder / "log.jsonl"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path

    def deaf_gateway(self, settings: Path) -> None:
        """It runs here, takes connections and says nothing."""
        self._open.append(socket.create_server(("127.0.0.1", 0)))
        port = self._open[-1].getsockname()[1]
        record = RunFile(name="serve", pid=os.getpid(), started_s=wall_clock_s(), admin_port=port)
        write_run_file(open_site(settings).run_directory, record)

    def damage(self, settings: Path, version: str) -> None:
        path = open_site(settings).registry_root / LANE.tenant / LANE.use_case / "versions" / version
        (path / "head.safetensors").chmod(0o644)
        (path / "head.safetensors").write_bytes(b"x")

    def break_chain(self, settings: Path) -> None:
        moves = open_site(settings).registry_root / LANE.tenant / LANE.use_case / "moves"
        (moves / "00000001.json").rename(moves / "00000003.json")

    def close(self) -> None:
        for one in self._open:
            one.close()


def on_two(place: Place, *arguments: str, after: Callable[[Path, str, str], object] = lambda *_: None) -> list[Any]:
    """Arguments on a site with two versions, the second of which is the champion: ONE and TWO stand for their ids."""
    settings = place.site()
    one, two = publish(settings, b"one", b"two")
    after(settings, one, two)
    return [{"ONE": one, "TWO": two}.get(word, word) for word in arguments] + ["-c", settings]


def skippable(place: Place) -> Path:
    """A partition whose stored position is outside the log."""
    path = place.with_redis()
    with open_site(path).redis_client() as client:
        slot = _slot(client)
        claim = open_site(path).buffer(client).claim(LANE.use_case, slot, "test")
        assert claim.position == "-1"
        for key in client.scan_iter(match="*pos*"):
            client.hset(key, "next", "7")
    return path


def _slot(client: redis.Redis) -> Any:
    from stream.embedded.log import EmbeddedLog  # noqa: PLC0415 - for this alone
    from stream.log import topic_of  # noqa: PLC0415 - as above

    return EmbeddedLog(client).slots(topic_of(LANE.use_case))[0]


def deaf(place: Place) -> Callable[[Path, str, str], object]:
    return lambda settings, *_: place.deaf_gateway(settings)


GOOD, BAD = '{"text": "a", "label": "refund"}', '{"text": "b", "label": "unknown"}'

ROWS: list[Row] = [
    ("init", "done", lambda place: [place.folder / "new"], DONE),
    ("init", "settings are there already", lambda place: [place.site().parent], BAD_SETTINGS),
    ("status", "done, though Redis does not answer", lambda place: ["-c", place.site()], DONE),
    ("status", "no such lane", lambda place: ["-c", place.site(), "--lane", "acme/other"], BAD_SETTINGS),
    ("history", "done", on_two, DONE),
    (
        "history",
        "a broken chain",
        lambda place: on_two(place, after=lambda settings, *_: place.break_chain(settings)),
        FAILED_CHECK,
    ),
    ("show", "done", lambda place: on_two(place, "ONE"), DONE),
    ("show", "no such version", lambda place: on_two(place, "zz"), BAD_SETTINGS),
    (
        "show",
        "a damaged version",
        lambda place: on_two(place, "ONE", after=lambda settings, one, _: place.damage(settings, one)),
        FAILED_CHECK,
    ),
    ("promote", "done", lambda place: on_two(place, "ONE"), DONE),
    ("promote", "no such version", lambda place: on_two(place, "zz"), BAD_SETTINGS),
    ("promote", "it is the champion", lambda place: on_two(place, "TWO"), REFUSED),
    (
        "promote",
        "a damaged version",
        lambda place: on_two(place, "ONE", after=lambda settings, one, _: place.damage(settings, one)),
        FAILED_CHECK,
    ),
    ("promote", "a gateway has not confirmed", lambda place: on_two(place, "ONE", after=deaf(place)), FAILED_CHECK),
    ("rollback", "done", on_two, DONE),
    ("rollback", "no such version", lambda place: on_two(place, "--to", "zz"), BAD_SETTINGS),
    ("rollback", "nothing to go back to", lambda place: ["-c", place.site()], REFUSED),
    (
        "rollback",
        "a broken chain",
        lambda place: on_two(place, after=lambda settings, *_: place.break_chain(settings)),
        FAILED_CHECK,
    ),
    ("rollback", "a gateway has not confirmed", lambda place: on_two(place, after=deaf(place)), FAILED_CHECK),
    ("pause", "done", on_two, DONE),
    ("pause", "it is paused", lambda place: on_two(place, after=lambda path, *_: called("pause", "-c", path)), REFUSED),
    ("resume", "done", lambda place: on_two(place, after=lambda path, *_: called("pause", "-c", path)), DONE),
    ("resume", "neither paused nor pinned", on_two, REFUSED),
    ("cycle start", "done", lambda place: ["-c", place.with_redis()], DONE),
    ("cycle start", "Redis does not answer", lambda place: ["-c", place.site()], UNAVAILABLE),
    ("cycle start", "training is not permitted", lambda place: ["-c", place.site(training_permitted="false")], REFUSED),
    ("cycle start", "the candidate is the champion", lambda place: on_two(place, "--candidate", "TWO"), REFUSED),
    (
        "cycle start",
        "a damaged candidate",
        lambda place: on_two(place, "--candidate", "ONE", after=lambda settings, one, _: place.damage(settings, one)),
        FAILED_CHECK,
    ),
    ("verify", "sound", lambda place: ["-c", place.with_redis()], DONE),
    ("verify", "Redis does not answer", lambda place: ["-c", place.site()], UNAVAILABLE),
    (
        "verify",
        "a damaged version",
        lambda place: _verified(place, place.damage),
        FAILED_CHECK,
    ),
    (
        "verify",
        "a broken chain",
        lambda place: _verified(place, lambda settings, _: place.break_chain(settings)),
        FAILED_CHECK,
    ),
    ("dlq list", "done", lambda place: ["-c", place.with_redis()], DONE),
    ("dlq list", "no such use case", lambda place: ["-c", place.site(), "--use-case", "other"], BAD_SETTINGS),
    ("dlq list", "Redis does not answer", lambda place: ["-c", place.site()], UNAVAILABLE),
    ("import", "done", lambda place: [place.log(GOOD), "--dry-run", "-c", place.site()], DONE),
    ("import", "no good row", lambda place: [place.log(BAD), "--dry-run", "-c", place.site()], FAILED_CHECK),
    ("import", "no such file", lambda place: [place.folder / "gone.jsonl", "-c", place.site()], BAD_SETTINGS),
    ("import", "Redis does not answer", lambda place: [place.log(GOOD), "-c", place.site()], UNAVAILABLE),
    ("import", "ingest has not taken the rows", lambda place: [place.log(GOOD), "-c", place.with_redis()], UNAVAILABLE),
    (
        "import",
        "training is not permitted",
        lambda place: [place.log(GOOD), "-c", place.with_redis(training_permitted="false")],
        REFUSED,
    ),
    (
        "import",
        "a dry run where training is not permitted",
        lambda place: [place.log(GOOD), "--dry-run", "-c", place.site(training_permitted="false")],
        REFUSED,
    ),
    ("keys list", "done", lambda place: ["-c", place.site()], DONE),
    ("keys add", "done", lambda place: ["ada", "-c", place.site()], DONE),
    ("keys add", "no name", lambda place: ["a/b", "-c", place.site()], BAD_SETTINGS),
    ("keys add", "it is trusted already", lambda place: ["operator", "-c", place.site()], REFUSED),
    ("keys rotate", "done", lambda place: ["operator", "-c", place.site()], DONE),
    ("keys rotate", "a person without a key", lambda place: ["bob", "-c", place.site()], BAD_SETTINGS),
    ("ingest skip", "done", lambda place: ["-c", skippable(place), "--reason", "w"], DONE),
    ("ingest skip", "no reason", lambda place: ["-c", place.site()], BAD_SETTINGS),
    ("ingest skip", "Redis does not answer", lambda place: ["-c", place.site(), "--reason", "w"], UNAVAILABLE),
    ("ingest skip", "nothing stands still", lambda place: ["-c", place.with_redis(), "--reason", "w"], REFUSED),
    ("buffer rebuild", "done", lambda place: ["-c", place.with_redis(), "--reason", "w"], DONE),
    ("buffer rebuild", "no reason", lambda place: ["-c", place.site()], BAD_SETTINGS),
    ("buffer rebuild", "Redis does not answer", lambda place: ["-c", place.site(), "--reason", "w"], UNAVAILABLE),
    ("backtest", "no such file", lambda place: [place.folder / "gone.jsonl"], BAD_SETTINGS),
]
ELSEWHERE = {  # how they end is seen with the processes that they start
    "run serve",
    "run ingest",
    "run train",
    "run all",
}
NEEDED = {
    "show": ["0" * 16],
    "promote": ["0" * 16],
    "import": ["log.jsonl"],
    "keys add": ["ada"],
    "keys rotate": ["ada"],
}


def _verified(place: Place, break_it: Callable[[Path, str], object]) -> list[Any]:
    settings = place.with_redis()
    (version,) = publish(settings, b"one")
    break_it(settings, version)
    return ["-c", settings]


def called(*arguments: object) -> int:
    return CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code


def commands(group: Any, path: str = "") -> Iterator[str]:
    """Every command that there is, as it is called."""
    if isinstance(group, TyperGroup):
        for name, command in group.commands.items():
            yield from commands(command, f"{path} {name}".strip())
    else:
        yield path


ALL = sorted(commands(typer.main.get_command(app)))


@pytest.fixture
def place(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr("ops.cli.actions.FOLLOW_S", 0.2)
    monkeypatch.setattr("ops.imports.importing._STALLED_S", 0.2)
    made = Place(tmp_path, redis_url)
    yield made
    made.close()


@pytest.mark.parametrize("row", ROWS, ids=[f"{command}: {outcome}" for command, outcome, _, _ in ROWS])
def test_a_command_ends_with_the_code_of_its_outcome(place: Place, row: Row) -> None:
    command, _, prepare, code = row
    result = CliRunner().invoke(app, [*command.split(), *map(str, prepare(place))])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


def test_every_command_has_a_row_for_what_was_done_and_each_row_a_command() -> None:
    rows = {command for command, _, _, _ in ROWS}
    assert rows | ELSEWHERE == set(ALL)
    assert {command for command, _, _, code in ROWS if code == DONE} | ELSEWHERE | {"backtest"} == set(ALL)


@pytest.mark.parametrize("command", ALL)
def test_an_option_that_no_command_knows_ends_with_2(command: str) -> None:
    assert called(*command.split(), *NEEDED.get(command, []), "--bogus") == BAD_SETTINGS


@pytest.mark.parametrize("command", sorted(set(ALL) - ELSEWHERE - {"init", "backtest"}))
def test_settings_that_are_not_there_end_with_2(command: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(GOOD + "\n")
    needed = [log if word == "log.jsonl" else word for word in NEEDED.get(command, [])]
    reason = ["--reason", "w"] if command in {"ingest skip", "buffer rebuild"} else []
    assert called(*command.split(), *needed, *reason, "-c", tmp_path / "gone.toml") == BAD_SETTINGS


CODES = {
    "SettingsError": BAD_SETTINGS,
    "UnknownVersionError": BAD_SETTINGS,
    "StateUnwritableError": UNAVAILABLE,
    "StoreUnavailableError": UNAVAILABLE,
    "LogUnavailableError": UNAVAILABLE,
    "RefusedError": REFUSED,
    "MoveConflictError": REFUSED,
    "AlreadyRunningError": REFUSED,
}


def kinds(kind: type[UnderstudyError]) -> Iterator[type[UnderstudyError]]:
    for one in kind.__subclasses__():
        yield one
        yield from kinds(one)


def test_an_error_of_ours_that_is_neither_a_setting_nor_an_absence_nor_a_refusal_is_a_failed_check() -> None:
    ours = {kind for kind in kinds(UnderstudyError) if not kind.__module__.startswith("tests.")}
    assert CODES.keys() <= {kind.__name__ for kind in ours}
    for kind in ours:
        assert exit_code_of(kind.__new__(kind)) == CODES.get(kind.__name__, FAILED_CHECK), kind
