"""Guards read any text in linear time, and see the same protected tokens as ever."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.near.guard import guard

_TOKENS = re.compile(  # wherever one can be found
    r"<[a-z_]+:[0-9a-f]+>"
    r"|[^\s,;!?\"()\[\]{}]*[^a-z\s.,;:!?\"()\[\]{}\-_'`/][^\s,;!?\"()\[\]{}]*"
)
_PIECES = ["a", "b-c", "5", "1.5", "%", ">", "<", "<card:0a>", "<phone:12", ":", " ", ",", "(", "'", "/", "c++", "x"]


@given(text=st.lists(st.sampled_from(_PIECES), max_size=12).map("".join))
def test_a_key_holds_every_number_and_symbol_that_stands_in_a_word(text: str) -> None:
    guarded = guard(f"is {text}")
    assert guarded is not None
    assert guarded.key == " ".join(token.strip(".:-'_/`") for token in _TOKENS.findall(f"is {text}"))


@pytest.mark.parametrize("unit", ["a", "-", "a'", "<aaaa", "<a:0", "a<card:0a>a", "%", "a1 "])
def test_the_time_grows_with_the_length(unit: str) -> None:
    def seconds(repeats: int) -> float:
        def once() -> float:
            started = time.process_time()
            guard(f"how is {unit * repeats} 5")
            return time.process_time() - started

        return min(once() for _ in range(3))

    repeats = 4_000 // len(unit)
    assert seconds(repeats * 4) <= 8 * seconds(repeats) + 0.05
