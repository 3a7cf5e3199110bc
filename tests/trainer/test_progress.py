"""How far a cycle has come, and when it may end: from its own steps, else from cycles before it. Pure."""

from typing import Literal

import pytest

from store.control import CycleEnded, CycleKind
from trainer.daemon.progress import Progress, earlier_seconds


def ended(
    seconds: float, *, kind: CycleKind = "head", version: str | None = "v", verdict: Literal["fail", "error"] = "fail"
) -> CycleEnded:
    return CycleEnded(id="c", at_s=0.0, seconds=seconds, kind=kind, verdict=verdict, why="", version=version)


def progress(*earlier_s: float, kind: CycleKind = "fine_tune") -> Progress:
    return Progress(id="c", kind=kind, at_s=5.0, request="r", started_s=100.0, earlier_s=earlier_s)


def test_the_last_five_cycles_of_a_kind_that_judged_a_version_tell_how_long_one_takes() -> None:
    before = [ended(float(seconds)) for seconds in range(7)]
    others = [ended(90.0, kind="fine_tune"), ended(91.0, verdict="error"), ended(92.0, version=None)]
    assert earlier_seconds([*before, *others], "head") == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert earlier_seconds(others, "fine_tune") == [90.0]
    assert earlier_seconds(others, "candidate") == []


def test_the_time_left_is_the_median_of_earlier_cycles_less_what_has_passed() -> None:
    assert progress(50.0, 60.0, 400.0).left(110.0) == (50.0, "earlier_cycles")
    assert progress().left(110.0) == (None, None)


@pytest.mark.parametrize("now_s", [160.0, 161.0, 999.0])
def test_nothing_is_known_once_it_takes_longer_than_those_before(now_s: float) -> None:
    assert progress(60.0).left(now_s) == (None, None)


def test_steps_of_a_fine_tuning_tell_more_than_other_cycles_once_there_are_enough() -> None:
    one = progress(1000.0)
    one.told("fine_tuning", 0.0, 120.0)
    one.told("fine_tuning", 0.04, 124.0)
    assert one.left(124.0) == (976.0, "earlier_cycles")
    one.told("fine_tuning", 0.05, 130.0)
    left_s, left_by = one.left(130.0)
    assert left_by == "steps"
    assert left_s == pytest.approx(190.0)  # 10 s for a twentieth, since the stage began
    one.told("fine_tuning", 1.0, 320.0)
    assert one.left(320.0) == (0.0, "steps")
    one.told("fitting", 0.5, 321.0)
    assert one.left(321.0) == (779.0, "earlier_cycles")


def test_a_stage_has_its_number_among_those_of_its_kind() -> None:
    for kind, stage, number, stages in (("head", "fitting", 4, 6), ("fine_tune", "fitting", 5, 7)):
        one = progress(kind=kind)  # type: ignore[arg-type]
        one.told(stage, 0.5, 130.0)  # type: ignore[arg-type]
        shown = one.shown(140.0)
        assert (shown.number, shown.stages, shown.elapsed_s, shown.done_ratio) == (number, stages, 40.0, 0.5)
        assert (shown.id, shown.request, shown.at_s, shown.kind) == ("c", "r", 5.0, kind)
