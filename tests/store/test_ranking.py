"""Answers that rank: an order is read as an order or refused, and never guessed from prose."""

import json

import pytest
from hypothesis import given
from hypothesis.strategies import integers, permutations, sampled_from, text

from store.answers.ranking import read_order, read_results
from store.errors import InvalidAnswerError

FORMS = (
    json.dumps,
    lambda numbers: json.dumps({"ranking": numbers}),
    lambda numbers: f"```json\n{json.dumps(numbers)}\n```",
    lambda numbers: " > ".join(f"[{number}]" for number in numbers),
    lambda numbers: " > ".join(map(str, numbers)),
    lambda numbers: ", ".join(map(str, numbers)),
    lambda numbers: "\n".join(map(str, numbers)),
    lambda numbers: "\n".join(f"- [{number}]" for number in numbers),
    lambda numbers: "\n".join(f"{rank}. [{number}]" for rank, number in enumerate(numbers, 1)),
    lambda numbers: "\n".join(f"[{number}] what the document says" for number in numbers),
    lambda numbers: "<think>2 before 1?</think>\nRanking: " + " > ".join(f"[{number}]" for number in numbers),
)


@given(numbers=permutations(range(1, 9)), form=sampled_from(FORMS))
def test_every_form_of_an_order_is_read_as_the_same_order(numbers: list[int], form: object) -> None:
    assert callable(form)
    assert read_order(form(numbers), 8) == tuple(number - 1 for number in numbers)


def test_an_order_may_name_a_part_of_the_documents_and_of_a_repeated_number_the_first_place_counts() -> None:
    assert read_order("[3] > [1]", 8) == (2, 0)
    assert read_order("[3, 1, 3]", 8) == (2, 0)
    assert read_order("2", 8) == (1,)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("", "empty"),
        ("[]", "empty"),
        ("I would put 3 before 1.", "off_list"),
        ("The best is [3], because of its 2 pockets.", "off_list"),
        ("[0] > [1]", "off_list"),
        ("[9] > [1]", "off_list"),
        ("[1.5, 2]", "off_list"),
        ('["3", "1"]', "off_list"),
        ('{"order": [1], "ranking": [2]}', "several"),
        ("<think>3, then 1", "truncated"),
        ("1\n2\nand so on", "off_list"),
        ("-1", "off_list"),
        ("3.5", "off_list"),
    ],
)
def test_what_is_no_order_is_refused_and_says_what_is_wrong(answer: str, kind: str) -> None:
    with pytest.raises(InvalidAnswerError) as caught:
        read_order(answer, 8)
    assert caught.value.kind == kind
    assert "pockets" not in str(caught.value)


@pytest.mark.parametrize(("answer", "kind"), [("[3] > [1]", "not_json"), ("[3, 1", "truncated"), ("3", "not_json")])
def test_a_teacher_that_is_to_answer_in_json_answers_in_nothing_else(answer: str, kind: str) -> None:
    with pytest.raises(InvalidAnswerError) as caught:
        read_order(answer, 8, answer_format="json")
    assert caught.value.kind == kind
    assert read_order("[3, 1]", 8, answer_format="json") == (2, 0)


@given(answer=text(max_size=200), count=integers(1, 20))
def test_whatever_is_said_is_an_order_of_these_documents_or_refused(answer: str, count: int) -> None:
    try:
        found = read_order(answer, count)
    except InvalidAnswerError:
        return
    assert found
    assert len(set(found)) == len(found)
    assert set(found) <= set(range(count))


def test_a_reranker_scores_each_document_once_in_any_order() -> None:
    results = [{"index": 1, "relevance_score": 0.9, "document": {"text": "b"}}, {"index": 0, "relevance_score": -3}]
    assert read_results(results, 2) == [-3.0, 0.9]
    assert read_results([{"index": 0, "score": 1}], 1) == [1.0]


@pytest.mark.parametrize(
    ("results", "kind"),
    [
        ([], "empty"),
        ([{"index": 0, "relevance_score": 1.0}], "truncated"),
        ([{"index": 0, "relevance_score": 1.0}, {"index": 0, "relevance_score": 1.0}], "several"),
        ([{"index": 2, "relevance_score": 1.0}], "off_list"),
        ([{"index": True, "relevance_score": 1.0}], "off_list"),
        ([{"index": 0, "relevance_score": "high"}], "off_list"),
        ([{"index": 0, "relevance_score": float("nan")}], "off_list"),
        ([{"index": 0}], "off_list"),
        (["a"], "off_list"),
    ],
)
def test_results_that_score_no_whole_list_are_refused(results: list[object], kind: str) -> None:
    with pytest.raises(InvalidAnswerError) as caught:
        read_results(results, 2)
    assert caught.value.kind == kind
