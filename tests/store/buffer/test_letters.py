"""What people decide about dead letters, in a real Redis."""

from typing import Final

import pytest
import redis

from store.buffer.repair.letters import LetterBook
from store.letters.decisions import LetterDecision

SETTLED: Final = "{support}:letters"
BY_REASON: Final = "{support}:letters:settled"
BEGUN: Final = "{support}:letters:begun"


def decision(at_s: float = 1.0, who: str = "ann") -> LetterDecision:
    return LetterDecision(outcome="replayed", who=who, why="mended", at_s=at_s)


@pytest.fixture
def book(redis_client: redis.Redis) -> LetterBook:
    return LetterBook(redis_client)


def test_a_letter_is_settled_once_and_the_first_decision_stays(book: LetterBook, redis_client: redis.Redis) -> None:
    assert book.settle("support", "a", "undecodable", decision(), count=5)
    assert not book.settle("support", "a", "undecodable", decision(who="bob"), count=5)
    assert book.decisions("support") == {"a": decision()}
    assert redis_client.hgetall(BY_REASON) == {b"undecodable": b"5"}


def test_a_letter_that_is_settled_is_begun_no_more(book: LetterBook, redis_client: redis.Redis) -> None:
    assert book.begin("support", "a", decision())
    assert redis_client.hkeys(BEGUN) == [b"a"]
    book.settle("support", "a", "undecodable", decision())
    assert not redis_client.exists(BEGUN)
    assert not book.begin("support", "a", decision(at_s=1e9))


def test_one_that_was_begun_is_taken_up_by_another_after_two_minutes_alone(book: LetterBook) -> None:
    assert book.begin("support", "a", decision(at_s=100.0))
    assert not book.begin("support", "a", decision(at_s=219.9))
    assert book.begin("support", "a", decision(at_s=220.0))
    assert not book.begin("support", "a", decision(at_s=339.9)), "the second one is at it now"


def test_a_replay_that_came_to_nothing_may_be_begun_again_at_once(book: LetterBook) -> None:
    assert book.begin("support", "a", decision())
    book.give_up("support", "a")
    assert book.begin("support", "a", decision())


def test_a_damaged_note_of_a_beginning_holds_nobody_up(book: LetterBook, redis_client: redis.Redis) -> None:
    redis_client.hset(BEGUN, "a", b"\xff")
    assert book.begin("support", "a", decision(at_s=1000.0))


@pytest.mark.parametrize("name", [SETTLED, BY_REASON, BEGUN])
def test_a_decision_is_kept_where_something_else_stood(book: LetterBook, redis_client: redis.Redis, name: str) -> None:
    redis_client.set(name, "somebody's")
    assert book.settle("support", "a", "undecodable", decision())
    assert book.decisions("support") == {"a": decision()}
    assert redis_client.hgetall(BY_REASON) == {b"undecodable": b"1"}
    assert redis_client.get(f"{name}:aside") == b"somebody's"
