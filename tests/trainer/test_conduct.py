"""What the trainer's verdict is appended to: the moves that it was decided on, and no others."""

from types import SimpleNamespace
from typing import Any

import pytest

from store.control import TrainingState
from store.errors import MoveConflictError
from store.registry.moves import Standing
from trainer.daemon import conduct
from trainer.daemon.conduct import Conductor

PLACES = (
    *("redis_url", "items_per_stratum", "registry_root", "trusted_keys", "signing_key", "cache", "cycle_log"),
    "code_version",
)


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


@pytest.mark.parametrize(
    ("asked", "submitted", "judged"),
    [("b", ("a", "b"), "b"), (None, ("a", "b"), "a"), ("b", (), "b"), (None, (), None)],
)
def test_the_candidate_that_somebody_asks_for_is_judged_else_the_one_submitted_first(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, submitted: tuple[str, ...], judged: str | None
) -> None:
    monkeypatch.setattr(conduct, "settings_of", lambda *_: None)
    monkeypatch.setattr(conduct, "CycleWork", SimpleNamespace)
    places = SimpleNamespace(**dict.fromkeys(PLACES))
    own: Any = SimpleNamespace(_begun=0, cycle=None, places=places)
    request: Any = None if asked is None else SimpleNamespace(id="r", candidate=asked)
    standing: Any = SimpleNamespace(candidates=submitted, champion=None, anchor=None)
    training: Any = None
    assert Conductor.work(own, training, "candidate", request, standing, 1.0).candidate == judged
    assert Conductor.work(own, training, "head", request, standing, 1.0).candidate is None


def test_a_cycle_has_as_long_as_the_settings_say() -> None:
    seen: dict[str, Any] = {}

    class StopError(Exception):
        pass

    def run(_work: object, **told: Any) -> None:
        seen.update(told)
        raise StopError

    own: Any = SimpleNamespace(
        monotonic=lambda: 0.0,
        drawing=lambda *_: None,
        beacon=SimpleNamespace(begin=lambda *_: None),
        schedule=SimpleNamespace(cycle_timeout_s=77.0),
        _progress=lambda *_: None,
        _keeper=lambda *_: None,
    )
    nothing: Any = None
    work: Any = SimpleNamespace(cycle_id="1", kind="candidate", now_s=0.0)
    training: Any = SimpleNamespace(lane="acme/support")
    worker: Any = SimpleNamespace(run=run)
    with pytest.raises(StopError):
        Conductor.run(own, training, work, nothing, None, nothing, nothing, worker, nothing)
    assert seen["timeout_s"] == 77.0
