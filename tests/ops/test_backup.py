"""Backups are of one instant whatever goes on meanwhile, and what is restored is the installation that it was."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from ops.cli.app import app
from ops.settings import Settings
from ops.site import Site
from ops.state.restoring import half_restored
from store.buffer.server import private_redis
from store.money.books import Books
from store.money.deeds import Deeds
from store.money.tally import DeedBatch
from tests.golden.stored import dump
from tests.ops.sites import LANE, publish
from tests.ops.stand import Stand, standing


def call(*arguments: str | Path, code: int = 0, config: Path | None = None) -> Any:
    """A command's answer in JSON, or what it says on its way out."""
    settings = () if config is None else ("-c", str(config))
    done = CliRunner().invoke(app, [*map(str, arguments), *settings, "-o", "json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.output


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    with standing(tmp_path / "old", redis_url) as found:
        publish(found.path, b"a", b"b")
        yield found


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty machine: a folder without a settings file, and a Redis with nothing in it."""
    with private_redis(tmp_path / "new-redis") as url:
        monkeypatch.setenv("UNDERSTUDY_REDIS__URL", url)
        yield tmp_path / "new" / "understudy.toml"


@contextmanager
def old(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On the machine that there was before."""
    with monkeypatch.context() as context:
        context.delenv("UNDERSTUDY_REDIS__URL", raising=False)
        yield


def take(stand: Stand, to: Path, monkeypatch: pytest.MonkeyPatch, *options: str, code: int = 0) -> Any:
    with old(monkeypatch):
        return call("backup", to, *options, config=stand.path, code=code)


def keys_to(stand: Stand, settings: Path) -> None:
    """Bring keys and data secret, as a person does who kept them apart."""
    settings.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(stand.path.parent / "keys", settings.parent / "keys")
    shutil.copy2(stand.path.parent / "data.secret", settings.parent / "data.secret")


def content(client: redis.Redis) -> dict[str, Any]:
    """All that lies in Redis, but for what says who is alive."""
    return {name: value for name, value in dump(client).items() if not value.get("expires")}


def books(stand_or_site: Site, client: redis.Redis) -> Deeds:
    return Books(client).read(LANE).ever


@pytest.mark.parametrize("mode", ["dump", "replay"])
def test_under_traffic_it_is_of_one_instant_and_ingest_goes_on_without_counting_twice(
    stand: Stand, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    to, stop = tmp_path / "backup.tar.zst", threading.Event()
    Books(stand.client).write(LANE, DeedBatch(writer="me", number=1, deeds=Deeds(student=7, calls=3)))
    stand.send(60)

    def traffic() -> None:
        while not stop.is_set():
            stand.send(3, questions=10_000)

    sender = threading.Thread(target=traffic)
    with stand.ingesting():
        sender.start()
        try:
            for number in range(4):
                made = take(stand, tmp_path / f"{number}.tar.zst", monkeypatch, "--redis", mode)
            made = take(stand, to, monkeypatch, "--redis", mode)
        finally:
            stop.set()
            sender.join()
    assert made["problems"] == []
    assert to.stat().st_mode & 0o777 == 0o600
    sent = stand.sent
    keys_to(stand, empty)
    for number in range(4):  # whichever instant it was
        with private_redis(tmp_path / f"redis-{number}") as url, monkeypatch.context() as context:
            context.setenv("UNDERSTUDY_REDIS__URL", url)
            folder = tmp_path / f"try-{number}" / "understudy.toml"
            keys_to(stand, folder)
            assert call("restore", tmp_path / f"{number}.tar.zst", config=folder)["verified"]["ok"]
    found = call("restore", to, config=empty)
    assert (found["done"], found["signed_by"], found["moved_aside"]) == (True, "operator", [])
    assert (found["verified"]["ok"], found["verified"]["complete"]) == (True, True)
    assert {slot: at for slot, at in found["verified"]["offsets"].items() if at != "-1"} == {
        slot: at for slot, at in made["positions"].items() if at != "-1"
    }
    assert half_restored(Settings.load(empty).state_dir) is None

    with ExitStack() as stack:
        new = Stand(empty, stack)
        assert books(new.site, new.client) == Deeds(student=7, calls=3)
        with new.ingesting():
            history = sum(int(new.appender.bounds(slot)[1]) for slot in new.appender.slots("understudy.support"))  # type: ignore[attr-defined, misc]
            assert 60 <= history <= sent
            new.sent = sent
            new.send(5, questions=10_000)
            new_events = history + 5
            _until_applied(new, new_events)
        assert (new.counters.counted, new.counters.repeats) == (new_events, 0)
        assert call("verify", config=empty)["ok"]


def _until_applied(stand: Stand, records: int) -> None:
    from tests.ops.stand import until  # noqa: PLC0415

    until(lambda: sum(max(0, int(at)) for at in stand.buffer.positions(LANE.use_case).values()) == records)
