"""What the fine-tuned member weighs in the pool: chosen on opinions from before the label."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.buffer.item import FirstOpinion
from store.event import StudentOpinion
from store.student.tuned import pool
from trainer.learn.classify.mix import DEFAULT_MIX, choose_mix

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


def drawn(n: int, share: float, seed: int) -> list[Row]:
    """Rows whose members disagree at random and whose answers come from the pool with this share."""
    rng = np.random.default_rng(seed)
    members = rng.dirichlet(np.full(5, 0.5), size=(2, n)).astype(np.float32).round(6)
    probs = pool(list(members), (1.0 - share, share)).astype(float)
    labels = [rng.choice(list("abcde"), p=each / each.sum()) for each in probs]
    return [row(members[:, i].tolist(), labels[i], version="wide", time_s=i) for i in range(n)]


def test_the_member_that_foresaw_the_labels_weighs_more() -> None:
    better, worse = choose_mix(opinions(200, 0.4, 0.8), MAPS), choose_mix(opinions(200, 0.8, 0.4), MAPS)
    assert better.share == pytest.approx(0.5, abs=1e-3)  # and no more: the head has been fitted anew since
    assert worse.share < 0.1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.33, 0.45])
def test_the_share_that_answers_were_drawn_with_is_found_again(share: float) -> None:
    found = [choose_mix(drawn(200, share, seed), MAPS).share for seed in range(10)]
    assert np.mean(found) == pytest.approx(share, abs=0.07)


@given(seed=st.integers(0, 999), n=st.integers(1, 40))
def test_no_other_share_is_more_likely(seed: int, n: int) -> None:
    rows = drawn(n, 0.4, seed)

    def loss(share: float) -> float:
        said = 0.0
        for each in rows:
            members = [np.array([member], np.float32) for member in each.first_opinion.opinion.members]
            said += log(pool(members, (1.0 - share, share))[0, "abcde".index(each.label)])
        return -said + (share - 1 / 3) ** 2 / (2 * 0.1**2)

    found = choose_mix(rows, MAPS).share
    assert 0.0 <= found <= 0.5
    assert loss(found) <= min(loss(max(0.0, found - 0.02)), loss(min(0.5, found + 0.02))) + 1e-3


@pytest.mark.parametrize("said", [0.0, 0.01, 0.1, 0.999999, 1.0])
def test_members_that_agree_right_or_wrong_leave_the_default(said: float) -> None:
    assert choose_mix(opinions(200, said, said), MAPS).share == pytest.approx(1 / 3, abs=1e-3)


def test_few_opinions_move_the_share_little() -> None:
    moved = [abs(choose_mix(opinions(n, 0.4, 0.5), MAPS).share - DEFAULT_MIX.share) for n in (1, 10, 100)]
    assert 0.0 < moved[0] < 0.01
    assert moved == sorted(moved)


def test_one_answer_that_a_member_called_impossible_does_not_switch_it_off() -> None:
    assert choose_mix(opinions(1, 0.9, 0.0), MAPS).share > 0.15
    mix = choose_mix([*opinions(40, 0.4, 0.5), *opinions(1, 0.5, 0.0)], MAPS)
    assert 0.25 < mix.share < choose_mix(opinions(40, 0.4, 0.5), MAPS).share


def test_no_or_unreadable_opinions_leave_the_default() -> None:
    assert choose_mix([], MAPS) == DEFAULT_MIX
    for version in ("v2", "v3", "v4"):
        assert choose_mix(opinions(80, 0.1, 0.9, version=version), MAPS) == DEFAULT_MIX


def test_opinions_of_versions_with_fewer_labels_count_as_they_would_alone() -> None:
    narrow, wide = opinions(50, 0.4, 0.8), drawn(1, 0.2, 0)
    beside = choose_mix([*narrow, *wide], MAPS)
    assert beside.opinions == 51
    assert beside.share == pytest.approx(choose_mix(narrow, MAPS).share, abs=0.02)


@given(order=st.permutations(range(300)))
def test_only_the_newest_two_hundred_count_in_any_order_of_rows(order: list[int]) -> None:
    newest = opinions(200, 0.4, 0.6, start_s=1000.0)
    rows = [*opinions(100, 0.9, 0.01), *newest]
    found = choose_mix([rows[i] for i in order], MAPS)
    assert found == choose_mix(newest, MAPS)
    assert found.opinions == 200
