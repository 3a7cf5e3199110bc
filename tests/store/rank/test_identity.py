"""What makes two rankings one question: the query and the multiset of documents, whoever offers them in what order."""

from collections.abc import Callable, Sequence
from itertools import permutations

import pytest

from store.errors import TooLaboriousError, WrongShapeError
from store.event import RankAnswer, RankInput, StudentOpinion, TextInput
from store.secrets import item_id
from store.tasks.documents import Sorting, check_answer, places_of_opinion
from store.tasks.rank import RankRules, document_key

RULES = RankRules()
KEY = b"k" * 32


def name_of(query: str, documents: Sequence[str]) -> str:
    return item_id(KEY, RULES, RankInput(query=query, documents=list(documents)))


@pytest.mark.parametrize(
    ("query", "documents"),
    [
        ("shoes", ["a", "b"]),
        ("shoes", ["a", "a", "b"]),  # how often a document is offered is a part of the question
        ("shoes", ["a", "b", "b"]),
        ("shoes", ["a", "b", "c"]),
        ("shoes", ["a b"]),
        ("shoes a", ["b"]),
        ("shoe", ["a", "b"]),
        ("Shoes", ["a", "b"]),
        ("shoes", ["A", "b"]),
        ("shoes", ["b", "a", ""]),
    ],
)
def test_each_order_of_asking_and_each_layout_is_the_same_question_and_no_other_list_is(
    query: str, documents: list[str]
) -> None:
    names = {name_of(query, order) for order in permutations(documents)}
    names.add(name_of(f" {query}\n", [f"\t{document}  " for document in documents]))
    assert len(names) == 1
    assert names.isdisjoint({name_of("shoes", ["a", "b", "a", "b"]), name_of("hats", ["a", "b"])})
    others = [("shoes", ["a", "b"]), ("shoes", ["a", "a", "b"]), ("shoes", ["a", "b", "b"])]
    assert (name_of(query, documents) in {name_of(*other) for other in others}) == ((query, documents) in others)


def test_documents_are_kept_by_their_canonical_text_and_only_then_as_they_are_written() -> None:
    sorting = Sorting.of(["\tc", " b", "a", "b", "B"])
    assert sorting.documents == ["B", "a", " b", "b", "\tc"]
    assert sorting.came == [4, 2, 1, 3, 0]
    assert sorting.first == [4, 2, 1, 2, 0]


def test_each_number_goes_with_its_document_and_of_equal_documents_the_better_one_comes_first() -> None:
    sorting = Sorting.of(["y", "x", "z", "x"])
    scored = sorting.answer(RankAnswer(model="m", prompt_version="p", scores=[0.4, 0.1, 0.3, 0.2], order=None))
    assert scored.scores == [0.2, 0.1, 0.4, 0.3]
    ordered = sorting.answer(RankAnswer(model="m", prompt_version="p", scores=None, order=[3, 0, 1]))
    assert ordered.order == [0, 2, 1]
    opinion = StudentOpinion(
        version="v",
        output="[]",
        confidence=0.5,
        members=[[0.4, 0.1, 0.3, 0.2], [4.0, 1.0, 3.0, 2.0]],
        logits=[4, 1, 3, 2],
    )
    kept = sorting.student(opinion, [1, 3, 2, 0])
    assert kept.output == "[0,1,3,2]"
    assert kept.members == [[0.2, 0.1, 0.4, 0.3], [2.0, 1.0, 4.0, 3.0]]
    assert kept.logits == [2, 1, 4, 3]


@pytest.mark.parametrize(
    "answer",
    [
        {"scores": [0.1, 0.2]},
        {"scores": [0.1, 0.2, 0.3, 0.4]},
        {"scores": [0.1, float("nan"), 0.3]},
        {"scores": [0.1, float("inf"), 0.3]},
        {"order": []},
        {"order": [0, 1, 1]},
        {"order": [0, 3]},
        {"order": [-1, 0]},
        {"scores": [0.1, 0.2, 0.3], "order": [0, 1, 2]},
        {},
    ],
)
def test_an_answer_that_is_none_of_three_documents_is_refused(answer: dict[str, list[float]]) -> None:
    said = RankAnswer(**{"model": "m", "prompt_version": "p", "scores": None, "order": None, **answer})  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError):
        check_answer(said, 3)


@pytest.mark.parametrize(
    ("output", "members", "logits"),
    [
        ("[0,1,1]", [], None),
        ("[0,1,3]", [], None),
        ("[]", [], None),
        ('{"0": 1}', [], None),
        ("not JSON", [], None),
        ("[0,1,2]", [[0.1, 0.2]], None),
        ("[0,1,2]", [[0.1, 0.2, 0.3], [0.1, 0.2, float("nan")]], None),
        ("[0,1,2]", [], [0.1, 0.2]),
    ],
)
def test_an_opinion_that_is_none_of_three_documents_is_refused(
    output: str, members: list[list[float]], logits: list[float] | None
) -> None:
    opinion = StudentOpinion(version="v", output=output, confidence=0.5, members=members, logits=logits)
    with pytest.raises(WrongShapeError):
        places_of_opinion(opinion, 3)


def test_all_texts_of_a_question_are_redacted_out_of_one_purse(hard_text: str) -> None:
    some = hard_text[: len(hard_text) // 40]  # well within what one input may cost
    assert RULES.redact(RankInput(query="shoes", documents=[some]), KEY).documents
    with pytest.raises(TooLaboriousError):
        RULES.redact(RankInput(query="shoes", documents=[some] * 100), KEY)


def test_a_document_is_named_by_its_canonical_text() -> None:
    assert document_key("a\n b ") == document_key("a b") != document_key("ab")
    assert len(document_key("a")) == 32


def test_texts_are_told_as_they_were_written_and_words_as_they_are_compared() -> None:
    value = RankInput(query=" red  shoes", documents=["b ", "a"])
    assert RULES.texts(value) == [" red  shoes", "b ", "a"]
    assert RULES.words(value) == "red shoes a b"


def test_a_text_is_no_question_of_a_lane_that_ranks() -> None:
    text = TextInput(text="red shoes")
    asked: list[Callable[[], object]] = [
        lambda: RULES.parts(text),
        lambda: RULES.texts(text),
        lambda: RULES.words(text),
        lambda: RULES.redact(text, KEY),
    ]
    for ask in asked:
        with pytest.raises(TypeError, match="TextInput in a lane of rank"):
            ask()
