"""What the demo has to know of a task: its traffic, how a client asks, and when an answer is the recorded one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ops.readers.files import BadRow
from store.control import CycleKind
from store.event import Lane, Task, TaskInput
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS, LaneTerms

if TYPE_CHECKING:
    from trainer.learn.recipe import Draft

RATE: Final = 14.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question with the teacher's recorded answer to it."""

    value: TaskInput
    recorded: Any  # a label, scores in the order of the documents, or a text


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How requests come: where a student takes minutes, enough for a first one at once, and the rest once it serves."""

    rate: float = RATE  # requests a second
    in_flight: int = 64  # at most, after the rush: a slow machine slackens the pace, where more would only be refused
    rush: int = 0  # requests that come first, as fast as they are taken; the others wait for the first cycle


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSource:
    """Where traffic comes from, and how much of it is sent."""

    file: Path | None  # None: the seeded generator
    seed: int
    rows: int | None  # at most; None: as many as there are
    file_order: bool
    text_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTraffic:
    """One lane's requests in the order of sending."""

    lane: Lane
    task: Task
    terms: LaneTerms
    path: str  # of the file that was read, or what generated it
    sha256: str
    file: Path  # what is sent, as the recorded teacher reads it
    requests: tuple[Request, ...]
    skipped: tuple[BadRow, ...]
    generated: bool

    @property
    def rules(self) -> TaskRules:
        """The lane's."""
        return TASKS[self.task](self.terms)


class DemoTask(Protocol):
    """How one task is played."""

    @property
    def lane(self) -> Lane:
        """Whose traffic it is."""

    @property
    def late(self) -> str:
        """What the generated traffic brings half way, for a person."""

    @property
    def pace(self) -> Pace:
        """How fast its students can be asked on two cores, the lane played alone."""

    @property
    def target(self) -> float:
        """Answered agreement that it promises where nobody says otherwise: what so short a time can certify."""

    @property
    def sabotage(self) -> CycleKind:
        """The cycle that makes a student of its task say what is wrong."""

    @property
    def sabotage_rows(self) -> int | None:
        """How many rows it learns; None for all that there are."""

    def spoiled(self, draft: "Draft") -> "Draft":
        """What was fitted to shuffled answers: as it is, or made worse where it knows something all the same."""

    def traffic(self, source: TrafficSource, file: Path) -> DemoTraffic:
        """Generate or read the requests and write what is sent to `file`.

        Raises:
            SettingsError: the file cannot be used; the message says why.
        """

    def settings(self, traffic: DemoTraffic, kept: Path) -> Mapping[tuple[str, str], Any]:
        """What the task sets beside what every demo sets, in its lane and outside of it: (table, key) -> value.

        Args:
            traffic: the lane's.
            kept: a folder for what takes long to make; it outlives the demo's installation.

        Raises:
            SettingsError: something that its students stand on is not installed.
        """

    def recorded(self, traffic: DemoTraffic, prompts: Path) -> tuple[str, ...]:
        """The recorded teacher's arguments for this lane; `prompts` is the folder of the lanes' prompt files."""

    def ask(self, use_case: str, value: TaskInput) -> tuple[str, dict[str, Any]]:
        """The path and the body of a request."""

    def agreed(self, traffic: DemoTraffic, request: Request, body: dict[str, Any]) -> bool:
        """Whether an answer's body is the recorded answer, by the lane's definition.

        Raises:
            ValueError: it holds no answer.
        """

    def told(self, body: dict[str, Any]) -> Mapping[str, Any]:
        """Who answered and why: `served_by`, `version`, `event_id`, `withheld`, `degraded`."""

    def question(self, value: TaskInput) -> str:
        """What was asked, for a person."""

    def answered(self, request: Request, body: dict[str, Any]) -> str:
        """The answer in a body, for a person."""

    def taught(self, request: Request) -> str:
        """The recorded answer, for a person."""

    def meant(self, value: TaskInput, output: str) -> str:
        """A student's opinion (`store.event.StudentOpinion.output`) of a kept question, for a person."""


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
