"""Fitting the ranking student's head."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import Ridge

from store.student.rank.bases import Matched
from store.student.rank.head import RankHead
from store.tasks.rank import document_key
from trainer.learn.rank.head import RankedList, _Design, fit_rank_head, order_scores

HIDDEN = 6
Floats = npt.NDArray[np.float64]


def unit(values: Floats) -> npt.NDArray[np.float32]:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), np.float32)


def fit(lists: list[RankedList]) -> RankHead:
    return fit_rank_head(lists, features=2 * HIDDEN)


class World:
    """Documents with favourites, queries, and a teacher that knows both."""

    def __init__(self, *, favour: float, noise: float, documents: int = 30, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.documents = unit(self.rng.normal(size=(documents, HIDDEN)))
        self.keys = [document_key(f"{seed}/{place}") for place in range(documents)]
        self.favour = self.rng.normal(0.0, favour, documents)
        self.noise = noise

    def lists(self, count: int, *, length: int = 8, slope: float = 0.8) -> list[RankedList]:
        return [self.one(length, slope) for _ in range(count)]

    def one(self, length: int, slope: float) -> RankedList:
        chosen = self.rng.permutation(len(self.documents))[:length]
        query = unit(self.rng.normal(size=HIDDEN))
        scores = slope * (self.documents[chosen] @ query) + self.favour[chosen] + 0.3  # what all share means nothing
        return RankedList(
            matched=Matched.of_vectors(query, self.documents[chosen], tuple(self.keys[place] for place in chosen)),
            target=scores + self.rng.normal(0.0, self.noise, length),
        )


def test_where_the_cosine_is_all_its_slope_and_the_noise_are_found_and_nothing_else() -> None:
    head = fit(World(favour=0.0, noise=0.05, documents=1_000).lists(150))
    assert head.slope == pytest.approx(0.8, abs=0.02)
    assert head.sigma == pytest.approx(0.05 * np.sqrt(7 / 8), abs=0.004)  # less the list's mean
    assert np.abs(head.weight).max() < 0.05


def test_favourites_are_learned_and_generalise_to_other_lists() -> None:
    world = World(favour=0.5, noise=0.02)
    head = fit(world.lists(60))
    learned = np.array([head.items[key] for key in world.keys])
    assert np.corrcoef(learned, world.favour)[0, 1] > 0.98
    later = world.lists(50)
    plain = fit([])
    assert plain.slope == 1.0
    right = [np.argmax(head.scores(o.matched)) == np.argmax(o.target) for o in later]
    assert np.mean(right) > 0.85


def test_what_is_fitted_is_ridge_regression_on_centred_lists() -> None:
    world = World(favour=0.5, noise=0.1, documents=12)
    lists = [replace(one, weight=weight) for one, weight in zip(world.lists(40), [1.0, 3.0] * 20, strict=True)]
    head = fit(lists)

    def centred(values: npt.NDArray[np.floating]) -> Floats:
        return np.asarray(values - values.mean(axis=0), np.float64)

    cosine = np.concatenate([centred(one.matched.similarity.astype(float)) for one in lists])
    target = np.concatenate([centred(one.target) for one in lists])
    rows = np.repeat([one.weight for one in lists], 8)
    rows = rows * len(rows) / rows.sum()
    slope = (rows * cosine) @ target / ((rows * cosine) @ cosine)
    assert head.slope == pytest.approx(slope)
    raw = np.concatenate([centred(one.matched.features) for one in lists])
    keys = sorted(world.keys)
    hot = np.concatenate([centred(np.array([[key == k for k in keys] for key in one.keys], float)) for one in lists])
    unit_of = raw.std()
    fits = []
    for features in (1_000.0, 10_000.0, None):
        for items in (0.3, 1.0, 3.0, None):
            columns = np.concatenate(
                [
                    raw / unit_of / np.sqrt(features) if features else raw * 0.0,
                    hot / np.sqrt(items) if items else hot * 0.0,
                ],
                axis=1,
            )
            ridge = Ridge(alpha=1.0, fit_intercept=False, solver="cholesky", tol=1e-10)
            found = ridge.fit(columns, target - slope * cosine, sample_weight=rows).coef_
            fits.append(found[-len(keys) :] / np.sqrt(items or 1.0))
    learned = np.array([head.items.get(key, 0.0) for key in keys])
    assert min(np.abs(learned - fit).max() for fit in fits) < 1e-4


def test_sigma_is_of_lists_that_were_left_out() -> None:
    """Favourites of documents that come twice can be memorised: a head is no judge of itself."""
    world = World(favour=0.0, noise=0.3, documents=20)
    head = fit(world.lists(12, slope=0.0))
    assert head.sigma > 0.25


def test_lists_of_one_document_and_no_lists_teach_nothing() -> None:
    world = World(favour=0.1, noise=0.1)
    single = world.lists(5, length=1)
    head = fit(single)
    assert (head.slope, head.items, len(head.weight)) == (1.0, {}, 2 * HIDDEN)
    many = world.lists(20)
    with_single = fit([*many, *single])
    assert with_single.slope == fit(many).slope


def test_the_same_lists_give_the_same_head() -> None:
    one, two = (fit(World(favour=0.3, noise=0.1).lists(30)) for _ in range(2))
    assert (one.slope, one.sigma, dict(one.items)) == (two.slope, two.sigma, dict(two.items))
    assert np.array_equal(one.weight, two.weight)


def test_a_cosine_that_points_the_wrong_way_is_not_turned_round() -> None:
    assert fit(World(favour=0.0, noise=0.01).lists(20, slope=-0.5)).slope == 0.0


def test_an_order_becomes_normal_scores() -> None:
    scores = order_scores([2, 0, 1], 3)
    assert scores[2] > scores[0] > scores[1]
    assert scores.sum() == pytest.approx(0.0)
    partial = order_scores([3], 5)
    assert partial[3] > partial[0] == partial[1] == partial[2] == partial[4]
    many = order_scores(list(range(1_000)), 1_000)
    assert many.std() == pytest.approx(1.0, abs=0.02)


def test_an_order_teaches_almost_what_scores_teach() -> None:
    world = World(favour=0.5, noise=0.02)
    lists, later = world.lists(60), world.lists(60)
    ordered = [replace(one, target=order_scores(np.argsort(-one.target).tolist(), len(one.keys))) for one in lists]

    def right(head_lists: list[RankedList]) -> float:
        head = fit(head_lists)
        return float(np.mean([np.argmax(head.scores(o.matched)) == np.argmax(o.target) for o in later]))

    assert right(ordered) > right(lists) - 0.15


@pytest.mark.parametrize(("count", "learns"), [(1, False), (2, False), (7, False), (8, True), (20, True)])
def test_fewer_than_eight_lists_teach_the_slope_alone(count: int, *, learns: bool) -> None:
    lists = World(favour=2.0, noise=0.01, documents=9, seed=5).lists(count)
    head = fit(lists)
    assert bool(head.items) == learns
    assert learns or not head.weight.any()


def test_a_document_that_came_in_two_lists_has_a_bias_and_one_that_came_twice_in_one_has_none() -> None:
    world = World(favour=2.0, noise=0.01, documents=400)
    lists = world.lists(30)
    twice = renamed(lists[1], (lists[0].keys[0], *lists[1].keys[1:]))
    once = renamed(lists[2], (document_key("new"), document_key("new"), *lists[2].keys[2:]))
    lists[1:3] = [twice, once]
    counts = [key for one in lists for key in set(one.keys)]
    head = fit(lists)
    assert twice.keys[0] in head.items
    assert set(head.items) <= {key for key in counts if counts.count(key) > 1}
    assert document_key("new") not in head.items


def renamed(one: RankedList, keys: tuple[str, ...]) -> RankedList:
    """The list with other documents' names."""
    return replace(one, matched=replace(one.matched, keys=keys))


