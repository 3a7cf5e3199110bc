"""One cycle without its stores: what is held out and what is not, who judges whom, and that nobody judges itself."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from store.buffer.item import Item
from store.control import CycleKind
from store.policy import PolicyName
from store.student.encoder import Encoder, FloatArray
from tests.tiny import TOPICS, questions, tiny_encoder
from tests.trainer.questions import LANE, NOW_S, PROMPT_VERSION, an_item
from trainer.attempt import Attempt, attempt, freeze_rows
from trainer.judge.gate import GateLimits
from trainer.judge.verdicts import new_rows
from trainer.learn.classify.fit import cross_fit
from trainer.learn.classify.recipe import cross_predict, drafted, labelled
from trainer.learn.enough import NotEnoughLabelsError
from trainer.learn.features import BaseEncoder
from trainer.learn.halves import halves
from trainer.learn.recipe import Frozen, Lineage, Rival
from trainer.snapshot import SplitSettings
from trainer.work import CycleSettings, LaneTraining

COLD = Lineage(champion=None, anchor=None, history=[], records={})
NEXT = dict(zip(sorted(TOPICS), [*sorted(TOPICS)[1:], min(TOPICS)], strict=True))
SETTINGS = CycleSettings(
    encoder="tiny",
    device="cpu",
    precision="fp32",
    threads=1,
    max_tokens=32,
    seed=0,
    min_items_per_label=5,
    quarantine_s=0.0,
    novelty_quantile=0.99,
    split=SplitSettings(salt="salt", calibrate_ratio=0.15, judge_ratio=0.15),
    limits=GateLimits(delta=0.02, min_rows=300),
)


class FreshFeatures:
    """Satisfies `trainer.attempt.Features`: nothing is kept."""

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:
        return encoder.features(texts)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseEncoder:
    folder: Path = tiny_encoder(tmp_path_factory.mktemp("tiny"))
    return BaseEncoder.open(folder, device="cpu", precision="fp32", max_tokens=32)


def lane(policy: PolicyName, target: float = 0.7) -> LaneTraining:
    return LaneTraining(
        lane=LANE, task="classify", prompt_version=PROMPT_VERSION, target=target, confidence=0.95, policy=policy
    )


def pairs_of(first: int, last: int) -> list[tuple[str, str]]:
    """Questions from one number to another, all distinct."""
    texts, labels = questions(last, seed=4)
    return [(f"{text} {number}", label) for number, (text, label) in enumerate(zip(texts, labels, strict=True))][first:]


def items_of(pairs: Sequence[tuple[str, str]]) -> list[Item]:
    rng = Random(1)
    return [an_item(text, label, rng) for text, label in pairs]


def frozen_of(
    base: BaseEncoder, items: Sequence[Item], lineage: Lineage = COLD, policy: PolicyName = "budget"
) -> Frozen:
    return freeze_rows(
        items,
        lineage,
        training=lane(policy),
        settings=SETTINGS,
        base=base,
        features=FreshFeatures(),
        now_s=NOW_S,
        positions={},
    )


def made(
    base: BaseEncoder,
    pairs: Sequence[tuple[str, str]],
    lineage: Lineage = COLD,
    *,
    kind: CycleKind = "head",
    policy: PolicyName = "budget",
) -> Attempt:
    frozen = frozen_of(base, items_of(pairs), lineage, policy)
    return attempt(kind, frozen, lineage, training=lane(policy), settings=SETTINGS)


def succeeded(by: Attempt) -> Lineage:
    """The lineage once this attempt serves."""
    champion = Rival(student=by.draft.student(by.policy), trained=by.trained)
    return Lineage(champion=champion, anchor=None, history=[], records={"v1": by.draft.record})


def crossed(by: Attempt, lineage: Lineage, places: Sequence[int]) -> FloatArray:
    assert lineage.champion is not None
    return cross_predict(labelled(by.frozen), drafted(by.draft), lineage.champion, places)[0]


def test_a_budget_only_lane_holds_nothing_out_and_a_label_is_learned_from_its_first_item(base: BaseEncoder) -> None:
    pairs = [*pairs_of(0, 80), ("a question of its own kind", "rare")]
    budget, promise = made(base, pairs), made(base, pairs, policy="promise")
    assert {row.split for row in budget.frozen.snapshot.rows} == {"train"}
    assert len(budget.trained) == 81
    assert drafted(budget.draft).labels == ("delivery", "login", "rare", "refund")
    assert {row.split for row in promise.frozen.snapshot.rows} == {"train", "calibrate", "judge"}
    assert drafted(promise.draft).labels == ("delivery", "login", "refund")


def test_a_budget_only_lane_publishes_a_policy_that_answers_nothing_by_itself(base: BaseEncoder) -> None:
    budget = made(base, pairs_of(0, 80))
    assert (budget.policy.threshold, budget.policy.novelty_threshold, budget.policy.temperature) == (None, None, 1.0)
    assert (budget.policy.coverage_ratio, budget.policy.rows, budget.policy.lower) == (0.0, 0, 0.0)
    assert (budget.verdict.outcome, budget.verdict.phase, budget.anchor) == ("pass", "first", False)
    promise = made(base, pairs_of(0, 200), policy="promise")
    assert promise.policy.threshold is not None
    assert promise.policy.rows > 0


def test_the_same_items_make_the_same_student_and_the_same_verdict(base: BaseEncoder) -> None:
    lineage = succeeded(made(base, pairs_of(0, 60)))
    first, again = (made(base, pairs_of(0, 120), lineage, kind="fine_tune") for _ in range(2))
    assert again.verdict == first.verdict
    assert again.draft.record == first.draft.record
    texts = [text for text, _ in pairs_of(120, 140)]
    one, other = (drafted(found.draft).student().predict(texts) for found in (first, again))
    assert np.array_equal(one.probs, other.probs)


def test_fine_tuning_goes_on_from_the_champions_member_where_there_is_one(base: BaseEncoder) -> None:
    fresh = made(base, pairs_of(0, 60), kind="fine_tune")
    assert fresh.draft.record.fine_tune == "fresh"
    assert made(base, pairs_of(0, 90), succeeded(fresh), kind="fine_tune").draft.record.fine_tune == "warm"
    assert drafted(made(base, pairs_of(0, 90), succeeded(fresh)).draft).tuned is drafted(fresh.draft).tuned


def test_challenger_and_champion_are_compared_on_each_new_row_once(base: BaseEncoder) -> None:
    lineage = succeeded(made(base, pairs_of(0, 60)))
    challenger = made(base, pairs_of(0, 100), lineage)
    assert challenger.verdict.phase == "growth"
    assert challenger.verdict.rows_judged == 40
    assert challenger.verdict.outcome == "pass"


def test_a_new_row_counts_once_whatever_traffic_it_stands_for(base: BaseEncoder) -> None:
    """What is paid for is hard on purpose: an audit must not outvote ten bought questions."""
    lineage = succeeded(made(base, pairs_of(0, 60)))
    verdicts = []
    for propensity in (1.0, 0.05):
        rng = Random(1)
        audited = [an_item(text, NEXT[label], rng, propensity=propensity) for text, label in pairs_of(60, 70)]
        frozen = frozen_of(base, [*items_of(pairs_of(0, 60)), *audited, *items_of(pairs_of(70, 100))], lineage)
        verdicts.append(attempt("head", frozen, lineage, training=lane("budget"), settings=SETTINGS).verdict)
    assert verdicts[0] == verdicts[1]
    assert verdicts[0].student_agreement is not None
    assert 0.0 < verdicts[0].student_agreement < 1.0


def test_a_row_whose_label_only_it_has_is_not_known_to_the_head_that_judges_it(base: BaseEncoder) -> None:
    """The label is in the head; whoever has seen the row gives it some probability, nobody else any."""
    lineage = succeeded(made(base, pairs_of(0, 60)))
    planted = [(text, f"only {number}") for number, (text, _) in enumerate(pairs_of(60, 70))]
    challenger = made(base, [*pairs_of(0, 60), *planted, *pairs_of(70, 90)], lineage)
    snapshot = challenger.frozen.snapshot
    places = [place for place, row in enumerate(snapshot.rows) if row.label.startswith("only ")]
    assert set(places) <= set(new_rows(snapshot, lineage.champion or pytest.fail("no champion")))
    columns = [drafted(challenger.draft).labels.index(snapshot.rows[place].label) for place in places]
    seen = labelled(challenger.frozen).predict(drafted(challenger.draft).student(), places).probs[range(10), columns]
    unseen = crossed(challenger, lineage, places)[range(10), columns]
    assert seen.min() > 0.01
    assert unseen.max() < 2e-6  # the least that a pool gives a label
    assert challenger.verdict.rows_judged == 30
    assert (challenger.verdict.student_agreement or 1.0) <= 20 / 30


@pytest.mark.parametrize("kind", ["head", "fine_tune"])
def test_neither_does_a_fine_tuned_member_that_saw_the_row_judge_it(base: BaseEncoder, kind: CycleKind) -> None:
    lineage = succeeded(made(base, pairs_of(0, 60), kind="fine_tune"))
    (text, _), *others = pairs_of(60, 80)
    challenger = made(base, [*pairs_of(0, 60), (text, "only this"), *others], lineage, kind=kind)
    snapshot = challenger.frozen.snapshot
    (place,) = (place for place, row in enumerate(snapshot.rows) if row.label == "only this")
    column = drafted(challenger.draft).labels.index("only this")
    assert drafted(challenger.draft).tuned is not None
    assert labelled(challenger.frozen).predict(drafted(challenger.draft).student(), [place]).probs[0, column] > 1e-4
    assert crossed(challenger, lineage, [place])[0, column] < 2e-6  # the least that a pool gives a label


def test_linked_rows_do_not_tell_the_head_of_one_another(base: BaseEncoder) -> None:
    lineage = succeeded(made(base, pairs_of(0, 60)))
    twins = [
        (f"{opening}where is my courier today with it{end}", "twins") for opening in ("", "Please ") for end in "?!"
    ]
    challenger = made(base, [*pairs_of(0, 60), *twins, *pairs_of(60, 80)], lineage)
    snapshot = challenger.frozen.snapshot
    places = [place for place, row in enumerate(snapshot.rows) if row.label == "twins"]
    assert len(places) == 4
    assert len({snapshot.rows[place].cluster for place in places}) == 1
    new = new_rows(snapshot, lineage.champion or pytest.fail("no champion"))
    column = drafted(challenger.draft).labels.index("twins")
    probs = dict(zip(new, crossed(challenger, lineage, new)[:, column].tolist(), strict=True))
    assert max(probs[place] for place in places) < 2e-6  # the least that a pool gives a label


def test_linked_rows_share_a_half_and_every_place_is_in_one() -> None:
    assert halves([5, 3, 5, 3, 9, 5]) == [[0, 2, 4, 5], [1, 3]]
    assert halves([7]) == [[0]]
    assert halves([]) == []


def test_rows_that_the_champion_has_seen_are_not_cross_fitted(base: BaseEncoder) -> None:
    lineage = succeeded(made(base, pairs_of(0, 60)))
    challenger = made(base, pairs_of(0, 100), lineage)
    old = next(
        iter(set(range(100)) - set(new_rows(challenger.frozen.snapshot, lineage.champion or pytest.fail("none"))))
    )
    with pytest.raises(ValueError, match="new to the champion"):
        crossed(challenger, lineage, [old])


def test_the_head_for_a_part_is_that_of_the_other_rows_alone(base: BaseEncoder) -> None:
    """Whatever stands in the part, its head is the same."""
    lineage = succeeded(made(base, pairs_of(0, 60)))
    assert lineage.champion is not None
    challenger = made(base, pairs_of(0, 100), lineage)
    rows, features = list(challenger.frozen.snapshot.rows), labelled(challenger.frozen).features
    new = new_rows(challenger.frozen.snapshot, lineage.champion)
    parts = [new[:15], new[15:]]
    before = [head.probs(features) for head in cross_fit(rows, features, parts, drafted(challenger.draft))]
    other_features = features.copy()
    for place in parts[0]:
        rows[place] = replace(rows[place], label=NEXT[rows[place].label], weight=9.0)
        other_features[place] *= -1
    after = [head.probs(features) for head in cross_fit(rows, other_features, parts, drafted(challenger.draft))]
    assert np.array_equal(after[0], before[0])
    assert not np.allclose(after[1], before[1])


@pytest.mark.parametrize(("harmed", "outcome"), [(False, "pass"), (True, "fail")])
def test_a_challenger_that_does_harm_on_new_rows_is_refused(base: BaseEncoder, *, harmed: bool, outcome: str) -> None:
    """The teacher's answers to the questions of old have been mixed up; its answers to the new ones are as before."""
    lineage = succeeded(made(base, pairs_of(0, 120)))
    old = [(text, NEXT[label] if harmed else label) for text, label in pairs_of(0, 120)]
    challenger = made(base, [*old, *pairs_of(120, 240)], lineage)
    assert challenger.verdict.outcome == outcome
    assert challenger.verdict.rows_judged == 120
    assert ("fell by at least" in " ".join(challenger.verdict.refusals)) == harmed


def test_too_few_labels_are_waited_for(base: BaseEncoder) -> None:
    with pytest.raises(NotEnoughLabelsError):
        made(base, [("my parcel", "delivery"), ("my courier", "delivery")])
