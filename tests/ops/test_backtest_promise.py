"""A promise in a replay: nothing escalates that its version trusts, nothing is answered that it does not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from ops.backtest.records import Answers, Ask, Run
from ops.backtest.replay import Replay
from store.event import TextInput
from store.student.classify import Student
from tests.bench.promise_streams import needless
from tests.ops.replays import Bench, log_rows, unseen
from trainer.attempt import Attempt
from trainer.learn.classify.recipe import classifier

ENOUGH = Ask(budget=600, seed=0, target=0.8, audit_ratio=0.1, fine_tune=False)
Played = tuple[Replay, Run, Answers, list[tuple[int, Attempt]]]


def play(replay: Replay, ask: Ask) -> Played:
    made: list[tuple[int, Attempt]] = []
    run, answers = replay.run(ask, unseen, lambda row, attempt: made.append((row, attempt)))
    return replay, run, answers, made


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    return Bench.at(tmp_path_factory.mktemp("promise")).replay(log_rows(600, noise=0.1, unusable=0.0))


@pytest.fixture(scope="module")
def kept(replay: Replay) -> Played:
    """A run in which the budget suffices."""
    return play(replay, ENOUGH)


def students(made: Sequence[tuple[int, Attempt]]) -> list[Student]:
    return [classifier(attempt.draft.student(attempt.policy)) for _, attempt in made]


def test_with_a_budget_that_suffices_the_teacher_gets_what_the_serving_version_does_not_trust_and_nothing_else(
    kept: Played,
) -> None:
    replay, run, answers, made = kept
    assert run.certified_row is not None
    assert len(made) > 2
    served = students(made)
    routed = {"sure": 0, "unsure": 0, "novel": 0, "long": 0}
    for row in range(run.certified_row, run.rows):
        student = served[int(answers.version[row][1:]) - 1]
        assert student.policy is not None
        assert student.policy.threshold is not None
        assert student.policy.novelty_threshold is not None
        said = student.predict_from(replay.features[row : row + 1], None)
        novel = bool(said.novelty[0] > student.policy.novelty_threshold)
        sure = bool(said.probs.max() >= student.policy.threshold)
        long = student.too_long(TextInput(text=replay.log.texts[row]))
        kind = "long" if long else "novel" if novel else "sure" if sure else "unsure"
        routed[kind] += 1
        wanted = {"long": {"too_long"}, "novel": {"novel"}, "unsure": {"low_confidence"}, "sure": {"trusted", "audit"}}
        assert answers.reason[row] in wanted[kind], f"row {row} is {kind} and got {answers.reason[row]}"
        assert bool(answers.by_teacher[row]) == (kind != "sure")
    assert min(routed.values()) > 0, routed
    assert run.audits == answers.reason.count("audit") > 0
    assert needless(run, answers, served) == 0


def test_an_escalation_of_a_trusted_answer_is_counted_as_needless(kept: Played) -> None:
    _, run, answers, made = kept
    row = next(row for row in range(run.certified_row or 0, run.rows) if answers.reason[row] == "trusted")
    reasons, teacher = list(answers.reason), answers.by_teacher.copy()
    reasons[row], teacher[row] = "low_confidence", True
    assert needless(run, structs.replace(answers, reason=reasons, by_teacher=teacher), students(made)) == 1


def test_a_budget_that_suffices_suspends_nothing_and_one_that_binds_says_for_how_long(
    replay: Replay, kept: Played
) -> None:
    _, whole, _, _ = kept
    assert whole.suspended_rows == whole.suspended_s == 0
    assert whole.certified_row is not None
    budget = whole.certified_row + 20
    assert budget < whole.calls
    _, run, answers, _ = play(replay, structs.replace(ENOUGH, budget=budget))
    assert run.calls <= budget
    assert run.certified_row == whole.certified_row
    withheld = np.array(
        [
            reason in {"low_confidence", "novel"} and not taught
            for reason, taught in zip(answers.reason, answers.by_teacher, strict=True)
        ]
    )
    unheard = answers.reason.count("nobody")  # too long for the student
    assert run.suspended_rows == int(withheld.sum()) + unheard
    assert withheld.any()
    gap_s = float(replay.log.times_s[1] - replay.log.times_s[0])
    assert run.suspended_s == pytest.approx(run.suspended_rows * gap_s, abs=1.5 * gap_s)
    assert sum(part.suspended for part in run.slices) == run.suspended_rows


def test_where_nobody_answers_for_want_of_budget_the_promise_is_suspended_too(replay: Replay) -> None:
    _, run, answers, made = play(replay, structs.replace(ENOUGH, budget=20))
    assert made == []
    unheard = answers.reason.count("nobody")
    assert unheard > run.rows / 2
    assert run.suspended_rows == pytest.approx(unheard, abs=5)
    assert run.suspended_s > 0


def test_a_part_of_a_log_is_replayed_as_if_it_were_the_whole_log(tmp_path: Path) -> None:
    rows = log_rows(300, noise=0.1, unusable=0.0)
    bench = Bench.at(tmp_path)
    places = np.random.default_rng(0).permutation(len(rows))[:200].tolist()
    ask = structs.replace(ENOUGH, budget=200)
    part = bench.replay(rows).sub(places)
    assert part.log.rows == 200
    assert list(part.log.times_s) == sorted(part.log.times_s)
    run, answers = part.run(ask, unseen)
    alone, other = bench.replay([rows[place] for place in places]).run(ask, unseen)
    assert answers.answer == other.answer
    assert answers.confidence.tolist() == pytest.approx(other.confidence.tolist(), nan_ok=True)
    assert (run.calls, run.certified_row) == (alone.calls, alone.certified_row)
    assert run.certified_row is not None
