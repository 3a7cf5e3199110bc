"""The processes' own records, read from outside: cycles, swaps, the log's events, versions' training sets, status."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ops.demo.measures.measure import Logged
from ops.open_log import open_history
from ops.site import Site
from ops.status.collect import collect
from ops.status.report import LaneStatus, StatusReport
from store.errors import RegistryError, UnderstudyError
from store.event import Escalation, Lane, TaskInput, decode
from store.registry.manifest import SNAPSHOT_NAME
from store.secrets import item_id
from store.tasks.rules import TaskRules
from stream.log import topic_of


class _SnapshotRow(msgspec.Struct):
    id: str
    split: str


class _Snapshot(msgspec.Struct):
    rows: list[_SnapshotRow]


@dataclass(kw_only=True)
class Records:
    """What has been read so far; `refresh` reads on."""

    site: Site
    lane: Lane
    rules: TaskRules
    meant: Callable[[TaskInput, str], str]  # a student's opinion of a question, for a person
    log: dict[str, Logged] = field(default_factory=dict)  # event id -> what it says
    copies: Counter[str] = field(default_factory=Counter)  # event id -> records in the log
    cycles: list[dict[str, Any]] = field(default_factory=list)
    swaps: list[dict[str, Any]] = field(default_factory=list)
    trained: dict[str, frozenset[str]] = field(default_factory=dict)  # version -> ids it was trained on
    status: StatusReport | None = None
    _positions: dict[str, str] = field(default_factory=dict)

    @property
    def lane_status(self) -> LaneStatus | None:
        """The lane's part of the status."""
        return next((one for one in self.status.lanes if one.lane == str(self.lane)), None) if self.status else None

    def refresh(self) -> None:
        """Read on; what cannot be read now is read the next time."""
        cycles, swaps = (self._of_lane(name) for name in ("cycles.jsonl", "swaps.jsonl"))
        self.cycles = [cycle for cycle in cycles if cycle["verdict"] != "error"]  # an error is tried again
        self.swaps = swaps
        try:
            self.status = collect(self.site, self.site.lanes(None))
            self._read_log()
        except UnderstudyError:
            return

    def learn_versions(self, versions: Iterable[str | None]) -> None:
        """Read the training sets of versions that have not been read yet."""
        for version in versions:
            if version is None or version in self.trained:
                continue
            try:
                data = self.site.registry.versions(self.lane).open(version).read(SNAPSHOT_NAME)
            except RegistryError:
                continue
            rows = msgspec.json.decode(data, type=_Snapshot).rows
            self.trained[version] = frozenset(row.id for row in rows if row.split == "train")

    def first_agreement(self) -> float | None:
        """What the first version that was ever made agreed with the teacher, on the rows that it was judged by."""
        version = next((cycle["version"] for cycle in self.cycles if cycle["version"] and cycle["rows_judged"]), None)
        if version is None:
            return None
        verdict = self.site.registry.versions(self.lane).manifest(version).verdict
        return verdict.student_agreement if verdict is not None else None

    def item_id_of(self, value: TaskInput) -> str:
        """A question's item id, by the product's own functions."""
        redacted = self.rules.redact(value, self.site.secret.redaction_key(self.lane))
        return item_id(self.site.secret.lane_key(self.lane), self.rules, redacted)

    def _of_lane(self, name: str) -> list[dict[str, Any]]:
        return [line for line in _lines(self.site.run_directory / name) if line["lane"] == str(self.lane)]

    def _read_log(self) -> None:
        with self.site.redis_client() as client, open_history(self.site, client) as history:
            for slot in history.slots(topic_of(self.lane.use_case)):
                place = f"{slot.uuid}/{slot.partition}"
                begin, end = history.bounds(slot)
                for record in history.read(slot, self._positions.get(place, begin), end):
                    self._keep(decode(record.value))
                self._positions[place] = end

    def _keep(self, found: object) -> None:
        if not isinstance(found, Escalation) or found.lane != self.lane:
            return
        event = self.rules.normal(found, self.site.secret.redaction_key(self.lane))
        self.copies[event.id] += 1
        self.log[event.id] = Logged(
            agreed=self.rules.agreed(event),
            reason=event.escalation.reason,
            said=self.meant(event.input, event.student.output) if event.student is not None else None,
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    """A JSONL file that is being written: a last line without its end is left for the next time."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with suppress(msgspec.DecodeError):  # torn by a kill
            found.append(msgspec.json.decode(line))
    return found
