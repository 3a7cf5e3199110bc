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
_TOLD_APART = {  # words that turn a question into another, one of each pair or more a line
    "negations": "not no never none nothing nobody nowhere neither nor without cannot unable",
    "contractions": "can't don't doesn't didn't isn't aren't wasn't weren't won't wouldn't couldn't shouldn't haven't",
    "run together": "cant dont doesnt didnt isnt arent wasnt werent wont wouldnt couldnt shouldnt havent hasnt hadnt",
    "currencies": "dollar dollars usd euro euros eur pound pounds gbp yen jpy yuan franc chf rupee inr peso cents btc",
    "numbers": "zero one two three four five ten twelve fifteen twenty fifty hundred thousand million first second half"
    " twice double dozen",
    "directions": "from above below over under more less increase decrease incoming outgoing enable disable activate"
    " deactivate add remove",
    "times": "before after until since yesterday today tomorrow monday tuesday wednesday thursday friday saturday"
    " sunday",
    "exceptions": "unless except always",
}
_PIECES = ["a", "b-c", "5", "1.5", "%", ">", "<", "<card:0a>", "<phone:12", ":", " ", ",", "(", "'", "/", "c++", "x"]


@given(text=st.lists(st.sampled_from(_PIECES), max_size=12).map("".join))
def test_a_key_holds_every_number_and_symbol_that_stands_in_a_word(text: str) -> None:
    guarded = guard(f"is {text}")
    assert guarded is not None
    assert guarded.key == " ".join(token.strip(".:-'_/`") for token in _TOKENS.findall(f"is {text}"))


@pytest.mark.parametrize(
    ("kind", "word"), [(kind, word) for kind, words in _TOLD_APART.items() for word in words.split()]
)
def test_a_word_that_tells_questions_apart_is_in_the_key_and_no_courtesy_is(kind: str, word: str) -> None:
    plain, said = guard("is it for my card please"), guard(f"is it {word} for my card please")
    assert plain is not None
    assert said is not None
    assert plain.key == ""
    negates = kind in {"negations", "contractions", "run together"}
    assert said.key.split() == ["not" if negates else word]


def test_the_order_of_what_tells_apart_counts_and_each_negation_is_the_same() -> None:
    keys = [
        found.key if (found := guard(text)) is not None else ""
        for text in ("add it and remove that", "remove it and add that", "i can't use it", "i cannot use it")
    ]
    assert keys[0].split() == ["add", "remove"]
    assert keys[1].split() == ["remove", "add"]
    assert keys[2].split() == keys[3].split() == ["not"]


@pytest.mark.parametrize("text", ["bestellung stornieren", "\u6ce8\u6587 it is", "\u044f it is", "\u00fcber it is"])
def test_a_text_without_a_common_english_word_or_with_other_letters_has_no_guard(text: str) -> None:
    assert guard(text) is None


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
