"""`summary.json`: everything that was measured, in one shape, and whether the demo's own claims held. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ops.demo.measures.answers import Escalated, Example
from ops.demo.measures.measure import Estimate, Exchange, Marked, Window, estimate, plain, requests_of
from ops.demo.tasks.play import DemoTraffic
from store.money.reckon import Money

ROLLBACK_S: Final = 5.0
_ENOUGH: Final = 30  # opinions of the student that make a window worth comparing
_FALL: Final = 0.5  # escalations at the end, against the beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """What came of the operator's rollback."""

    before: str | None
    after: str
    cli_s: float
    served_after: str | None  # what the clients were served once the command had ended; None if it varied
    pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCount:
    """Where the events went, from the client's answers, the log and the buffer."""

    accepted: int  # named in answers: the gateway promised that they are kept
    ingested: int  # counted by ingest
    dead: int
    repeats: int
    lost: int
    twice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One lane when everything has stopped."""

    traffic: DemoTraffic
    acts: bool  # a challenger was to be planted in it, and its champion rolled back
    outcomes: Sequence[Exchange]
    judged: Sequence[Marked | None]
    windows: Sequence[Window]
    first_agreement: float | None  # of the first version ever made, served or not, on its judged rows
    ledger: EventCount
    promise: Mapping[str, Any]
    money: Money | None  # of the whole run, by the lane's books
    cycles: Sequence[Mapping[str, Any]]
    planted: str | None
    swaps: Sequence[Mapping[str, Any]]
    rollback: Rollback | None
    bought: Sequence[Mapping[str, Any]]  # of the backtest: calls, and agreement of all answers with the teacher
    escalated: Sequence[Escalated]
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRecord:
    """The whole demo when everything has stopped."""

    lanes: Sequence[Measured]
    settings_changed: Mapping[str, Any]
    wall_s: float
    children_left: int
    verified: bool | None
    figures: Sequence[Mapping[str, str]]


def ledger(
    accepted: set[str], copies: Mapping[str, int], *, counted: int, ineligible: int, repeats: int, dead: int
) -> EventCount:
    """Compare what was promised with the log, and the log with what ingest counted.

    Args:
        accepted: event ids that answers named.
        copies: event id -> records in the log.
        counted: events that ingest counted into an item.
        ineligible: events that may not be learned from.
        repeats: events that had been counted before.
        dead: dead letters.
    """
    distinct = len(copies)
    known = counted + ineligible
    return EventCount(
        accepted=len(accepted),
        ingested=known,
        dead=dead,
        repeats=repeats,
        lost=len(accepted - copies.keys()) + max(0, distinct - known - dead),
        twice=max(0, known - distinct),
    )


def cycle_rows(cycles: Sequence[Mapping[str, Any]], planted: str | None) -> list[dict[str, Any]]:
    """The cycles as the summary lists them."""
    names = ("id", "verdict", "refusals", "rows_judged", "difference", "lower", "delta", "rows_needed", "version")
    return [
        {"planted": planted is not None and cycle.get("candidate") == planted, **{name: cycle[name] for name in names}}
        for cycle in cycles
    ]


def build(run: DemoRecord) -> dict[str, Any]:
    """The summary, JSON values alone."""
    found = {
        "settings_changed": dict(run.settings_changed),
        "wall_s": run.wall_s,
        "children_left": run.children_left,
        "verified": run.verified,
        "figures": list(run.figures),
        "lanes": {str(one.traffic.lane): _lane(one) for one in run.lanes},
    }
    return {**plain(found), "broken_claims": broken_claims(run)}


def _lane(measured: Measured) -> dict[str, Any]:
    rollback, traffic = measured.rollback, measured.traffic
    return {
        "task": traffic.task,
        "traffic": {
            "path": traffic.path,
            "sha256": traffic.sha256,
            "rows": len(traffic.requests),
            "skipped": len(traffic.skipped),
        },
        "requests": requests_of(measured.outcomes),
        "events": {name: getattr(measured.ledger, name) for name in EventCount.__slots__},
        "windows": list(measured.windows),
        "escalated": list(measured.escalated),
        "examples": list(measured.examples),
        "answered_agreement": _answered(measured),
        "money": measured.money,
        "promise": {name: measured.promise.get(name) for name in ("target", "state", "n", "low")},
        "cycles": cycle_rows(measured.cycles, measured.planted),
        "swaps": [{name: swap[name] for name in ("from", "to", "publish_s", "failed")} for swap in measured.swaps],
        "rollback": None
        if rollback is None
        else {
            "from": rollback.before,
            "to": rollback.after,
            "cli_s": rollback.cli_s,
            "served_after": rollback.served_after,
            "pinned": rollback.pinned,
        },
        "backtest": list(measured.bought),
    }


def _answered(measured: Measured) -> Estimate | None:
    """Over all that the student answered itself, questions that it was trained on left out."""
    return estimate([one.answered for one in measured.judged if one is not None and not one.trained])


def broken_claims(run: DemoRecord) -> list[str]:
    """Each claim of the demo that did not hold, as a sentence."""
    named = len(run.lanes) > 1
    found = [f"{one.traffic.lane}: {claim}" if named else claim for one in run.lanes for claim in _broken_in_lane(one)]
    if run.verified is not True:
        found.append("`understudy verify` did not confirm buffer, versions and moves")
    if run.children_left:
        found.append(f"{run.children_left} processes of the demo are still there")
    return found


def _broken_in_lane(measured: Measured) -> list[str]:
    return [
        *_lost_nothing(measured),
        *_kept_the_promise(measured),
        *(_learned(measured) if measured.traffic.generated else ()),
        *_gate(measured),
        *(_rollback(measured) if measured.acts else ()),
        *_kept_books(measured),
        *(
            f"backtest: {point['calls']} calls where the student is unsure were worth no more than calls at random"
            for point in measured.bought
            if point["system_agreement"] <= point["random_agreement"]
        ),
    ]


def _lost_nothing(measured: Measured) -> list[str]:
    found, events, requests = [], measured.ledger, requests_of(measured.outcomes)
    if requests["failed"]:
        first = next(one.error for one in measured.outcomes if one.agreed is None)
        found.append(f"{requests['failed']} requests failed, the first with: {first}")
    if requests["sent"] != len(measured.traffic.requests):
        found.append(f"{requests['sent']} requests were sent, {len(measured.traffic.requests)} were meant to be")
    if events.lost or events.twice:
        found.append(f"{events.lost} accepted events were lost and {events.twice} counted twice")
    if events.dead:
        found.append(f"{events.dead} events became dead letters")
    if failed := sum(bool(swap["failed"]) for swap in measured.swaps):
        found.append(f"{failed} swaps failed")
    return found


def _kept_books(measured: Measured) -> list[str]:
    """Every answer that a client got is in the lane's books once, whatever was killed, moved or sent again."""
    requests, money = requests_of(measured.outcomes), measured.money
    if money is None:
        return ["the lane's books could not be read"]
    if (money.student, money.teacher) == (requests["student"], requests["teacher"]):
        return []
    told = f"the books count {money.student} answers by the student and {money.teacher} by the teacher"
    return [f"{told}, clients got {requests['student']} and {requests['teacher']}"]


