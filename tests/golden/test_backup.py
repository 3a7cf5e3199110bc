"""State of every golden release, backed up by today's and restored into nothing."""

from pathlib import Path
from typing import Any

import pytest
import redis

from store.buffer.server import private_redis
from tests.golden.events import LANE
from tests.golden.stored import dump
from tests.golden.whole import call


def of_the_lane(stored: dict[str, Any]) -> dict[str, Any]:
    """What belongs to the lane of the settings, without what says who is alive."""
    return {
        name: entry
        for name, entry in stored.items()
        if name.startswith((f"{{{LANE.use_case}}}:", "log:")) and ":beat:" not in name
    }


def test_what_a_release_stored_is_backed_up_and_restored(
    golden: Path, settings: Path, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "backup.tar.zst"
    made, was = call(settings, "backup", str(to), "--with-keys"), call(settings, "verify")
    assert made["problems"] == []
    before = of_the_lane(dump(redis_client))
    with private_redis(tmp_path / "redis") as url, redis.Redis.from_url(url) as client:
        monkeypatch.setenv("UNDERSTUDY_REDIS__URL", url)
        new = tmp_path / "new" / "understudy.toml"
        found = call(new, "restore", str(to))
        now = dump(client)
    assert found["verified"] == was
    assert found["verified"]["ok"]
    assert of_the_lane(now) == before
    for name in ("run/cycles.jsonl", "run/swaps.jsonl"):
        kept = golden / name
        assert not kept.exists() or (new.parent / "state" / name).read_bytes() == kept.read_bytes()
    spooled = sorted((golden / "spool").glob("*.spool"))
    assert [(new.parent / "state" / "spool" / path.name).read_bytes() for path in spooled] == [
        path.read_bytes() for path in spooled
    ]
