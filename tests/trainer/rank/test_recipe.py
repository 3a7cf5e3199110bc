"""How lists become rows, what is learned of them, and that nobody judges itself."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from scipy.special import ndtri

from store.buffer.item import Item
from store.event import RankAnswer, RankInput
from store.policy import PolicyName
from store.student.encoder import Encoder, FloatArray
from store.student.rank.bases import base_on
from store.student.rank.ranker import TunedRanker
from store.student.rank.vectors import sentence_vectors
from store.tasks.tasks import LaneTerms
from tests.tiny import tiny_encoder
from tests.trainer.rank.lists import (
    CATALOGUE,
    LANE,
    NOW_S,
    PROMPT_VERSION,
    RULES,
    TOLERANCE,
    a_list,
    event_of,
    item_of,
    items,
    ordered,
    scored,
    scores_of,
)
from tests.trainer.rank.test_cycle import SETTINGS
from trainer.attempt import attempt, freeze_rows
from trainer.judge.verdicts import new_rows
from trainer.learn.features import BaseEncoder
from trainer.learn.rank.fine_tune import RankTuning, TextList, fine_tune
from trainer.learn.rank.freezing import ListFreezing
from trainer.learn.rank.head import untaught
from trainer.learn.rank.recipe import RECIPE, FrozenLists, drafted, frozen_lists
from trainer.learn.rank.targets import targets_of
from trainer.learn.recipe import Lineage, Rival
from trainer.snapshot import rows_of
from trainer.work import LaneTraining

COLD = Lineage(champion=None, anchor=None, history=[], records={})
BUDGET = LaneTraining(
    lane=LANE,
    task="rank",
    prompt_version=PROMPT_VERSION,
    target=0.9,
    confidence=0.8,
    policy="budget",
    terms=LaneTerms(tolerance=TOLERANCE),
)


class Fresh:
    """Satisfies `trainer.learn.recipe.Features`: nothing is kept."""

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:
        return sentence_vectors(encoder, texts)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseEncoder:
    folder: Path = tiny_encoder(tmp_path_factory.mktemp("tiny"), layers=3)
    return BaseEncoder.open(folder, device="cpu", precision="fp32", max_tokens=32)


def frozen(
    base: BaseEncoder, kept: Sequence[Item], lineage: Lineage = COLD, policy: PolicyName = "budget"
) -> FrozenLists:
    return frozen_lists(
        freeze_rows(
            kept,
            lineage,
            training=replace(BUDGET, policy=policy),
            settings=SETTINGS,
            base=base,
            features=Fresh(),
            now_s=NOW_S,
            positions={},
        )
    )


def test_lists_of_one_query_with_most_documents_equal_are_one_question(base: BaseEncoder) -> None:
    rng, documents = Random(3), list(CATALOGUE[:6])
    lists = [
        RankInput(query="a parcel", documents=documents),
        RankInput(query=" a  parcel", documents=[*documents[:4], "another one"]),
        RankInput(query="a parcel", documents=[*documents[:3], "b", "c", "d"]),  # half of them, not most
        RankInput(query="the parcel", documents=documents),
        RankInput(query="a parcel", documents=documents[3:]),  # all of them, and half of the longer list
    ]
    kept = [item_of(event_of(value, scored(scores_of(value, rng)), rng)) for value in lists]
    clusters = {row.item_id: row.cluster for row in frozen(base, kept).snapshot.rows}
    first, near, half, other, part = (clusters[one.item_id] for one in kept)
    assert first == near
    assert len({first, half, other, part}) == 4
    weights = {row.item_id: row.weight for row in frozen(base, kept).snapshot.rows}
    assert weights[kept[0].item_id] == pytest.approx((1 + np.log(2)) / 2)


def test_what_is_learned_is_the_mean_of_the_answers_and_an_order_in_normal_scores(base: BaseEncoder) -> None:
    rng, value = Random(4), RankInput(query="x", documents=["a", "b", "c"])
    twice = item_of(*(event_of(value, scored(list(said)), rng) for said in ((0.1, 0.5, 0.9), (0.3, 0.5, 0.7))))
    snapshot = frozen(base, [twice]).snapshot
    (target,), is_scored = targets_of(snapshot.rows, [3])
    assert is_scored
    assert target == pytest.approx([0.2, 0.5, 0.8])
    order = item_of(event_of(value, ordered([0.1, 0.5, 0.9]), rng))
    rows = frozen(base, [order])
    assert (rows.scored_teacher, rows.tolerance.epsilon, rows.tolerance.k) == (False, 0.0, TOLERANCE.k)
    assert rows.lists[0].target == pytest.approx(ndtri([1 / 6, 0.5, 5 / 6]))


def test_orders_are_brought_to_the_scale_of_the_scores_that_most_lists_have(base: BaseEncoder) -> None:
    rng = Random(8)
    lists = [RankInput(query=f"q{number}", documents=["a", "b", "c"]) for number in range(3)]
    given = [scored([0.1, 0.5, 0.9]), scored([0.2, 0.4, 0.6]), ordered([0.0, 0.5, 1.0])]
    rows = frozen(base, [item_of(event_of(value, said, rng)) for value, said in zip(lists, given, strict=True)])
    targets = {
        row.words: target for row, target in zip(rows.snapshot.rows, (o.target for o in rows.lists), strict=True)
    }
    spread = np.mean([np.std([0.1, 0.5, 0.9]), np.std([0.2, 0.4, 0.6])])
    assert rows.scored_teacher
    assert targets["q2"] == pytest.approx(spread * ndtri([1 / 6, 0.5, 5 / 6]))
    assert targets["q0"] == pytest.approx([0.1, 0.5, 0.9])


def test_each_row_is_learned_from_by_its_weight_and_stands_for_its_share_of_traffic(base: BaseEncoder) -> None:
    rng, kept = Random(6), []
    for number, propensity in enumerate((1.0, 0.5, 0.1)):
        value = RankInput(query=f"q{number}", documents=["a", "b", "c"])
        said = [event_of(value, scored([0.1, 0.5, 0.9]), rng, propensity=propensity) for _ in range(number + 1)]
        kept.append(item_of(*said))
    rows = frozen(base, kept)
    found = {row.words: one for row, one in zip(rows.snapshot.rows, rows.lists, strict=True)}
    assert [found[f"q{number}"].stands_for for number in range(3)] == [1.0, 2.0, pytest.approx(10.0)]
    assert [found[f"q{number}"].weight for number in range(3)] == pytest.approx([1.0, 1 + np.log(2), 1 + np.log(3)])


def test_a_teacher_who_contradicts_himself_is_told_and_each_answer_counts(base: BaseEncoder) -> None:
    rng, value = Random(5), RankInput(query="x", documents=["a", "b"])
    torn = item_of(*(event_of(value, scored(list(said)), rng) for said in ((0.1, 0.9), (0.9, 0.1))))
    rows = frozen(base, [torn, *items(30)])
    place = next(place for place, row in enumerate(rows.snapshot.rows) if row.item_id == torn.item_id)
    assert rows.snapshot.rows[place].conflicted
    student = RECIPE.fit("head", rows, COLD, settings=SETTINGS, tell=lambda *_: None).student()
    assert rows.scored(student, [place], np.ones(1)).agreed.tolist() == [0.5]


def test_the_head_learns_favourites_that_no_word_tells_of(base: BaseEncoder) -> None:
    rows = frozen(base, items(300), policy="promise")
    draft = RECIPE.fit("head", rows, COLD, settings=SETTINGS, tell=lambda *_: None)
    held = rows_of(rows.snapshot, "judge")
    taught = rows.scored(draft.student(), held, np.ones(len(held))).agreed.mean()
    plain = replace(draft, head=untaught(2 * base.encoder.hidden_size)).student()
    assert taught > rows.scored(plain, held, np.ones(len(held))).agreed.mean() + 0.2


def test_a_fine_tuned_member_learns_what_words_mean_and_the_same_seed_gives_the_same(base: BaseEncoder) -> None:
    rng = Random(6)
    lists = [a_list(rng) for _ in range(260)]

    def meant(value: RankInput) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        asked = set(value.query.split())
        return np.array([0.3 * len(asked & set(one.split())) for one in value.documents])

    taught = [
        TextList(query=one.query, documents=one.documents, biases=np.zeros(6), target=meant(one), weight=1.0)
        for one in lists[:200]
    ]
    settings = RankTuning(epochs=6, learning_rate=3e-3)
    head = untaught(2 * base.encoder.hidden_size)
    steps: list[tuple[int, int]] = []
    one, other = (
        fine_tune(
            base.encoder,
            taught,
            head=head,
            start=None,
            settings=settings,
            seed=1,
            progress=lambda done, of: steps.append((done, of)),
        )
        for _ in range(2)
    )
    assert all(bool((one.changed[name] == other.changed[name]).all()) for name in one.changed)
    assert one.slope == other.slope
    assert steps[-1] == (149, 150)

    def right(encoder: Encoder) -> float:
        hits = []
        for value in lists[200:]:
            vectors = sentence_vectors(encoder, [value.query, *value.documents])
            hits.append(meant(value)[int((vectors[1:] @ vectors[0]).argmax())] >= meant(value).max() - 1e-9)
        return float(np.mean(hits))

    assert right(one.base.encoder) > right(base.encoder) + 0.1
    assert right(base.encoder) == right(base.encoder.twin({}))  # the base is as it was


def test_a_row_that_is_judged_has_taught_nobody_who_judges_it(base: BaseEncoder) -> None:
    """Every new list's teacher rolls dice: whoever has seen the list knows its favourites, nobody else can."""
    first = attempt("head", frozen(base, items(60)), COLD, training=BUDGET, settings=SETTINGS)
    champion = Rival(student=first.draft.student(first.policy), trained=first.trained)
    lineage = Lineage(champion=champion, anchor=None, history=[], records={})
    rng, planted = Random(8), []
    for number in range(40):
        value = RankInput(query=f"plant {number}", documents=[f"{number} {n}" for n in range(4)])
        twice = RankInput(query=f"plant {number}", documents=[*value.documents, "money late"])
        dice = {one: rng.gauss(0.0, 2.0) for one in twice.documents}
        for one in (value, twice):  # linked, and each favourite comes twice: it has a bias of its own
            answer = RankAnswer(
                model="reranker-1", prompt_version="none", scores=[dice[text] for text in one.documents]
            )
            planted.append(item_of(event_of(one, answer, rng)))
    rows = frozen(base, [*items(60), *planted], lineage)
    draft = RECIPE.fit("head", rows, lineage, settings=SETTINGS, tell=lambda *_: None)
    new = new_rows(rows.snapshot, champion)
    assert len(new) == 80
    seen = rows.scored(draft.student(), new, np.ones(80)).agreed.mean()
    unseen = RECIPE.cross_fitted(rows, drafted(draft), champion)(new, np.ones(80)).agreed.mean()
    assert seen > 0.8
    assert unseen < 0.6
    old = next(iter(set(range(len(rows.lists))) - set(new)))
    with pytest.raises(ValueError, match="new to the champion"):
        RECIPE.cross_fitted(rows, drafted(draft), champion)([old], np.ones(1))


