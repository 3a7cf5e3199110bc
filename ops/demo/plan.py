"""What the demo will do: its lanes' traffic, its pace, its places."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.demo.tasks.play import DemoTraffic, TrafficSource
from ops.demo.tasks.tasks import TASKS
from store.event import Task

RATE: Final = 14.0
TARGET: Final = 0.90
WINDOWS: Final = 12
SHARES: Final = {"classify": 2400, "rank": 900}
"""Requests of each lane where they are played at once; alone, a lane has its task's own number."""
INPUT_USD_PER_MTOK: Final = 2.5  # assumed, as a large model's list prices are: the recorded teacher has none
OUTPUT_USD_PER_MTOK: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """The demo's arguments."""

    out: Path = Path("out/demo")
    task: Task | None = None  # None: every task at once, or, with a file, classify
    traffic: Path | None = None  # None: the seeded generators
    target: float = TARGET
    seed: int = 1
    requests: int | None = None  # of each lane; None: as its generator says, or every row of the file
    rate: float = RATE  # requests a second, of all lanes together
    file_order: bool = False
    text_column: str | None = None
    label_column: str | None = None

    @property
    def state(self) -> Path:
        """Where the installation is made: settings, keys, secret, state."""
        return self.out / "state"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What is played."""
        if self.task is not None:
            return (self.task,)
        return tuple(TASKS) if self.traffic is None else ("classify",)

    def traffic_file(self, task: Task) -> Path:
        """What is sent to a task's lane, whose teacher's answers the recorded teacher reads."""
        return self.out / f"traffic-{task}.jsonl"


def prepare_traffic(plan: DemoPlan) -> list[DemoTraffic]:
    """Generate or read each lane's traffic, and write what is sent.

    Raises:
        SettingsError: the file cannot be used; the message says why.
    """
    return list(_traffic(plan))


def _traffic(plan: DemoPlan) -> Iterator[DemoTraffic]:
    for task in plan.tasks:
        source = TrafficSource(
            file=plan.traffic,
            seed=plan.seed,
            rows=plan.requests or (SHARES[task] if len(plan.tasks) > 1 else None),
            file_order=plan.file_order,
            text_column=plan.text_column,
            label_column=plan.label_column,
        )
        yield TASKS[task].traffic(source, plan.traffic_file(task))


def rate_of(plan: DemoPlan, traffic: DemoTraffic, everything: Sequence[DemoTraffic]) -> float:
    """Requests a second of one lane, such that all lanes end at about the same time."""
    return plan.rate * len(traffic.requests) / sum(len(one.requests) for one in everything)
