"""Outside a task's own files and the `TASKS` mappings, no module names a task, or what is a task's own."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import pytest

from store.event import Task

ROOT: Final = Path(__file__).parent.parent
ROOMS: Final = ("store", "stream", "serve", "trainer", "ops")
THEIR_OWN: Final = (
    *("store/event.py", "store/tasks/*.py", "store/student/**/*.py", "store/answers/ranking.py"),
    *("store/registry/students/records.py", "store/registry/students/earlier.py"),
    *("serve/tasks/**/*.py", "serve/teacher/ask/*.py", "serve/proxy/tasks.py"),
    *("trainer/learn/tasks.py", "trainer/learn/classify/*.py", "trainer/learn/rank/*.py", "trainer/learn/chat/**/*.py"),
    *("ops/tasks.py", "ops/readers/tasks.py", "ops/readers/classify.py", "ops/readers/lists/*.py"),
    "ops/readers/talk/*.py",
    *("ops/backtest/tasks/*.py", "ops/backtest/log.py", "ops/backtest/records.py", "ops/backtest/options.py"),
    *(
        "ops/backtest/command.py",
        "ops/recording/options.py",
        "ops/sections.py",
        "ops/init.py",
        "ops/cli/start/begin.py",
    ),
    *("ops/rulings/reask.py", "ops/rulings/sample.py", "ops/demo/**/*.py", "ops/console/tasks/*.py"),
)
"""The event's codec; each task's rules, student, record in a manifest, face at the gateway, asking and recipe.

Of `ops`: what commands know of a task, its logs and its replay; what a person may name in settings and options; samples
of labels that are asked again; the demo; and how the console words questions and answers.
"""
TYPES: Final = frozenset(
    {"TextInput", "RankInput", "ChatInput", "LabelAnswer", "RankAnswer", "ChatAnswer"}
    | {"ClassifyEscalation", "RankEscalation", "ChatEscalation", "ClassifyRules", "RankRules", "ChatRules"}
)


def named(source: str) -> Iterator[tuple[int, str]]:
    """Where a module names a task: the line, and what it says there."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)) if text in get_args(Task):
                yield node.lineno, repr(text)
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) if name in TYPES:
                yield node.lineno, name


def modules(room: str) -> list[Path]:
    """Those of a room that should know no task."""
    known = {path for pattern in THEIR_OWN for path in ROOT.glob(pattern)}
    return sorted(path for path in (ROOT / room).rglob("*.py") if path not in known)


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_names_a_task_but_its_own(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} names {what}"
        for path in modules(room)
        for line, what in named(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('if task == "rank": pass', ["'rank'"]),
        ("from store.event import TextInput", ["TextInput"]),
        ("x: event.ChatAnswer", ["ChatAnswer"]),
        ('"""A docstring about rank and chat."""\nrank = 1', []),
    ],
)
def test_a_name_is_found_wherever_it_stands(source: str, what: list[str]) -> None:
    assert [name for _, name in named(source)] == what