def test_lists_of_one_query_are_left_out_together() -> None:
    world = World(favour=0.0, noise=0.1)
    lists = world.lists(7)
    others = [(world.one(8, 0.8), lists[place].matched.query) for place in (0, 3, 3, 5)]
    again = [replace(one, matched=replace(one.matched, query=query)) for one, query in others]
    folds = _Design._folds([*lists, *again])
    assert list(folds[7:]) == [folds[place] for place in (0, 3, 3, 5)]
    assert set(folds) == {0, 1, 2}


@pytest.mark.parametrize("often", [1.0, 9.0])
def test_sigma_is_that_of_traffic_and_not_of_what_was_paid_for(often: float) -> None:
    world = World(favour=0.0, noise=0.02, documents=1_000)
    clear = [replace(one, stands_for=often) for one in world.lists(60)]
    world.noise = 0.4
    head = fit([*clear, *world.lists(60)])
    squares = (often * 0.02**2 + 0.4**2) / (often + 1)
    assert head.sigma == pytest.approx(np.sqrt(squares * 7 / 8), rel=0.15)
    assert head.new_sigma == pytest.approx(head.sigma, rel=0.05)


def test_what_is_learned_of_documents_makes_sigma_smaller_and_not_that_of_new_ones() -> None:
    head = fit(World(favour=0.5, noise=0.02).lists(80))
    assert head.sigma < 0.1
    assert head.new_sigma > 0.35
