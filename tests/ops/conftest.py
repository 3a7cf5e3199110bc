"""Fixtures that tests of backups share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.buffer.server import private_redis
from tests.ops.backups import URL
from tests.ops.sites import publish
from tests.ops.stand import Stand, standing


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    """An installation with two versions, on a Redis of its own."""
    with standing(tmp_path / "old", redis_url) as found:
        publish(found.path, b"a", b"b")
        yield found


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty machine: where its settings file will be, and a Redis with nothing in it."""
    with private_redis(tmp_path / "new-redis") as url:
        monkeypatch.setenv(URL, url)
        yield tmp_path / "new" / "understudy.toml"
