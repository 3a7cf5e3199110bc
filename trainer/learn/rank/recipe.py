"""The recipe of `rank`: a head on what a frozen base makes of a list, and a fine-tuned copy of the base beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from store.control import CycleKind
from store.event import RankInput
from store.policy import Moment, Policy
from store.registry.sealed import OpenVersion
from store.registry.students.records import Mode, RankRecord
from store.student.encoder import FloatArray
from store.student.rank.bases import features_of, load_base
from store.student.rank.head import RankHead
from store.student.rank.ranker import Ranker, Ranking, TunedRanker, list_of
from store.tasks.narrow import narrow
from store.tasks.rank import Tolerance
from store.tasks.rules import TaskRules
from trainer.judge.calibrate import novelty_limit, uncertified
from trainer.judge.scored import Scored
from trainer.learn.enough import NotEnoughLabelsError
from trainer.learn.features import BaseEncoder
from trainer.learn.halves import halves
from trainer.learn.rank.draft import RankDraft
from trainer.learn.rank.fine_tune import RankTuning, TextList, fine_tune
from trainer.learn.rank.freezing import ListFreezing
from trainer.learn.rank.head import RankedList, fit_rank_head
from trainer.learn.rank.kept import KeptLists, matched
from trainer.learn.rank.targets import targets_of
from trainer.learn.recipe import CrossFitted, Features, Frozen, Lineage, Rival
from trainer.learn.recipe import Student as AnyStudent
from trainer.learn.reference import reference_vectors
from trainer.snapshot import Snapshot, rows_of
from trainer.work import CycleSettings, LaneTraining, Tell

Floats = npt.NDArray[np.float64]

TUNED_SHARE: Final = 0.5  # of the fine-tuned member in a score


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenLists:
    """The snapshot with the vectors of its queries and documents. Satisfies `trainer.learn.recipe.Frozen`."""

    snapshot: Snapshot
    base: BaseEncoder
    rules: TaskRules
    tolerance: Tolerance  # the lane's; epsilon is 0 where its teacher gives orders
    scored_teacher: bool  # it gives scores
    lists: Sequence[RankedList]  # one a row
    target: float
    confidence: float
    novelty_quantile: float
    verdicts: ClassVar[None] = None
    _tuned: WeakKeyDictionary[TunedRanker, dict[int, FloatArray]] = field(default_factory=WeakKeyDictionary, repr=False)

    def topics_from(self) -> tuple[FloatArray, list[str]]:
        """Topics are of the queries."""
        queries = [one.matched.query for one in self.lists]
        empty = np.empty((0, self.base.encoder.hidden_size), np.float32)
        return np.stack(queries) if queries else empty, [row.words for row in self.snapshot.rows]

    def conflicts(self) -> list[tuple[int, int]]:
        """None: near queries about other documents contradict nobody."""
        return []

    def start(self, student: AnyStudent, places: Sequence[int], weights: Floats) -> Policy:
        """A novelty limit; the confidence needs no temperature: sigma is its own."""
        if not places:
            return uncertified(self.target, self.confidence)
        novelty = self.scored(student, places, weights).novelty
        limit = novelty_limit(novelty, weights, self.novelty_quantile)
        return uncertified(self.target, self.confidence, novelty_threshold=limit)

    def early(self, student: AnyStudent, places: Sequence[int], weights: Floats) -> Mapping[Moment, Scored]:  # noqa: ARG002 - as the protocol has it
        """It says all at once."""
        return {}

    def scored(self, student: AnyStudent, places: Sequence[int], weights: Floats) -> Scored:
        """What judges read of a student: of several answers to a list, the share that its order agrees with."""
        said = self.rankings(ranker(student), places)
        rows = [self.snapshot.rows[place] for place in places]
        outputs = [msgspec.json.encode(one.order.tolist()).decode() for one in said]
        return Scored(
            confidence=np.array([one.confidence for one in said], np.float64),
            novelty=np.array([one.novelty for one in said], np.float64),
            agreed=np.array(
                [
                    np.mean([self.rules.agree(answer, output) for answer in row.answers])
                    for row, output in zip(rows, outputs, strict=True)
                ],
                np.float64,
            ),
            weight=weights,
            cluster=np.array([row.cluster for row in rows], np.int64),
        )

    def rankings(self, student: Ranker, places: Sequence[int]) -> list[Ranking]:
        """A student's answers to some rows, from the kept numbers where it shares the base."""
        if student.encoder.fingerprint != self.base.encoder.fingerprint:
            return student.rankings([list_of(self.snapshot.rows[place].input) for place in places])
        said = self._said(student.tuned, places)
        return [student.rank_from(self.lists[place].matched, said.get(place)) for place in places]

    def _said(self, tuned: TunedRanker | None, places: Sequence[int]) -> dict[int, FloatArray]:
        """The fine-tuned member's similarities, [n] for each place; nothing where there is none."""
        if tuned is None:
            return {}
        known = self._tuned.setdefault(tuned, {})
        new = [place for place in places if place not in known]
        for place, one in zip(
            new, tuned.base.match([list_of(self.snapshot.rows[place].input) for place in new]), strict=True
        ):
            known[place] = one.similarity
        return known


