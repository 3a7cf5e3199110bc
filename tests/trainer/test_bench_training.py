"""The comparison with `transformers.Trainer`, on a tiny encoder: its shape and its rule for equal loss."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.bench.training import Side, at_equal_loss, read_task, run
from tests.bench.training_sides import Run, Task, log_loss
from tests.tiny import questions, tiny_encoder
from trainer.learn.features import BaseEncoder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("bench")
    texts, labels = questions(60)
    lines = [{"text": text, "teacher": {"label": label}} for text, label in zip(texts, labels, strict=True)]
    unanswered = [{"text": "is it?", "teacher": None}, {"text": "is it?", "gold": "login"}]
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps(line) for line in [*unanswered, *lines]))
    base = BaseEncoder.open(tiny_encoder(folder / "tiny"), precision="fp32", max_tokens=64)
    return read_task(data, base, train_rows=40)


def side(losses: dict[int, float], tried: list[int] | None = None) -> Side:
    """A side whose loss depends on the number of epochs alone."""

    def train(task: Task, epochs: int, seed: int) -> Run:
        if tried is not None:
            tried.append(epochs)
        loss = losses[epochs]
        return Run(epochs=epochs, seconds=1.0, cpu_seconds=1.0, rows_seen=1, loss=loss, raw_loss=loss, agreement=0.5)

    return train


def test_rows_without_a_teacher_answer_are_left_out_and_no_row_is_learned_and_judged_on(task: Task) -> None:
    assert (len(task.train.texts), len(task.held_out.texts)) == (40, 20)
    expected = dict(zip(*questions(60), strict=True))
    for part in (task.train, task.held_out):
        assert [task.labels[i] for i in part.answers] == [expected[text] for text in part.texts]
    assert sorted(task.train.texts + task.held_out.texts) == sorted(questions(60)[0])


def test_both_sides_learn_and_every_promised_field_is_there(task: Task) -> None:
    said: list[str] = []
    result = run(task, epochs=2, repeats=2, threads=1, tried=(1,), say=said.append)
    assert json.loads(json.dumps(result)) == result
    assert (result["train_rows"], result["held_out_rows"]) == (40, 20)
    for compared in (result, result["equal_loss"]):
        assert compared["rows_per_s_ratio"] > 0.0
        for name in ("ours", "trainer"):
            assert len(compared[name]["seconds_each"]) == 2
            assert 0.0 < compared[name]["held_out_loss"] < 2.0
            assert compared[name]["rows_per_s"] == pytest.approx(
                40 * compared[name]["epochs"] / compared[name]["seconds"], rel=0.5
            )
    assert result["ours"]["epochs"] == result["trainer"]["epochs"] == 2
    assert result["time_to_equal_loss_ratio"] > 0.0 < result["cpu_time_to_equal_loss_ratio"]
    assert result["bf16"]["equal_top_answers"] > 0.9
    assert set(result["threads_tried"]) == {"1"}
    assert any("trainer" in line for line in said)


def test_each_side_takes_the_fewest_epochs_that_reach_the_trainers_loss(task: Task) -> None:
    we, they = side({1: 1.3, 2: 1.01, 3: 1.1, 4: 1.5}), side({1: 1.9, 2: 1.4, 3: 1.015, 4: 1.0})
    found = at_equal_loss(task, we(task, 4, 0), they(task, 4, 0), we=we, they=they)
    assert (found.ours.epochs, found.trainer.epochs) == (2, 3)
    assert found.goal == pytest.approx(1.02)


def test_where_we_do_not_reach_the_trainers_loss_it_need_only_reach_our_lowest(task: Task) -> None:
    we, they = side({1: 1.6, 2: 1.4, 3: 1.5}), side({1: 1.9, 2: 1.41, 3: 1.0})
    found = at_equal_loss(task, we(task, 3, 0), they(task, 3, 0), we=we, they=they)
    assert (found.ours.epochs, found.trainer.epochs) == (2, 2)


def test_no_run_is_made_that_cannot_change_the_answer(task: Task) -> None:
    tried: list[int] = []
    we, they = side({1: 0.9, 2: 0.8}, tried), side({1: 1.5, 2: 1.0})
    found = at_equal_loss(task, side({2: 0.8})(task, 2, 0), they(task, 2, 0), we=we, they=they)
    assert (tried, found.ours.epochs, found.trainer.epochs) == ([1], 1, 2)


def test_log_loss_is_the_mean_cross_entropy_in_nats() -> None:
    logits = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], dtype=np.float32))
    assert log_loss(logits, np.array([0, 1])) == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2, rel=1e-5)


def test_a_file_with_too_few_answers_is_refused_by_its_numbers(task: Task, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "where?", "teacher": {"label": "a"}}')
    with pytest.raises(ValueError, match="1 answered rows: more than 600"):
        read_task(data, task.base, train_rows=600)
