"""One lane of the demo while it runs: its traffic, the planted challenger, the rollback, and the watch over it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ops.demo.command import run_json
from ops.demo.measures.measure import Marked, judge_all
from ops.demo.measures.records import Records
from ops.demo.measures.summary import EventCount, Rollback, ledger
from ops.demo.page.live_view import DemoBoard, DemoShow
from ops.demo.page.picture import Picture, draw
from ops.demo.plan import DemoPlan
from ops.demo.processes import DemoError, Descendants
from ops.demo.tasks.play import DemoTraffic, Pace
from ops.demo.tasks.tasks import TASKS
from ops.demo.traffic.client import Client, schedule_s
from store.event import wall_clock_s
from store.money.reckon import Money

PLANT_AT: Final = 0.5  # of the requests
ROLLBACK_AT: Final = 0.93
_LOOK_S: Final = 1.0
_WAIT_S: Final = 0.2
_SETTLE_S: Final = 45.0
_RUSH_IN_FLIGHT: Final = 64
_FIRST_CYCLE_S: Final = 900.0  # of minutes on two quiet cores
_PLANT_S: Final = 300.0  # a fresh process that imports torch and embeds every row, on a machine that is busy


@dataclass(kw_only=True)
class DemoRun:
    """Everything that the running demo knows of a lane."""

    plan: DemoPlan
    traffic: DemoTraffic
    pace: Pace
    acts: bool  # a challenger is planted in it, and its champion is rolled back
    config: Path
    records: Records
    client: Client
    descendants: Descendants
    show: DemoShow
    check: Callable[[], None]  # raises where one of the demo's processes has ended
    started_s: float = field(default_factory=time.monotonic)
    phase: str = "starting"
    planted: str | None = None
    _planting: bool = False
    rollback: Rollback | None = None
    rolled_back_s: float | None = None

    async def play(self) -> None:
        """Send the traffic to its end, with what happens on the way."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch())
            played = (self._plant(), self._roll_back()) if self.acts else ()
            acts = [group.create_task(act) for act in played]
            await self._send()
            self.phase = "settling"
            await self._until(lambda: all(act.done() for act in acts), _PLANT_S if self._planting else _SETTLE_S)
            await self._until(self._settled, _SETTLE_S)
            watch.cancel()
            for act in acts:
                act.cancel()
        await self.look()
        self._note_served_after()

    async def _send(self) -> None:
        """Send what comes at once; then, where anything does, wait for what the first cycle comes to; then the rest."""
        total, pace, seed = len(self.traffic.requests), self.pace, self.plan.seed
        rush = min(pace.rush, total)
        self.phase = "sending"
        if rush:
            await self.client.send_all([0.0] * rush, in_flight=_RUSH_IN_FLIGHT)  # only the teacher answers yet
            self.phase = "training the first student"
            await self._until(self._first_cycle_over, _FIRST_CYCLE_S)
            self.phase = "sending"
        await self.client.send_all(schedule_s(total - rush, pace.rate, seed), rush)

    def board(self) -> DemoBoard:
        """What the live view shows now."""
        lane = self.records.lane_status
        return DemoBoard(
            lane=str(self.traffic.lane),
            phase=self.phase,
            elapsed_s=time.monotonic() - self.started_s,
            picture=self.picture(),
            promise_state=lane.promise.state if lane is not None and lane.champion is not None else None,
            failure=next((one.error for one in self.client.outcomes if one.error is not None), None),
        )

    def judged(self) -> list[Marked | None]:
        """Every answered request against the record, in the order of sending."""
        outcomes = sorted(self.client.outcomes, key=lambda one: one.index)
        return judge_all(outcomes, self.records.log, self.records.trained)

    def picture(self) -> Picture:
        """The curves and marks so far."""
        return draw(
            total=len(self.traffic.requests),
            target=self.plan.target_of(self.traffic.task),
            outcomes=self.client.outcomes,
            judged=self.judged(),
            cycles=self.records.cycles,
            swaps=self.records.swaps,
            planted=self.planted,
            rollback=self.rollback,
            late=TASKS[self.traffic.task].late if self.traffic.generated else None,
        )

    def ledger(self) -> EventCount:
        """Where the events went."""
        lane = self.records.lane_status
        buffer = lane.buffer if lane is not None else None
        dead = self.records.status.dead_letters if self.records.status is not None else {}
        own = dead.get(self.traffic.lane.use_case, {})
        return ledger(
            self._accepted(),
            self.records.copies,
            counted=buffer.counted if buffer is not None else 0,
            ineligible=buffer.ineligible if buffer is not None else 0,
            repeats=buffer.repeats if buffer is not None else 0,
            dead=sum(own.values()),
        )

    def promise(self) -> dict[str, Any]:
        """The promise as the processes' own status has it."""
        lane = self.records.lane_status
        if lane is None:
            return {"target": self.plan.target_of(self.traffic.task), "state": None, "n": None, "low": None}
        return {
            "target": lane.promise.target,
            "state": lane.promise.state,
            "n": lane.promise.audits,
            "low": lane.promise.low,
        }

    def money(self) -> Money | None:
        """What was spent and saved, as the processes' own status has it."""
        lane = self.records.lane_status
        return lane.money.start if lane is not None and lane.money is not None else None

    def _accepted(self) -> set[str]:
        return {one.event_id for one in self.client.outcomes if one.event_id is not None}

    def _settled(self) -> bool:
        """Whether every event that was promised is in the log, and every event of the log in the buffer."""
        found, lane = self.ledger(), self.records.lane_status
        caught_up = lane is not None and lane.buffer is not None and lane.buffer.lag_records == 0
        return caught_up and not found.lost

    async def _watch(self) -> None:
        while True:
            self.check()
            await self.look()
            self.show(self.board())
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Read the processes' records, off the event loop: the client must keep its pace."""
        versions = {one.version for one in self.client.outcomes}
        await asyncio.to_thread(self.records.refresh)
        await asyncio.to_thread(self.records.learn_versions, versions)
        self.descendants.look()

    async def _until(self, holds: Callable[[], bool], patience_s: float) -> bool:
        deadline_s = time.monotonic() + patience_s
        while not holds():
            if time.monotonic() >= deadline_s:
                return False
            await asyncio.sleep(_WAIT_S)
        return True

    async def _plant(self) -> None:
        """Half way: a challenger that has learned nothing takes the ordinary path."""
        await self._until(lambda: self._sent(PLANT_AT) and self._champion() is not None, float("inf"))
        self._planting = True
        lane = ("--lane", str(self.traffic.lane))
        challenger = ("ops.demo.plant", "--config", str(self.config), *lane, "--seed", str(self.plan.seed))
        made = await run_json(*challenger, timeout_s=_PLANT_S)
        version = str(made.answer["version"])
        self.planted = version
        asked = await run_json(
            *("ops.cli", "cycle", "start", "--candidate", version, "--config", str(self.config), *lane),
            *("--reason", "a version that was trained elsewhere", "-o", "json"),
        )
        if asked.code != 0:
            message = f"the planted challenger could not be submitted: {asked.answer}"
            raise DemoError(message)
        await self._until(lambda: any(one.get("candidate") == version for one in self.records.cycles), float("inf"))

    async def _roll_back(self) -> None:
        """Near the end: the operator goes back to the champion before, with the real command."""
        await self._until(lambda: self._sent(ROLLBACK_AT) and self._previous() is not None, float("inf"))
        command = ("ops.cli", "rollback", "--config", str(self.config), "--lane", str(self.traffic.lane))
        ran = await run_json(*command, "--reason", "a rehearsal, by the demo", "-o", "json")
        self.rolled_back_s = wall_clock_s()
        self.rollback = Rollback(
            before=ran.answer.get("from"),
            after=str(ran.answer.get("to")),
            cli_s=ran.seconds,
            served_after=None,
            pinned=bool(ran.answer.get("pinned")),
        )

    def _note_served_after(self) -> None:
        """What the clients were served after the rollback, and whether the champion is pinned still."""
        found, lane = self.rollback, self.records.lane_status
        if found is None or self.rolled_back_s is None:
            return
        served = {one.version for one in self.client.outcomes if one.at_s >= self.rolled_back_s}
        self.rollback = Rollback(
            before=found.before,
            after=found.after,
            cli_s=found.cli_s,
            served_after=next(iter(served)) if len(served) == 1 else None,
            pinned=lane is not None and lane.pinned and lane.champion == found.after,
        )

    def _sent(self, share: float) -> bool:
        return len(self.client.outcomes) >= share * len(self.traffic.requests)

    def _first_cycle_over(self) -> bool:
        """Whether a gateway serves what the first cycle made, or it made nothing to serve."""
        return bool(self.records.swaps) or any(cycle["verdict"] != "pass" for cycle in self.records.cycles)

    def _champion(self) -> str | None:
        lane = self.records.lane_status
        return lane.champion if lane is not None else None

    def _previous(self) -> str | None:
        lane = self.records.lane_status
        return lane.previous if lane is not None else None
