"""Conversations are replayed through the service's own parts; no row is served by a student that knew its answer."""

import json
from collections.abc import Iterator
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
from ops.backtest.records import Answers, Ask, BacktestPrices, Run
from ops.backtest.replay import DEFAULT_CYCLE, DEFAULT_SCHEDULE, Replay
from ops.backtest.report.page import page
from ops.backtest.tasks.talks import read_conversations
from ops.cli.app import app
from store.errors import SettingsError
from store.tasks.chat import ChatTerms
from tests.ops.replays import given, unseen
from tests.tiny import tiny_encoder
from tests.trainer.chat.talks import a_talk, schooled_decoder
from trainer.attempt import Attempt
from trainer.due import Ripeness
from trainer.judge.gate import GateLimits
from trainer.learn import tasks
from trainer.learn.chat import steps
from trainer.learn.chat.training.job import Tuning

ROWS: Final = 100
TERMS: Final = ChatTerms(max_prompt_tokens=200, max_answer_tokens=16)
ASK: Final = Ask(budget=75, seed=0, fine_tune=False)
PROMISE: Final = Ask(budget=95, seed=0, target=0.6, confidence=0.6, audit_ratio=0.3, fine_tune=False)
QUICK: Final = Tuning(layers=2, rank=4, alpha=8, epochs=1, learning_rate=1e-3, batch_rows=8, micro_rows=8)

Row = dict[str, Any]


def talks(count: int = ROWS, *, seed: int = 0) -> list[Row]:
    """Distinct conversations with the desk's answers, now and then another."""
    rng = Random(seed)
    rows = []
    for number in range(count):
        asked, said = a_talk(rng)
        messages = [{"role": one.role, "content": one.content} for one in asked.messages]
        messages[-1]["content"] += f" {number}"
        answer = '{"t": "other"}' if rng.random() < 0.05 else said
        rows.append({"id": f"q{number}", "messages": messages, "answer": answer})
    return rows


def log_of(folder: Path, rows: list[Row]) -> Log:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_conversations(path, {}, 1.0, TERMS)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """A first training of few rows, in a second."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FEW", "MANY", "WARM"):
            patch.setattr(steps, name, QUICK)
        ripe = Ripeness(items=40, items_per_label=0, head_alone=False)
        patch.setitem(tasks.TASKS, "chat", replace(tasks.TASKS["chat"], ripe=ripe))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("chat")
    tiny_encoder(made / "encoder", layers=1)
    schooled_decoder(made / "decoder")
    return made


def replay(folder: Path, rows: list[Row]) -> Replay:
    return Replay(
        log_of(folder, rows),
        encoder=str(folder / "encoder"),
        model=str(folder / "decoder"),
        cache=Path(mkdtemp(dir=folder)),
        cycle=replace(
            DEFAULT_CYCLE, device="cpu", precision="fp32", max_tokens=32, limits=GateLimits(delta=0.2, min_rows=10)
        ),
        schedule=replace(DEFAULT_SCHEDULE, min_new_labels=10, growth_ratio=0.3),
    )


Seen = list[tuple[int, frozenset[str]]]


@pytest.fixture(scope="module", params=[ASK, PROMISE], ids=["budget", "promise"])
def told(request: pytest.FixtureRequest, folder: Path) -> tuple[Ask, Run, Answers, Seen, list[str]]:
    seen: Seen = []

    def promoted(row: int, made: Attempt) -> None:
        seen.append((row, frozenset(one.item_id for one in made.frozen.snapshot.rows)))

    played = replay(folder, talks())
    return (request.param, *played.run(request.param, unseen, promoted), seen, played._items)


Told = tuple[Ask, Run, Answers, Seen, list[str]]


def test_what_comes_later_changes_nothing_up_to_then(folder: Path, told: Told) -> None:
    """But for the rounding of a batch that reads some rows ahead."""
    ask, _, answers, seen, _ = told
    last, rows = seen[0][0] + 5, talks()
    for row in rows[last + 1 :]:
        row["messages"][-1]["content"] = f"another future {row['id']}"
        row["answer"] = '{"poisoned": true}'
    _, other = replay(folder, rows).run(ask, unseen)
    assert exactly(other, last + 1) == exactly(answers, last + 1)


def exactly(answers: Answers, count: int) -> list[tuple[object, ...]]:
    return [tuple(round(one, 4) if isinstance(one, float) else one for one in row) for row in given(answers, count)]


def test_no_row_is_served_by_a_student_that_has_seen_its_answer(told: Told) -> None:
    *_, seen, ids = told
    assert seen
    for first, items in seen:
        assert items.isdisjoint(ids[first:])


def test_a_run_says_what_it_says_of_every_task(told: Told) -> None:
    ask, found, answers, *_ = told
    assert found.calls <= ask.budget
    assert found.agreement is not None
    assert found.agreement > 0.8
    assert found.fine_tune_cycles >= 1
    assert found.first_version_row is not None
    assert set(found.others) == {"first"}
    own = [one for one, by in zip(answers.answer, answers.by_teacher, strict=True) if one and not by]
    assert any(set(json.loads(one)) == {"t"} for one in own)


def test_headline_page_and_settings_say_what_is_called_the_same(folder: Path, told: Told) -> None:
    ask, found, answers, *_ = told
    log, prices = log_of(folder, talks()), BacktestPrices(usd_per_call=0.0, usd_per_training_hour=0.05)
    measure = measure_of(log, "accuracy")
    finished = [Finished(run=found, right=measure.right(answers))]
    points, made = points_of(finished, measure, prices, log.days), steps_of(finished, measure, prices, log.days)
    best = recommend(points, made, [found], measure, prices, log.days)
    backtest = assemble(log, measure, prices, finished, [], best, complete=True)
    assert "agreement with the teacher (the same JSON, or the same words)" in headline(backtest)
    shown = page(backtest)
    assert "no referee was asked" in shown
    assert "scores" not in shown
    lines = settings_toml(backtest, ask, "minilm", "smollm2")
    assert 'task = "chat"' in lines
    assert '[lanes.student]\nmodel = "smollm2"' in lines


def test_conversations_are_read_as_their_items_keep_them(folder: Path) -> None:
    rows = talks(3)
    rows[1]["answer"] = None
    rows[2]["messages"][-1]["content"] = "my card is 4111 1111 1111 1111"
    log = log_of(folder, rows)
    assert (log.rows, log.unusable, log.label_set) == (2, 0, ())
    assert [row.line for row in log.bad] == [2]
    assert "<CARD:" in log.texts[1]
    said = log.labels[0]
    assert said is not None
    assert log.in_its_words(said, json.dumps(json.loads(rows[0]["answer"]), indent=1)) == said
    assert log.in_its_words(said, "{}") == "{}"
    with pytest.raises(SettingsError, match="--answer reply"):
        read_conversations(folder / "log.jsonl", {"--answer": "reply"}, 1.0, TERMS)


def test_the_model_that_learns_has_to_be_named(tmp_path: Path, folder: Path) -> None:
    log_of(tmp_path, talks(10))
    call = [
        "backtest",
        str(tmp_path / "log.jsonl"),
        "--out",
        str(tmp_path / "out"),
        "--encoder",
        str(folder / "encoder"),
    ]
    without = CliRunner().invoke(app, [*call, "--task", "chat"])
    assert without.exit_code == 2
    assert "--model: a log of conversations needs" in " ".join(without.stderr.split())
    other = CliRunner().invoke(app, [*call, "--task", "rank", "--model", "smollm2"])
    assert "--model: a log of the task rank has no such thing" in " ".join(other.stderr.split())
