"""How lanes and versions are shown: names and values, the same for every reader."""

from collections.abc import Mapping

from ops.cycles.shown import cycle_now
from ops.money.shown import money_fields
from ops.show.values import ratio_of, time_of
from ops.status.answers import AnswersShown
from ops.status.report import LaneStatus, PromiseShown
from store.answers.census import STATES, State
from store.control import CycleEnded
from store.policy import Policy
from store.registry.manifest import Manifest, Verdict
from store.registry.students.records import ChatRecord, ClassifyRecord, RankRecord, StudentRecord

_SAME_LABEL = "the same label"
STATE_NAMES: Mapping[State, str] = {
    "fresh": "fresh",
    "quarantined": "waiting",
    "stale": "stale",
    "retired": "retired",
    "off_list": "off list",
    "dropped": "dropped",
}


def _unreadable(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio_of(ratio)} of the teacher's answers"


def lane_fields(found: LaneStatus) -> dict[str, object]:
    """Where a lane stands, name by name."""
    buffer, last = found.buffer, found.last_move
    return {
        "served": ", ".join(f"{name}: {version or 'cold'}" for name, version in found.served.items()) or "by nobody",
        "champion": found.champion if found.moves_ok else "unknown: the moves do not verify",
        "anchor": found.anchor,
        "pinned": found.pinned,
        "paused": found.paused,
        "last move": f"{last.number} {last.kind} by {last.who}, {time_of(last.time_s)}: {last.why}" if last else None,
        **_promise_fields(found.promise),
        "coverage": _coverage_line(found),
        "budget": f"{'?' if found.budget.used is None else found.budget.used} of {found.budget.limit} calls in 24 h",
        "escalated": ratio_of(found.escalated_ratio),
        "unreadable": _unreadable(found.unread_ratio),
        "buffer": None
        if buffer is None
        else f"{buffer.counted} counted, {buffer.repeats} repeats, {buffer.evicted} evicted, lag {buffer.lag_records}",
        "answers": answers_line(found.answers),
        **money_fields(found.money),
        "cycle now": cycle_now(found.trainer),
        "last cycle": None if found.last_cycle is None else _cycle_line(found.last_cycle),
        **({} if found.training_permitted else {"training": "not permitted by the settings"}),
    }


def _coverage_line(found: LaneStatus) -> str | None:
    """What deciding early costs, of a version that can."""
    if len(found.coverage) < 2:  # noqa: PLR2004 - the end alone
        return None
    shares = (
        f"{moment.replace('_', ' ')} {ratio_of(share) if share else 'nothing'}"
        for moment, share in found.coverage.items()
    )
    return f"{', '.join(shares)}; this lane decides by {found.decides.replace('_', ' ')}"


def _cycle_line(cycle: CycleEnded) -> str:
    line = f"{time_of(cycle.at_s)}, {cycle.kind}: {cycle.verdict}"
    line += f": {cycle.why}" if cycle.why else ""
    return line if cycle.next_try_s is None else f"{line}; next try {time_of(cycle.next_try_s)}"


def _promise_fields(promise: PromiseShown) -> dict[str, object]:
    audited = "unknown: Redis does not answer"
    if promise.state is not None:
        short = "" if promise.audits_short is None else f", {promise.audits_short} audits short"
        audited = f"{ratio_of(promise.estimate)} of {promise.audits} audits, at least {ratio_of(promise.low)}{short}"
    if promise.target is None:
        return {"promise": "none: budget only", "agreement": audited}
    named = f"promise {promise.target:.0%}"
    if promise.agreement != _SAME_LABEL:
        named = f"{named} ({promise.agreement})"
    return {named: audited if promise.state is None else f"{promise.state}: {audited}"}


def answers_line(found: AnswersShown | None) -> str | None:
    """How a lane's answers stand, in a line of `status`."""
    if found is None:
        return None
    counts = {state: getattr(found, state) for state in STATES}
    parts = [f"{n} {STATE_NAMES[state]}" for state, n in counts.items() if n or state == "fresh"]
    return f"{', '.join(parts)} of {found.items} items ({time_of(found.at_s)})"


def label_rows(labels: Mapping[str, Mapping[str, int]]) -> list[tuple[object, ...]]:
    """A row a label: its items by state."""
    return [(label, *(states.get(state, 0) for state in STATES)) for label, states in labels.items()]


def label_columns() -> list[str]:
    """What `label_rows` holds."""
    return ["label", *(STATE_NAMES[state] for state in STATES)]


def _student_fields(student: StudentRecord) -> dict[str, object]:
    match student:
        case ClassifyRecord(labels=labels, pool_weights=weights):
            return {"labels": len(labels), "weights in the pool": " and ".join(f"{one:.2f}" for one in weights)}
        case RankRecord(k=k, epsilon=epsilon, tuned_share=share):
            return {"agreement": f"the first {k} within {epsilon:g}", "fine-tuned share of a score": f"{share:.2f}"}
        case ChatRecord(layers=layers, rank=rank, deciding_tokens=tokens):
            how = "in full" if rank is None else f"adapter of rank {rank}"
            early = f"end, first {tokens} tokens, or prompt" if tokens else "end"
            return {"trained": f"the top {layers} layers, {how}", "can decide by": early}


def version_fields(version: str, signed_by: str, manifest: Manifest) -> dict[str, object]:
    """What a version says of itself."""
    policy, snapshot = manifest.policy, manifest.snapshot
    return {
        "id": version,
        "signed by": signed_by,
        "made": time_of(manifest.created_s),
        "kind": manifest.kind,
        "parent": manifest.parent,
        "model": f"{manifest.base.name}, {manifest.served_parameters:,} parameters served",
        **_student_fields(manifest.student),
        "snapshot": f"{snapshot.train} train, {snapshot.calibrate} calibrate, {snapshot.judge} judge rows"
        if snapshot
        else None,
        "policy": _policy_line(policy),
        **_early_lines(policy),
        "verdict": _verdict_line(manifest.verdict),
    }


def _early_lines(policy: Policy | None) -> dict[str, str]:
    if policy is None:
        return {}
    return {f"policy by {moment.replace('_', ' ')}": _policy_line(policy.at(moment)) for moment in policy.early}


def _policy_line(policy: Policy | None) -> str:
    if policy is None or policy.threshold is None:
        return "certifies no threshold: a lane that keeps a promise escalates everything"
    return (
        f"answers at confidence {policy.threshold:.3f} and above: {ratio_of(policy.coverage_ratio)} of "
        f"traffic, agreement at least {ratio_of(policy.lower)} (target {ratio_of(policy.target)})"
    )


def _verdict_line(verdict: Verdict | None) -> str | None:
    if verdict is None:
        return None
    line = f"{verdict.outcome} ({verdict.phase}), {verdict.rows_judged} rows judged"
    if verdict.difference is not None and verdict.lower is not None:
        line += f", difference {verdict.difference:+.3f}, at least {verdict.lower:+.3f}, margin {verdict.delta:.3f}"
    return "; ".join([line, *verdict.refusals, *verdict.notes])
