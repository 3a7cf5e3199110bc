"""One publisher of a lane at a time: what is unfinished there while one holds the lock is left over from a dead one."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from store.errors import RegistryError
from store.registry.files.folders import lane_registry
from tests.store.drafts import LANE, make_draft, make_manifest, make_versions


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would wait for a lock is told so instead."""
    flock: Callable[[IO[Any] | int, int], None] = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda file, how: flock(file, how | fcntl.LOCK_NB))


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("held", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_a_publisher_waits_for_whoever_holds_the_lock(tmp_path: Path, held: int) -> None:
    versions, key = make_versions(tmp_path)
    draft = make_draft(tmp_path / "draft")
    first = versions.publish(draft, make_manifest(), key)
    folder = lane_registry(tmp_path / "registry", LANE)[0]
    (lock,) = (tmp_path / "registry").rglob(".lock")
    unfinished = folder / ".tmp-of-another"
    unfinished.mkdir()
    with lock.open() as file:
        fcntl.flock(file, held)
        with pytest.raises(RegistryError, match="nothing was published"):
            versions.publish(draft, make_manifest(created_s=2.0), key)
        assert versions.list() == [first]
        assert unfinished.is_dir(), "the other one is at work on it"
    assert len({first, versions.publish(draft, make_manifest(created_s=2.0), key)}) == 2
