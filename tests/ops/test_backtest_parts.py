"""The backtest is the service's own parts: mark one of them where it lives, and the backtest changes."""

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs

import ops.backtest.play
import serve.routing.budget
import serve.routing.promise
import trainer.attempt
import trainer.judge.verdicts
import trainer.learn.classify.fit
import trainer.learn.classify.recipe
from ops.backtest.records import Answers, Ask, Run
from ops.backtest.replay import DEFAULT_CYCLE, DEFAULT_SCHEDULE
from ops.sections import GateSection, SplitSection, TrainerSection
from ops.settings import Settings
from ops.wiring.train import cycle_settings, schedule_settings
from serve.teacher.budget import Budget
from serve.teacher.memory_ledger import MemoryLedger
from store.buffer.memory import MemoryBuffer
from tests.ops.replays import Bench, given, log_rows
from trainer.due import Ripeness
from trainer.learn.tasks import TASKS

ROWS = log_rows(120)
BUDGET_ONLY = Ask(budget=70, seed=0, fine_tune=False)
MARKED = {"forced", "trusted", "audit", "nobody"}
PROMISE = Ask(budget=140, seed=0, target=0.6, audit_ratio=0.3, fine_tune=False)
BACKTEST = Path(ops.backtest.play.__file__).parent

Found = tuple[Run, Answers]
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.at(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def as_it_is(bench: Bench) -> dict[Ask, Found]:
    return {ask: bench.run(ROWS, ask) for ask in (BUDGET_ONLY, PROMISE)}


def wrap(patch: Patch, home: Any, name: str, mark: Callable[..., Any]) -> None:
    """Put `mark(real, *arguments)` in the place of a part."""
    real = getattr(home, name)
    patch.setattr(home, name, lambda *arguments, **named: mark(real, *arguments, **named))


def policy_never_buys(patch: Patch) -> None:
    wrap(patch, serve.routing.budget, "escalation_limit", lambda _real, *_: 9.0)


def policy_names_another_reason(patch: Patch) -> None:
    def marked(real: Any, *arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named)
        return replace(found, reason="forced") if found.route == "teacher" else found

    wrap(patch, serve.routing.promise, "who_answers", marked)
    wrap(patch, serve.routing.budget, "decide_by_budget", marked)


def budget_refuses(patch: Patch) -> None:
    wrap(patch, Budget, "allows", lambda _real, *_: False)


def ledger_grants_ten(patch: Patch) -> None:
    def marked(real: Any, ledger: MemoryLedger, *arguments: Any, **named: Any) -> Any:
        grant = real(ledger, *arguments, **named)
        return grant if grant.used_calls <= 10 else replace(grant, calls=0)

    wrap(patch, MemoryLedger, "lease", marked)


def buffer_loses_a_label(patch: Patch) -> None:
    wrap(patch, MemoryBuffer, "items", lambda real, *given: (item for item in real(*given) if item.stratum != "login"))


def schedule_waits(patch: Patch) -> None:
    assert vars(ops.backtest.play)["due"] is trainer.due.due
    wrap(patch, ops.backtest.play, "due", lambda real, *given, items, **named: real(*given, items=items // 2, **named))


def trainer_always_says_delivery(patch: Patch) -> None:
    def marked(real: Any, *arguments: Any, **named: Any) -> Any:
        draft = real(*arguments, **named)
        favoured = torch.zeros(len(draft.labels))
        favoured[draft.labels.index("delivery")] = 1e4
        return replace(draft, head=replace(draft.head, bias=draft.head.bias + favoured))

    wrap(patch, trainer.learn.classify.recipe, "fit", marked)


def calibration_never_certifies(patch: Patch) -> None:
    wrap(
        patch,
        trainer.judge.verdicts,
        "calibrate",
        lambda real, *given, **named: structs.replace(real(*given, **named), threshold=None),
    )


def calibration_trusts_everything(patch: Patch) -> None:
    wrap(
        patch,
        trainer.judge.verdicts,
        "calibrate",
        lambda real, *given, **named: structs.replace(real(*given, **named), threshold=0.0, novelty_threshold=None),
    )


def gate_refuses_everything(patch: Patch) -> None:
    wrap(
        patch,
        trainer.judge.verdicts,
        "judge",
        lambda real, *given, **named: structs.replace(real(*given, **named), outcome="fail"),
    )


def students_answers(answers: Answers) -> set[str]:
    return {label for label in answers.student if label}


@pytest.mark.parametrize(
    ("ask", "mark", "seen"),
    [
        (BUDGET_ONLY, policy_never_buys, lambda run, _: run.calls < 70),
        (BUDGET_ONLY, policy_names_another_reason, lambda _, answers: set(answers.reason) <= MARKED),
        (PROMISE, policy_names_another_reason, lambda _, answers: set(answers.reason) <= MARKED),
        (BUDGET_ONLY, budget_refuses, lambda run, _: run.calls == 0),
        (PROMISE, budget_refuses, lambda run, _: run.calls == 0),
        (BUDGET_ONLY, ledger_grants_ten, lambda run, _: run.calls == 10),
        (BUDGET_ONLY, buffer_loses_a_label, lambda _, answers: students_answers(answers) == {"delivery", "refund"}),
        (PROMISE, buffer_loses_a_label, lambda _, answers: "login" not in students_answers(answers)),
        (BUDGET_ONLY, schedule_waits, lambda run, _: run.first_version_row > 20),
        (BUDGET_ONLY, trainer_always_says_delivery, lambda _, answers: students_answers(answers) == {"delivery"}),
        (PROMISE, calibration_never_certifies, lambda run, _: run.certified_row is None and run.head_cycles > 2),
        (PROMISE, calibration_trusts_everything, lambda _, answers: "low_confidence" not in answers.reason),
        (BUDGET_ONLY, gate_refuses_everything, lambda run, _: run.refused_cycles == run.head_cycles > 2),
        (PROMISE, gate_refuses_everything, lambda run, _: run.first_version_row is None),
    ],
)
def test_a_part_that_is_marked_where_it_lives_changes_the_backtest(
    bench: Bench,
    as_it_is: dict[Ask, Found],
    monkeypatch: Patch,
    ask: Ask,
    mark: Callable[[Patch], None],
    seen: Callable[[Run, Answers], bool],
) -> None:
    mark(monkeypatch)
    run, answers = bench.run(ROWS, ask)
    assert seen(run, answers)
    assert not seen(*as_it_is[ask])


def test_the_backtest_learns_as_the_service_does_by_default() -> None:
    live = Settings.model_construct(trainer=TrainerSection(), split=SplitSection(), gate=GateSection())
    assert schedule_settings(live) == replace(DEFAULT_SCHEDULE, head_first=True)  # in a replay training takes no time
    alike = replace(DEFAULT_CYCLE, quarantine_s=3600.0, split=replace(DEFAULT_CYCLE.split, salt="understudy"))
    assert cycle_settings(live) == alike


def test_a_fine_tuned_member_comes_from_the_trainer_and_when_from_its_schedule(
    bench: Bench, monkeypatch: Patch
) -> None:
    ask = structs.replace(BUDGET_ONLY, fine_tune=True)
    assert bench.run(ROWS, ask)[0].fine_tune_cycles == 0
    sooner = replace(TASKS["classify"], ripe=Ripeness(items=40, items_per_label=1))
    monkeypatch.setitem(TASKS, "classify", sooner)
    tuned, answers = bench.run(ROWS, ask)
    assert tuned.fine_tune_cycles >= 1
    assert tuned.served_parameters > 1.5 * tuned.encoder_parameters

    def marked(real: Any, *arguments: Any, **named: Any) -> Any:
        member = real(*arguments, **named)
        member.bias[:] = 0.0
        member.weight[:] = 0.0
        return member

    wrap(monkeypatch, trainer.learn.classify.fit, "train_member", marked)
    assert given(bench.run(ROWS, ask)[1]) != given(answers)


@pytest.mark.parametrize("path", sorted(BACKTEST.rglob("*.py")), ids=lambda path: path.name)
def test_the_backtest_holds_no_learning_and_no_decision_of_its_own(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    learners = (
        "torch.",
        "sklearn",
        "scipy.optimize",
        "transformers",
        "trainer.learn.classify.head",
        "trainer.learn.classify.probe",
        "trainer.learn.classify.fine_tune",
    )
    assert not [name for name in imported if name.startswith(learners)]
    parts = {
        "trainer.learn.classify.fit.fit",
        "trainer.judge.gate.judge",
        "trainer.judge.calibrate.calibrate",
        "store.policy.who_answers",
    }
    assert imported.isdisjoint(parts)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert not {name for name in defined if name.strip("_").startswith(("fit", "train", "calibrat", "judge", "decide"))}
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert called.isdisjoint({"backward", "zero_grad", "lstsq", "solve", "argmax", "fit", "partial_fit"})
