"""A replay sees nothing ahead and no true label, never spends more than it may, and says the same when asked again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given as law
from hypothesis import settings
from hypothesis import strategies as st
from msgspec import structs

from ops.backtest.records import Answers, Ask, Run
from ops.backtest.stream import Cursor, LogHorizon
from ops.backtest.tasks.classify import ReplayedForward
from store.buffer.memory import MemoryBuffer
from store.policy import Allowance
from store.student.classify import Student
from store.student.loaded import LabelOpinion, Opinion
from tests.ops.replays import LABELS, NEW_LABELS, PAGES, Bench, given, log_rows, unseen, with_another_future
from trainer.attempt import Attempt
from trainer.learn.classify.recipe import classifier

ROWS = log_rows(400, noise=0.05)
BUDGET_ONLY = Ask(budget=250, seed=0)
PROMISE = Ask(budget=330, seed=0, target=0.8, audit_ratio=0.2)
SOME = log_rows(120, unusable=0.1)
ALL = (*LABELS, *NEW_LABELS)
LEARNT = log_rows(160, seed=4, unusable=0.0)
LEARNS = Ask(budget=90, seed=0, fine_tune=False)
LEARNS_A_PROMISE = Ask(budget=150, seed=0, target=0.6, audit_ratio=0.2, fine_tune=False)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.at(tmp_path_factory.mktemp("replay"))


@pytest.fixture(scope="module", params=[BUDGET_ONLY, PROMISE], ids=["budget", "promise"])
def told(request: pytest.FixtureRequest, bench: Bench) -> tuple[Run, Answers]:
    """A run in which both kinds of cycle have promoted, by either policy."""
    run, answers = bench.run(ROWS, request.param, min_new_labels=25)
    assert run.fine_tune_cycles >= 1
    return run, answers


@pytest.mark.parametrize(
    ("last", "labels", "pages"),
    [(95, LABELS, PAGES), (241, NEW_LABELS, (1, 60)), (330, ALL, (20, 3))],
    ids=["as before", "new labels, other lengths", "all labels, long texts"],
)
def test_what_comes_later_and_what_is_true_change_nothing_up_to_then(
    bench: Bench, told: tuple[Run, Answers], last: int, labels: tuple[str, ...], pages: tuple[int, ...]
) -> None:
    run, answers = told
    other_rows = with_another_future(ROWS, range(last + 1), labels=labels, pages=pages)
    _, other = bench.run(other_rows, run.ask, min_new_labels=25)
    assert given(other, last + 1) == given(answers, last + 1)
    assert given(other) != given(answers)


@pytest.mark.parametrize("ask", [LEARNS, LEARNS_A_PROMISE], ids=["budget", "promise"])
def test_no_row_is_served_by_a_student_that_has_seen_its_label(bench: Bench, ask: Ask) -> None:
    """At every version, in what it is made of, and by poisoning the label of the row that completed it."""
    learned: list[tuple[int, frozenset[str]]] = []
    replay = bench.replay(LEARNT, min_new_labels=8)
    items = replay._items
    _, answers = replay.run(ask, unseen, lambda row, made: learned.append((row, frozen_items(made))))
    assert len(learned) >= 3
    for number, (serves_from, made_of) in enumerate(learned, start=1):
        assert made_of
        assert made_of <= set(items[:serves_from])
        assert answers.version[serves_from - 1] != f"v{number}"  # the row that completed it was answered before it
        assert f"v{number}" in answers.version[serves_from : serves_from + 2]
    bought = [row for row, _ in learned if answers.by_teacher[row - 1]]
    assert len(bought) >= 2
    for last in sorted({bought[0] - 1, bought[-1] - 1}):
        rows = with_another_future(LEARNT, range(last + 1), labels=ALL, pages=PAGES)
        rows[last] = replace(rows[last], label=next(label for label in LABELS if label != LEARNT[last].label))
        _, other = bench.run(rows, ask, min_new_labels=8)
        assert given(other, last) == given(answers, last)
        assert decided(other, last) == decided(answers, last)


def frozen_items(made: Attempt) -> frozenset[str]:
    """Ids of all that a version was made of: learned from, certified on, or judged by."""
    return frozenset(row.item_id for row in made.frozen.snapshot.rows)


def decided(answers: Answers, row: int) -> tuple[object, ...]:
    """What one row got, but for the words of whoever answered it."""
    row_of, _, by_teacher, reason, propensity, confidence, version, student = given(answers, row + 1)[row]
    return row_of, by_teacher, reason, propensity, confidence, version, student


def test_true_labels_change_nothing_at_all(bench: Bench) -> None:
    ask = Ask(budget=60, seed=0, metric="balanced_accuracy")
    run, answers = bench.run(SOME, ask)
    other_run, other = bench.run(with_another_future(SOME, range(120), labels=LABELS, pages=PAGES), ask)
    assert given(other) == given(answers)
    assert other_run.score != run.score
    assert other_run.agreement == run.agreement


@law(last=st.integers(0, 118), seed=st.integers(1, 2), changes=st.integers(0, 99))
@settings(max_examples=6)
def test_nothing_is_seen_ahead_in_any_order(bench: Bench, last: int, seed: int, changes: int) -> None:
    ask = Ask(budget=60, seed=seed, shuffled=True, fine_tune=False, metric="balanced_accuracy")
    answers = in_order_of(bench, ask)
    past = set(answers.rows[: last + 1].tolist())
    rows = with_another_future(SOME, past, labels=ALL, pages=PAGES, seed=changes)
    _, other = bench.run(rows, ask)
    assert given(other, last + 1) == given(answers, last + 1)


@cache
def in_order_of(bench: Bench, ask: Ask) -> Answers:
    return bench.run(SOME, ask)[1]


def forward_that_peeks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the student says to a row depends a little on the rows that are answered with it."""
    real = Student.predict_from

    def predict_from(self: Student, features: Any, tuned_logits: Any) -> Any:
        shift = features.sum(axis=0) / max(1, len(features))
        return real(self, features - 1e-3 * shift, tuned_logits)

    monkeypatch.setattr(Student, "predict_from", predict_from)


