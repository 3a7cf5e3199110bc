"""Rankings are replayed through the service's own parts, and no row is served by a student that knew its answer."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from ops.backtest.findings import Finished, assemble, measure_of, points_of, steps_of
from ops.backtest.log import Log
from ops.backtest.recommend import headline, recommend, settings_toml
from ops.backtest.records import Answers, Ask, Backtest, BacktestPrices, Run
from ops.backtest.replay import DEFAULT_CYCLE, DEFAULT_SCHEDULE, Replay
from ops.backtest.report.page import page
from ops.backtest.report.tables import compared
from ops.backtest.tasks.lists import read_rankings
from ops.cli.app import app
from store.errors import SettingsError
from store.student.encoder import FloatArray
from store.student.rank.cross import CrossEncoder, Pair
from store.student.rank.golden import GOLDEN_LISTS
from tests.ops.replays import given, unseen
from tests.tiny import TOPICS, tiny_cross_encoder, tiny_encoder
from trainer.attempt import Attempt
from trainer.judge.gate import GateLimits

ROWS: Final = 90
BUDGET_ONLY: Final = Ask(budget=45, seed=0, fine_tune=False)
PROMISE: Final = Ask(budget=80, seed=0, target=0.5, audit_ratio=0.3, fine_tune=False)
ITEMS: Final = [f"{words[0]} {words[1]} {number}" for number, words in enumerate(list(TOPICS.values()) * 3)]

Row = dict[str, Any]


def lists(count: int = ROWS, *, seed: int = 0) -> list[Row]:
    """Questions about a small catalogue with favourites; now and then the teacher says nothing usable."""
    rng = Random(seed)
    favour = {item: Random(item).random() for item in ITEMS}
    rows = []
    for number in range(count):
        topic = rng.choice(list(TOPICS))
        documents = rng.sample(ITEMS, 5)
        scores = [round(favour[one] + 0.1 * rng.random(), 4) for one in documents]
        said = None if rng.random() < 0.05 else scores
        query = f"{' '.join(rng.choices(TOPICS[topic], k=4))} {number}"
        rows.append({"id": f"q{number}", "query": query, "documents": documents, "scores": said})
    return rows


def log_of(folder: Path, rows: list[Row], **more: Any) -> Log:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_rankings(path, {}, 1.0, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rank")
    tiny_encoder(made / "encoder")
    return made


def replay(folder: Path, rows: list[Row], encoder: str = "encoder") -> Replay:
    return Replay(
        log_of(folder, rows, epsilon=0.1),
        encoder=str(folder / encoder),
        cache=Path(mkdtemp(dir=folder)),
        cycle=replace(
            DEFAULT_CYCLE, device="cpu", precision="fp32", max_tokens=48, limits=GateLimits(delta=0.1, min_rows=20)
        ),
        schedule=replace(DEFAULT_SCHEDULE, min_new_labels=10, growth_ratio=0.3),
    )


def run(folder: Path, rows: list[Row], ask: Ask) -> tuple[Run, Answers]:
    return replay(folder, rows).run(ask, unseen)


@pytest.fixture(scope="module", params=[BUDGET_ONLY, PROMISE], ids=["budget", "promise"])
def told(request: pytest.FixtureRequest, folder: Path) -> tuple[Ask, Run, Answers]:
    return (request.param, *run(folder, lists(), request.param))


def test_what_comes_later_changes_nothing_up_to_then(folder: Path, told: tuple[Ask, Run, Answers]) -> None:
    ask, _, answers = told
    last, rng, rows = 50, Random(7), lists()
    for row in rows[last + 1 :]:
        row["query"] = f"{row['query']} of another future"
        row["documents"] = [f"{one} poisoned" for one in row["documents"]]
        row["scores"] = [rng.random() for _ in row["documents"]]
    _, other = run(folder, rows, ask)
    assert given(other, last + 1) == given(answers, last + 1)


def test_no_row_is_served_by_a_student_that_has_seen_its_answer(folder: Path) -> None:
    seen: list[tuple[int, frozenset[str]]] = []

    def promoted(row: int, made: Attempt) -> None:
        seen.append((row, frozenset(one.item_id for one in made.frozen.snapshot.rows)))

    played = replay(folder, lists())
    played.run(BUDGET_ONLY, unseen, promoted)
    assert seen
    for first, items in seen:
        assert items.isdisjoint(played._items[first:])


def test_a_run_says_what_it_says_of_every_task_and_what_stands_beside(told: tuple[Ask, Run, Answers]) -> None:
    ask, found, answers = told
    assert found.calls <= ask.budget
    assert found.agreement is not None
    assert found.head_cycles > 0
    assert found.first_version_row is not None
    assert set(found.others) == {"first", "untrained"}
    assert set(found.measures) == {"nDCG@10", "τ"}
    assert 0.0 <= found.measures["nDCG@10"] <= 1.0
    assert all(sorted(json.loads(one)) == list(range(5)) for one in answers.answer if one)
    paid = [row for row, by in enumerate(answers.by_teacher) if by]
    assert paid


def test_a_student_that_learned_is_better_than_the_untrained_one(told: tuple[Ask, Run, Answers]) -> None:
    _, found, _ = told
    assert found.agreement is not None
    assert found.agreement > found.others["untrained"]


def test_a_teacher_that_was_asked_again_is_compared_with_itself(folder: Path) -> None:
    rows = [row for row in lists(40) if row["scores"]]
    turned = {name: [row[name][::-1] for row in rows[:10]] for name in ("documents", "scores")}
    again = [
        {**row, "id": f"again {row['id']}", "documents": documents, "scores": scores}
        for row, documents, scores in zip(rows[:10], turned["documents"], turned["scores"], strict=True)
    ]
    found, _ = run(folder, [*rows, *again], Ask(budget=20, seed=0, fine_tune=False))
    assert found.others["teacher again"] == 1.0  # the same scores, the documents in another order


def test_a_list_is_read_as_its_item_keeps_it_with_its_answer(folder: Path) -> None:
    rows: list[Row] = [{"query": "q", "documents": ["b", "a", "c"], "scores": [0.1, 0.2, 0.9]}, {"query": "p", "documents": ["x", "y"], "scores": None}]  # fmt: skip  # noqa: E501
    log = log_of(folder, rows, k=2, epsilon=0.15)
    assert [value.documents for value in log.values] == [["a", "b", "c"], ["x", "y"]]  # type: ignore[union-attr]
    assert (log.unusable, log.label_set, log.agreement) == (1, (), "top 2 within 0.15")
    said = log.labels[0]
    assert said is not None
    assert said.endswith('{"scores":[0.2,0.1,0.9]}')
    assert log.in_its_words(said, "[2,1,0]") == said  # b for a loses 0.1
    assert log.in_its_words(said, "[1,0,2]") == "[1,0,2]"


def test_a_tolerance_that_nobody_chose_is_what_the_scores_propose(folder: Path) -> None:
    rows = [{"query": f"q{n}", "documents": ["a", "b"], "scores": [0.0, n / 100]} for n in range(101)]
    log = log_of(folder, rows)
    assert log.tolerance is not None
    assert log.tolerance.epsilon == pytest.approx(0.05, abs=0.002)
    assert "a tolerance of 0.0" in log.proposal
    orders = [{"query": f"q{n}", "documents": ["a", "b"], "order": [1, 0]} for n in range(5)]
    assert log_of(folder, orders).proposal == ""


@pytest.mark.parametrize(
    ("change", "bad"),
    [({"scores": [1, 2]}, "scores has 2 scores for 3 documents"), ({"time": "0"}, None), ({"documents": 5}, "no list")],
)
def test_bad_lists_are_skipped_and_named(folder: Path, change: Row, bad: str | None) -> None:
    good = {"query": "q", "documents": ["a", "b", "c"], "scores": [1, 2, 3]}
    log = log_of(folder, [good, {**good, **change}, good])
    assert [bool(re.search(bad or "-", one.why)) for one in log.bad] == [True] * (bad is not None)


def test_a_log_without_any_answer_is_refused(folder: Path) -> None:
    rows = [{"query": "q", "documents": ["a", "b"], "scores": [1, "x"]}] * 3
    with pytest.raises(SettingsError, match=r"no list has an answer.*line 1: scores\[1\] is no finite number"):
        log_of(folder, rows)


def test_a_log_is_replayed_on_a_cross_encoder_whose_outputs_are_computed_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_cross_encoder(folder / "cross", layers=2)
    read: list[Pair] = []
    outputs = CrossEncoder.outputs

    def counted(encoder: CrossEncoder, pairs: Sequence[Pair]) -> FloatArray:
        read.extend(pairs)
        return outputs(encoder, pairs)

    monkeypatch.setattr(CrossEncoder, "outputs", counted)
    found, answers = replay(folder, lists(60), encoder="cross").run(BUDGET_ONLY, unseen)
    assert found.head_cycles > 0
    assert {"student", "teacher"} == {"teacher" if one else "student" for one in answers.by_teacher}
    assert 0.0 <= found.others["untrained"] <= 1.0
    golden = {query for query, _ in GOLDEN_LISTS}
    own = [pair for pair in read if pair[0] not in golden]
    assert len(own) == len(set(own))


def whole(folder: Path, found: Run, answers: Answers) -> Backtest:
    log, prices = log_of(folder, lists(), epsilon=0.1), BacktestPrices(usd_per_call=0.0, usd_per_training_hour=0.05)
    measure = measure_of(log, "accuracy")
    finished = [Finished(run=found, right=measure.right(answers))]
    points, steps = points_of(finished, measure, prices, log.days), steps_of(finished, measure, prices, log.days)
    best = recommend(points, steps, [found], measure, prices, log.days)
    return assemble(log, measure, prices, finished, [], best, complete=True)


def test_headline_tables_page_and_settings_name_the_lanes_definition(
    folder: Path, told: tuple[Ask, Run, Answers]
) -> None:
    ask, found, answers = told
    backtest = whole(folder, found, answers)
    assert "agreement with the teacher (top 1 within 0.1)" in headline(backtest)
    head = compared(backtest).head
    assert head == ["budget", "random", "oracle", "first", "untrained", "nDCG@10", "τ"]
    shown = page(backtest)
    assert "agreement is top 1 within 0.1 of the teacher" in shown
    assert "told, and never promised" in shown
    assert f"{found.measures['nDCG@10']:.3f}" in shown
    lines = settings_toml(backtest, ask, "minilm")
    assert 'task = "rank"' in lines
    assert "[lanes.rank]\nk = 1\nepsilon = 0.1" in lines


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--task", "rank", "--label", "x"], "--label: a log of the task rank has no such thing"),
        (["--epsilon", "0.1"], "--epsilon: a log of the task classify has no such thing"),
        (["--task", "rank", "--metric", "balanced_accuracy"], "--metric: a log of the task rank has no such thing"),
    ],
)
def test_options_of_another_task_are_refused(tmp_path: Path, more: list[str], why: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in lists(20)))
    result = CliRunner().invoke(app, ["backtest", str(path), "--out", str(tmp_path / "out"), *more])
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.split())
