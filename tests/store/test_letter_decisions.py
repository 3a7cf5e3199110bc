"""Decisions about dead letters: signed, numbered, counter-moved, and what they come to."""

from pathlib import Path
from typing import Any

import pytest

from store.errors import BadSignatureError, BrokenChainError, RegistryError
from store.letters.decisions import LetterDecision, LetterMove, LetterRecord, fold
from store.registry.chain import GENESIS
from store.registry.files.folders import letters_folder
from store.registry.registry import Registry
from store.registry.signing import SigningKey
from tests.store.drafts import make_keys

WHEN: dict[str, Any] = {"who": "ada", "why": "so", "now_s": 1.0}


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Registry, SigningKey]:
    key, trusted = make_keys(tmp_path)
    return Registry(tmp_path / "registry", trusted), key


def numbered(*records: tuple[LetterMove, dict[str, Any]]) -> list[LetterRecord]:
    return [
        LetterRecord(
            number=number,
            kind=kind,
            use_case="support",
            previous_sha256=GENESIS,
            who="ada",
            why="so",
            time_s=float(number),
            **values,
        )
        for number, (kind, values) in enumerate(records, start=1)
    ]


def of(outcome: Any, number: int) -> LetterDecision:
    return LetterDecision(outcome=outcome, who="ada", why="so", at_s=float(number), number=number)


def test_the_first_decision_holds_until_it_is_taken_back() -> None:
    records = numbered(
        ("drop", {"letters": {"off_list": ["a", "b"], "undecodable": ["c"]}, "gone": {"off_list": 7}}),
        ("replay", {"letters": {"off_list": ["a"]}}),
        ("reopen", {"letters": {"off_list": ["a", "b"]}}),
        ("replay", {"letters": {"off_list": ["b"]}}),
    )
    first = fold(records[:2])
    assert {name: one.decision for name, one in first.signed.items()} == dict.fromkeys(
        ("a", "b", "c", "gone:off_list:1"), of("dropped", 1)
    )
    assert (first.signed["gone:off_list:1"].count, first.signed["c"].reason) == (7, "undecodable")
    whole = fold(records)
    assert whole.signed["b"].decision == of("replayed", 4)
    assert whole.signed.keys() == {"b", "c", "gone:off_list:1"}
    assert whole.reopened == {"a": "off_list"}


def test_what_an_earlier_release_noted_holds_as_well_and_can_be_taken_back() -> None:
    records = numbered(
        ("adopt", {"notes": {"a": "0" * 64, "b": "1" * 64}}),
        ("drop", {"letters": {"off_list": ["a"]}}),
        ("reopen", {"letters": {"off_list": ["b"]}}),
    )
    found = fold(records)
    assert (found.signed, found.adopted, found.reopened) == ({}, {"a": "0" * 64}, {"b": "off_list"})


def test_a_use_case_has_a_chain_of_its_own_that_no_tenant_has(
    signed: tuple[Registry, SigningKey], tmp_path: Path
) -> None:
    registry, key = signed
    made = registry.letters("support").append("drop", letters={"off_list": ["a"]}, key=key, **WHEN)
    assert registry.letters("support").read() == [made]
    assert registry.letters("shop").read() == []
    folder = letters_folder(tmp_path / "registry", "support")
    folder.rename(folder.with_name("shop"))
    with pytest.raises(BrokenChainError, match="is a decision of use case support, not of shop"):
        registry.letters("shop").read()
    with pytest.raises(RegistryError, match="lower-case"):
        registry.letters("../acme")


def test_what_nobody_signed_is_refused(signed: tuple[Registry, SigningKey], tmp_path: Path) -> None:
    registry, key = signed
    registry.letters("support").append("drop", letters={"off_list": ["a"]}, key=key, **WHEN)
    path = letters_folder(tmp_path / "registry", "support") / "00000001.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"drop"', b'"reopen"'))
    with pytest.raises(BadSignatureError):
        registry.letters("support").read()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("drop", {}),
        ("drop", {"gone": {"off_list": 0}}),
        ("replay", {"gone": {"off_list": 1}}),
        ("reopen", {"notes": {"a": "0" * 64}}),
        ("adopt", {}),
        ("adopt", {"notes": {"a": "0" * 64}, "letters": {"off_list": ["a"]}}),
        ("drop", {"letters": {"off_list": [str(number) for number in range(501)]}}),
    ],
)
def test_a_decision_that_contradicts_itself_is_not_written(
    signed: tuple[Registry, SigningKey], kind: LetterMove, values: dict[str, Any]
) -> None:
    registry, key = signed
    with pytest.raises(RegistryError):
        registry.letters("support").append(kind, key=key, **WHEN, **values)
    assert registry.letters("support").read() == []
