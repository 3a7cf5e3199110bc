"""The benchmark of `chat` plays what it says, on a tiny decoder."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from store.event import ChatInput
from tests.bench import chat as bench
from tests.tiny import tiny_encoder
from tests.trainer.chat.talks import a_talk, calm_decoder
from tests.trainer.chat.test_cycle import QUICK
from trainer.due import Ripeness
from trainer.learn.chat import steps
from trainer.learn.tasks import TASKS, Learned


def row(value: ChatInput, text: str) -> str:
    messages = [{"role": one.role, "content": one.content} for one in value.messages]
    return json.dumps({"messages": messages, "teacher": {"text": text}})


def test_students_are_made_asked_and_trained_as_answers_are_bought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FEW", "MANY", "WARM"):
        monkeypatch.setattr(steps, name, replace(QUICK, epochs=3))
    ripe = Learned(ripe=Ripeness(items=60, items_per_label=0, head_alone=False), recipe=TASKS["chat"].recipe)
    monkeypatch.setitem(TASKS, "chat", ripe)
    monkeypatch.setattr(bench, "_HELD_OUT", 40)
    rng = Random(1)
    data = tmp_path / "talks.jsonl"
    data.write_text("\n".join(row(*a_talk(rng, hard=0.1)) for _ in range(200)))
    wanted = ["--data", str(data), "--model", str(calm_decoder(tmp_path / "decoder")), "--answers", "80"]
    wanted += [
        "--encoder",
        str(tiny_encoder(tmp_path / "encoder", layers=1)),
        "--rows",
        "120",
        "--calls",
        "80",
        "--json",
    ]
    assert bench.main(wanted) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    (learned,) = found["learned"]["80"]
    assert 0.0 <= learned["agreement"] <= 1.0
    assert learned["train_cpu_s"] > 0
    for way in ("ours", "random"):
        (played,) = found["stream"][f"{way}@80/120"]
        assert played["calls"] <= 80
        assert played["cycles"][0].startswith("fine_tune@")
        assert played["agreement"] > 80 / 120


def test_the_area_under_the_curve_is_a_chance() -> None:
    assert bench.auroc(np.array([0.9, 0.8, 0.2]), np.array([True, True, False])) == 1.0
    assert bench.auroc(np.array([0.5, 0.5]), np.array([True, False])) == 0.5
    assert np.isnan(bench.auroc(np.array([0.5]), np.array([True])))


def test_without_data_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--data", "/nowhere", "--model", "/nowhere"]) == 2
    assert "--data" in capsys.readouterr().err
