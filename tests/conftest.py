"""Fixtures that more than one room's tests use."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
import structlog

from store.buffer.server import private_redis
from store.log.lazy import to_standard_error
from store.redact import Effort

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # noqa: TID251 - before any library reads it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # noqa: TID251

hypothesis.settings.register_profile(  # of `make mutants`: that a test fails is enough, and it is to fail again
    "mutants", deadline=None, derandomize=True, phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate)
)
if "CI" not in os.environ:  # noqa: TID251 - hypothesis has a profile of its own for CI: derandomised, without deadlines
    hypothesis.settings.register_profile("desk", deadline=None)
    hypothesis.settings.load_profile("desk")


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A test begins with the log as a command of ours writes it, to standard error, whatever the one before did to it.

    `structlog.testing.capture_logs` alone leaves a log that counts as configured, and writes to standard output.
    """
    to_standard_error()
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real redis-server of our own."""
    with private_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of a real, empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of a real, empty Redis."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def hard_text(monkeypatch: pytest.MonkeyPatch) -> str:
    """A text that takes more work to redact than one input may, which is little here: it is refused within no time."""
    monkeypatch.setattr(Effort.__init__, "__defaults__", (1000,))
    return "01001 " * 1000


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; the test skips where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data at ../shared/data")
    return folder