def _kept_the_promise(measured: Measured) -> list[str]:
    target = measured.promise["target"]
    answered = _answered(measured)
    if answered is None:
        return ["the student never answered anything itself"]
    found = [
        f"in requests {one.first} to {one.last} the student's own answers agree in at most"
        f" {one.answered_agreement.high:.1%}, {target:.0%} promised"
        for one in measured.windows
        if one.answered_agreement is not None and one.answered_agreement.high < target
    ]
    if answered.value < target:
        found.append(f"the student's own answers agree with the teacher in {answered.value:.1%}, {target:.0%} promised")
    return found


def _learned(measured: Measured) -> list[str]:
    """The first version to serve may be good already: then the first that was made is what it rose from."""
    found, windows = [], measured.windows
    known = [one.student_agreement for one in windows if one.student_agreement is not None]
    early = [one.value for one in known if one.n >= _ENOUGH][:1]
    if measured.first_agreement is not None:
        early.append(measured.first_agreement)
    late = known[-(len(windows) // 4) :]
    if not early or not late or sum(one.value * one.n for one in late) / sum(one.n for one in late) <= min(early):
        found.append("student agreement did not rise from the first version to the last quarter")
    ratios = [one.escalated_ratio for one in windows if one.escalated_ratio is not None]
    if not ratios or ratios[-1] >= _FALL * ratios[0]:
        found.append("escalations did not fall by more than half")
    return found


def _gate(measured: Measured) -> list[str]:
    found = []
    if not any(cycle["verdict"] == "pass" for cycle in measured.cycles):
        found.append("no version was ever promoted")
    planted = [cycle for cycle in cycle_rows(measured.cycles, measured.planted) if cycle["planted"]]
    if measured.acts and not planted:
        found.append("the planted challenger was never judged")
    elif planted and planted[0]["verdict"] != "fail":
        found.append(f"the gate's verdict on the planted challenger is {planted[0]['verdict']}, not fail")
    return found


def _rollback(measured: Measured) -> list[str]:
    found, rollback = [], measured.rollback
    if rollback is None:
        return ["there was no version to roll back to"]
    if rollback.served_after != rollback.after:
        found.append(f"after the rollback to {rollback.after} clients were served {rollback.served_after}")
    if not rollback.pinned:
        found.append("the rolled-back champion is not pinned")
    if rollback.cli_s >= ROLLBACK_S:
        found.append(f"the rollback took {rollback.cli_s:.1f} s, {ROLLBACK_S:.0f} s allowed")
    return found
