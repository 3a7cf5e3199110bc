"""Installations on disk for the tests of the command line."""

import re
from pathlib import Path
from typing import Any

from ops.init import init
from ops.settings import Settings
from ops.site import Site
from store.event import Lane
from store.policy import Policy
from store.registry.signing import SigningKey
from tests.store.drafts import make_draft, make_manifest

LANE = Lane("acme", "support")
CERTIFIED = Policy(
    temperature=1.0,
    threshold=0.8,
    novelty_threshold=None,
    target=0.95,
    confidence_level=0.95,
    coverage_ratio=0.6,
    rows=300,
    lower=0.951,
)


def make_site(folder: Path, **values: Any) -> Path:
    """Run `init` and set keys, each in the first table that has it; the settings file."""
    init(folder)
    path = folder / "understudy.toml"
    text = path.read_text("utf-8")
    settings = {"training_permitted": "true", "url": '"unix:///nowhere/redis.sock"', "port": "0", **values}
    for name in ("serve_port", "ingest_port", "train_port"):
        settings.setdefault(name, "0")
    for name, value in settings.items():
        text, found = re.subn(rf"(?m)^#?{name} = .*$", f"{name} = {value}", text, count=1)  # [trainer] before lanes
        assert found == 1, f"{name} is there {found} times"
    path.write_text(text, "utf-8")
    return path


def open_site(path: Path) -> Site:
    """The installation of a settings file."""
    return Site(Settings.load(path))


def publish(path: Path, *heads: bytes, promoted: bool = True, lane: Lane = LANE, **manifest: Any) -> list[str]:
    """Versions signed by the trainer, each promoted in turn."""
    site = open_site(path)
    key = SigningKey.load(site.settings.keys.trainer)
    versions = []
    for head in heads:
        draft = make_draft(path.parent / f"draft-{head.hex()}", head=head)
        described = make_manifest(lane=lane, policy=CERTIFIED, **manifest)
        version = site.registry.versions(lane).publish(draft, described, key)
        if promoted:
            site.registry.moves(lane).append(
                "promote", version=version, who=key.name, why="passed", key=key, now_s=1_700_000_000.0
            )
        versions.append(version)
    return versions
