"""Backups are of one instant whatever goes on meanwhile, and what is restored is the installation that it was."""

import os
import re
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from ops.settings import Settings
from ops.state.restoring import half_restored
from store.buffer.server import private_redis
from store.money.books import Books
from store.money.deeds import Deeds
from store.money.tally import DeedBatch
from tests.ops.backups import URL, call, keys_to, take
from tests.ops.sites import LANE
from tests.ops.stand import Stand, until

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mode", ["dump", "replay"])
def test_under_traffic_it_is_of_one_instant_and_ingest_goes_on_without_counting_twice(
    stand: Stand, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    to, stop = tmp_path / "backup.tar.zst", threading.Event()
    Books(stand.client).write(LANE, DeedBatch(writer="me", number=1, deeds=Deeds(student=7, calls=3)))
    stand.send(60)

    def traffic() -> None:
        while not stop.is_set():
            stand.send(3, questions=40)  # items change all the time

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
            context.setenv(URL, url)
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
        assert Books(new.client).read(LANE).ever == Deeds(student=7, calls=3)
        with new.ingesting():
            history = sum(int(new.appender.bounds(slot)[1]) for slot in new.appender.slots("understudy.support"))  # type: ignore[attr-defined, misc]
            assert 60 <= history <= sent
            new.sent = sent
            new.send(5, questions=10_000)
            until(lambda: sum(max(0, int(at)) for at in new.buffer.positions(LANE.use_case).values()) == history + 5)
        assert (new.counters.counted, new.counters.repeats) == (history + 5, 0)
        assert call("verify", config=empty)["ok"]


def test_a_user_with_the_documented_rights_is_enough(
    stand: Stand, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rights of `docs/how-to/secure.md`, and the names of the embedded log, which is no part of such a Redis."""
    text = (ROOT / "docs" / "how-to" / "secure.md").read_text("utf-8")
    rights = re.findall(r"(?m)^~\{\*\}.*$", text)[0].split()
    url = os.environ[URL]  # noqa: TID251 - as the fixture has set it
    stand.send(10)
    for address in (stand.site.settings.redis.url, url):
        with redis.Redis.from_url(address) as client:
            client.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~log:*", *rights)
    try:
        monkeypatch.setenv(URL, f"{stand.site.settings.redis.url}?username=few&password=secret")
        call("backup", tmp_path / "b", config=stand.path)
        keys_to(stand, empty)
        monkeypatch.setenv(URL, f"{url}?username=few&password=secret")
        assert call("restore", tmp_path / "b", config=empty)["verified"]["ok"]
        assert call("restore", tmp_path / "b", "--force", config=empty)["verified"]["ok"]
    finally:
        with redis.Redis.from_url(stand.site.settings.redis.url) as here:
            here.execute_command("ACL", "DELUSER", "few")