class RankRecipe:
    """Satisfies `trainer.learn.recipe.Recipe`."""

    def freezing(self, training: LaneTraining, settings: CycleSettings, champion: AnyStudent | None) -> ListFreezing:  # noqa: ARG002 - as the protocol has it
        """Lists of one query with most documents equal are one question."""
        return ListFreezing(rules=training.rules)

    def base(self, settings: CycleSettings) -> BaseEncoder:
        """A bi-encoder, or a cross-encoder: what the folder's configuration says it is."""
        return BaseEncoder.open(
            settings.encoder,
            device=settings.device,
            precision=settings.precision,
            max_tokens=settings.max_tokens,
            load=load_base,
        )

    def cache(self, folder: Path, tell: Tell) -> Features:
        """By the texts' keys: a document that came back is computed once."""
        return KeptLists.of(folder, tell)

    def freeze(
        self,
        snapshot: Snapshot,
        base: BaseEncoder,
        features: Features,
        *,
        training: LaneTraining,
        settings: CycleSettings,
    ) -> FrozenLists:
        """The rows with their vectors and targets."""
        asked = [list_of(row.input) for row in snapshot.rows]
        targets, scored = targets_of(snapshot.rows, [len(one.documents) for one in asked])
        lane = training.terms.tolerance
        lists = [
            RankedList(matched=one, target=target, weight=row.weight, stands_for=row.mass)
            for row, one, target in zip(snapshot.rows, matched(asked, base, features), targets, strict=True)
        ]
        return FrozenLists(
            snapshot=snapshot,
            base=base,
            rules=training.rules,
            tolerance=lane if scored else replace(lane, epsilon=0.0),
            scored_teacher=scored,
            lists=lists,
            target=training.target,
            confidence=training.confidence,
            novelty_quantile=settings.novelty_quantile,
        )

    def load(self, opened: OpenVersion, settings: CycleSettings) -> Ranker:
        """See `store.student.tasks.Loader`."""
        return Ranker.load(opened, device=settings.device, precision=settings.precision)

    def fit(
        self, kind: CycleKind, frozen: Frozen, lineage: Lineage, *, settings: CycleSettings, tell: Tell
    ) -> RankDraft:
        """A head; with `fine_tune` a new member as well, which goes on from the champion's where it has one."""
        torch.set_num_threads(settings.threads)
        rows = frozen_lists(frozen)
        places = rows_of(rows.snapshot, "train")
        if not places:
            message = "no list of two documents or more was answered yet: wait for more answers"
            raise NotEnoughLabelsError(message)
        lists = [rows.lists[place] for place in places]
        tell("fitting", None)
        head = fit_rank_head(lists, features=features_of(rows.base.encoder))
        member = _slow_member(kind, rows, places, head, lineage, settings=settings, tell=tell)
        return RankDraft(
            kind="fine_tune" if kind == "fine_tune" else "head",
            base=rows.base,
            head=head,
            tuned=member.tuned,
            reference=reference_vectors(np.stack([one.matched.query for one in lists]), seed=settings.seed),
            record=RankRecord(
                k=rows.tolerance.k,
                epsilon=rows.tolerance.epsilon,
                scored=rows.scored_teacher,
                tuned_share=TUNED_SHARE if member.tuned is not None else 0.0,
                golden=[],
                items=len(head.items),
                longest_list=max(len(one.keys) for one in lists),
                precision=rows.base.encoder.precision,
                threads=settings.threads,
                rows=len(lists),
                fine_tune=member.mode,
                tuned_rows=member.rows,
            ),
        )

    def cross_fitted(self, frozen: Frozen, draft: object, champion: Rival) -> CrossFitted:
        """A head from the other lists, and the champion's fine-tuned member: it has seen none of what is new to it."""
        rows, own = frozen_lists(frozen), drafted(draft)
        seen = {rows.snapshot.clusters[one] for one in champion.trained if one in rows.snapshot.clusters}
        tuned = ranker(champion.student).tuned if own.tuned is not None else None
        record = own.record if tuned is not None else msgspec.structs.replace(own.record, tuned_share=0.0)

        def scored(places: Sequence[int], weights: Floats) -> Scored:
            if any(rows.snapshot.rows[place].cluster in seen for place in places):
                message = "only rows that are new to the champion are cross-fitted"
                raise ValueError(message)
            parts, found = halves([rows.snapshot.rows[place].cluster for place in places]), list[Scored]()
            for part in parts:
                held = [places[index] for index in part]
                others = [rows.lists[place] for place in sorted(set(range(len(rows.lists))) - set(held))]
                head = fit_rank_head(others, features=features_of(rows.base.encoder))
                student = replace(own, head=head, tuned=tuned, record=record).student()
                found.append(rows.scored(student, held, weights[part]))
            return _together(found, parts, rows, places, weights)

        return scored


