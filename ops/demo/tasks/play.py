"""What the demo has to know of a task: its traffic, how a client asks, and when an answer is the recorded one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ops.readers.files import BadRow
from store.event import Lane, Task, TaskInput
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS, LaneTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question with the teacher's recorded answer to it."""

    value: TaskInput
    recorded: Any  # a label, or scores in the order of the documents


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

    def traffic(self, source: TrafficSource, file: Path) -> DemoTraffic:
        """Generate or read the requests and write what is sent to `file`.

        Raises:
            SettingsError: the file cannot be used; the message says why.
        """

    def settings(self, traffic: DemoTraffic) -> Mapping[tuple[str, str], Any]:
        """What the task sets in its lane, beside what all lanes of the demo set: (table, key) -> value."""

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


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
