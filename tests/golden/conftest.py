"""Each golden release, and its installation put back."""

from pathlib import Path

import pytest

from ops.settings import Settings
from ops.site import Site
from tests.golden.whole import installed
from tests.golden.write import HERE

RELEASES = sorted(path for path in HERE.iterdir() if (path / "events.json").is_file())


@pytest.fixture(params=RELEASES, ids=lambda path: str(path.name))
def golden(request: pytest.FixtureRequest) -> Path:
    """The folder of a release."""
    found = request.param
    assert isinstance(found, Path)
    return found


@pytest.fixture
def settings(golden: Path, tmp_path: Path, redis_url: str) -> Path:
    """The settings file of its installation, put back on a Redis of its own."""
    return installed(golden, tmp_path / "site", redis_url)


@pytest.fixture
def site(settings: Path) -> Site:
    """The installation."""
    return Site(Settings.load(settings))
