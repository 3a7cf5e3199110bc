"""Who judges whom, on which rows: scripted students on a frozen snapshot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.buffer.item import Item
from store.event import Lane
from store.policy import Moment, Policy, PolicyName
from store.registry.manifest import SliceResult, Verdict
from store.student.classify import Predictions
from store.student.encoder import FloatArray
from tests.trainer.labelled import Floats, scored
from tests.trainer.test_snapshot import NOW_S, SPLIT, item
from trainer.judge.calibrate import rows_to_certify
from trainer.judge.gate import GateLimits, Judged
from trainer.judge.scored import Scored
from trainer.judge.verdicts import judge_challenger, new_rows
from trainer.learn.classify.freezing import LabelFreezing
from trainer.learn.classify.temper import start_of
from trainer.learn.recipe import Frozen, Lineage, Rival, Student
from trainer.snapshot import Snapshot, freeze, trials
from trainer.work import CycleSettings, LaneTraining

TRAINING: Final = LaneTraining(
    lane=Lane("acme", "support"), task="classify", prompt_version="m@p", target=0.9, confidence=0.95
)
SETTINGS: Final = CycleSettings(
    encoder="none",
    device="cpu",
    precision="fp32",
    threads=1,
    max_tokens=32,
    seed=0,
    min_items_per_label=1,
    quarantine_s=0.0,
    novelty_quantile=0.99,
    split=SPLIT,
    limits=GateLimits(delta=0.02, min_rows=5),
)
POLICY: Final = Policy(
    temperature=1.0,
    threshold=0.8,
    novelty_threshold=0.5,
    target=0.9,
    confidence_level=0.95,
    coverage_ratio=0.5,
    rows=50,
    lower=0.9,
)
RIGHT: Final = "a"  # the teacher's answer to everything
WRONG: Final = "b"


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A student that says what it was told to; with a policy it knows nothing, since a temperature was applied."""

    says: Mapping[str, str] = field(default_factory=dict)  # by text; what is not there it answers rightly
    confident: Mapping[str, float] = field(default_factory=dict)  # by text; else .9
    novelty: Mapping[str, float] = field(default_factory=dict)  # by text; else .1
    policy: Policy | None = None
    labels: tuple[str, ...] = (RIGHT, WRONG)
    encoder: Any = field(default_factory=lambda: SimpleNamespace(fingerprint="its own"))

    def with_policy(self, policy: Policy | None) -> "Scripted":
        return replace(self, policy=policy)

    def predict(self, texts: Sequence[str]) -> Predictions:
        sure = np.array([self.confident.get(text, 0.9) for text in texts])
        right = np.array([self.says.get(text, RIGHT) == RIGHT for text in texts], np.bool_)
        probs = np.stack([np.where(right, sure, 1 - sure), np.where(right, 1 - sure, sure)], axis=1)
        novelty = np.array([self.novelty.get(text, 0.1) for text in texts])
        return Predictions(members=probs[None], probs=probs, novelty=novelty)


@dataclass(frozen=True, kw_only=True)
class Script:
    """Frozen rows for scripted students: probabilities are read as a cycle of `classify` reads them."""

    snapshot: Snapshot
    verdicts: None = None

    def conflicts(self) -> list[tuple[int, int]]:
        return []

    def topics_from(self) -> tuple[FloatArray, list[str]]:
        return np.ones((len(self.snapshot.rows), 1), np.float32), [row.words for row in self.snapshot.rows]

    def start(self, student: Student, places: Sequence[int], weights: Floats) -> Policy:
        said = self._said(student.with_policy(None), places)
        return start_of(
            said.probs,
            self._labels(places),
            weights,
            said.novelty,
            target=TRAINING.target,
            confidence=TRAINING.confidence,
            novelty_quantile=SETTINGS.novelty_quantile,
        )

    def early(self, student: Student, places: Sequence[int], weights: Floats) -> Mapping[Moment, Scored]:
        return {}

    def scored(self, student: Student, places: Sequence[int], weights: Floats) -> Scored:
        said = self._said(student, places)
        found = scored(said.probs, self._labels(places), weights, said.novelty)
        return replace(found, cluster=np.array([self.snapshot.rows[place].cluster for place in places], np.int64))

    def _labels(self, places: Sequence[int]) -> npt.NDArray[np.int64]:
        return np.array([(RIGHT, WRONG).index(self.snapshot.rows[place].label) for place in places], np.int64)

    def _said(self, student: Student, places: Sequence[int]) -> Predictions:
        return cast("Scripted", student).predict([self.snapshot.rows[place].words for place in places])


