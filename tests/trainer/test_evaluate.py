"""Paired evaluation: the same rows for both, and none that either has learned from."""

import numpy as np
import pytest

from store.buffer.item import FirstOpinion
from store.event import StudentOpinion
from trainer.judge.evaluate import paired
from trainer.snapshot import Row

OPINION = FirstOpinion(time_s=0.0, event_id="e", opinion=StudentOpinion(version="v", output="a", confidence=0.5))


def row(
    name: str, label: str, cluster: int, *, requests: float = 1.0, asked_a_student: bool = False, escalated: int = 1
) -> Row:
    return Row(
        item_id=name,
        text=name,
        label=label,
        soft=None,
        weight=1.0,
        mass=1.0,
        requests=requests,
        count=1,
        split="judge",
        cluster=cluster,
        conflicted=False,
        asked_s=0.0,
        escalated=escalated,
        first_opinion=OPINION if asked_a_student else None,
    )


ROWS = [row("i", "a", 0), row("j", "b", 1, requests=4.0, asked_a_student=True), row("k", "c", 2)]
SAYS_A_B_C = np.eye(3)
SAYS_B_A = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])


def test_agreement_is_by_name_and_a_missing_label_is_a_miss() -> None:
    pairs = paired(
        SAYS_B_A,
        SAYS_A_B_C,
        ROWS,
        champion_labels=("b", "a"),
        challenger_labels=("a", "b", "c"),
        trained=(),
        clusters={},
        blocking={"only b": {"b"}},
    )
    assert pairs.champion is not None
    assert pairs.champion.tolist() == [True, True, False]
    assert pairs.challenger.tolist() == [True, True, True]
    assert pairs.weights.tolist() == [1.0, 4.0, 1.0]
    assert pairs.hard.tolist() == [False, True, False]
    assert pairs.blocking["only b"].tolist() == [False, True, False]
    assert (pairs.rows, pairs.known) == (3, 0)


def test_rows_that_a_competitor_was_trained_on_or_that_are_linked_to_such_are_left_out() -> None:
    clusters = {"i": 0, "j": 1, "k": 2, "twin of j": 1}
    pairs = paired(
        None,
        SAYS_A_B_C,
        ROWS,
        challenger_labels=("a", "b", "c"),
        trained={"twin of j", "i", "evicted"},
        clusters=clusters,
    )
    assert pairs.item_ids == ("k",)
    assert pairs.known == 2
    assert pairs.champion is None
    assert pairs.challenger.tolist() == [True]
    assert pairs.clusters.tolist() == [2]


def test_a_row_that_was_learned_is_left_out_whatever_is_known_of_its_links() -> None:
    pairs = paired(None, SAYS_A_B_C, ROWS, challenger_labels=("a", "b", "c"), trained={"i"}, clusters={})
    assert pairs.item_ids == ("j", "k")


def test_what_was_only_ever_audited_is_not_hard() -> None:
    rows = [row("i", "a", 0, asked_a_student=True, escalated=0), row("j", "b", 1, asked_a_student=True, escalated=2)]
    pairs = paired(None, np.eye(2), rows, challenger_labels=("a", "b"), trained=(), clusters={})
    assert pairs.hard.tolist() == [False, True]


def test_no_rows_are_no_error_and_a_wrong_shape_is() -> None:
    assert paired(None, np.empty((0, 2)), [], challenger_labels=("a", "b"), trained=(), clusters={}).rows == 0
    with pytest.raises(ValueError, match="3 rows and 2 labels"):
        paired(None, SAYS_A_B_C, ROWS, challenger_labels=("a", "b"), trained=(), clusters={})
