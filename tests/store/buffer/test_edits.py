"""Levenshtein distances against the textbook's table."""

from hypothesis import given
from hypothesis import strategies as st

from store.near.edits import MAX_LENGTH, distances

WORD = st.text(alphabet="abcz09", max_size=MAX_LENGTH)


def textbook(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        above, row = row, [i]
        for j, b in enumerate(right, start=1):
            row.append(min(above[j - 1] + (a != b), above[j] + 1, row[-1] + 1))
    return row[-1]


@given(pairs=st.lists(st.tuples(WORD, WORD), max_size=12))
def test_distances_are_those_of_the_textbook(pairs: list[tuple[str, str]]) -> None:
    found = distances([a for a, _ in pairs], [b for _, b in pairs])
    assert found.tolist() == [textbook(a, b) for a, b in pairs]


def test_a_string_that_is_too_long_counts_in_full() -> None:
    assert distances(["a" * 65, "a" * 64], ["a" * 65, "a" * 64]).tolist() == [65, 0]