def rival(
    *,
    wrong: Sequence[str] = (),
    trained: Sequence[str] = (),
    policy: Policy | None = None,
    confident: Mapping[str, float] | None = None,
    novelty: Mapping[str, float] | None = None,
) -> Rival:
    student = Scripted(
        says=dict.fromkeys(wrong, WRONG), policy=policy, confident=confident or {}, novelty=novelty or {}
    )
    return Rival(student=cast("Student", student), trained=frozenset(trained))


def rows_of(items: Sequence[Item]) -> Frozen:
    snapshot = freeze(
        items,
        LabelFreezing(labels_min=1),
        prompt_version="m@p",
        split=SPLIT,
        quarantine_s=0.0,
        now_s=NOW_S,
        seed=0,
        positions={},
    )
    return Script(snapshot=snapshot)


@cache
def in_spellings() -> Frozen:
    """150 questions, each third one in one, two and three spellings."""
    question = "how do i change the address on account {}"
    return rows_of(
        [
            item(text, {RIGHT: 1}, asked_s=float(order))
            for number in range(150)
            for order, text in enumerate(
                (question, question + " please", "hello, " + question)[: 1 + number % 3]  # linked by their words
            )
            for text in [text.format(number)]
        ]
    )


def lineage(champion: Rival | None = None, anchor: Rival | None = None, history: Sequence[Judged] = ()) -> Lineage:
    return Lineage(champion=champion, anchor=anchor, history=history, records={})


def judged(
    frozen: Frozen, challenger: Rival, before: Lineage, policy: PolicyName = "promise"
) -> tuple[Policy, Verdict, bool]:
    return judge_challenger(replace(TRAINING, policy=policy), SETTINGS, frozen, challenger, before, None)


def slice_of(verdict: Verdict, kind: str) -> SliceResult:
    (found,) = (part for part in verdict.slices if part.kind == kind)
    return found


def clusters_of(snapshot: Snapshot, item_ids: frozenset[str]) -> set[int]:
    return {row.cluster for row in snapshot.rows if row.item_id in item_ids}


LEARNED: Final = st.sets(st.integers(0, 299), max_size=120)


@settings(max_examples=25, deadline=None)
@given(by_challenger=LEARNED, by_champion=LEARNED, by_anchor=LEARNED)
def test_no_row_judges_or_certifies_that_a_competitor_has_learned_in_any_spelling(
    by_challenger: set[int], by_champion: set[int], by_anchor: set[int]
) -> None:
    frozen = in_spellings()
    rows = frozen.snapshot.rows
    assert len(rows) == 300
    assert len({row.cluster for row in rows}) == 150
    challenger, champion, anchor = (
        rival(trained=[rows[place].item_id for place in places] + ["of an evicted item"])
        for places in (by_challenger, by_champion, by_anchor)
    )
    policy, verdict, _ = judged(frozen, challenger, lineage(champion, anchor))
    learned = clusters_of(frozen.snapshot, challenger.trained)

    def fair(other: Rival) -> int:
        known = learned | clusters_of(frozen.snapshot, other.trained)
        return sum(row.split == "judge" and row.cluster not in known for row in rows)

    assert verdict.rows_judged == fair(champion)
    assert slice_of(verdict, "anchor").rows == fair(anchor)
    held_out = {row.cluster for row in rows if row.split != "train"} - learned
    places = trials(frozen.snapshot, challenger.trained)
    assert sorted(rows[place].cluster for place in places) == sorted(held_out)
    assert all(rows[place].split != "train" for place in places)
    assert policy.rows == (len(held_out) if policy.threshold is not None else 0)  # it agrees on all of them
    assert (policy.threshold is not None) == (len(held_out) >= 29)  # .9^29 < .05


@pytest.mark.parametrize(("known_right", "certified"), [(True, False), (False, True)])
def test_a_threshold_is_certified_by_what_the_student_does_on_rows_it_has_not_learned(
    *, known_right: bool, certified: bool
) -> None:
    frozen = in_spellings()
    held_out = [row for row in frozen.snapshot.rows if row.split != "train"]
    half = {row.cluster for row in held_out if row.cluster % 2}
    learned = {cluster: row for row in held_out if (cluster := row.cluster) in half}  # one spelling of each
    wrong = [row.words for row in held_out if (row.cluster in half) != known_right]
    challenger = rival(wrong=wrong, trained=[row.item_id for row in learned.values()])
    policy, _, _ = judged(frozen, challenger, lineage())
    assert (policy.threshold is not None) == certified