RECIPE: Final = RankRecipe()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """The slow one, with how it came about."""

    tuned: TunedRanker | None
    mode: Mode
    rows: int | None  # that it was last trained on


def _slow_member(
    kind: CycleKind,
    rows: FrozenLists,
    places: Sequence[int],
    head: RankHead,
    lineage: Lineage,
    *,
    settings: CycleSettings,
    tell: Tell,
) -> _Member:
    """The fine-tuned member: new, trained on, or kept as it is; another base's is of no use."""
    champion = ranker(lineage.champion.student) if lineage.champion is not None else None
    if champion is not None and champion.encoder.fingerprint != rows.base.encoder.fingerprint:
        champion = None
    kept = champion.tuned if champion is not None else None
    if kind != "fine_tune":
        tuned_rows = champion.tuned_rows if champion is not None and kept is not None else None
        return _Member(tuned=kept, mode="kept" if kept is not None else "none", rows=tuned_rows)
    tuned = fine_tune(
        rows.base.encoder,
        [_text_list(rows, place, head) for place in places],
        head=head,
        start=kept,
        settings=RankTuning(),
        seed=settings.seed,
        progress=lambda done, steps: tell("fine_tuning", done / steps),
    )
    return _Member(tuned=tuned, mode="warm" if kept is not None else "fresh", rows=len(places))


def _text_list(rows: FrozenLists, place: int, head: RankHead) -> TextList:
    value: RankInput = list_of(rows.snapshot.rows[place].input)
    own = rows.lists[place]
    return TextList(
        query=value.query,
        documents=value.documents,
        biases=head.biases(own.keys).astype(np.float64),
        target=own.target,
        weight=own.weight,
    )


def _together(
    found: Sequence[Scored], parts: Sequence[Sequence[int]], rows: FrozenLists, places: Sequence[int], weights: Floats
) -> Scored:
    confidence, novelty, agreed = (np.empty(len(places)) for _ in range(3))
    for part, one in zip(parts, found, strict=True):
        confidence[part], novelty[part], agreed[part] = one.confidence, one.novelty, one.agreed
    cluster = np.array([rows.snapshot.rows[place].cluster for place in places], np.int64)
    return Scored(confidence=confidence, novelty=novelty, agreed=agreed, weight=weights, cluster=cluster)


def ranker(student: object) -> Ranker:
    """A student, as one of `rank`.

    Raises:
        TypeError: it is another task's: the lane's versions are mixed up.
    """
    return narrow(student, Ranker, "a cycle of rank")


def frozen_lists(frozen: object) -> FrozenLists:
    """Frozen rows, as those of `rank`.

    Raises:
        TypeError: they are another task's.
    """
    return narrow(frozen, FrozenLists, "a cycle of rank")


def drafted(draft: object) -> RankDraft:
    """A draft, as one of `rank`.

    Raises:
        TypeError: it is another task's.
    """
    return narrow(draft, RankDraft, "a cycle of rank")
