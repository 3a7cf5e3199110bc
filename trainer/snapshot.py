"""Freeze the buffer's items into the rows of one cycle: which are learned from, which judge, and how much each weighs.

Pure: the same items and settings give the same rows and the same hash, in whatever order the items come.

Three rules keep the numbers honest. A question is held out by the hash of its id, so a new label never moves a row from
one split to another. Linked rows (a typo apart, say) are one question and share a split, that of the row asked first:
nothing is trained on that is linked to a held-out row, and a question asked in a hundred spellings is not lost to
training because one of them was held out. And whoever counts held-out rows as independent trials takes one of each
cluster (`trials`).
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol

import msgspec

from store.answers.rules import NO_RULES, Drawing, Rules
from store.buffer.item import FirstOpinion, Item
from store.errors import UnderstudyError
from store.event import TaskInput
from store.near.link import Links
from store.registry.manifest import SnapshotRecord, canonical_json
from store.secrets import unit_hash

Split = Literal["train", "calibrate", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSettings:
    """Who is held out: calibrate below the first ratio, judge in the next, by a hash of (salt, item id)."""

    salt: str
    calibrate_ratio: float
    judge_ratio: float

    def __post_init__(self) -> None:
        """Refuse ratios that leave nothing to learn from."""
        if self.calibrate_ratio < 0 or self.judge_ratio < 0 or self.calibrate_ratio + self.judge_ratio >= 1:
            message = f"calibrate_ratio {self.calibrate_ratio} and judge_ratio {self.judge_ratio} must sum to below 1"
            raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question with the answer that is learned, or judged by."""

    item_id: str
    input: TaskInput
    answers: Mapping[str, int]  # that count, as they are read today, with how often each was given
    words: str  # the question as one canonical text
    label: str  # what was answered, as a snapshot names it
    soft: dict[str, float] | None  # answers' shares where they are labels and the teacher contradicted itself
    weight: float  # in training: a linked cluster is one question of weight 1 + ln(times asked)
    mass: float  # questions like it: the mean of 1/propensity over its events
    requests: float  # requests like it: the sum of 1/propensity over its events
    count: int  # events
    split: Split
    cluster: int  # rows with the same number are linked
    conflicted: bool  # the teacher gave more than one answer that counts
    asked_s: float  # last asked, event time, Unix seconds
    escalated: int  # events that were no audits
    first_opinion: FirstOpinion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Items that are in no split, by reason."""

    stale: int  # no answer of a prompt version that counts
    quarantined: int  # too new
    rare_label: int  # training rows whose label has too few items to enter the head
    off_list: int = 0  # every answer that counts is off today's list of labels, and no rule reads it
    retired: int = 0  # every answer that counts is retired by rule, or off the list
    dropped: int = 0  # by a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The frozen rows of one cycle, in item id order."""

    rows: tuple[Row, ...]
    labels: tuple[str, ...]  # the label map: known labels first, in their old order
    clusters: Mapping[str, int]  # item id -> cluster, left-out rows included: `evaluate.paired` needs them
    left_out: LeftOut
    content: bytes  # snapshot.json, canonical JSON: what a recomputation must reproduce
    record: SnapshotRecord

    @property
    def sha256(self) -> str:
        """Of `content`."""
        return self.record.sha256

    def split(self, name: Split) -> tuple[Row, ...]:
        """The rows of one split."""
        return tuple(row for row in self.rows if row.split == name)


class Freezing(Protocol):
    """How one task's items become rows."""

    def words(self, value: TaskInput) -> str:
        """The question as one canonical text."""

    def label(self, answers: Mapping[str, int]) -> str:
        """What was answered, in a few words."""

    def soft(self, answers: Mapping[str, int]) -> dict[str, float] | None:
        """The labels' shares, where the teacher contradicted itself."""

    def conflicted(self, answers: Mapping[str, int]) -> bool:
        """Whether the teacher contradicted itself."""

    def links(self, rows: Sequence[Row]) -> Links:
        """Which rows are one question."""

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """The label map, known labels first and in their order; none where a task has no labels."""

    def learns(self, row: Row, labels: Collection[str]) -> bool:
        """Whether a row of the train split is learned from."""


def trials(snapshot: Snapshot, trained: Collection[str]) -> list[int]:
    """Places of the held-out rows that count as independent trials of a student: one a cluster, none it has learned.

    Both held-out splits are free to certify a threshold with: neither was trained on, and the gate compares top
    answers, which no threshold changes. P(promoted with a false threshold) is at most P(falsely certified).

    Args:
        snapshot: the cycle's.
        trained: ids of the items that the student was trained on.
    """
    seen = {snapshot.clusters[item_id] for item_id in trained if item_id in snapshot.clusters}
    places: dict[int, int] = {}
    for place, row in enumerate(snapshot.rows):
        if row.split != "train" and row.cluster not in seen:
            places.setdefault(row.cluster, place)
    return sorted(places.values())


