"""Parsing a teacher's answer, and the label maps that may follow one another."""

import pytest
from hypothesis import given
from hypothesis.strategies import lists, permutations, sampled_from, text

from store.errors import InvalidAnswerError, SwapRefusedError
from store.labels import check_label_map, parse_label

LABELS = ("Joy", "Card lost", "C++", "Mr. Smith", "e.g.")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Joy", "Joy"),
        ("  joy.\n", "Joy"),
        ('"Joy."', "Joy"),
        ('"Joy".', "Joy"),
        ("'CARD LOST'", "Card lost"),
        ("“c++”", "C++"),
        ("mr. smith", "Mr. Smith"),
        ("e.g.", "e.g."),
        ("E.G", "e.g."),
    ],
)
def test_an_answer_is_read_through_quotes_case_and_a_full_stop(answer: str, label: str) -> None:
    assert parse_label(answer, LABELS) == label


@pytest.mark.parametrize("answer", ["", "anger", "Joy and Card lost", "The label is Joy", "Joy...", "C"])
def test_an_answer_off_the_list_is_invalid(answer: str) -> None:
    with pytest.raises(InvalidAnswerError):
        parse_label(answer, LABELS)


def test_case_is_not_ignored_where_it_tells_labels_apart() -> None:
    assert parse_label("us", ("US", "us")) == "us"
    with pytest.raises(InvalidAnswerError, match="more than one"):
        parse_label("Us", ("US", "us"))


@pytest.mark.parametrize(
    "answer", ['{"label": "Joy"}', '```json\n{"label": "joy", "why": "glad"}\n```', '```{"label":"Joy"}```']
)
def test_a_json_answer_is_read_from_its_label_field(answer: str) -> None:
    assert parse_label(answer, LABELS, answer_format="json") == "Joy"


@pytest.mark.parametrize(
    "answer",
    ["Joy", '{"label": 3}', '{"answer": "Joy"}', '["Joy"]', '{"label": "anger"}', "\ud800", '{"a":' + "[" * 100_000],
)
def test_a_json_answer_without_a_known_label_is_invalid(answer: str) -> None:
    with pytest.raises(InvalidAnswerError):
        parse_label(answer, LABELS, answer_format="json")


def test_an_invalid_answer_is_not_quoted_in_the_error() -> None:
    with pytest.raises(InvalidAnswerError) as caught:
        parse_label("my card number is 4111", LABELS)
    assert "4111" not in str(caught.value)


@given(answer=text())
def test_any_text_is_a_label_of_the_list_or_invalid(answer: str) -> None:
    for answer_format in ("text", "json"):
        try:
            assert parse_label(answer, LABELS, answer_format=answer_format) in LABELS
        except InvalidAnswerError:
            continue


@given(labels=lists(sampled_from("abcdefgh"), unique=True, min_size=1), added=lists(sampled_from("xyz"), unique=True))
def test_labels_added_at_the_end_are_fine(labels: list[str], added: list[str]) -> None:
    check_label_map(labels, labels + added, removal_declared=False)
    check_label_map([], labels, removal_declared=False)


@given(labels=permutations("abcd"))
def test_a_permuted_label_map_is_refused(labels: list[str]) -> None:
    if labels == list("abcd"):
        check_label_map("abcd", labels, removal_declared=False)
    else:
        with pytest.raises(SwapRefusedError):
            check_label_map("abcd", labels, removal_declared=True)


def test_a_removal_must_be_declared() -> None:
    with pytest.raises(SwapRefusedError, match="'c'"):
        check_label_map("abc", "ab", removal_declared=False)
    check_label_map("abc", "ab", removal_declared=True)


def test_a_label_may_not_occur_twice() -> None:
    with pytest.raises(SwapRefusedError, match="twice"):
        check_label_map("", "aa", removal_declared=False)