def test_a_candidate_is_calibrated_on_its_probabilities_before_any_policy() -> None:
    frozen = in_spellings()
    certified = judged(frozen, rival(), lineage())[0]
    hot = msgspec.structs.replace(POLICY, temperature=5.0)

    class Tempered(Scripted):
        def predict(self, texts: Sequence[str]) -> Predictions:
            found = super().predict(texts)
            return found if self.policy != hot else replace(found, probs=np.full_like(found.probs, 0.5))

    candidate = Rival(student=cast("Student", Tempered(policy=hot)), trained=frozenset())
    assert judged(frozen, candidate, lineage())[0] == certified


@pytest.mark.parametrize(
    ("better", "worse", "moved"),
    [(6, 0, True), (0, 0, False), (3, 3, False), (0, 6, False)],
)
def test_the_anchor_moves_to_a_version_that_is_better_than_it_and_not_on_a_tie(
    better: int, worse: int, *, moved: bool
) -> None:
    frozen = in_spellings()
    texts = [row.words for row in frozen.snapshot.split("judge")]
    challenger = rival(wrong=texts[:worse])
    other = rival(wrong=texts[worse : worse + better])
    assert judged(frozen, challenger, lineage(other))[2] == moved
    assert judged(frozen, challenger, lineage(rival(wrong=texts[-9:]), other))[2] == moved  # the champion is worse
    assert judged(frozen, challenger, lineage(rival(), other))[2] == moved  # the champion is as good as can be


def test_the_first_version_is_the_anchor() -> None:
    assert judged(in_spellings(), rival(), lineage())[2]


def test_an_anchor_that_is_another_version_is_compared_and_binds_in_strict_alone() -> None:
    frozen = in_spellings()
    texts = [row.words for row in frozen.snapshot.split("judge")]
    challenger, champion, anchor = rival(wrong=texts[:30]), rival(wrong=texts[:30], policy=POLICY), rival()
    strict = Judged(labels=len(frozen.snapshot.rows), verdict=passed_strictly(frozen))
    outcomes = {}
    for phase, history in (("growth", []), ("strict", [strict])):
        _, verdict, _ = judged(frozen, challenger, lineage(champion, anchor, history))
        assert verdict.phase == phase
        part = slice_of(verdict, "anchor")
        assert (part.champion_agreement, part.difference < -0.2) == (1.0, True)
        outcomes[phase] = part.refused
    assert outcomes == {"growth": False, "strict": True}
    assert [part.kind for part in judged(frozen, challenger, lineage(champion))[1].slices] == ["retained", "watch"]


def passed_strictly(frozen: Frozen) -> Verdict:
    _, verdict, _ = judged(frozen, rival(), lineage(rival(wrong=[row.words for row in frozen.snapshot.rows])))
    assert verdict.outcome == "pass"
    return verdict


@pytest.mark.parametrize(("labels_then", "phase"), [(201, "strict"), (200, "growth")])
def test_a_growth_phase_opens_again_at_half_more_rows_than_at_the_last_strict_pass(
    labels_then: int, phase: str
) -> None:
    frozen = in_spellings()  # 300 rows
    history = [Judged(labels=labels_then, verdict=passed_strictly(frozen))]
    assert judged(frozen, rival(), lineage(rival(), history=history))[1].phase == phase


def test_without_a_champion_it_is_the_first_whatever_there_was_before() -> None:
    frozen = in_spellings()
    history = [Judged(labels=300, verdict=passed_strictly(frozen))]
    assert judged(frozen, rival(), lineage(history=history))[1].phase == "first"


@pytest.mark.parametrize("policy", [None, POLICY, msgspec.structs.replace(POLICY, threshold=None)])
def test_a_challenger_without_a_threshold_is_told_how_many_rows_one_takes_and_who_stays(policy: Policy | None) -> None:
    frozen = in_spellings()
    hopeless = rival(wrong=[row.words for row in frozen.snapshot.rows if row.split == "calibrate"])
    shipped, verdict, _ = judged(frozen, hopeless, lineage(rival(policy=policy)))
    assert shipped.threshold is None
    assert verdict.outcome == "inconclusive"
    assert verdict.rows_needed == rows_to_certify(TRAINING.target, TRAINING.confidence)
    assert ("stays" in verdict.refusals[0]) == (policy is POLICY)


