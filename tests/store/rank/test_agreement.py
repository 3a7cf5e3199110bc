"""When two rankings are the same."""

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score

from store.tasks.measures import best_first, ndcg, tau
from store.tasks.rank import Tolerance, agree, document_key, loss, overlap

scores = st.lists(st.integers(-20, 20).map(lambda n: n / 10), min_size=1, max_size=7)


@given(teacher=scores, k=st.integers(1, 8), data=st.data())
def test_a_loss_is_the_least_epsilon_that_agrees(teacher: list[float], k: int, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(teacher)))))
    lost = loss(np.array(teacher), order, k=k)
    assert agree(np.array(teacher), order, Tolerance(k=k, epsilon=lost))
    assert not agree(np.array(teacher), order, Tolerance(k=k, epsilon=lost - 0.01))


@given(teacher=scores, k=st.integers(1, 8), data=st.data())
def test_a_loss_counts_what_is_among_the_first_and_not_in_which_order(
    teacher: list[float], k: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(teacher))))
    first = order[:k]
    wanted = sorted(teacher, reverse=True)
    found = sorted((teacher[place] for place in first), reverse=True)
    by_hand = max(w - f for w, f in zip(wanted, found, strict=False))
    assert loss(np.array(teacher), np.array(order), k=k) == pytest.approx(by_hand)
    shuffled = np.array(data.draw(st.permutations(first)) + order[k:])
    assert loss(np.array(teacher), shuffled, k=k) == loss(np.array(teacher), np.array(order), k=k)


@given(teacher=scores)
def test_the_teachers_own_order_loses_nothing_and_ties_are_free(teacher: list[float]) -> None:
    values = np.array(teacher)
    for order in permutations(range(len(teacher))) if len(teacher) < 5 else [np.argsort(-values)]:
        if all(values[a] >= values[b] for a, b in pairwise(order)):
            assert agree(values, np.array(order), Tolerance(k=len(teacher), epsilon=0.0))


@pytest.mark.parametrize("best", [0.1, 0.3, 0.55, 1.05, 1.2, 7.0])
@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.2])
def test_a_loss_of_exactly_epsilon_is_within_it_whatever_the_subtraction_rounds_to(best: float, epsilon: float) -> None:
    assert agree([best, round(best - epsilon, 9)], [1, 0], Tolerance(k=1, epsilon=epsilon))
    assert not agree([best, round(best - epsilon - 1e-6, 9)], [1, 0], Tolerance(k=1, epsilon=epsilon))


def test_a_loss_of_exactly_epsilon_is_within_it() -> None:
    assert agree(np.array([0.3, 0.25]), np.array([1, 0]), Tolerance(k=1, epsilon=0.05))
    assert not agree(np.array([0.3, 0.2499]), np.array([1, 0]), Tolerance(k=1, epsilon=0.05))


@given(values=scores, data=st.data())
def test_the_order_does_not_depend_on_the_order_of_asking(values: list[float], data: st.DataObject) -> None:
    keys = [document_key(f"document {place}") for place in range(len(values))]
    shuffle = data.draw(st.permutations(range(len(values))))
    plain = [keys[place] for place in best_first(np.array(values), keys)]
    moved_keys = [keys[place] for place in shuffle]
    moved = best_first(np.array([values[place] for place in shuffle]), moved_keys)
    assert [moved_keys[place] for place in moved] == plain
    assert [values[keys.index(key)] for key in plain] == sorted(values, reverse=True)


def test_documents_that_are_equal_in_canonical_form_have_one_key() -> None:
    assert document_key("a  café") == document_key(" a café\n")
    assert document_key("a café") != document_key("A café")


@given(values=scores, said=st.data())
def test_tau_without_a_tolerance_is_kendalls(values: list[float], said: st.DataObject) -> None:
    teacher = np.array(sorted(set(values)))
    student = np.array(said.draw(st.permutations(range(len(teacher)))), float)
    wanted = kendalltau(teacher, student).statistic if len(teacher) > 1 else 1.0
    assert tau(teacher, student, epsilon=0.0) == pytest.approx(wanted)


def test_tau_leaves_out_what_the_teacher_hardly_tells_apart() -> None:
    teacher, student = np.array([1.0, 0.99, 0.0]), np.array([2.0, 3.0, 1.0])
    assert tau(teacher, student, epsilon=0.05) == 1.0
    assert tau(teacher, student, epsilon=0.0) == pytest.approx(1 / 3)
    assert tau(teacher, np.zeros(3), epsilon=0.0) == 0.0
    assert tau(np.array([0.5, 0.25]), np.array([0.0, 1.0]), epsilon=0.25) == 1.0  # no further apart than epsilon
    assert tau(np.array([0.5, 0.5]), np.array([0.0, 1.0]), epsilon=0.0) == 1.0


@given(values=scores, k=st.integers(1, 8), data=st.data())
def test_ndcg_is_the_field_s(values: list[float], k: int, data: st.DataObject) -> None:
    teacher = np.array(values)
    order = np.array(data.draw(st.permutations(range(len(values)))))
    student = np.empty(len(values))
    student[order] = np.arange(len(values), 0, -1)
    gain = teacher - teacher.min()
    wanted = ndcg_score([gain], [student], k=k) if len(values) > 1 and gain.any() else 1.0
    assert ndcg(teacher, order, k=k) == pytest.approx(wanted)


def test_overlap_counts_the_first_places_alone() -> None:
    for first in combinations(range(5), 2):
        order = np.array([*first, *(place for place in range(5) if place not in first)])
        assert overlap(np.arange(5), order, k=2) == len({0, 1} & set(first)) / 2
    assert overlap(np.arange(2), np.array([1, 0]), k=3) == 1.0