def test_words_of_a_list_are_those_of_its_query() -> None:
    freezing = ListFreezing(rules=RULES)
    assert freezing.words(RankInput(query=" red  shoes", documents=["a"])) == "red shoes"
    assert freezing.label({"b": 1, "a": 1}) == freezing.label({"a": 1, "b": 1}) != freezing.label({"a": 1})


def test_a_fine_tuned_member_of_another_base_is_not_kept(base: BaseEncoder, tmp_path: Path) -> None:
    rows = frozen(base, items(30))
    others = BaseEncoder.open(
        tiny_encoder(tmp_path / "other", seed=7, layers=3), device="cpu", precision="fp32", max_tokens=32
    )
    plain = RECIPE.fit("head", rows, COLD, settings=SETTINGS, tell=lambda *_: None).student()
    kept = []
    for encoder in (base.encoder, others.encoder):
        tuned = TunedRanker.on(encoder, {}, 0.7)
        champion = replace(plain, base=base_on(encoder), tuned=tuned, tuned_share=0.5, tuned_rows=11)
        lineage = Lineage(champion=Rival(student=champion, trained=frozenset()), anchor=None, history=[], records={})
        draft = RECIPE.fit("head", rows, lineage, settings=SETTINGS, tell=lambda *_: None)
        kept.append((draft.tuned is tuned, draft.record.fine_tune, draft.record.tuned_share, draft.record.tuned_rows))
    assert kept == [(True, "kept", 0.5, 11), (False, "none", 0.0, None)]
