"""What the trainer's verdict is appended to: the moves that it was decided on, and no others."""

from types import SimpleNamespace
from typing import Any

import pytest

from store.control import TrainingState
from store.errors import MoveConflictError
from store.registry.moves import Standing
from trainer.daemon import conduct
from trainer.daemon.conduct import Conductor


class Moves:
    """A chain that somebody else adds to, right before the first append or never."""

    def __init__(self, *, overtaken: bool) -> None:
        self.history = ["first", "second"]
        self.overtaken = overtaken
        self.appended: list[dict[str, Any]] = []

    def read(self) -> list[str]:
        return list(self.history)

    def append(self, kind: str, **told: Any) -> None:
        self.appended.append({"kind": kind, **told})
        if self.overtaken and len(self.appended) == 1:
            self.history.append("a rollback")
            message = "another writer moved first"
            raise MoveConflictError(message)


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_verdict_is_appended_to_the_very_moves_that_it_was_settled_on(
    monkeypatch: pytest.MonkeyPatch, *, overtaken: bool
) -> None:
    moves, settled = Moves(overtaken=overtaken), list[int]()

    def settle(_result: object, _before: object, now: int) -> tuple[str, list[str]]:
        settled.append(now)
        return ("pass", []) if now == 2 else ("held", ["somebody moved"])

    monkeypatch.setattr(conduct, "fold", len)
    monkeypatch.setattr(conduct, "settle", settle)
    monkeypatch.setattr(conduct, "report_of", lambda *given, **_: given[2])
    noted: list[Any] = []
    own: Any = SimpleNamespace(
        registry=SimpleNamespace(moves=lambda _: moves),
        key=SimpleNamespace(name="trainer"),
        clock=lambda: 1.0,
        monotonic=lambda: 1.0,
        _endings=SimpleNamespace(note=lambda _lane, ending: noted.append(ending)),
    )
    result: Any = SimpleNamespace(version="a" * 16, anchor=True, verdict=SimpleNamespace(phase="first", rows_judged=3))
    work: Any = SimpleNamespace(candidate=None, training=SimpleNamespace(lane="acme/support"))
    ending = Conductor._move(own, work, result, Standing(), TrainingState(), None, None, 0.0)
    outcome: Any = ending.report
    assert noted[-1] is ending  # noted before it is moved
    assert [one.number for one in noted] == [number + 1 for number in settled]
    assert [one["expected"] for one in moves.appended] == [number + 1 for number in settled]
    assert settled == ([2, 3] if overtaken else [2])
    assert (outcome, moves.appended[-1]["kind"]) == (("held", "decline") if overtaken else ("pass", "promote"))
    assert moves.appended[-1]["anchor"] == (not overtaken)
