"""Calibrate a challenger, compare it with champion and anchor on the same rows, and judge.

A lane that promises something is judged on held-out rows. One that only has a budget holds none out: there champion and
challenger are compared on the rows that came after the champion was trained, the challenger cross-fitted.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from store.policy import Decide, Policy
from store.registry.manifest import Verdict
from trainer.judge.calibrate import calibrate, evened, rows_to_certify, uncertified
from trainer.judge.evaluate import PairedScores, paired
from trainer.judge.gate import Phase, judge, phase_of
from trainer.judge.scored import Scored
from trainer.judge.topics import members
from trainer.learn.recipe import CrossFitted, Frozen, Lineage, Rival, Student, weights_of
from trainer.snapshot import Snapshot, rows_of, trials
from trainer.work import CycleSettings, LaneTraining


def judge_challenger(
    training: LaneTraining,
    settings: CycleSettings,
    frozen: Frozen,
    challenger: Rival,
    lineage: Lineage,
    cross_fitted: CrossFitted | None,
) -> tuple[Policy, Verdict, bool]:
    """Calibrate, compare with the champion and the anchor, and judge.

    Args:
        training: the lane's.
        settings: the cycle's.
        frozen: its rows.
        challenger: the student to judge, without a policy.
        lineage: what it is compared with.
        cross_fitted: where nothing is held out, how the challenger would have answered its own training rows; a
            submitted candidate has none and answers for itself.

    Returns:
        The policy to ship, the verdict, and whether this version has the best lower bound so far.
    """
    if training.policy == "budget":  # if the lane promised again, such a version would answer nothing
        policy = uncertified(training.target, training.confidence)
        verdict = _judge_new_rows(settings, frozen, challenger, lineage, cross_fitted)
        return policy, _with_unjudged(verdict, frozen), False
    policy = _calibrate(settings, frozen, challenger, lineage.champion)
    anchored = _paired(frozen, challenger, lineage.anchor) if lineage.anchor is not None else None
    topics = members(frozen, seed=settings.seed) if lineage.champion is not None else None
    verdict = judge(
        _paired(frozen, challenger, lineage.champion, watched=topics),
        certified=policy.threshold is not None,
        champion_certified=lineage.champion is not None and lineage.champion.certified,
        limits=settings.limits,
        phase=phase_of(
            lineage.history,
            champion=lineage.champion is not None,
            labels=frozen.snapshot.record.rows,
            limits=settings.limits,
        ),
        anchor=anchored,
        certify_rows=rows_to_certify(training.target, training.confidence),
    )
    marks = [part for part in verdict.slices if part.kind == ("anchor" if anchored is not None else "retained")]
    return policy, _with_unjudged(verdict, frozen), all(mark.difference > 0 for mark in marks)


def _with_unjudged(verdict: Verdict, frozen: Frozen) -> Verdict:
    """The verdict with how many pairs of answers nobody judged."""
    unjudged = 0 if frozen.verdicts is None else frozen.verdicts.unjudged
    return msgspec.structs.replace(verdict, unjudged=unjudged)


def new_rows(snapshot: Snapshot, champion: Rival) -> list[int]:
    """Places of the rows that the champion was not trained on, nor on anything linked to them."""
    seen = {snapshot.clusters[item_id] for item_id in champion.trained if item_id in snapshot.clusters}
    return [place for place, row in enumerate(snapshot.rows) if row.cluster not in seen]


def _calibrate(settings: CycleSettings, frozen: Frozen, challenger: Rival, champion: Rival | None) -> Policy:
    places = trials(frozen.snapshot, challenger.trained)
    weights = weights_of(frozen.snapshot.rows, places, "questions")
    if champion is not None and (policy := champion.student.policy) is not None and policy.threshold is not None:
        weights = evened(weights, *_trusted(frozen, champion.student, policy, places, weights))
    start = frozen.start(challenger.student, places, weights)
    student = challenger.student.with_policy(start)
    early = frozen.early(student, places, weights)
    return calibrate(frozen.scored(student, places, weights), start, seed=settings.seed, early=early)


def _trusted(
    frozen: Frozen, student: Student, policy: Policy, places: Sequence[int], weights: npt.NDArray[np.float64]
) -> Iterator[npt.NDArray[np.bool_]]:
    """[places] of each moment at which a version may be asked: whether it answers by itself."""
    scored: list[tuple[Decide, Scored]] = [("end", frozen.scored(student, places, weights))]
    scored += frozen.early(student, places, weights).items() if policy.early else ()
    for moment, found in scored:
        own = policy.at(moment)
        if own.threshold is not None:
            sure = found.confidence >= own.threshold
            yield sure if own.novelty_threshold is None else sure & (found.novelty <= own.novelty_threshold)


def _paired(
    frozen: Frozen,
    challenger: Rival,
    other: Rival | None,
    *,
    watched: Mapping[str, Collection[str]] | None = None,
) -> PairedScores:
    rows = frozen.snapshot.rows
    places = rows_of(frozen.snapshot, "judge")
    weights = weights_of(rows, places, "requests")
    return paired(
        frozen.scored(other.student, places, weights) if other is not None else None,
        frozen.scored(challenger.student, places, weights),
        [rows[place] for place in places],
        trained=challenger.trained | (other.trained if other is not None else frozenset()),
        clusters=frozen.snapshot.clusters,
        watched=watched,
    )


def _judge_new_rows(
    settings: CycleSettings,
    frozen: Frozen,
    challenger: Rival,
    lineage: Lineage,
    cross_fitted: CrossFitted | None,
) -> Verdict:
    """Only harm refuses here; a fine-tuned member that does harm is voted down in service, by its weight.

    Where only hard questions are paid for, each row is compared by itself, not as the traffic it stands for.
    """
    champion = lineage.champion
    places = new_rows(frozen.snapshot, champion) if champion is not None else []
    each = np.ones(len(places))
    pairs = paired(
        frozen.scored(champion.student, places, each) if champion is not None else None,
        frozen.scored(challenger.student, places, each) if cross_fitted is None else cross_fitted(places, each),
        [frozen.snapshot.rows[place] for place in places],
        trained=frozenset(),
        clusters={},
    )
    phase: Phase = "first" if champion is None else "growth"
    return judge(pairs, certified=True, champion_certified=True, limits=settings.limits, phase=phase)
