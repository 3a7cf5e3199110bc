"""SIGHUP at a gateway: the settings are read again, and those that are named reloadable hold from the next question on.

API keys, budgets and the share of audits are; everything else needs a restart, and is named in the log where it
changed. A file that is wrong changes nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import redis
from starlette.applications import Starlette

from ops.sections import LaneSection
from ops.settings import Settings
from ops.site import Site
from ops.wiring.lanes import lane_ledger
from serve.front.directory import Directory
from serve.lane.opened import OpenLane
from serve.lifecycle import Gateway
from serve.settings import BudgetSettings
from store.errors import SettingsError
from store.log.lazy import logger

_log = logger(__name__)
RELOADABLE: Final = frozenset({"api_keys", "audit_ratio", "budget"})  # of a lane


def reload_gateway(
    site: Site,
    client: redis.Redis,
    app: Starlette,
    settings_file: Path | None,
    tell: Callable[[Site], None] = lambda _: None,
) -> None:
    """Read the settings again and put what is reloadable in force; says what was done, and why where nothing was.

    `tell` hears of the installation by the new settings.
    """
    try:
        settings = Settings.load(settings_file)
        others = list(changed_keys(site.settings, settings))
        _put_in_force(settings, client, app)
    except SettingsError as error:
        _log.error("reload_refused", why=str(error), action="the settings of before hold on")
        return
    tell(Site(settings))
    if others:
        _log.warning("reload_incomplete", restart_needed_for=", ".join(others))
    _log.info("reloaded", keys=", ".join(f"lanes.{name}" for name in sorted(RELOADABLE)))


def changed_keys(before: Settings, after: Settings) -> Iterator[str]:
    """The keys that differ and that only a restart puts in force; of lanes, those that are in both."""
    old, new = before.model_dump(exclude={"lanes"}), after.model_dump(exclude={"lanes"})
    yield from _differences("", old, new)
    lanes = {section.lane: section for section in before.lanes}
    if lanes.keys() != {section.lane for section in after.lanes}:
        yield "lanes"
    for section in after.lanes:
        if (known := lanes.get(section.lane)) is not None:
            yield from _differences(f"{section.lane}: lanes.", _fixed(known), _fixed(section))


def _fixed(section: LaneSection) -> dict[str, Any]:
    return section.model_dump(exclude=set(RELOADABLE))


def _differences(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name, value in old.items():
        if value == new[name]:
            continue
        if isinstance(value, Mapping) and isinstance(new[name], Mapping) and value.keys() == new[name].keys():
            yield from _differences(f"{prefix}{name}.", value, new[name])
        else:
            yield f"{prefix}{name}"


def _put_in_force(settings: Settings, client: redis.Redis, app: Starlette) -> None:
    """Prepare everything, which may refuse, and then change everything in one step on the gateway's loop.

    Raises:
        SettingsError: a value is wrong; nothing was changed.
    """
    gateway: Gateway = app.state.gateway
    sections = {section.lane: section for section in settings.lanes}
    lanes = [_changed(lane, sections.get(lane.parts.settings.lane), client) for lane in gateway.lanes]
    directory = Directory(lanes)

    def put() -> None:
        gateway.change(lanes)
        app.state.directory.become(directory)

    gateway.on_loop(put)


def _changed(lane: OpenLane, section: LaneSection | None, client: redis.Redis) -> OpenLane:
    """The lane with what its section says now; one that is in the file no more goes on until the restart."""
    if section is None:
        return lane
    budget = BudgetSettings(
        calls_per_day=section.budget.calls_per_day,
        usd_per_day=section.budget.usd_per_day,
        audit_reserve_ratio=section.budget.audit_reserve_ratio,
    )
    settings = replace(lane.parts.settings, api_keys=section.api_keys, audit_ratio=section.audit_ratio, budget=budget)
    return replace(lane, parts=replace(lane.parts, settings=settings, ledger=lane_ledger(client, settings)))
