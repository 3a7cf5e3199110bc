"""Which lane a request means, and settings that could not tell."""

from dataclasses import replace
from pathlib import Path

import pytest

from serve.front.directory import Directory
from serve.front.errors import ApiError
from serve.lifecycle import Gateway
from serve.settings import LaneSettings, is_loopback
from serve.teacher.ask.tasks import asking_of
from store.errors import SettingsError
from store.event import Lane
from store.tasks.tasks import LaneTerms
from tests.serve.fakes import World

LOOPBACK, NETWORK = True, False


def directory(tmp_path: Path, **keys: tuple[str, ...]) -> Directory:
    """One use case whose tenants have these keys."""
    world = World(tmp_path)
    parts = [world.parts(Lane(tenant, "intent")) for tenant in keys]
    lanes = [replace(part, settings=replace(part.settings, api_keys=keys[part.settings.lane.tenant])) for part in parts]
    return Directory(Gateway(replace(world.services(), lanes=lanes), world.settings).lanes)


def tenant(found: Directory, key: str | None, *, local: bool) -> str | int:
    try:
        return found.find("intent", key, local=local).parts.settings.lane.tenant
    except ApiError as error:
        return error.status


def test_tenants_share_a_use_case_and_are_told_apart_by_key(tmp_path: Path) -> None:
    found = directory(tmp_path, a=("k1", "k2"), b=("k3",), open=())
    assert [tenant(found, key, local=NETWORK) for key in ("k1", "k2", "k3", "k4", None)] == ["a", "a", "b", 401, 401]
    assert [tenant(found, key, local=LOOPBACK) for key in ("k1", "k4", None)] == ["a", "open", "open"]
    with pytest.raises(ApiError) as caught:
        found.find("other", "k1", local=LOOPBACK)
    assert caught.value.status == 404


@pytest.mark.parametrize("keys", [{"a": ("k",), "b": ("k",)}, {"a": (), "b": ()}])
def test_lanes_that_cannot_be_told_apart_stop_the_start(tmp_path: Path, keys: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(SettingsError, match="api_keys"):
        directory(tmp_path, **keys)


def test_loopback_is_this_machine_alone() -> None:
    hosts = (None, "127.0.0.1", "127.9.9.9", "::1", "192.0.2.1", "localhost.example", "")
    assert [is_loopback(host) for host in hosts] == [True, True, True, True, False, False, False]


def test_a_lane_needs_labels_and_an_audit_ratio_that_is_a_probability(tmp_path: Path) -> None:
    settings: LaneSettings = World(tmp_path).parts().settings
    with pytest.raises(SettingsError, match="labels"):
        asking_of(replace(settings, terms=LaneTerms()))
    assert replace(settings, audit_ratio=0.0).audit_ratio == 0.0
    for ratio in (1.5, -0.1, 1e-9):
        with pytest.raises(SettingsError, match="audit_ratio"):
            replace(settings, audit_ratio=ratio)
