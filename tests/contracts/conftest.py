"""The logs under the contract, as fixtures."""

from collections.abc import Iterator

import pytest

from tests.contracts.logs import EmbeddedHarness, Log, MemoryHarness


@pytest.fixture(params=["memory", "embedded"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """Each log in turn."""
    if request.param == "memory":
        yield MemoryHarness()
        return
    harness = EmbeddedHarness(request.getfixturevalue("redis_url"))
    yield harness
    harness.close()
