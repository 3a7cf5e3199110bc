"""What is said of a run is what a naive count of its rows says, and the lines beside it are what their names say."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.backtest.log import Log
from ops.backtest.records import Answers, Ask, Run
from ops.backtest.scores import Cycles, RowAnswer, hard_topics, score, to_answers, to_run
from ops.backtest.stream import Stream
from ops.backtest.tasks.classify import ClassifyPart
from serve.tasks.classify.face import LabelledAnswer
from store.event import StudentOpinion, TextInput
from store.policy import Metric
from store.student.encoder import Encoder
from tests.tiny import tiny_encoder

LABELS = ("a", "b", "c")
Fate = Literal["paid", "wasted", "own", "withheld", "audited", "nobody"]


@dataclass(frozen=True, slots=True, kw_only=True)
class One:
    """What was known of a row and what became of it."""

    teacher: str | None
    gold: str | None
    student: str | None
    fate: Fate

    @property
    def called(self) -> bool:
        """Whether the teacher was asked."""
        return self.fate in {"paid", "wasted", "audited"}

    @property
    def answer(self) -> str:
        """What the client got; "" where nobody answered."""
        return (self.teacher if self.fate == "paid" else self.student) or ""

    @property
    def told(self) -> RowAnswer:
        """The row as the gateway would have answered it."""
        served: LabelledAnswer | None = None
        if self.answer:
            served = LabelledAnswer(
                label=self.answer,
                probs=None if self.fate == "paid" else [0.7, 0.2, 0.1],
                num_classes=3,
                served_by="teacher" if self.fate == "paid" else "student",
                reason={"own": None, "audited": "audit"}.get(self.fate, "low_confidence"),
                version="v1" if self.student else None,
                event_id=None,
                propensity={"paid": 1.0, "own": 0.2, "audited": 0.2}.get(self.fate, 0.0),
                withheld=self.fate == "withheld",
                degraded="invalid_answer" if self.fate == "wasted" else None,
            )
        opinion = None
        if self.called and self.teacher is not None and self.student is not None:
            opinion = StudentOpinion(version="v1", output=self.student, confidence=0.9)
        return RowAnswer(answer=served, opinion=opinion, called=self.called)


@st.composite
def ones(draw: st.DrawFn) -> One:
    label = st.sampled_from((*LABELS, None))
    teacher, gold, student = draw(label), draw(label), draw(label)
    fates: list[Fate] = ["nobody"] if student is None else ["own", "withheld", "audited"]
    fates.append("wasted" if teacher is None else "paid")
    return One(teacher=teacher, gold=gold, student=student, fate=draw(st.sampled_from(fates)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(tiny_encoder(tmp_path_factory.mktemp("tiny")), device="cpu", precision="fp32", max_tokens=16)


def log_of(rows: list[One], times_s: list[float]) -> Log:
    return Log(
        path=Path("log.jsonl"),
        texts=[f"text {place}" for place in range(len(rows))],
        labels=[row.teacher for row in rows],
        gold=[row.gold for row in rows],
        ids=[f"{place}" for place in range(len(rows))],
        times_s=np.array(times_s),
        timed=True,
        skipped=0,
        bad=[],
    )


def made(
    encoder: Encoder, rows: list[One], *, ask: Ask, times_s: list[float] | None = None, order: list[int] | None = None
) -> tuple[Run, Answers]:
    """What is said of these rows, taken in the order of these places of the log."""
    log = log_of(rows, times_s or [float(row) for row in range(len(rows))])
    places = order or list(range(len(rows)))
    stream = Stream(
        encoder=encoder,
        places=np.array(places),
        times_s=log.times_s,
        texts=[log.texts[place] for place in places],
        labels=[log.labels[place] for place in places],
        item_ids=[f"{place}" for place in places],
        values=[TextInput(text=log.texts[place]) for place in places],
        too_long=np.zeros(len(rows), np.bool_),
        features=np.zeros((len(rows), 2), np.float32),
    )
    told = [rows[place].told for place in places]
    answers = to_answers(stream, told, ClassifyPart())
    calls = sum(row.called for row in rows)
    unusable = sum(row.called and row.teacher is None for row in rows)
    run = to_run(ask, log, stream, answers, told, Cycles(), calls=calls, unusable=unusable, seconds=1.0)
    return run, answers


def naive(pairs: list[tuple[str, str | None]], metric: Metric) -> float | None:
    """Accuracy of (answer, truth) pairs, or the mean over the true labels; truths that are not known do not count."""
    known = [(answer, truth) for answer, truth in pairs if truth is not None]
    if not known:
        return None
    if metric == "accuracy":
        return sum(answer == truth for answer, truth in known) / len(known)
    recalls = []
    for label in {truth for _, truth in known}:
        hits = [answer == label for answer, truth in known if truth == label]
        recalls.append(sum(hits) / len(hits))
    return sum(recalls) / len(recalls)


MANY = st.lists(ones(), min_size=1, max_size=60)
METRICS = st.sampled_from(("accuracy", "balanced_accuracy"))


@given(rows=MANY, metric=METRICS)
@settings(max_examples=60)
def test_every_share_is_the_naive_one(encoder: Encoder, rows: list[One], metric: Metric) -> None:
    run, _ = made(encoder, rows, ask=Ask(budget=99, seed=0, metric=metric))
    own = [row for row in rows if row.answer and row.fate != "paid"]
    decided = [row for row in rows if row.fate in {"own", "audited"}]
    paid = [row for row in rows if row.fate == "paid"]
    assert run.score == pytest.approx(naive([(row.answer, row.gold) for row in rows], metric))
    assert run.agreement == pytest.approx(naive([(row.answer, row.teacher) for row in rows], "accuracy"))
    assert run.student_accuracy == pytest.approx(naive([(row.answer, row.gold) for row in own], "accuracy"))
    assert run.paid_accuracy == pytest.approx(naive([(row.answer, row.gold) for row in paid], "accuracy"))
    assert run.answered_agreement == pytest.approx(naive([(row.answer, row.teacher) for row in decided], "accuracy"))
    assert (run.student_rows, run.answered_rows) == (len(own), len(decided))
    assert run.audits == sum(row.fate == "audited" for row in rows)
    assert (run.rows, run.calls + run.unspent) == (len(rows), 99)
    assert run.spared == sum(bool(row.answer) and not row.called for row in rows)
    assert run.unanswered == sum(not row.answer for row in rows)


FEW = st.lists(ones(), min_size=1, max_size=8)


@given(rows=FEW, metric=METRICS)
@settings(max_examples=60)
def test_chance_is_the_mean_of_all_ways_to_spend_the_calls_and_the_oracle_is_the_best_of_them(
    encoder: Encoder, rows: list[One], metric: Metric
) -> None:
    run, _ = made(encoder, rows, ask=Ask(budget=8, seed=0, metric=metric))

    def with_calls(places: tuple[int, ...], truth: list[str | None], metric: Metric) -> float | None:
        answers = [
            row.teacher if place in places and row.teacher is not None else row.student or ""
            for place, row in enumerate(rows)
        ]
        return naive(list(zip(answers, truth, strict=True)), metric)

    for truth, kind, chance, oracle in (
        ([row.gold for row in rows], metric, run.random_score, run.oracle_score),
        ([row.teacher for row in rows], "accuracy", run.random_agreement, run.oracle_agreement),
    ):
        ways = [with_calls(places, truth, kind) for places in combinations(range(len(rows)), run.calls)]
        known = [way for way in ways if way is not None]
        assert chance == pytest.approx(float(np.mean(known)) if known else None)
        best = [with_calls(p, truth, kind) for n in range(run.calls + 1) for p in combinations(range(len(rows)), n)]
        assert oracle == pytest.approx(max((way for way in best if way is not None), default=None))
    if run.score is not None and run.oracle_score is not None:
        assert run.score <= run.oracle_score + 1e-9


def test_the_oracle_of_balanced_accuracy_buys_rare_labels_first(encoder: Encoder) -> None:
    frequent = One(teacher="a", gold="a", student="c", fate="own")
    rows = [frequent, frequent, frequent, One(teacher="b", gold="b", student="c", fate="paid")]
    run, _ = made(encoder, rows, ask=Ask(budget=1, seed=0, metric="balanced_accuracy"))
    assert run.oracle_score == run.score == 0.5
    assert run.random_score == 0.25


@given(rows=MANY, promise=st.booleans())
@settings(max_examples=40)
def test_the_parts_of_the_log_add_up_to_the_whole(encoder: Encoder, rows: list[One], *, promise: bool) -> None:
    run, _ = made(encoder, rows, ask=Ask(budget=60, seed=0, target=0.9 if promise else None))
    parts = run.slices
    assert len(parts) == min(20, len(rows))
    assert [part.first_row for part in parts] == np.cumsum([0, *(part.rows for part in parts)])[:-1].tolist()
    assert sum(part.rows for part in parts) == len(rows)
    assert sum(part.calls for part in parts) == run.calls
    assert sum(part.suspended for part in parts) == run.suspended_rows
    assert sum(part.spared for part in parts) == run.spared
    for values, truths, whole in (
        ([part.accuracy for part in parts], [row.gold for row in rows], run.score),
        ([part.agreement for part in parts], [row.teacher for row in rows], run.agreement),
    ):
        counts = [sum(truths[row] is not None for row in range(p.first_row, p.first_row + p.rows)) for p in parts]
        assert [value is None for value in values] == [count == 0 for count in counts]
        total = sum(value * count for value, count in zip(values, counts, strict=True) if value is not None)
        assert total == pytest.approx((whole or 0.0) * sum(counts))


@given(rows=MANY, data=st.data())
@settings(max_examples=40)
def test_a_promise_is_suspended_from_a_withheld_row_to_the_next_row_that_is_none(
    encoder: Encoder, rows: list[One], data: st.DataObject
) -> None:
    gaps = data.draw(st.lists(st.floats(0.0, 100.0), min_size=len(rows), max_size=len(rows)))
    times_s = np.cumsum(gaps).tolist()
    run, _ = made(encoder, rows, ask=Ask(budget=60, seed=0, target=0.9), times_s=times_s)
    held = [row.fate in {"withheld", "nobody"} for row in rows]
    seconds, since = 0.0, None
    for now_s, withheld in zip(times_s, held, strict=True):
        if withheld and since is None:
            since = now_s
        elif not withheld and since is not None:
            seconds, since = seconds + now_s - since, None
    if since is not None:
        seconds += times_s[-1] - since
    assert run.suspended_s == pytest.approx(seconds, abs=1e-6)
    assert run.suspended_rows == sum(held)
    budget_only, _ = made(encoder, rows, ask=Ask(budget=60, seed=0), times_s=times_s)
    assert (budget_only.suspended_rows, budget_only.suspended_s) == (0, 0.0)


@given(rows=MANY, seed=st.integers(0, 99))
@settings(max_examples=30)
def test_true_labels_follow_their_rows_into_another_order(encoder: Encoder, rows: list[One], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    ask = Ask(budget=60, seed=1, metric="balanced_accuracy")
    run, answers = made(encoder, rows, ask=ask, order=order)
    straight, _ = made(encoder, rows, ask=ask)
    assert run.score == pytest.approx(straight.score)
    assert run.agreement == pytest.approx(straight.agreement)
    assert run.oracle_score == pytest.approx(straight.oracle_score)
    assert answers.answer == [rows[place].answer for place in order]
    assert answers.student == [rows[place].student or "" for place in order]


def test_a_row_says_who_answered_why_and_how_sure_the_student_was(encoder: Encoder) -> None:
    rows = [
        One(teacher="a", gold=None, student=None, fate="paid"),
        One(teacher="a", gold=None, student="b", fate="paid"),
        One(teacher=None, gold=None, student="b", fate="wasted"),
        One(teacher=None, gold=None, student=None, fate="wasted"),
        One(teacher="a", gold=None, student="c", fate="audited"),
        One(teacher="a", gold=None, student="c", fate="own"),
        One(teacher="a", gold=None, student=None, fate="nobody"),
    ]
    run, answers = made(encoder, rows, ask=Ask(budget=9, seed=0))
    assert answers.answer == ["a", "a", "b", "", "c", "c", ""]
    assert answers.by_teacher.tolist() == [True, True, False, False, False, False, False]
    assert answers.reason == ["low_confidence"] * 3 + ["nobody", "audit", "trusted", "nobody"]
    assert answers.student == ["", "b", "b", "", "c", "c", ""]
    assert answers.version == ["", "v1", "v1", "", "v1", "v1", ""]
    assert answers.propensity.tolist() == [1.0, 1.0, 0.0, 0.0, 0.2, 0.2, 0.0]
    confidence = [None if np.isnan(value) else round(float(value), 6) for value in answers.confidence]
    assert confidence == [None, 0.9, 0.7, None, 0.9, 0.7, None]
    assert (run.score, run.random_score, run.oracle_score) == (None, None, None)


def test_a_score_of_no_rows_is_no_score() -> None:
    words = np.array(["a", "b"], object)
    assert score(words, words, np.zeros(2, np.bool_), "balanced_accuracy") is None
    assert score(words, words, np.array([True, False]), "balanced_accuracy") == 1.0


def test_hard_topics_are_of_the_last_half_and_what_nobody_answered_is_no_answer_of_the_students(
    encoder: Encoder,
) -> None:
    def row(teacher: str, student: str | None, fate: Fate) -> One:
        return One(teacher=teacher, gold=None, student=student, fate=fate)

    early = [row("a", None, "paid")] * 8
    easy, hard = [row("a", "a", "own")] * 4, [row("b", "b", "paid"), row("b", "b", "own"), row("b", "c", "own")]
    rows = [*early, *easy, *hard, row("b", None, "nobody")]
    _, answers = made(encoder, rows, ask=Ask(budget=60, seed=0))
    log = log_of(rows, [float(place) for place in range(16)])
    features = np.array([[1.0, 0.0]] * 12 + [[0.0, 1.0]] * 4, np.float32)
    topics = hard_topics(log, features, answers)
    assert sum(topic.rows for topic in topics) == 8
    assert topics[0].escalated_ratio == 0.25
    assert topics[0].agreement == 0.5
    assert topics[-1].escalated_ratio == 0.0
    assert topics[-1].agreement == 1.0


def test_a_topics_name_holds_no_personal_data(encoder: Encoder) -> None:
    rows = [One(teacher="a", gold=None, student="a", fate="own")] * 12
    log = log_of(rows, [float(place) for place in range(12)])
    log.texts[:] = ["write to jane.roe@example.com"] * 12
    _, answers = made(encoder, rows, ask=Ask(budget=9, seed=0))
    names = " ".join(topic.name for topic in hard_topics(log, np.ones((12, 2), np.float32), answers))
    assert "jane" not in names
    assert "example" not in names
