"""Paired evaluation: the same rows for both, and none that either has learned from."""

import numpy as np
import pytest

from store.buffer.item import FirstOpinion
from store.event import StudentOpinion, TextInput
from trainer.judge.evaluate import paired
from trainer.judge.scored import Scored
from trainer.snapshot import Row

OPINION = FirstOpinion(time_s=0.0, event_id="e", opinion=StudentOpinion(version="v", output="a", confidence=0.5))


def row(
    name: str, label: str, cluster: int, *, requests: float = 1.0, asked_a_student: bool = False, escalated: int = 1
) -> Row:
    return Row(
        item_id=name,
        input=TextInput(text=name),
        answers={label: 1},
        words=name,
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
ALL_RIGHT = [1.0, 1.0, 1.0]


def said(agreed: list[float], rows: list[Row] = ROWS) -> Scored:
    return Scored(
        confidence=np.ones(len(agreed)),
        novelty=np.zeros(len(agreed)),
        agreed=np.array(agreed),
        weight=np.array([row.requests for row in rows]),
        cluster=np.array([row.cluster for row in rows], np.int64),
    )


def test_both_are_laid_side_by_side_with_their_rows_weights() -> None:
    pairs = paired(said([1.0, 0.5, 0.0]), said(ALL_RIGHT), ROWS, trained=(), clusters={}, blocking={"only b": {"j"}})
    assert pairs.champion is not None
    assert pairs.champion.tolist() == [1.0, 0.5, 0.0]
    assert pairs.challenger.tolist() == ALL_RIGHT
    assert pairs.weights.tolist() == [1.0, 4.0, 1.0]
    assert pairs.hard.tolist() == [False, True, False]
    assert pairs.blocking["only b"].tolist() == [False, True, False]
    assert (pairs.rows, pairs.known) == (3, 0)


def test_slices_that_are_watched_are_marked_among_the_rows_that_are_kept() -> None:
    told = {"last": {"k"}, "first two": {"i", "j"}}
    pairs = paired(None, said(ALL_RIGHT), ROWS, trained={"i"}, clusters={}, watched=told)
    assert {name: mask.tolist() for name, mask in pairs.watched.items()} == {
        "first two": [True, False],
        "last": [False, True],
    }
    assert pairs.blocking == {}


def test_rows_that_a_competitor_was_trained_on_or_that_are_linked_to_such_are_left_out() -> None:
    clusters = {"i": 0, "j": 1, "k": 2, "twin of j": 1}
    pairs = paired(None, said(ALL_RIGHT), ROWS, trained={"twin of j", "i", "evicted"}, clusters=clusters)
    assert pairs.item_ids == ("k",)
    assert pairs.known == 2
    assert pairs.champion is None
    assert pairs.challenger.tolist() == [1.0]
    assert pairs.clusters.tolist() == [2]


def test_a_row_that_was_learned_is_left_out_whatever_is_known_of_its_links() -> None:
    assert paired(None, said(ALL_RIGHT), ROWS, trained={"i"}, clusters={}).item_ids == ("j", "k")


def test_what_was_only_ever_audited_is_not_hard() -> None:
    rows = [row("i", "a", 0, asked_a_student=True, escalated=0), row("j", "b", 1, asked_a_student=True, escalated=2)]
    assert paired(None, said([1.0, 1.0], rows), rows, trained=(), clusters={}).hard.tolist() == [False, True]


def test_no_rows_are_no_error_and_a_wrong_number_of_scores_is() -> None:
    assert paired(None, said([], []), [], trained=(), clusters={}).rows == 0
    with pytest.raises(ValueError, match="2 scores for 3 rows"):
        paired(None, said([1.0, 1.0], ROWS[:2]), ROWS, trained=(), clusters={})
