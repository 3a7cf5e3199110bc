"""A whole run of the demo, simulated: a student that learns, a planted challenger that is refused, a rollback."""

from pathlib import Path
from random import Random
from typing import Any

from ops.demo.measures.answers import escalated, examples
from ops.demo.measures.measure import Exchange, Logged, Marked, judge_all, windows
from ops.demo.measures.summary import DemoRecord, EventCount, Measured, Rollback, build
from ops.demo.page.picture import Picture, draw
from ops.demo.tasks.play import DemoTraffic, Request
from ops.demo.tasks.tasks import TASKS
from store.event import Lane, TextInput
from store.money.reckon import Money
from store.tasks.tasks import LaneTerms

NAME = "demo/support"
TOTAL = 1200
PLANTED = "bad0bad0bad0bad0"
VERSIONS = ("aaaa0000aaaa0000", "bbbb1111bbbb1111", "cccc2222cccc2222")
ROLLBACK = Rollback(before=VERSIONS[2], after=VERSIONS[1], cli_s=1.9, served_after=VERSIONS[1], pinned=True)
_START_S = 1_000_000.0


def version_at(index: int) -> str | None:
    """The version that serves a request."""
    if index < TOTAL // 4:
        return None
    return VERSIONS[1] if index >= 0.9 * TOTAL else VERSIONS[min(2, (index - TOTAL // 4) * 4 // TOTAL)]


def played(seed: int = 1) -> tuple[list[Exchange], dict[str, Logged]]:
    """The client's answers and the log."""
    rng, outcomes, log = Random(seed), list[Exchange](), dict[str, Logged]()
    for index in range(TOTAL):
        version = version_at(index)
        skill = 0.7 + 0.25 * index / TOTAL
        right = rng.random() < skill
        confident = version is not None and (right or rng.random() < 0.3) and rng.random() < 0.4 + 0.5 * index / TOTAL
        audited = confident and rng.random() < 0.15
        event_id = f"event-{index}" if audited or not confident else None
        if event_id is not None:
            log[event_id] = Logged(
                agreed=None if version is None else right,
                reason="audit" if audited else "cold" if version is None else "low_confidence",
                said=None if version is None else "refund",
            )
        outcomes.append(
            Exchange(
                index=index,
                at_s=_START_S + index / 14,
                item_id=f"item-{index}",
                agreed=right if confident else True,
                served_by="student" if confident else "teacher",
                version=version,
                event_id=event_id,
                answer="refund" if right else "cancel",
            )
        )
    return outcomes, log


def cycles() -> list[dict[str, Any]]:
    """The cycle log."""
    rows: list[tuple[float, str, str | None, str | None, list[str], float | None]] = [
        (0.1, "inconclusive", None, None, ["0 training rows show fewer than two labels"], None),
        (0.2, "pass", VERSIONS[0], None, [], None),
        (0.45, "pass", VERSIONS[1], None, [], 0.06),
        (0.6, "fail", PLANTED, PLANTED, ["student agreement fell by <at least> 0.71, 0.05 allowed"], -0.83),
        (0.7, "pass", VERSIONS[2], None, [], 0.03),
    ]
    return [
        {
            "id": f"cycle-{number}",
            "at_s": _START_S + share * TOTAL / 14,
            "seconds": 2.0,
            "kind": "candidate" if candidate else "head",
            "candidate": candidate,
            "verdict": verdict,
            "refusals": refusals,
            "rows_judged": 100 * number,
            "difference": difference,
            "lower": None if difference is None else difference - 0.04,
            "delta": 0.05,
            "rows_needed": 0,
            "version": version,
        }
        for number, (share, verdict, version, candidate, refusals, difference) in enumerate(rows)
    ]


def swaps() -> list[dict[str, Any]]:
    """The swap log."""
    steps = [(0.25, None, VERSIONS[0]), (0.5, *VERSIONS[:2]), (0.75, *VERSIONS[1:]), (0.9, VERSIONS[2], VERSIONS[1])]
    return [
        {"from": a, "to": b, "publish_s": 3e-7, "failed": False, "at_s": _START_S + share * TOTAL / 14}
        for share, a, b in steps
    ]


def judged() -> list[Marked | None]:
    """Every request against the record."""
    outcomes, log = played()
    return judge_all(outcomes, log, {})


def picture() -> Picture:
    """The run as curves and marks."""
    outcomes, _ = played()
    return draw(
        total=TOTAL,
        target=0.8,
        outcomes=outcomes,
        judged=judged(),
        cycles=cycles(),
        swaps=swaps(),
        planted=PLANTED,
        rollback=ROLLBACK,
        late="a new topic appears",
    )


def money(outcomes: list[Exchange]) -> Money:
    """What the lane's books come to."""
    student = sum(one.served_by == "student" for one in outcomes)
    teacher = len(outcomes) - student
    return Money(
        since_s=_START_S,
        student=student,
        teacher=teacher,
        calls=teacher,
        audits=40,
        calls_usd=teacher * 0.0004,
        audits_usd=40 * 0.0004,
        spent_usd=(teacher + 40) * 0.0004,
        teacher_only_usd=TOTAL * 0.0004,
        saved_usd=(student - 40) * 0.0004,
        usd_per_call=0.0004,
        priced_by="calls",
    )


def traffic(use_case: str = "support", *, generated: bool = True) -> DemoTraffic:
    """What was sent."""
    return DemoTraffic(
        lane=Lane("demo", use_case),
        task="classify",
        terms=LaneTerms(labels=("refund", "cancel")),
        path="<made up>",
        sha256="0" * 64,
        file=Path("traffic.jsonl"),
        requests=(Request(value=TextInput(text="text"), recorded="refund"),) * TOTAL,
        skipped=(),
        generated=generated,
    )


def measured(**changes: Any) -> Measured:
    """One lane when everything has stopped, with some of it changed."""
    outcomes, log = played()
    found: dict[str, Any] = {
        "traffic": traffic(),
        "acts": True,
        "outcomes": outcomes,
        "judged": judged(),
        "windows": windows(judged(), 12),
        "first_agreement": None,
        "ledger": EventCount(accepted=len(log), ingested=len(log), dead=0, repeats=0, lost=0, twice=0),
        "money": money(outcomes),
        "promise": {"target": 0.8, "state": "held", "n": 40, "low": 0.86},
        "cycles": cycles(),
        "planted": PLANTED,
        "swaps": swaps(),
        "rollback": ROLLBACK,
        "escalated": escalated(log.values()),
        "examples": examples(traffic().requests, outcomes, log, TASKS["classify"]),
        "bought": [
            {"calls": 150, "system_agreement": 0.91, "random_agreement": 0.83, "oracle_agreement": 0.97},
        ],
    }
    return Measured(**(found | changes))


def run(*lanes: Measured, **changes: Any) -> DemoRecord:
    """The whole run, with some of it changed."""
    found: dict[str, Any] = {
        "settings_changed": {"trainer.fine_tune": [True, False]},
        "wall_s": 230.0,
        "children_left": 0,
        "verified": True,
        "figures": [],
    }
    return DemoRecord(lanes=lanes or (measured(),), **(found | changes))


def summary(**changes: Any) -> dict[str, Any]:
    """The summary of a run of one lane; the changes are of the run or of its lane."""
    of_run = {name: value for name, value in changes.items() if name in DemoRecord.__slots__}
    return build(run(measured(**{name: changes[name] for name in changes.keys() - of_run.keys()}), **of_run))


def lane(**changes: Any) -> dict[str, Any]:
    """The one lane's part of that summary."""
    found: dict[str, Any] = summary(**changes)["lanes"][NAME]
    return found


def pictures() -> dict[str, Picture]:
    """The pictures of a run of one lane."""
    return {NAME: picture()}
