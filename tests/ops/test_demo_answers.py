"""Why the teacher was asked, and which answers are shown side by side."""

from dataclasses import replace

from ops.demo.measures.answers import escalated, examples
from ops.demo.measures.measure import Exchange, Logged
from ops.demo.tasks.play import Request
from ops.demo.tasks.tasks import TASKS
from store.event import RankInput, Reason, TextInput

PLAY = TASKS["classify"]


def requests(*texts: str) -> list[Request]:
    return [Request(value=TextInput(text=text), recorded="refund") for text in texts]


def exchange(index: int, *, answer: str = "refund", served_by: str = "student", event: str | None = None) -> Exchange:
    return Exchange(
        index=index,
        at_s=float(index),
        item_id=f"item-{index}",
        agreed=answer == "refund",
        served_by=served_by,  # type: ignore[arg-type]
        version="v1",
        event_id=event,
        answer=answer,
    )


def logged(reason: Reason, said: str | None) -> Logged:
    return Logged(agreed=None if said is None else said == "refund", reason=reason, said=said)


def test_events_are_counted_by_their_reason_the_most_frequent_first() -> None:
    log = [logged("cold", None), logged("low_confidence", "refund"), logged("low_confidence", "cancel")]
    first, second = escalated([*log, logged("low_confidence", "cancel")])
    assert (first.reason, first.events) == ("low_confidence", 3)
    assert first.student_agreement is not None
    assert (first.student_agreement.n, round(first.student_agreement.value, 2)) == (3, 0.33)
    assert (second.reason, second.events, second.student_agreement) == ("cold", 1, None)


def test_the_students_own_answers_and_what_it_would_have_said_stand_beside_the_teachers() -> None:
    outcomes = [
        exchange(0),
        exchange(1, answer="cancel"),
        exchange(2, served_by="teacher", event="asked"),
        exchange(3, event="checked"),
        exchange(4, served_by="teacher", event="early"),
    ]
    log = {
        "asked": logged("low_confidence", "cancel"),
        "checked": logged("audit", "refund"),
        "early": logged("cold", None),
    }
    found = {one.question: one for one in examples(requests(*"abcde"), outcomes, log, PLAY)}
    assert found.keys() == set("abcd"), "before there was a student, there is nothing to compare"
    assert (found["a"].reason, found["a"].agreed) == (None, True)
    assert (found["b"].student, found["b"].teacher, found["b"].agreed) == ("cancel", "refund", False)
    assert (found["c"].reason, found["c"].student, found["c"].agreed) == ("low_confidence", "cancel", False)
    assert (found["d"].reason, found["d"].student) == ("audit", "refund")


def test_the_latest_two_of_a_kind_are_shown_each_question_once() -> None:
    found = examples(requests("a", "b", "c", "c"), [exchange(index) for index in range(4)], {}, PLAY)
    assert [one.question for one in found] == ["c", "b"]


def test_a_failed_request_is_no_example_and_a_long_text_is_cut() -> None:
    failed = replace(exchange(0), agreed=None, served_by=None, answer=None)
    assert examples(requests("a"), [failed], {}, PLAY) == []
    (long,) = examples(requests("a" * 1000), [exchange(0)], {}, PLAY)
    assert len(long.question) == 240


def test_of_a_list_the_first_document_is_shown() -> None:
    play, value = TASKS["rank"], RankInput(query="boots", documents=["sandals", "rubber boots"])
    request = Request(value=value, recorded=(0.1, 0.9))
    assert play.question(value) == "boots (2 offered)"
    assert play.taught(request) == "rubber boots"
    assert play.answered(request, {"results": [{"index": 0}, {"index": 1}]}) == "sandals"
    assert play.meant(value, "[1, 0]") == "rubber boots"
