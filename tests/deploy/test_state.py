"""Who writes the registry: gateways and ingest have it read-only in a cluster, and therefore must leave it alone."""

from pathlib import Path

import pytest

from tests.integration.rig import rig
from tests.ops.sites import open_site, publish


def entries(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, with when it was changed and what it is."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_ino)
        for path in sorted((folder, *folder.rglob("*")))
    }


@pytest.mark.timeout(600)
def test_gateway_and_ingest_make_no_registry(tmp_path: Path) -> None:
    with rig(tmp_path / "rig") as one:
        one.start("ingest", "serve")
        one.until("an answer", lambda: one.ask() == 200)
        one.until("it is read", lambda: one.metric("understudy_ingest_events_total", "ingest"))
        assert not open_site(one.settings).registry_root.exists()


@pytest.mark.timeout(600)
def test_a_gateway_reads_the_registry_and_changes_nothing_in_it(tmp_path: Path) -> None:
    with rig(tmp_path / "rig") as one:
        publish(one.settings, b"no weights")
        registry = open_site(one.settings).registry_root
        before = entries(registry)
        one.start("ingest", "serve")
        one.until("it has read the version", lambda: one.metric("understudy_swaps_total", "serve"))
        one.until("an answer", lambda: one.ask() == 200)
        assert len(before) > 5
        assert entries(registry) == before
