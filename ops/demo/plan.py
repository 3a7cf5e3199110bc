"""What the demo will do: its lanes' traffic, its pace, its places."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ops.demo.tasks.play import RATE, DemoTraffic, Pace, TrafficSource
from ops.demo.tasks.tasks import TASKS
from store.event import Task

WINDOWS: Final = 12
SHARES: Final[Mapping[Task, int]] = {"classify": 2400, "rank": 900}
"""What is played at once, and how many requests of each; alone, a lane has its task's own number."""
INPUT_USD_PER_MTOK: Final = 2.5  # assumed, as a large model's list prices are: the recorded teacher has none
OUTPUT_USD_PER_MTOK: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """The demo's arguments."""

    out: Path = Path("out/demo")
    task: Task | None = None  # None: those that are played at once, or, with a file, classify
    traffic: Path | None = None  # None: the seeded generators
    target: float | None = None  # answered agreement to promise; None: as its task has it
    seed: int = 1
    requests: int | None = None  # of each lane; None: as its generator says, or every row of the file
    rate: float | None = None  # requests a second, of all lanes together; None: as its tasks have it
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
        return tuple(SHARES) if self.traffic is None else ("classify",)

    @property
    def kept(self) -> Path:
        """What takes long to make and outlives the installation."""
        return self.out / "kept"

    def target_of(self, task: Task) -> float:
        """What a task's lane promises."""
        return TASKS[task].target if self.target is None else self.target

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


def pace_of(plan: DemoPlan, traffic: DemoTraffic, everything: Sequence[DemoTraffic]) -> Pace:
    """Of one lane, such that all lanes end at about the same time."""
    if len(everything) == 1:
        own = TASKS[traffic.task].pace
        return own if plan.rate is None else replace(own, rate=plan.rate)
    share = len(traffic.requests) / sum(len(one.requests) for one in everything)
    return Pace(rate=share * (RATE if plan.rate is None else plan.rate))