def horizon_that_peeks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is bought where the next one would bring no usable answer."""
    real = LogHorizon.allowance

    def allowance(self: LogHorizon) -> Allowance:
        found = real(self)
        ahead = self.teacher._stream.labels[self.cursor.row + 1 : self.cursor.row + 2]
        return replace(found, rows_left=1.0) if ahead == [None] else found

    monkeypatch.setattr(LogHorizon, "allowance", allowance)


BEFORE_AN_UNUSABLE_ROW = [place - 1 for place in range(40, 120) if SOME[place].label is None]


@pytest.mark.parametrize(
    ("peeks", "lasts"), [(forward_that_peeks, [60]), (horizon_that_peeks, BEFORE_AN_UNUSABLE_ROW[:4])]
)
def test_a_look_ahead_would_be_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, peeks: Callable[[pytest.MonkeyPatch], None], lasts: Sequence[int]
) -> None:
    peeks(monkeypatch)
    ask = Ask(budget=50, seed=0, fine_tune=False)
    _, answers = bench.run(SOME, ask)
    found = []
    for last in lasts:
        rows = with_another_future(SOME, range(last + 1), labels=ALL, pages=PAGES)
        found.append(given(bench.run(rows, ask)[1], last + 1) == given(answers, last + 1))
    assert not all(found)


def test_what_a_student_says_to_a_row_is_what_the_service_would_say_whatever_rows_come_after(bench: Bench) -> None:
    replay = bench.replay(ROWS, min_new_labels=25)
    students: list[Student] = []
    replay.run(
        BUDGET_ONLY, unseen, promoted=lambda _, made: students.append(classifier(made.draft.student(made.policy)))
    )
    student = students[-1]
    assert student.tuned is not None
    stream = replay._stream(BUDGET_ONLY)
    for row in (0, 150, 330):
        order = [*range(row + 7), *range(stream.rows - 1, row + 6, -1)]
        other = replace(stream, texts=[stream.texts[place] for place in order], features=stream.features[order])
        said = ReplayedForward(stream, Cursor())._look_ahead(student, row)
        again = ReplayedForward(other, Cursor())._look_ahead(student, row)
        assert [again[place] for place in range(row, row + 7)] == [said[place] for place in range(row, row + 7)]
        live = student.predict(list(stream.texts[row : row + 7])).probs
        assert np.allclose(live, [probs_of(said[place]) for place in range(row, row + 7)], atol=1e-4)


def probs_of(opinion: Opinion) -> list[float]:
    assert isinstance(opinion, LabelOpinion)
    return opinion.probs


def unusable_audits(answers: Answers) -> int:
    """Audits that brought no usable answer."""
    return sum(
        reason == "audit" and SOME[row].label is None
        for row, reason in zip(answers.rows.tolist(), answers.reason, strict=True)
    )


@law(budget=st.integers(0, 120), promise=st.booleans(), seed=st.integers(0, 1))
@settings(max_examples=12)
def test_a_budget_is_never_exceeded_and_every_call_is_accounted_for(
    bench: Bench, budget: int, seed: int, *, promise: bool
) -> None:
    target = 0.75 if promise else None
    ask = Ask(budget=budget, seed=seed, target=target, audit_ratio=0.3, fine_tune=False)
    run, answers = bench.run(SOME, ask, min_new_labels=20)
    assert 0 <= run.calls <= budget
    assert run.calls + run.unspent == budget
    assert run.calls == sum(part.calls for part in run.slices)
    assert run.calls == int(answers.by_teacher.sum()) + run.audits + run.unusable - unusable_audits(answers)
    if not promise:
        assert run.unspent <= 0.1 * budget + 1  # what is kept for audits


@pytest.mark.parametrize("budget", [1, 40, 120])
def test_without_audits_a_budget_is_spent_to_the_last_call(bench: Bench, budget: int) -> None:
    run, _ = bench.run(SOME, Ask(budget=budget, seed=0, fine_tune=False), min_new_labels=20)
    assert (run.calls, run.unspent) == (budget, 0)


@pytest.mark.parametrize("target", [None, 0.9])
def test_a_budget_is_for_the_whole_log_however_many_days_it_lasts(bench: Bench, target: float | None) -> None:
    ask = Ask(budget=30, seed=0, target=target, fine_tune=False)
    run, _ = bench.replay(SOME, min_new_labels=20, days=12.0).run(ask, unseen)
    assert (run.calls, run.unspent) == (30, 0)


@pytest.mark.parametrize(
    "ask", [Ask(budget=90, seed=0), Ask(budget=120, seed=0, target=0.6, audit_ratio=1.0)], ids=["budget", "promise"]
)
def test_a_row_without_a_usable_answer_costs_its_call_and_teaches_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    kept: set[str] = set()
    real = MemoryBuffer.items

    def items(self: MemoryBuffer, lane: Any) -> Any:
        found = list(real(self, lane))
        kept.update(item.item_id for item in found)
        return iter(found)

    monkeypatch.setattr(MemoryBuffer, "items", items)
    rows = log_rows(120, seed=2, unusable=0.25)
    replay = bench.replay(rows)
    run, answers = replay.run(structs.replace(ask, fine_tune=False), unseen)
    unusable = [place for place, row in enumerate(rows) if row.label is None]
    assert kept
    assert kept.isdisjoint(replay._items[place] for place in unusable)
    assert not any(answers.by_teacher[place] for place in unusable)
    served = [place for place in unusable if answers.version[place]]
    asked = [place for place in served if answers.reason[place] != "trusted"]
    alone = [place for place in unusable if not answers.version[place]]  # no student yet, or none that can read it
    assert min(len(asked), len(alone)) >= 3
    assert run.unusable == len(asked) + len(alone)
    assert all(answers.answer[place] == answers.student[place] != "" for place in served)
    assert all(answers.answer[place] == "" and answers.reason[place] == "nobody" for place in alone)


def test_the_same_ask_gives_the_same_answers_to_the_digit_also_after_others(bench: Bench) -> None:
    replay = bench.replay(ROWS[:240], min_new_labels=40)
    ask = Ask(budget=200, seed=2, shuffled=True, audit_ratio=0.2)
    run, answers = replay.run(ask, unseen)
    assert run.fine_tune_cycles == 1
    replay.run(Ask(budget=100, seed=3, target=0.75, audit_ratio=0.5, fine_tune=False), unseen)
    again, same = replay.run(ask, unseen)
    assert given(same) == given(answers)
    timed = {"seconds": 0.0, "training_cpu_s": 0.0}
    assert structs.replace(again, **timed) == structs.replace(run, **timed)
    assert given(bench.run(ROWS[:240], ask, min_new_labels=40)[1]) == given(answers)


def test_another_seed_is_another_order_only_where_that_is_asked_for(bench: Bench) -> None:
    replay = bench.replay(SOME, min_new_labels=60)

    def order(seed: int, *, shuffled: bool) -> list[int]:
        _, answers = replay.run(Ask(budget=5, seed=seed, shuffled=shuffled), unseen)
        return [int(row) for row in answers.rows]

    straight = list(range(120))
    assert order(0, shuffled=True) == order(5, shuffled=False) == straight
    first, second = order(1, shuffled=True), order(2, shuffled=True)
    assert first != second
    assert sorted(first) == sorted(second) == straight


def test_a_part_of_a_log_is_replayed_as_a_log_of_its_own(bench: Bench) -> None:
    ask = Ask(budget=40, seed=0, fine_tune=False)
    _, part = bench.replay(SOME).sub(range(20, 100)).run(ask, unseen)
    _, own = bench.run(SOME[20:100], ask)
    assert given(part) == given(own)


def test_texts_are_embedded_once_and_the_progress_says_how_far(bench: Bench) -> None:
    rows, folder = log_rows(600, seed=3), bench.folder / "kept"
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        seen.clear()
        bench.replay(rows, cache=folder).prepare(lambda done, count: seen.append((done, count)))
        if seen:
            assert seen == sorted(seen)
            assert seen[-1] == (600, 600)
            assert len(seen) > 1
    assert seen == []
