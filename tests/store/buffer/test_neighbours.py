"""Neighbours by cosine: the nearest, those that contradict each other, and who agrees; one module knows FAISS."""

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.near.neighbours import Neighbours, conflicts, grouped, units

ROOT = Path(__file__).parents[3]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), held=st.integers(1, 40), k=st.integers(1, 12))
def test_the_nearest_are_those_of_a_full_sort_whatever_the_vectors_lengths(seed: int, held: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, asked = rng.normal(size=(held, 8)) * 5.0, rng.normal(size=(6, 8))
    found = Neighbours(vectors).nearest(asked, k)
    cosines = units(asked) @ units(vectors).T
    wanted = -np.sort(-cosines, axis=1)[:, :k]
    assert found.places.shape == (6, min(k, held))
    assert found.cosines == pytest.approx(wanted, abs=1e-5)
    assert np.take_along_axis(cosines, found.places, axis=1) == pytest.approx(wanted, abs=1e-5)


def test_who_agrees_is_told_of_the_nearest_alone() -> None:
    vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
    near = Neighbours(vectors)
    asked = np.array([[1.0, 0.05], [0.0, 1.0]])
    assert near.agreeing(asked, ["a", "a", "b", "c"], ["a", "a"], k=3).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert near.agreeing(asked, ["a", "a", "b", "c"], ["b", "c"], k=1).tolist() == [0.0, 1.0]
    assert near.agreeing(asked, ["a"] * 4, ["a", "a"]).tolist() == [1.0, 1.0]
    assert Neighbours(np.empty((0, 2))).agreeing(asked, [], ["a", "a"]).tolist() == [0.0, 0.0]


def test_near_questions_with_other_answers_are_in_conflict_unless_a_protected_token_differs() -> None:
    texts = [
        "please refund invoice 17",
        "would you please refund invoice 17",
        "please refund invoice 71",
        "where is the parcel",
        "please refund invoice 17 now",
    ]
    vectors = np.array([[1.0, 0.0, 0.01], [1.0, 0.0, 0.02], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.9, 0.0]])
    assert conflicts(vectors, texts, ["a", "b", "c", "a", "b"]) == [(0, 1)]
    assert conflicts(vectors, texts, ["a", "a", "c", "a", "b"]) == []
    assert conflicts(vectors, texts, ["a", "b", "c", "a", "b"], within=0.5) == [(0, 1), (0, 4)]
    assert conflicts(np.empty((0, 3)), [], []) == []


def test_groups_are_the_same_each_time_and_hold_what_is_alike() -> None:
    rng = np.random.default_rng(2)
    vectors = np.concatenate(
        [rng.normal(centre, 0.1, (30, 4)) for centre in ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])]
    )
    one, two = grouped(vectors, 3, seed=4), grouped(vectors, 3, seed=4)
    assert one.tolist() == two.tolist()
    assert [len(set(one[start : start + 30].tolist())) for start in (0, 30, 60)] == [1, 1, 1]
    assert len(set(one.tolist())) == 3


def test_one_module_imports_faiss() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for room in ("store", "stream", "trainer", "serve", "ops")
        for path in (ROOT / room).rglob("*.py")
        if any(
            isinstance(node, ast.Import) and any(name.name.split(".")[0] == "faiss" for name in node.names)
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
        )
    ]
    assert found == ["store/near/neighbours.py"]
