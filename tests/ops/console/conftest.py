"""A furnished installation with a Redis of its own, that the tests of a module share."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.settings import Settings
from ops.site import Site
from store.buffer.server import private_redis
from tests.ops.console.shown import Shown, showing
from tests.ops.furnished import furnish, living


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The settings file of an installation with a lane of each task, heard of like a running one."""
    now_s = time.time()  # noqa: TID251 - heartbeats and ages are by Redis' own clock
    folder = tmp_path_factory.mktemp("furnished")
    (folder / "redis").mkdir()
    with private_redis(folder / "redis") as url:
        settings = furnish(folder / "site", url, now_s)
        with living(Site(Settings.load(settings)), now_s):
            yield settings


@pytest.fixture(scope="module")
def console(furnished: Path) -> Iterator[Shown]:
    """Its console."""
    with showing(furnished) as shown:
        yield shown


@pytest.fixture(scope="module")
def token(console: Shown) -> str:
    """A token that opens texts."""
    return console.token("view", "reader")
