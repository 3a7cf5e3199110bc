"""The smart home's traffic: repeatable, every answer a tool call that the words and the household's likes decide."""

import json
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.demo.traffic.generate import expand
from ops.demo.traffic.household import HouseholdSettings, Talk, generate, to_jsonl
from ops.demo.traffic.smart_home import LATE, RULES, SYSTEM, WISHES


@pytest.fixture(scope="module")
def talks() -> list[Talk]:
    return generate(HouseholdSettings(rows=1000))


@given(seed=st.integers(0, 50))
def test_the_same_seed_gives_the_same_talks_and_another_seed_others(seed: int) -> None:
    one, again, other = (generate(HouseholdSettings(seed=at, rows=40)) for at in (seed, seed, seed + 1))
    assert one == again != other


def test_every_answer_is_one_call_as_json(talks: list[Talk]) -> None:
    tools = Counter(json.loads(talk.answer)["tool"] for talk in talks)
    assert tools.keys() == {wish.call["tool"] for wish in (*WISHES.values(), LATE)}
    assert len({talk.answer for talk in talks}) == len(WISHES) + 1


def test_the_teacher_always_says_the_same_to_a_conversation(talks: list[Talk]) -> None:
    said: dict[tuple[str, ...], set[str]] = {}
    for talk in talks:
        said.setdefault(tuple(turn.content for turn in talk.turns), set()).add(talk.answer)
    assert {len(answers) for answers in said.values()} == {1}
    assert 0.8 * len(talks) < len(said) < len(talks)  # some come again


def test_nothing_of_the_grammar_is_left_in_a_turn(talks: list[Talk]) -> None:
    assert not [
        turn for talk in talks for turn in talk.turns if turn.role == "user" and set("(){}|") & set(turn.content)
    ]


@pytest.mark.parametrize("name", [*WISHES, "late"])
def test_every_wish_has_many_wordings(name: str) -> None:
    rng, wish = Random(1), WISHES.get(name, LATE)
    texts = {expand(f"{rng.choice(wish.says)}{{close}}", rng, RULES) for _ in range(400)}
    assert len(texts) > 60


def test_each_wish_that_can_be_taken_back_is_the_one_that_takes_its_own_back() -> None:
    pairs = {name: wish.undone for name, wish in WISHES.items() if wish.undone is not None}
    assert pairs
    assert all(pairs[other] == name for name, other in pairs.items())


def test_what_the_household_likes_stands_in_answers_alone(talks: list[Talk]) -> None:
    played = [talk for talk in talks if json.loads(talk.answer).get("play") == "jazz"]
    warmed = [talk for talk in talks if json.loads(talk.answer).get("to") == 22]
    assert played
    assert warmed
    assert not [
        turn for talk in (*played, *warmed) for turn in talk.turns if {"jazz", "22"} & set(turn.content.split())
    ]


def test_the_greenhouse_is_there_from_half_way_on(talks: list[Talk]) -> None:
    half = len(talks) // 2
    assert not [talk for talk in talks[:half] if "water" in talk.answer]
    assert len([talk for talk in talks[half:] if "water" in talk.answer]) > 10


def test_a_conversation_that_goes_on_takes_the_earlier_call_back(talks: list[Talk]) -> None:
    undone = {json.dumps(wish.call): WISHES[wish.undone].call for wish in WISHES.values() if wish.undone is not None}
    following = [talk for talk in talks if len(talk.turns) > 1]
    assert len(following) > 10
    for talk in following:
        assert [turn.role for turn in talk.turns] == ["user", "assistant", "user"]
        assert json.loads(talk.answer) == undone[json.dumps(json.loads(talk.turns[1].content))]


def test_the_lines_hold_what_a_client_sends(talks: list[Talk]) -> None:
    line = json.loads(next(to_jsonl(talks)))
    assert line["messages"][0] == {"role": "system", "content": SYSTEM}
    assert line["messages"][1:] == [{"role": turn.role, "content": turn.content} for turn in talks[0].turns]
    assert line["teacher"] == {"text": talks[0].answer}
