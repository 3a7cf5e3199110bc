"""The smart home's traffic: repeatable, every answer a tool call that the words and the household's likes decide."""

import json
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.demo.traffic.generate import expand
from ops.demo.traffic.household import HouseholdSettings, Talk, call_of, generate, to_jsonl
from ops.demo.traffic.smart_home import LATE_ROOM, LIKES, ROOMS, RULES, SYSTEM, THINGS, WISHES, Liked, Wish


@pytest.fixture(scope="module")
def talks() -> list[Talk]:
    return generate(HouseholdSettings(rows=1000))


@given(seed=st.integers(0, 50))
def test_the_same_seed_gives_the_same_talks_and_another_seed_others(seed: int) -> None:
    one, again, other = (generate(HouseholdSettings(seed=at, rows=40)) for at in (seed, seed, seed + 1))
    assert one == again != other


def test_every_answer_is_one_call_as_json(talks: list[Talk]) -> None:
    tools = Counter(json.loads(talk.answer)["tool"] for talk in talks)
    assert tools.keys() == {wish.call["tool"] for wish in WISHES}
    assert len({talk.answer for talk in talks}) > 40


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


@pytest.mark.parametrize("wish", WISHES, ids=lambda wish: wish.says[0])
def test_every_wish_has_many_wordings(wish: Wish) -> None:
    rng = Random(1)
    texts = {expand(f"{rng.choice(wish.says)}{{why}}{{close}}", rng, {**RULES, **THINGS}) for _ in range(400)}
    assert len(texts) > 60


def test_what_the_household_likes_is_known_of_every_room_and_said_by_nobody(talks: list[Talk]) -> None:
    for liked in ("bright", "warm", "music"):
        assert LIKES[liked].keys() == {*ROOMS, LATE_ROOM}
    warm = next(wish for wish in WISHES if wish.call.get("to") == Liked("warm"))
    assert call_of(warm, {"room": "study"}) == {"tool": "heat", "room": "study", "to": LIKES["warm"]["study"]}
    played = [talk for talk in talks if json.loads(talk.answer).get("play") in set(LIKES["music"].values())]
    assert played
    assert not [talk for talk in played if json.loads(talk.answer)["play"] in talk.turns[-1].content]


def test_the_new_room_is_there_from_half_way_on(talks: list[Talk]) -> None:
    half = len(talks) // 2
    assert not [talk for talk in talks[:half] if LATE_ROOM in talk.answer]
    assert len([talk for talk in talks[half:] if LATE_ROOM in talk.answer]) > 10


def test_a_conversation_that_goes_on_asks_for_the_same_in_another_room(talks: list[Talk]) -> None:
    following = [talk for talk in talks if len(talk.turns) > 1]
    assert len(following) > 15
    for talk in following:
        before, after = json.loads(talk.turns[1].content), json.loads(talk.answer)
        assert [turn.role for turn in talk.turns] == ["user", "assistant", "user"]
        assert before["tool"] == after["tool"]
        assert before["room"] != after["room"]


def test_the_lines_hold_what_a_client_sends(talks: list[Talk]) -> None:
    line = json.loads(next(to_jsonl(talks)))
    assert line["messages"][0] == {"role": "system", "content": SYSTEM}
    assert line["messages"][1:] == [{"role": turn.role, "content": turn.content} for turn in talks[0].turns]
    assert line["teacher"] == {"text": talks[0].answer}
