"""Who is audited: a draw that nobody can foresee without the key."""

from dataclasses import replace
from random import Random

import pytest

from serve.escalation import Question
from serve.teacher.audit import keyed_draw
from tests.serve.fakes import text_input
from tests.serve.test_gateway import question

KEY, OTHER = b"a" * 32, b"b" * 32
ONE = question("where is my parcel", Random(1))


def test_the_same_question_is_always_drawn_alike() -> None:
    assert keyed_draw(KEY)(ONE) == keyed_draw(KEY)(replace(ONE, value=text_input("another"), forced=True))


@pytest.mark.parametrize("other", [replace(ONE, event_id="0" * 32), replace(ONE, item_id="1" * 32)])
def test_event_and_item_decide_together_and_nothing_without_the_key(other: Question) -> None:
    assert keyed_draw(KEY)(ONE) != keyed_draw(KEY)(other)
    assert keyed_draw(KEY)(ONE) != keyed_draw(OTHER)(ONE)


def test_draws_are_uniform_and_those_of_another_key_say_nothing_of_them() -> None:
    rng = Random(2)
    asked = [replace(ONE, event_id=f"{rng.getrandbits(128):032x}") for _ in range(2000)]
    draws, others = ([keyed_draw(key)(one) for one in asked] for key in (KEY, OTHER))
    assert all(abs(draw - (place + 0.5) / 2000) < 0.05 for place, draw in enumerate(sorted(draws)))
    audited = [other for draw, other in zip(draws, others, strict=True) if draw < 0.1]
    assert sum(audited) / len(audited) == pytest.approx(0.5, abs=0.1)
