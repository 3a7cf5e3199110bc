"""What the members weigh in the pool: chosen on opinions from before the label."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.buffer.item import FirstOpinion
from store.event import StudentOpinion
from store.student.tuned import pool
from trainer.learn.mix import DEFAULT_MIX, choose_mix

MAPS = {"v1": ["a", "b"], "v2": ["a", "c"], "v3": ["a", "c", "b"], "wide": list("abcde")}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row with its opinion."""

    label: str
    first_opinion: FirstOpinion


def row(members: Sequence[Sequence[float]], label: str, *, version: str = "v1", time_s: float = 0.0) -> Row:
    said = StudentOpinion(version=version, output="a", confidence=0.5, members=[list(member) for member in members])
    return Row(label=label, first_opinion=FirstOpinion(time_s=time_s, event_id=f"{time_s}", opinion=said))


def opinions(n: int, head: float, tuned: float, *, version: str = "v1", start_s: float = 0.0) -> list[Row]:
    """Rows whose label got `head` and `tuned` from the two members."""
    members = [[1 - head, head], [1 - tuned, tuned]]
    return [row(members, "b", version=version, time_s=start_s + i) for i in range(n)]


def drawn(n: int, weights: tuple[float, float], seed: int) -> list[Row]:
    """Rows whose members disagree at random and whose answers come from the pool at these weights."""
    rng = np.random.default_rng(seed)
    members = rng.dirichlet(np.full(5, 0.5), size=(2, n)).astype(np.float32).round(6)
    probs = pool(list(members), weights).astype(float)
    labels = [rng.choice(list("abcde"), p=each / each.sum()) for each in probs]
    return [row(members[:, i].tolist(), labels[i], version="wide", time_s=i) for i in range(n)]


def test_the_member_that_foresaw_the_labels_weighs_more() -> None:
    better, worse = choose_mix(opinions(200, 0.4, 0.8), MAPS), choose_mix(opinions(200, 0.8, 0.4), MAPS)
    assert better.tuned > DEFAULT_MIX.tuned > worse.tuned
    assert better.head < DEFAULT_MIX.head < worse.head
    misled = choose_mix(opinions(200, 0.9, 0.01), MAPS)
    assert misled.tuned == 0.0


@pytest.mark.parametrize("weights", [(0.5, 0.25), (1.0, 0.3), (0.2, 0.8), (0.9, 0.0)])
def test_the_weights_that_answers_were_drawn_with_are_found_again(weights: tuple[float, float]) -> None:
    found = [choose_mix(drawn(200, weights, seed), MAPS) for seed in range(10)]
    assert np.mean([mix.head for mix in found]) == pytest.approx(weights[0], abs=0.12)
    assert np.mean([mix.tuned for mix in found]) == pytest.approx(weights[1], abs=0.12)


@given(seed=st.integers(0, 999), n=st.integers(1, 40))
def test_no_other_weights_are_more_likely(seed: int, n: int) -> None:
    rows = drawn(n, (0.7, 0.7), seed)

    def loss(head: float, tuned: float) -> float:
        said = 0.0
        for each in rows:
            members = [np.array([member], np.float32) for member in each.first_opinion.opinion.members]
            said += log(pool(members, (head, tuned))[0, "abcde".index(each.label)])
        return -said + ((head - 0.5) ** 2 + (tuned - 0.25) ** 2) / (2 * 0.2**2)

    found = choose_mix(rows, MAPS)
    for head, tuned in product((-0.05, 0.0, 0.05), repeat=2):
        beside = max(0.0, found.head + head), max(0.0, found.tuned + tuned)
        assert loss(found.head, found.tuned) <= loss(*beside) + 1e-3


def test_few_opinions_move_the_weights_little() -> None:
    moved = [abs(choose_mix(opinions(n, 0.4, 0.8), MAPS).tuned - DEFAULT_MIX.tuned) for n in (1, 10, 100)]
    assert 0.0 < moved[0] < 0.05
    assert moved == sorted(moved)


def test_no_or_unreadable_opinions_leave_the_default() -> None:
    assert choose_mix([], MAPS) == DEFAULT_MIX
    for version in ("v2", "v3", "v4"):
        assert choose_mix(opinions(80, 0.1, 0.9, version=version), MAPS) == DEFAULT_MIX


def test_opinions_of_versions_with_more_and_fewer_labels_are_heard_together() -> None:
    both = [*opinions(50, 0.4, 0.8), *drawn(50, (1.0, 0.2), 0)]
    mix = choose_mix(both, MAPS)
    assert mix.opinions == 100
    padded = []
    for i, each in enumerate(both):
        members = [[*member, *[0.0] * (5 - len(member))] for member in each.first_opinion.opinion.members]
        padded.append(row(members, each.label, version="wide", time_s=i))
    found = choose_mix(padded, MAPS)  # the labels that it did not have are as good as impossible
    assert (found.head, found.tuned) == pytest.approx((mix.head, mix.tuned), abs=1e-3)


def test_an_answer_that_a_member_called_impossible_has_no_veto() -> None:
    mix = choose_mix([*opinions(199, 0.6, 0.9), *opinions(1, 0.5, 0.0)], MAPS)
    assert 0.0 < mix.tuned < choose_mix(opinions(200, 0.6, 0.9), MAPS).tuned


@given(order=st.permutations(range(300)))
def test_only_the_newest_two_hundred_count_in_any_order_of_rows(order: list[int]) -> None:
    newest = opinions(200, 0.4, 0.8, start_s=1000.0)
    rows = [*opinions(100, 0.9, 0.01), *newest]
    found = choose_mix([rows[i] for i in order], MAPS)
    assert found == choose_mix(newest, MAPS)
    assert found.opinions == 200
