"""How a lane's requests come: at an even pace, or enough for a first student at once and the others once it serves."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from ops.demo.measures.records import Records
from ops.demo.plan import DemoPlan
from ops.demo.processes import Descendants
from ops.demo.stage import DemoRun
from ops.demo.tasks.play import Pace
from ops.demo.traffic.client import Client
from tests.ops.one_run import swaps, traffic

PASSED, FAILED = {"verdict": "pass"}, {"verdict": "inconclusive"}


class Told:
    """What the lane's records say, as far as it counts here."""

    def __init__(self) -> None:
        self.swaps: list[dict[str, Any]] = []
        self.cycles: list[dict[str, Any]] = []


class Sender:
    """A client that sends at once, and notes what was known then."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.parts: list[tuple[int, int, bool]] = []  # the first, how many, whether something served

    async def send_all(self, due_s: Sequence[float], first: int = 0, *, in_flight: int | None = None) -> None:
        self.parts.append((first, len(due_s), bool(self.told.swaps)))


def stage(told: Told, sender: Sender, pace: Pace) -> DemoRun:
    return DemoRun(
        plan=DemoPlan(),
        traffic=replace(traffic(), requests=traffic().requests[:100]),
        pace=pace,
        acts=False,
        config=Path("understudy.toml"),
        records=cast("Records", told),
        client=cast("Client", sender),
        descendants=Descendants(),
        show=lambda _: None,
        check=lambda: None,
    )


def test_an_even_pace_sends_everything_and_waits_for_nothing() -> None:
    told = Told()
    sender = Sender(told)
    asyncio.run(stage(told, sender, Pace())._send())
    assert sender.parts == [(0, 100, False)]


@pytest.mark.parametrize("served", [True, False], ids=["it serves", "it may not serve"])
def test_after_the_rush_the_others_wait_for_what_the_first_cycle_comes_to(served: bool) -> None:  # noqa: FBT001
    told = Told()
    sender = Sender(told)

    async def played() -> None:
        sending = asyncio.create_task(stage(told, sender, Pace(rate=3.0, rush=60))._send())
        told.cycles = [PASSED]  # judged, and not served yet
        await asyncio.sleep(0.5)
        assert sender.parts == [(0, 60, False)]
        if served:
            told.swaps = swaps()[:1]
        else:
            told.cycles = [FAILED]
        await sending

    asyncio.run(played())
    assert sender.parts == [(0, 60, False), (60, 40, served)]
