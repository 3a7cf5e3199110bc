"""Whoever moves a lane by hand on this machine: the installation's registry, key, promises and gateways."""

from typing import Final

from ops.checks.concerns import LanePromise, LaneTraffic, traffic_of
from ops.moves.followers import followers
from ops.moves.operator import Operator
from ops.sections import LaneSection
from ops.site import Site
from store.control import LIVE_S
from store.errors import StoreUnavailableError
from store.event import wall_clock_s

_SERVING_S: Final = 0.5  # of Redis: a promotion asks for the traffic


def operator_of(site: Site, who: str | None = None) -> Operator:
    """Whoever signs with the installation's operator key, by the key's name or as somebody who was told apart.

    Raises:
        SettingsError: the key is missing or readable by others.
    """
    return Operator(
        registry=site.registry,
        key=site.operator_key(),
        now=wall_clock_s,
        promise=lambda where: promise_of(site, site.lane(str(where))),
        followers=lambda where: followers(site, where),
        who=who,
    )


def promise_of(site: Site, section: LaneSection) -> LanePromise:
    """What a lane has promised and can pay; its traffic is asked for when it is wanted."""

    def traffic() -> LaneTraffic | None:
        try:
            with site.control(answer_s=_SERVING_S) as control:
                return traffic_of(control.heartbeats(section.lane, within_s=LIVE_S))
        except StoreUnavailableError:
            return None

    return LanePromise(
        policy=section.policy,
        target=section.promise.target,
        confidence=section.promise.confidence,
        calls_per_day=section.budget.calls_per_day,
        traffic=traffic,
    )
