"""The routing of each policy: the one place of the gateway in which a policy is chosen."""

from collections.abc import Callable, Mapping
from typing import Final

from serve.routing.budget import BudgetRouting
from serve.routing.horizon import DayHorizon, Purse
from serve.routing.promise import PromiseRouting
from serve.routing.routing import Routing
from serve.settings import LaneSettings
from store.policy import PolicyName


def routing_of(settings: LaneSettings, purse: Purse, *, monotonic: Callable[[], float]) -> Routing:
    """The lane's routing; `purse` says what is used of its budget, by a clock of monotonic seconds."""
    return _ROUTINGS[settings.policy](settings, purse, monotonic)


def _promise(settings: LaneSettings, purse: Purse, monotonic: Callable[[], float]) -> Routing:  # noqa: ARG001
    return PromiseRouting()


def _budget(settings: LaneSettings, purse: Purse, monotonic: Callable[[], float]) -> Routing:
    return BudgetRouting(
        DayHorizon(
            settings.budget,
            purse,
            audit_ratio=settings.audit_ratio,
            rows_per_day=settings.rows_per_day,
            monotonic=monotonic,
        )
    )


_ROUTINGS: Final[Mapping[PolicyName, Callable[[LaneSettings, Purse, Callable[[], float]], Routing]]] = {
    "promise": _promise,
    "budget": _budget,
}