def rows_of(snapshot: Snapshot, split: Split) -> list[int]:
    """The places of one split's rows."""
    return [place for place, row in enumerate(snapshot.rows) if row.split == split]


def freeze(
    items: Iterable[Item],
    task: Freezing,
    *,
    prompt_version: str,
    split: SplitSettings,
    quarantine_s: float,
    now_s: float,
    seed: int,
    positions: Mapping[str, str],
    allowed_labels: Collection[str] = (),
    rules: Rules = NO_RULES,
) -> Snapshot:
    """Freeze the items of a lane.

    Args:
        items: the lane's kept items.
        task: how they become rows.
        prompt_version: the tally key that counts, `model@prompt version`.
        split: who is held out.
        quarantine_s: an item first asked less than so long ago is left out.
        now_s: Unix seconds.
        seed: of the cycle; recorded.
        positions: "topic uuid/partition" -> position up to which the log had been applied.
        allowed_labels: today's list: an answer off it is not learned and judges nobody; none: any.
        rules: how answers are read that were given under another prompt or another list.
    """
    ordered = sorted(items, key=lambda item: item.item_id)
    drawing = Drawing(
        prompt_version=prompt_version,
        quarantine_s=quarantine_s,
        now_s=now_s,
        allowed_labels=frozenset(allowed_labels),
        rules=rules,
    )
    current = [item for item in ordered if drawing.heard(item)]
    dropped = sum(map(drawing.dropped, ordered))
    fresh = [item for item in current if drawing.answers(item)]
    kept = [item for item in fresh if drawing.aged(item)]
    rows = [_row(item, drawing, split, task) for item in kept]
    links = task.links(rows)
    rows = [replace(row, cluster=int(cluster)) for row, cluster in zip(rows, links.clusters, strict=True)]
    together = _together(rows, [item.first_asked_s for item in kept])
    labels = task.labels(together)
    usable = [row for row in together if row.split != "train" or task.learns(row, labels)]
    weighed = _weighed(usable)
    retired = sum(drawing.has_retired(item) for item in current if not drawing.answers(item))
    left_out = LeftOut(
        stale=len(ordered) - len(current) - dropped,
        quarantined=len(fresh) - len(kept),
        rare_label=len(together) - len(usable),
        off_list=len(current) - len(fresh) - retired,
        retired=retired,
        dropped=dropped,
    )
    content = _content(weighed, labels, left_out, drawing, split, seed, positions)
    return Snapshot(
        rows=tuple(weighed),
        labels=labels,
        clusters={row.item_id: row.cluster for row in rows},
        left_out=left_out,
        content=content,
        record=_record(
            weighed,
            links,
            sum(new.split != old.split for new, old in zip(together, rows, strict=True)),
            prompt_version,
            positions,
            content,
        ),
    )


class ThawError(UnderstudyError):
    """A snapshot's held-out rows are not what they were: nothing can be computed from them again. Never retry."""


def thaw(
    content: bytes,
    items: Iterable[Item],
    task: Freezing,
    *,
    record: SnapshotRecord,
    drawing: Drawing,
    split: SplitSettings,
) -> Snapshot:
    """The rows that a version was made from, as its `snapshot.json` has them; texts and answers are those of the items.

    Held-out rows must all be there, and answered as they were then; rows that were learned from need not.

    Args:
        content: snapshot.json.
        items: the lane's kept items.
        task: how they become rows.
        record: what the version's manifest says of the snapshot.
        drawing: how answers are read.
        split: who is held out; what the snapshot says goes before.

    Raises:
        ThawError: a held-out row is gone, or was answered otherwise since.
    """
    if hashlib.sha256(content).hexdigest() != record.sha256:
        message = "snapshot.json is another one than the version's manifest names"
        raise ThawError(message)
    said = msgspec.json.decode(content)
    kept = {item.item_id: item for item in items}
    rows, gone, changed = [], 0, 0
    for one in said["rows"]:
        item = kept.get(one["id"])
        answers = {} if item is None else drawing.answers(item)
        held = one["split"] != "train"
        if item is None or not answers:
            gone += held
            continue
        row = _row(item, drawing, split, task)
        if row.label != one["label"]:
            changed += held
            continue
        names = ("split", "soft", "weight", "mass", "requests", "count", "cluster")
        rows.append(replace(row, **{name: one[name] for name in names}))
    if gone or changed:
        held_out = sum(one["split"] != "train" for one in said["rows"])
        message = (
            f"of {held_out} held-out rows {gone} are gone from the buffer, and {changed} were answered otherwise since"
        )
        raise ThawError(message)
    return Snapshot(
        rows=tuple(rows),
        labels=tuple(said["labels"]),
        clusters={one["id"]: one["cluster"] for one in said["rows"]},
        left_out=msgspec.convert(said["left_out"], LeftOut),
        content=content,
        record=record,
    )


