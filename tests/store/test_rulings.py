"""Rulings about older answers: signed, numbered, undoable, and what they come to."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.answers.rules import NO_RULES
from store.answers.rulings import Ruling, Rulings, Sample, in_force, rules_of
from store.errors import BadSignatureError, BrokenChainError, MoveConflictError, RegistryError
from store.registry.chain import GENESIS
from store.registry.registry import Registry
from store.registry.signing import SigningKey
from tests.store.drafts import LANE, OTHER_LANE, make_keys

WHEN: dict[str, Any] = {"who": "ada", "why": "so", "now_s": 1.0}


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Rulings, SigningKey]:
    key, trusted = make_keys(tmp_path)
    return Registry(tmp_path / "registry", trusted).rulings(LANE), key


def a_ruling(number: int, kind: Any, **values: Any) -> Ruling:
    return Ruling(
        number=number, kind=kind, lane=LANE, previous_sha256=GENESIS, who="ada", why="so", time_s=1.0, **values
    )


def numbered(*rulings: tuple[str, dict[str, Any]]) -> list[Ruling]:
    return [a_ruling(number, kind, **values) for number, (kind, values) in enumerate(rulings, start=1)]


def test_rulings_are_numbered_and_read_back_as_they_were_signed(chain: tuple[Rulings, SigningKey]) -> None:
    rulings, key = chain
    assert rulings.read() == []
    first = rulings.append("rename", labels=["refund"], to="money back", key=key, **WHEN)
    sample = Sample(asked=50, agreed=48, low=0.86, high=0.99)
    second = rulings.append("accept", prompt="m@old", under="m@new", sample=sample, key=key, expected=2, **WHEN)
    assert [first.number, second.number] == [1, 2]
    assert rulings.read() == [first, second]
    with pytest.raises(MoveConflictError, match="read the rulings and decide anew"):
        rulings.append("undo", undoes=1, key=key, expected=2, **WHEN)


def test_what_nobody_signed_or_signed_for_another_lane_is_refused(chain: tuple[Rulings, SigningKey]) -> None:
    rulings, key = chain
    rulings.append("retire", labels=["fax"], key=key, **WHEN)
    path = rulings._directory / "00000001.json"
    elsewhere = Registry(path.parents[3], rulings._trusted).rulings(OTHER_LANE)
    elsewhere._directory.mkdir(parents=True)
    (elsewhere._directory / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BrokenChainError, match="is a ruling of lane"):
        elsewhere.read()
    path.write_bytes(path.read_bytes().replace(b'"fax"', b'"fox"'))
    fresh = Registry(path.parents[3], rulings._trusted).rulings(LANE)
    with pytest.raises(BadSignatureError):
        fresh.read()
    holding = json.loads(path.read_bytes())
    path.write_text(json.dumps({"move": holding["ruling"], "signature": holding["signature"]}, separators=(",", ":")))
    with pytest.raises(BrokenChainError, match="not a ruling that this release reads"):
        fresh.read()


def test_a_signature_of_a_ruling_fits_no_move(chain: tuple[Rulings, SigningKey], tmp_path: Path) -> None:
    rulings, key = chain
    moves = Registry(tmp_path / "registry", rulings._trusted).moves(LANE)
    assert rulings._kind.purpose == b"understudy/ruling/1\n" != moves._kind.purpose == b"understudy/move/1\n"
    moves.append("pause", version=None, key=key, **WHEN)
    rulings._directory.mkdir(parents=True)
    (rulings._directory / "00000001.json").write_bytes((moves._directory / "00000001.json").read_bytes())
    with pytest.raises(BrokenChainError):
        rulings.read()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("rename", {"labels": ["a", "b"], "to": "c"}),
        ("rename", {"labels": ["a"]}),
        ("rename", {"labels": ["a"], "to": "a"}),
        ("merge", {"to": "c"}),
        ("retire", {"labels": ["a"], "to": "c"}),
        ("retire", {}),
        ("accept", {"prompt": "m@old"}),
        ("accept", {"labels": ["a"], "prompt": "m@old", "under": "m@new"}),
        ("retire", {"labels": ["a"], "prompt": "m@old", "under": "m@new"}),
        ("retire", {"labels": ["a"], "sample": Sample(asked=1, agreed=1, low=0.2, high=1.0)}),
        ("undo", {}),
        ("undo", {"undoes": 0}),
        ("undo", {"undoes": 1}),
        ("retire", {"labels": ["a"], "undoes": 1}),
    ],
)
def test_a_ruling_that_contradicts_itself_is_not_written(
    chain: tuple[Rulings, SigningKey], kind: Any, values: dict[str, Any]
) -> None:
    rulings, key = chain
    with pytest.raises(RegistryError):
        rulings.append(kind, key=key, **WHEN, **values)
    assert rulings.read() == []


def test_the_latest_ruling_about_a_label_counts_and_an_undone_one_does_not() -> None:
    rulings = numbered(
        ("rename", {"labels": ["a"], "to": "b"}),
        ("retire", {"labels": ["a"]}),
        ("merge", {"labels": ["c", "d"], "to": "b"}),
    )
    assert rules_of(rulings).labels == {"a": None, "c": "b", "d": "b"}
    undone = [*rulings, a_ruling(4, "undo", undoes=2)]
    assert rules_of(undone).labels == {"a": "b", "c": "b", "d": "b"}
    assert [one.number for one in in_force(undone)] == [1, 3]
    assert rules_of([]) == NO_RULES


def test_an_acceptance_speaks_of_the_prompt_in_force_and_goes_on_with_it() -> None:
    old = numbered(("accept", {"prompt": "m@1", "under": "m@2"}))
    assert rules_of(old, {"m@2"}).prompts == {"m@1", "m@2"}
    assert rules_of(old, {"m@3"}).prompts == {"m@3"}, "the prompt was edited again since"
    again = [*numbered(("accept", {"prompt": "m@2", "under": "m@3"}), ("accept", {"prompt": "m@1", "under": "m@2"}))]
    assert rules_of(again, {"m@3"}).prompts == {"m@1", "m@2", "m@3"}, "in whatever order they were decided"
    assert rules_of([*again, a_ruling(3, "undo", undoes=1)], {"m@3"}).prompts == {"m@3"}


KINDS = st.sampled_from(["a", "b", "c"])


@given(
    decided=st.lists(
        st.one_of(
            st.tuples(st.just("retire"), st.builds(lambda a: {"labels": [a]}, KINDS)),
            st.tuples(st.just("merge"), st.builds(lambda a: {"labels": [a], "to": "z"}, KINDS)),
            st.tuples(st.just("accept"), st.builds(lambda a: {"prompt": f"m@{a}", "under": "m@now"}, KINDS)),
        ),
        max_size=6,
    )
)
def test_undoing_every_ruling_brings_all_back(decided: list[tuple[str, dict[str, Any]]]) -> None:
    rulings = numbered(*decided)
    undone = [a_ruling(len(rulings) + one.number, "undo", undoes=one.number) for one in rulings]
    assert rules_of([*rulings, *undone]) == NO_RULES
    assert in_force(rulings) == rulings


ITEM, OTHER_ITEM = "a" * 32, "b" * 32


def test_what_is_said_of_single_questions_is_read_back_and_of_two_the_later_holds(
    chain: tuple[Rulings, SigningKey],
) -> None:
    rulings, key = chain
    rulings.append("correct", answers={ITEM: "refund", OTHER_ITEM: "other"}, key=key, **WHEN)
    rulings.append("drop", items=[ITEM], key=key, **WHEN)
    assert rules_of(rulings.read()).by_hand == {ITEM: None, OTHER_ITEM: "other"}
    rulings.append("correct", answers={ITEM: "delivery"}, key=key, **WHEN)
    assert rules_of(rulings.read()).by_hand[ITEM] == "delivery"
    rulings.append("undo", undoes=3, key=key, **WHEN)
    rulings.append("undo", undoes=1, key=key, **WHEN)
    assert rules_of(rulings.read()).by_hand == {ITEM: None}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("correct", {}),
        ("correct", {"items": [ITEM]}),
        ("correct", {"answers": {"no id": "refund"}}),
        ("correct", {"answers": {ITEM: ""}}),
        ("drop", {}),
        ("drop", {"items": [ITEM], "answers": {ITEM: "refund"}}),
        ("drop", {"items": [ITEM], "labels": ["refund"]}),
        ("drop", {"items": [f"{n:032x}" for n in range(501)]}),
        ("retire", {"labels": ["refund"], "items": [ITEM]}),
        ("correct", {"answers": {f"{n:032x}": "x" * 48_000 for n in range(2)}}),  # more than a record holds
    ],
)
def test_a_ruling_about_questions_that_makes_no_sense_is_not_written(
    chain: tuple[Rulings, SigningKey], kind: Any, values: dict[str, Any]
) -> None:
    rulings, key = chain
    with pytest.raises(RegistryError):
        rulings.append(kind, key=key, **values, **WHEN)
    assert rulings.read() == []
