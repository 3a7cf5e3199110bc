"""What a person should hear before a version is made the champion by hand: pure, in whole sentences."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from store.control import REMEMBERED_REQUESTS, REMEMBERED_S, Heartbeat
from store.errors import SwapRefusedError
from store.policy import PolicyName
from store.registry.manifest import Manifest
from store.registry.students.records import StudentRecord

_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTraffic:
    """The present traffic of a lane, by what its gateways remember of the last minutes."""

    requests_per_day: float
    at_least: bool  # there were more than they remember


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePromise:
    """What a lane has promised, and what it can pay."""

    policy: PolicyName
    target: float
    confidence: float
    calls_per_day: int
    traffic: Callable[[], LaneTraffic | None]  # asked only where it matters; None: nobody can tell


def concerns(
    version: str, manifest: Manifest, promise: LanePromise, *, serving: StudentRecord | None, removal_declared: bool
) -> list[str]:
    """What would go wrong in service: a promotion waits for `--force`.

    Args:
        version: its id.
        manifest: what it says of itself.
        promise: the lane's.
        serving: the champion's record; None where there is none.
        removal_declared: labels may go: a person has moved the lane back, or is about to.
    """
    return [
        one
        for one in (
            _unserved(version, manifest, serving, removal_declared=removal_declared),
            _uncertified(version, manifest, promise),
            _weaker(version, manifest, promise),
        )
        if one is not None
    ]


def remarks(version: str, manifest: Manifest) -> list[str]:
    """What is worth knowing of it, and keeps nobody from promoting it."""
    verdict = manifest.verdict
    if verdict is None:
        return [f"{version} was never judged: `understudy cycle start --candidate {version}` would"]
    if verdict.outcome == "pass":
        return []
    why = "; ".join(verdict.refusals) or "no reason given"
    return [f"the gate said {verdict.outcome} of {version}: {why}"]


def _uncertified(version: str, manifest: Manifest, promise: LanePromise) -> str | None:
    if promise.policy == "budget" or (manifest.policy is not None and manifest.policy.threshold is not None):
        return None
    traffic = promise.traffic()
    if traffic is None:
        calls = "a call for each"
    else:
        amount = f"{'at least' if traffic.at_least else 'about'} {round(traffic.requests_per_day):,}"
        calls = f"{amount} calls a day at the present traffic"
    return (
        f"{version} certifies no threshold: every question will go to the teacher, {calls}, against a budget of "
        f"{promise.calls_per_day:,}"
    )


def _weaker(version: str, manifest: Manifest, promise: LanePromise) -> str | None:
    policy = manifest.policy
    if promise.policy == "budget" or policy is None or policy.threshold is None:
        return None
    if policy.target >= promise.target and policy.confidence_level >= promise.confidence:
        return None
    return (
        f"{version} is certified for {policy.target:.1%} at {policy.confidence_level:.1%} confidence, and the lane "
        f"promises {promise.target:.1%} at {promise.confidence:.1%}"
    )


def _unserved(version: str, manifest: Manifest, serving: StudentRecord | None, *, removal_declared: bool) -> str | None:
    try:
        manifest.student.check_follows(serving, removal_declared=removal_declared)
    except SwapRefusedError as error:
        return f"no gateway that serves the champion will take {version} into service: {error}"
    return None


def traffic_of(heartbeats: Mapping[str, Heartbeat]) -> LaneTraffic | None:
    """The traffic that the replicas remember; None while there is none of them."""
    if not heartbeats:
        return None
    recent = sum(beat.recent_requests for beat in heartbeats.values())
    full = any(beat.recent_requests >= REMEMBERED_REQUESTS for beat in heartbeats.values())
    return LaneTraffic(requests_per_day=recent / REMEMBERED_S * _DAY_S, at_least=full)