def _row(item: Item, drawing: Drawing, split: SplitSettings, task: Freezing) -> Row:
    answers = drawing.answers(item)
    return Row(
        item_id=item.item_id,
        input=item.input,
        answers=answers,
        words=task.words(item.input),
        label=task.label(answers),
        soft=task.soft(answers),
        weight=0.0,
        mass=item.mass / item.count,
        requests=item.mass,
        count=item.count,
        split=split_of(split, item.item_id),
        cluster=-1,
        conflicted=task.conflicted(answers),
        asked_s=item.last_asked_s,
        escalated=item.escalated,
        first_opinion=_unjudged(item.first_opinion) if drawing.corrected(item) else item.first_opinion,
    )


def _unjudged(first: FirstOpinion | None) -> FirstOpinion | None:
    """An opinion without the referee's verdict, which compared it with another answer than the one that holds now."""
    if first is None:
        return None
    return msgspec.structs.replace(first, opinion=msgspec.structs.replace(first.opinion, verdict=None))


def split_of(split: SplitSettings, item_id: str) -> Split:
    """The split an item belongs to for as long as the salt stays."""
    place = unit_hash(split.salt, item_id)
    if place < split.calibrate_ratio:
        return "calibrate"
    return "judge" if place < split.calibrate_ratio + split.judge_ratio else "train"


def _together(rows: Sequence[Row], first_asked_s: Sequence[float]) -> list[Row]:
    """Put linked rows into one split: that of the row asked first, which later ones cannot change."""
    founders: dict[int, tuple[float, str, Split]] = {}
    for row, asked_s in zip(rows, first_asked_s, strict=True):
        founder = (asked_s, row.item_id, row.split)
        founders[row.cluster] = min(founders.get(row.cluster, founder), founder)
    return [replace(row, split=founders[row.cluster][2]) for row in rows]


def _weighed(rows: Sequence[Row]) -> list[Row]:
    asked: Counter[tuple[Split, int]] = Counter()
    members: Counter[tuple[Split, int]] = Counter()
    for row in rows:
        asked[row.split, row.cluster] += row.count
        members[row.split, row.cluster] += 1
    return [
        replace(row, weight=(1 + math.log(asked[row.split, row.cluster])) / members[row.split, row.cluster])
        for row in rows
    ]


def _content(
    rows: Sequence[Row],
    labels: Sequence[str],
    left_out: LeftOut,
    drawing: Drawing,
    split: SplitSettings,
    seed: int,
    positions: Mapping[str, str],
) -> bytes:
    """snapshot.json: ids and what was decided about them, never a text."""
    return canonical_json(
        {
            "schema": 1,
            "prompt_version": drawing.prompt_version,
            **_ruled(drawing.rules),
            "split": split,
            "quarantine_s": drawing.quarantine_s,
            "frozen_s": drawing.now_s,
            "seed": seed,
            "positions": dict(positions),
            "labels": list(labels),
            "left_out": _left(left_out),
            "rows": [
                {
                    "id": row.item_id,
                    "split": row.split,
                    "label": row.label,
                    "soft": row.soft,
                    "weight": row.weight,
                    "mass": row.mass,
                    "requests": row.requests,
                    "count": row.count,
                    "cluster": row.cluster,
                }
                for row in rows
            ],
        }
    )


def _left(left_out: LeftOut) -> dict[str, int]:
    """As every release wrote it; `dropped` only where a person did."""
    found = asdict(left_out)
    return found if left_out.dropped else {name: value for name, value in found.items() if name != "dropped"}


def _ruled(rules: Rules) -> dict[str, object]:
    """By which rules answers were read, where there were any."""
    found: dict[str, object] = {}
    if rules.prompts:
        found["prompts_accepted"] = sorted(rules.prompts)
    if rules.labels:
        found["labels_read_as"] = dict(sorted(rules.labels.items()))
    if rules.by_hand:
        found["corrected"] = sorted(name for name, said in rules.by_hand.items() if said is not None)
        found["dropped"] = sorted(name for name, said in rules.by_hand.items() if said is None)
    return found


def _record(
    rows: Sequence[Row],
    links: Links,
    moved: int,
    prompt_version: str,
    positions: Mapping[str, str],
    content: bytes,
) -> SnapshotRecord:
    splits = Counter(row.split for row in rows)
    return SnapshotRecord(
        sha256=hashlib.sha256(content).hexdigest(),
        rows=len(rows),
        train=splits["train"],
        calibrate=splits["calibrate"],
        judge=splits["judge"],
        clusters=len({row.cluster for row in rows}),
        contrasts=len(links.contrasts),
        moved_linked=moved,
        prompt_version=prompt_version,
        positions=dict(positions),
    )
