"""What each command ends with: a row for each command and outcome, as its reference says; no command without a row."""

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
from ops.exits import exit_code_of
from ops.open_log import ensure_topics
from ops.state.run_files import RunFile, write_run_file
from store.control import Control
from store.errors import UnderstudyError
from store.event import wall_clock_s
from tests.ops.sites import LANE, make_site, open_site, publish
from tests.ops.test_status import beat
from tests.tiny import tiny_encoder

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

    def heard(self) -> Path:
        """A gateway of another machine is heard over Redis."""
        path = self.with_redis()
        with open_site(path).redis_client() as client:
            Control(client).announce(LANE, "one", beat("0" * 16, at_s=wall_clock_s()))
        return path

    def ruled(self) -> Path:
        """A label was renamed."""
        path = self.site()
        assert called("labels", "rename", "refund", "old", "-c", path, "--reason", "w") == DONE
        return path

    def ranking(self) -> Path:
        """Settings of a lane of rankings, with an encoder that takes no time."""
        path = self.site()
        encoder = tiny_encoder(self.folder / "encoder")
        text = (
            path.read_text()
            .replace('#encoder = "minilm"', f'encoder = "{encoder}"', 1)
            .replace("#max_tokens = 256", "max_tokens = 48", 1)
        )
        path.write_text(text.replace('#task = "classify"', 'task = "rank"'))
        (path.parent / "prompts" / "classify.txt").write_text("Order $documents for $query.")
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
    ("status", "done", lambda place: ["-c", place.heard()], DONE),
    ("status", "nothing answers", lambda place: ["-c", place.site()], UNAVAILABLE),
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
    ("trace", "no such event", lambda place: ["0198f2c4", "-c", place.with_redis()], REFUSED),
    ("trace", "Redis does not answer", lambda place: ["0198f2c4", "-c", place.site()], UNAVAILABLE),
    ("dlq list", "done", lambda place: ["-c", place.with_redis()], DONE),
    ("dlq list", "no such use case", lambda place: ["-c", place.site(), "--use-case", "other"], BAD_SETTINGS),
    ("dlq list", "Redis does not answer", lambda place: ["-c", place.site()], UNAVAILABLE),
    ("dlq decisions", "done", lambda place: ["-c", place.site()], DONE),
    ("dlq decisions", "no such use case", lambda place: ["-c", place.site(), "--use-case", "other"], BAD_SETTINGS),
    ("dlq show", "no such letter", lambda place: ["3fa1", "-c", place.with_redis()], REFUSED),
    ("dlq show", "Redis does not answer", lambda place: ["3fa1", "-c", place.site()], UNAVAILABLE),
    ("dlq replay", "no reason", lambda place: ["--all", "-c", place.site()], BAD_SETTINGS),
    ("dlq replay", "neither letters nor --all", lambda place: ["--reason", "w", "-c", place.site()], BAD_SETTINGS),
    ("dlq replay", "there is none", lambda place: ["--all", "--reason", "w", "-c", place.with_redis()], REFUSED),
    ("dlq replay", "Redis does not answer", lambda place: ["--all", "--reason", "w", "-c", place.site()], UNAVAILABLE),
    ("dlq drop", "no reason", lambda place: ["--all", "-c", place.site()], BAD_SETTINGS),
    ("dlq drop", "there is none", lambda place: ["--all", "--reason", "w", "-c", place.with_redis()], REFUSED),
    ("dlq drop", "Redis does not answer", lambda place: ["--all", "--reason", "w", "-c", place.site()], UNAVAILABLE),
    ("lag", "done", lambda place: ["-c", place.with_redis()], DONE),
    ("lag", "Redis does not answer", lambda place: ["-c", place.site()], UNAVAILABLE),
    ("producers", "done", lambda place: ["-c", place.site()], DONE),
    ("producers", "no such lane", lambda place: ["-c", place.site(), "--lane", "acme/other"], BAD_SETTINGS),
    ("catalogue load", "done", lambda place: [place.log('"card"'), "-c", place.ranking()], DONE),
    ("catalogue load", "no such file", lambda place: [place.folder / "gone", "-c", place.ranking()], BAD_SETTINGS),
    ("catalogue load", "a lane of labels", lambda place: [place.log('"card"'), "-c", place.site()], REFUSED),
    ("catalogue show", "none is there", lambda place: ["-c", place.ranking()], FAILED_CHECK),
    ("catalogue show", "a lane of labels", lambda place: ["-c", place.site()], REFUSED),
    ("labels list", "a lane of rankings", lambda place: ["-c", place.ranking()], REFUSED),
    ("labels list", "done, though Redis does not answer", lambda place: ["-c", place.site()], DONE),
    ("labels add", "done", lambda place: ["lost parcel", "-c", place.site()], DONE),
    ("labels add", "it is on the list", lambda place: ["refund", "-c", place.site()], REFUSED),
    ("labels rename", "done", lambda place: ["refund", "money back", "-c", place.site(), "--reason", "w"], DONE),
    ("labels rename", "no reason", lambda place: ["refund", "money back", "-c", place.site()], BAD_SETTINGS),
    ("labels rename", "no such label", lambda place: ["x", "y", "-c", place.site(), "--reason", "w"], REFUSED),
    ("labels merge", "done", lambda place: ["delivery", "--into", "refund", "-c", place.site(), "--reason", "w"], DONE),
    ("labels merge", "no such label", lambda place: ["x", "--into", "y", "-c", place.site(), "--reason", "w"], REFUSED),
    ("labels retire", "done", lambda place: ["refund", "-c", place.site(), "--reason", "w"], DONE),
    ("labels retire", "no such label", lambda place: ["x", "-c", place.site(), "--reason", "w"], REFUSED),
    ("answers undo", "done", lambda place: ["1", "-c", place.ruled(), "--reason", "w"], DONE),
    ("prompt list", "done", lambda place: ["-c", place.with_redis()], DONE),
    ("prompt list", "Redis does not answer", lambda place: ["-c", place.site()], UNAVAILABLE),
    ("prompt accept", "no reason", lambda place: ["--from", "1a2b", "-c", place.site()], BAD_SETTINGS),
    (
        "prompt accept",
        "--yes without a sample",
        lambda place: ["--from", "1a2b", "--yes", "--reason", "w", "-c", place.site()],
        BAD_SETTINGS,
    ),
    (
        "prompt accept",
        "no such prompt",
        lambda place: ["--from", "1a2b", "--reason", "w", "-c", place.with_redis()],
        REFUSED,
    ),
    (
        "prompt accept",
        "Redis does not answer",
        lambda place: ["--from", "1a2b", "--reason", "w", "-c", place.site()],
        UNAVAILABLE,
    ),
    (
        "prompt accept",
        "training is not permitted",
        lambda place: ["--from", "1a2b", "--reason", "w", "-c", place.site(training_permitted="false")],
        REFUSED,
    ),
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
    ("buffer show", "done", lambda place: ["-c", place.with_redis()], DONE),
    ("buffer show", "Redis does not answer", lambda place: ["-c", place.site()], UNAVAILABLE),
    ("buffer stats", "done", lambda place: ["-c", place.with_redis()], DONE),
    ("buffer stats", "Redis does not answer", lambda place: ["-c", place.site()], UNAVAILABLE),
    ("buffer export", "no such kind of file", lambda place: [place.folder / "a.doc", "-c", place.site()], BAD_SETTINGS),
    ("answers list", "done", lambda place: ["-c", place.site()], DONE),
    ("answers correct", "no reason", lambda place: ["0" * 32, "refund", "-c", place.site()], BAD_SETTINGS),
    (
        "answers drop",
        "Redis does not answer",
        lambda place: ["0" * 32, "-c", place.site(), "--reason", "w"],
        UNAVAILABLE,
    ),
    ("answers undo", "nothing is in force", lambda place: ["1", "-c", place.site(), "--reason", "w"], REFUSED),
    ("dlq reopen", "Redis does not answer", lambda place: ["--all", "-c", place.site(), "--reason", "w"], UNAVAILABLE),
    ("doctor", "faults", lambda place: ["--no-teacher", "-c", place.site()], FAILED_CHECK),
    ("report", "done", lambda place: ["--out", place.folder / "r.md", "-c", place.site()], DONE),
    ("backup", "Redis does not answer", lambda place: [place.folder / "b", "-c", place.site()], UNAVAILABLE),
    ("restore", "no such file", lambda place: [place.folder / "gone", "-c", place.site()], BAD_SETTINGS),
    ("tokens add", "done", lambda place: ["ada", "--role", "view", "-c", place.site()], DONE),
    ("tokens list", "done", lambda place: ["-c", place.site()], DONE),
    ("tokens revoke", "nobody of this name", lambda place: ["ada", "-c", place.site()], REFUSED),
    ("proxy-log", "no teacher", lambda _: [], BAD_SETTINGS),
    ("backtest", "no such file", lambda place: [place.folder / "gone.jsonl"], BAD_SETTINGS),
]
ELSEWHERE = {  # how they end is seen with the processes that they start
    "run serve",
    "run ingest",
    "run train",
    "run all",
}
DONE_ELSEWHERE = {  # with what they need: a run of hours, dead letters, answers of an older prompt
    "backtest",
    "catalogue show",
    "dlq show",
    "dlq replay",
    "dlq drop",
    "dlq reopen",
    "prompt accept",
    "answers correct",
    "answers drop",
    "buffer export",
    "doctor",
    "backup",
    "restore",
    "trace",
    "tokens revoke",
    "proxy-log",
}
NEEDED = {
    "show": ["0" * 16],
    "promote": ["0" * 16],
    "import": ["log.jsonl"],
    "catalogue load": ["log.jsonl"],
    "keys add": ["ada"],
    "keys rotate": ["ada"],
    "dlq show": ["3fa1"],
    "dlq replay": ["--all"],
    "dlq drop": ["--all"],
    "labels add": ["lost parcel"],
    "labels rename": ["refund", "money back"],
    "labels merge": ["refund", "--into", "other"],
    "labels retire": ["refund"],
    "answers undo": ["1"],
    "prompt accept": ["--from", "1a2b"],
}


WITH_REASON = {
    *("ingest skip", "buffer rebuild", "dlq replay", "dlq drop"),
    *("labels rename", "labels merge", "labels retire", "answers undo", "prompt accept"),
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
    monkeypatch.setattr("ops.moves.operator.FOLLOW_S", 0.2)
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
    assert {command for command, _, _, code in ROWS if code == DONE} | ELSEWHERE | DONE_ELSEWHERE == set(ALL)


@pytest.mark.parametrize("command", ALL)
def test_an_option_that_no_command_knows_ends_with_2(command: str) -> None:
    assert called(*command.split(), *NEEDED.get(command, []), "--bogus") == BAD_SETTINGS


@pytest.mark.parametrize("command", sorted(set(ALL) - ELSEWHERE - {"init", "backtest"}))
def test_settings_that_are_not_there_end_with_2(command: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(GOOD + "\n")
    needed = [log if word == "log.jsonl" else word for word in NEEDED.get(command, [])]
    reason = ["--reason", "w"] if command in WITH_REASON else []
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
