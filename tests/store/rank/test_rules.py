"""What an item keeps of a ranking, whoever asks in whatever order."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.buffer.item import MAX_EVENT_IDS, Entry, Item, merge
from store.event import (
    EscalationCause,
    RankAnswer,
    RankEscalation,
    RankInput,
    StudentOpinion,
    canonical_text,
    decode,
    encode,
    new_event_id,
    utc,
)
from store.tasks.rank import RankRules, Tolerance, heard

RULES = RankRules(tolerance=Tolerance(k=1, epsilon=0.05))
KEY = b"k" * 32
DOCUMENTS = ["red shoes", "blue\n  shoes", "blue shoes", "hat, ask jane@example.com", "hat, ask joe@example.com"]


def ranked(
    documents: Sequence[str] = ("b", "a", "c"),
    *,
    number: int = 1,
    scores: list[float] | None = None,
    order: list[int] | None = None,
    output: list[int] | None = None,
    members: list[list[float]] | None = None,
    prompt: str = "p",
) -> RankEscalation:
    """An event whose id and time are functions of `number`."""
    said = None if output is None else msgspec.json.encode(output).decode()
    return RankEscalation(
        id=new_event_id(float(number), random.Random(number)),
        time=utc(float(number)),
        use_case="shop",
        tenant="acme",
        input=RankInput(query="shoes", documents=list(documents)),
        teacher=RankAnswer(model="m", prompt_version=prompt, scores=scores, order=order),
        student=None
        if said is None
        else StudentOpinion(version="v", output=said, confidence=0.5, members=members or []),
        escalation=EscalationCause(reason="cold", threshold=None, propensity=1.0),
    )


def entry(event: RankEscalation) -> Entry:
    """The event as ingest hands it on."""
    return Entry.of(RULES.normal(event, KEY), "id", RULES)


def fold(entries: Sequence[Entry], item: Item | None = None) -> Item:
    for one in entries:
        item, _ = merge(item, one)
    assert item is not None
    return item


@st.composite
def events(draw: st.DrawFn) -> RankEscalation:
    documents = draw(st.permutations(DOCUMENTS))
    n = len(documents)
    numbers = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n)
    order = draw(st.permutations(range(n)))
    has_scores = draw(st.booleans())
    return ranked(
        documents,
        number=draw(st.integers(1, 30)),
        scores=draw(numbers) if has_scores else None,
        order=None if has_scores else order[: draw(st.integers(1, n))],
        output=draw(st.none() | st.permutations(range(n))),
        prompt=draw(st.sampled_from("pq")),
    )


@given(
    sample=st.lists(events(), min_size=1, max_size=MAX_EVENT_IDS, unique_by=lambda event: event.id),
    rng=st.randoms(use_true_random=False),
)
@settings(max_examples=60)
def test_any_order_and_any_repetition_of_events_makes_the_same_item(
    sample: list[RankEscalation], rng: random.Random
) -> None:
    entries = [entry(event) for event in sample]
    whole = fold(entries)
    shuffled = rng.sample([*entries, *rng.choices(entries, k=5)], len(entries) + 5)
    assert fold(shuffled) == whole
    cut = rng.randrange(len(shuffled) + 1)
    assert fold(shuffled[cut:], fold(shuffled[:cut]) if cut else None) == whole, "in whatever batches they came"
    for prompt, answers in whole.tally.items():
        newest = sorted((event for event in sample if f"m@{event.teacher.prompt_version}" == prompt), key=by_time)[-4:]
        assert set(answers) == {entry(event).said for event in newest}
        assert set(answers.values()) == {1}


def by_time(event: RankEscalation) -> tuple[float, str]:
    return event.time_s, event.id


@given(event=events(), data=st.data())
@settings(max_examples=200)
def test_documents_in_another_order_are_the_same_event(event: RankEscalation, data: st.DataObject) -> None:
    n = len(event.input.documents)
    came = data.draw(st.permutations(range(n)))
    place = {old: new for new, old in enumerate(came)}
    teacher, student = event.teacher, event.student
    moved = msgspec.structs.replace(
        event,
        input=RankInput(query="shoes", documents=[event.input.documents[old] for old in came]),
        teacher=msgspec.structs.replace(
            teacher,
            scores=None if teacher.scores is None else [teacher.scores[old] for old in came],
            order=None if teacher.order is None else [place[old] for old in teacher.order],
        ),
        student=student
        and msgspec.structs.replace(
            student, output=str([place[old] for old in msgspec.json.decode(student.output, type=list[int])])
        ),
    )
    assert entry(moved) == entry(event)
    kept = RULES.normal(event, KEY).input.documents
    assert all(canonical_text(one) <= canonical_text(other) for one, other in pairwise(kept))


@given(event=events())
def test_what_is_kept_is_kept_as_it_is_when_it_comes_again(event: RankEscalation) -> None:
    kept = RULES.normal(event, KEY)
    assert RULES.normal(kept, KEY) == kept
    assert RULES.parts(kept.input) == RULES.parts(RULES.redact(event.input, KEY))
    assert decode(encode(kept)) == kept


def test_documents_are_sorted_as_they_are_kept_and_answers_with_them() -> None:
    event = ranked(
        ["mail z@example.com", "b", "a"], scores=[0.1, 0.2, 0.3], output=[2, 0, 1], members=[[0.3, 0.1, 0.6]]
    )
    kept = RULES.normal(event, KEY)
    documents = kept.input.documents
    assert documents[:2] == ["a", "b"]
    assert documents[2].startswith("mail <EMAIL:")
    assert kept.teacher.scores == [0.3, 0.2, 0.1]
    assert kept.student is not None
    assert (kept.student.output, kept.student.members) == ("[0,2,1]", [[0.6, 0.1, 0.3]])


def test_of_equal_documents_it_does_not_matter_which_is_better() -> None:
    one = RULES.normal(ranked(["x ", "y", "x"], scores=[0.9, 0.5, 0.1]), KEY)
    two = RULES.normal(ranked(["x", "y", "x "], scores=[0.9, 0.5, 0.1]), KEY)
    assert one == two
    assert one.teacher.scores == [0.9, 0.1, 0.5]
    alone = RULES.normal(ranked(["y", "x", "x"], order=[2], output=[1, 2, 0]), KEY)
    assert alone.teacher.order == [0]
    assert RULES.agreed(alone), "the best of both is the same document"


@pytest.mark.parametrize(
    ("k", "epsilon", "answer", "output", "agreed"),
    [
        (1, 0.05, {"scores": [0.5, 0.52, 0.1]}, [0, 1, 2], True),
        (1, 0.01, {"scores": [0.5, 0.52, 0.1]}, [0, 1, 2], False),
        (2, 0.01, {"scores": [0.5, 0.52, 0.1]}, [0, 1, 2], True),
        (2, 0.05, {"scores": [0.5, 0.52, 0.1]}, [0, 2, 1], False),
        (1, 0.05, {"order": [1, 0]}, [1, 2, 0], True),
        (1, 0.05, {"order": [1, 0]}, [0, 1, 2], False),
        (2, 0.05, {"order": [1, 0]}, [0, 1, 2], True),
        (2, 0.05, {"order": [1, 0]}, [0, 2, 1], False),
        (3, 0.05, {"order": [1]}, [0, 2, 1], True),
    ],
)
def test_an_order_agrees_within_epsilon_of_scores_or_with_the_first_of_an_order(
    k: int,
    epsilon: float,
    answer: dict[str, list[float]],
    output: list[int],
    agreed: bool,  # noqa: FBT001 - a table
) -> None:
    rules = RankRules(tolerance=Tolerance(k=k, epsilon=epsilon))
    teacher = msgspec.convert({"model": "m", "prompt_version": "p", **answer}, RankAnswer)
    kept = rules.normal(
        msgspec.structs.replace(ranked(["a", "b", "c"], order=[0], output=output), teacher=teacher), KEY
    )
    assert rules.agreed(kept) is agreed
    assert kept.student is not None
    assert rules.agree(rules.said(kept), kept.student.output) is agreed


def test_without_a_student_nothing_is_agreed() -> None:
    assert RULES.agreed(RULES.normal(ranked(order=[0]), KEY)) is None


def test_answers_are_heard_newest_first() -> None:
    item = fold([entry(ranked(number=number, scores=[float(number), 0.0, 0.0])) for number in (2, 5, 1, 4, 3)])
    assert [max(said.scores or ()) for said in heard(item.answers("m@p"))] == [5.0, 4.0, 3.0, 2.0]
    assert item.count == 5


def test_answers_sort_by_their_time_as_texts_from_the_first_year_to_the_last() -> None:
    times = [
        datetime(year, month, 1, tzinfo=UTC) for year in (1, 100, 318, 1970, 2026, 3171, 9999) for month in (1, 12)
    ]
    said = [RULES.said(msgspec.structs.replace(ranked(order=[0, 1, 2]), time=time)) for time in times]
    assert said == sorted(said)


def test_a_teacher_contradicts_itself_where_one_answer_is_another_ranking_by_another() -> None:
    close = fold([entry(ranked(number=1, scores=[0.5, 0.52, 0.1])), entry(ranked(number=2, scores=[0.52, 0.5, 0.1]))])
    apart = fold([entry(ranked(number=1, scores=[0.9, 0.1, 0.1])), entry(ranked(number=2, order=[1]))])
    assert not RULES.conflicted(close.answers("m@p"))
    assert RULES.conflicted(apart.answers("m@p"))
    assert not RULES.conflicted(fold([entry(ranked(order=[0]))]).answers("m@p"))