def test_audits_of_what_the_champion_trusts_are_evened_so_that_a_few_do_not_outweigh_the_rest() -> None:
    """Unevened, one row of mass 20 would thin the others to a twentieth."""
    items = [item(f"what is thing {n}", {RIGHT: 1}, propensities={"1.0": 1}) for n in range(300)]
    heavy = {n for n in range(300) if n % 10 == 0}
    items = [
        msgspec.structs.replace(one, propensities={"0.05": 1}) if n in heavy else one for n, one in enumerate(items)
    ]
    frozen = rows_of(items)
    audited = [row.words for row in frozen.snapshot.rows if row.mass > 1]
    others = [row.words for row in frozen.snapshot.rows if row.mass == 1]

    def rows_kept(champion: Rival | None) -> int:
        return judged(frozen, rival(), lineage(champion))[0].rows

    every = len(trials(frozen.snapshot, ()))
    assert rows_kept(rival(policy=POLICY)) == every
    assert rows_kept(rival(policy=POLICY, confident=dict.fromkeys(audited + others, 0.8))) == every
    assert rows_kept(rival(policy=msgspec.structs.replace(POLICY, novelty_threshold=None))) == every
    assert rows_kept(rival(policy=POLICY, novelty=dict.fromkeys(audited + others, 0.5))) == every
    assert rows_kept(rival(policy=POLICY, confident=dict.fromkeys(audited, 0.8))) == every  # the threshold itself
    assert rows_kept(rival(policy=POLICY, novelty=dict.fromkeys(audited, 0.5))) == every  # the limit itself
    # one by one: whoever is audited is one group, and the rest the other, so that nothing evens them
    few = [
        rows_kept(None),
        rows_kept(rival()),
        rows_kept(rival(policy=msgspec.structs.replace(POLICY, threshold=None))),
        rows_kept(rival(policy=POLICY, confident=dict.fromkeys(others, 0.79))),
        rows_kept(rival(policy=POLICY, novelty=dict.fromkeys(others, 0.51))),
        rows_kept(rival(policy=POLICY, confident=dict.fromkeys(audited, 0.79))),
        rows_kept(rival(policy=POLICY, novelty=dict.fromkeys(audited, 0.51))),
    ]
    assert max(few) < every / 2
    blind = msgspec.structs.replace(POLICY, novelty_threshold=None)
    assert rows_kept(rival(policy=blind, novelty=dict.fromkeys(others, 9.0))) == every


def test_a_question_counts_once_towards_a_threshold_however_often_it_is_asked() -> None:
    """The promise is about questions; agreement of all traffic is compared by requests."""
    frozen = rows_of([item(f"what is thing {n}", {RIGHT: 40 if n % 10 == 0 else 1}) for n in range(300)])
    policy, _, _ = judged(frozen, rival(), lineage(rival()))
    assert policy.rows == len(trials(frozen.snapshot, ()))
    often = [row.words for row in frozen.snapshot.split("judge") if row.count > 1]
    assert often
    _, verdict, _ = judged(frozen, rival(), lineage(rival(wrong=often)))
    requests = sum(row.requests for row in frozen.snapshot.split("judge"))
    assert verdict.difference == pytest.approx(40 * len(often) / requests)


def test_a_lane_that_only_has_a_budget_judges_what_the_champion_has_not_learned_in_any_spelling() -> None:
    frozen = in_spellings()
    rows = frozen.snapshot.rows
    champion = rival(trained=[row.item_id for row in rows[::3]])
    known = clusters_of(frozen.snapshot, champion.trained)
    new = [place for place, row in enumerate(rows) if row.cluster not in known]
    assert new_rows(frozen.snapshot, champion) == new
    policy, verdict, anchor = judged(frozen, rival(), lineage(champion), "budget")
    assert (verdict.phase, verdict.rows_judged, verdict.outcome, anchor) == ("growth", len(new), "pass", False)
    assert (policy.threshold, policy.target, policy.confidence_level) == (None, TRAINING.target, TRAINING.confidence)
    harmful = rival(wrong=[rows[place].words for place in new])
    assert judged(frozen, harmful, lineage(champion), "budget")[1].outcome == "fail"
    _, first, _ = judged(frozen, harmful, lineage(), "budget")
    assert (first.phase, first.rows_judged, first.outcome) == ("first", 0, "pass")
