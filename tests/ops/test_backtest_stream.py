"""What stands in for the world outside: the plan for the whole log, a teacher, and a quiet log."""

import numpy as np
import pytest
import structlog

from ops.backtest.records import Ask
from ops.backtest.stream import Cursor, LogHorizon, RecordedTeacher, Stream, errors_alone
from ops.backtest.tasks.classify import ClassifyPart
from tests.ops.replays import Bench, log_rows, unseen

SOME = log_rows(120, unusable=0.1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.at(tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="module")
def stream(bench: Bench) -> Stream:
    replay = bench.replay(SOME)
    replay.prepare(unseen)
    return replay._stream(Ask(budget=1, seed=0))


@pytest.mark.parametrize(
    ("audit_ratio", "row", "calls", "left"),
    [
        (0.0, 0, 0, 100),
        (0.0, 250, 99, 1),
        (0.0, 250, 100, 0),
        (0.2, 0, 0, 50),  # a fifth of the other 250 rows is audited
        (0.2, 200, 60, 25),
        (0.2, 200, 80, 0),
        (0.01, 0, 0, 90),  # the ledger keeps ten for two audits
        (1.0, 0, 0, 0),
        (0.2, 400, 99, 1),  # longer than forecast
    ],
)
def test_calls_that_audits_will_take_are_not_there_for_escalations(
    stream: Stream, audit_ratio: float, row: int, calls: int, left: int
) -> None:
    cursor = Cursor(row=row)
    teacher = RecordedTeacher(stream, cursor, 0.0, ClassifyPart().teach)
    teacher.calls = calls
    horizon = LogHorizon(
        budget=100,
        audit_ratio=audit_ratio,
        reserved=10 if audit_ratio else 0,
        forecast_rows=300.0,
        teacher=teacher,
        cursor=cursor,
    )
    found = horizon.allowance()
    assert (found.calls_left, found.rows_left, found.bought) == (left, max(1, 300 - row), calls)


def test_with_audits_escalations_last_into_the_last_quarter(bench: Bench) -> None:
    ask = Ask(budget=150, seed=0, audit_ratio=0.3, fine_tune=False)
    run, answers = bench.run(log_rows(400), ask, min_new_labels=25)
    assert np.flatnonzero(answers.by_teacher)[-1] >= 300
    assert run.audits > 0.2 * (400 - 150)


def test_a_forecast_that_is_too_long_leaves_calls_unspent_and_one_too_short_spends_them_early(bench: Bench) -> None:
    spent = {}
    for ratio in (0.5, 1.0, 2.0):
        ask = Ask(budget=50, seed=0, fine_tune=False, horizon_ratio=ratio)
        run, _ = bench.run(SOME, ask, min_new_labels=20)
        spent[ratio] = (run.calls, sum(part.calls for part in run.slices[:10]))
    assert spent[0.5][0] == spent[1.0][0] == 50
    assert spent[2.0][0] < 50
    assert spent[0.5][1] > spent[1.0][1] > spent[2.0][1]


def test_a_replay_prints_nothing_and_leaves_the_log_as_it_was(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    run, _ = bench.run(SOME, Ask(budget=60, seed=0, fine_tune=False), min_new_labels=30)
    assert run.unusable >= 1
    assert capsys.readouterr().out == ""
    assert structlog.get_config() == before


def test_an_error_is_told_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with errors_alone():
        structlog.get_logger().warning("an answer was invalid")
        structlog.get_logger().error("an audit failed")
    said = capsys.readouterr()
    assert said.out == ""
    assert "an audit failed" in said.err
    assert "invalid" not in said.err
