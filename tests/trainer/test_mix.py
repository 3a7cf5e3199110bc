"""What the fine-tuned member counts: chosen on opinions from before the label."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.buffer.item import FirstOpinion
from store.event import StudentOpinion
from store.student.tuned import spread
from trainer.learn.mix import Mix, believed, choose_mix

MAPS = {"v1": ["a", "b"], "v2": ["a", "c"], "v3": ["a", "c", "b"]}
DEFAULT = Mix(weight=0.5, temperature=2.0, opinions=0)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row with its opinion."""

    label: str
    first_opinion: FirstOpinion


def opinions(
    n: int, head: float, tuned: float, *, wrong: int = 0, version: str = "v1", start_s: float = 0.0
) -> list[Row]:
    """Rows whose label got `head` and `tuned` from the two members; for the first `wrong` 1 - `tuned`."""
    rows = []
    for i in range(n):
        sure = 1.0 - tuned if i < wrong else tuned
        said = StudentOpinion(version=version, output="a", confidence=0.5, members=[[1 - head, head], [1 - sure, sure]])
        rows.append(Row(label="b", first_opinion=FirstOpinion(time_s=start_s + i, event_id=f"{i}", opinion=said)))
    return rows


def test_the_member_that_foresaw_the_labels_weighs_more() -> None:
    assert choose_mix(opinions(60, 0.1, 0.9), MAPS) == Mix(weight=0.8, temperature=1.0, opinions=60)
    assert choose_mix(opinions(60, 0.9, 0.01), MAPS).weight == 0.0
    assert choose_mix(opinions(60, 0.5, 0.5), MAPS) == Mix(weight=0.5, temperature=2.0, opinions=60)


@pytest.mark.parametrize(("wrong", "temperature"), [(1, 1.0), (20, 2.0), (40, 2.8), (60, 4.0)])
def test_a_member_is_believed_as_far_as_it_was_right(wrong: int, temperature: float) -> None:
    found = choose_mix(opinions(200, 0.2, 0.99, wrong=wrong), MAPS)
    assert found == Mix(weight=0.8, temperature=temperature, opinions=200)


def test_too_few_or_unreadable_opinions_leave_the_defaults() -> None:
    assert choose_mix(opinions(59, 0.1, 0.9), MAPS) == DEFAULT
    for version in ("v2", "v3", "v4"):
        assert choose_mix(opinions(80, 0.1, 0.9, version=version), MAPS) == DEFAULT


def test_too_few_opinions_leave_a_kept_member_as_it_is() -> None:
    present = Mix(weight=0.67, temperature=1.4, opinions=0)
    assert choose_mix(opinions(59, 0.1, 0.9), MAPS, otherwise=present) == present
    assert choose_mix(opinions(60, 0.1, 0.9), MAPS, otherwise=present).weight == 0.8


@given(seed=st.integers(0, 999), known=st.integers(1, 5), temperature=st.sampled_from([1.0, 2.0, 4.0]))
def test_a_recorded_opinion_is_believed_as_a_student_serves_it(seed: int, known: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    head = rng.dirichlet(np.ones(5)).astype(np.float32)[None]
    logits = 3.0 * rng.normal(size=(1, known)).astype(np.float32)
    recorded = [member[0].round(6).tolist() for member in (head, spread(logits, head))]
    served = spread(logits / np.float32(temperature), head)[0]
    np.testing.assert_allclose(believed(recorded, temperature), served, atol=2e-3)


def test_an_opinion_of_nought_is_one_that_was_rounded() -> None:
    assert believed([[0.5, 0.5], [0.0, 1.0]], 4.0)[0] == pytest.approx(1e-7**0.25, rel=0.05)


@given(order=st.permutations(range(300)))
def test_only_the_newest_two_hundred_count_in_any_order_of_rows(order: list[int]) -> None:
    rows = [*opinions(100, 0.9, 0.01), *opinions(200, 0.1, 0.9, start_s=1000.0)]
    assert choose_mix([rows[i] for i in order], MAPS) == Mix(weight=0.8, temperature=1.0, opinions=200)
