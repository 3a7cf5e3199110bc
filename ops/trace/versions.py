"""What the versions of a lane have to do with an item: which learned from it, were calibrated or judged with it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

import msgspec

from ops.checks.cycles import ended_cycles
from ops.site import Site
from ops.tasks import TASKS
from ops.trace.log import told_ms
from ops.trace.records import Term, Use, VersionTold
from store.buffer.ledger import BEGINNING, LogSlot
from store.control import ENDED_KEPT, CycleEnded
from store.errors import RegistryError
from store.event import Lane
from store.registry.manifest import SNAPSHOT_NAME, Manifest
from store.registry.moves import Move
from store.registry.versions import Versions
from trainer.snapshot import Split

_USES: Final[Mapping[Split, Use]] = {"train": "trained", "calibrate": "calibrated", "judge": "judged"}
_TOLD: Final[Mapping[Use, str]] = {
    "trained": "learned from it",
    "calibrated": "its threshold was certified with it; not learned from",
    "judged": "the gate judged with it; not learned from",
}
_FROM_PARENT: Final = frozenset({"kept", "warm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A lane's versions, moves and cycles, and what is gone of them."""

    versions: list[VersionTold]  # oldest first
    cycles: list[str]  # without a version, a sentence each, oldest first
    notes: list[str]


def past_of(site: Site, lane: Lane, item_id: str, places: Iterable[tuple[LogSlot, int]], since_s: float) -> Past:
    """What became of an item in a lane's cycles.

    Args:
        site: the installation.
        lane: of the item.
        item_id: its id.
        places: slot and offset of each record that holds the event; none: it is not known where it was.
        since_s: when the event, or the item's first, was; Unix seconds.

    Raises:
        RegistryError: the moves do not verify.
    """
    versions, moves = site.registry.versions(lane), site.registry.moves(lane).read()
    cycles = ended_cycles(site, lane)
    made = {one.version: one.id for one in cycles if one.version is not None}
    terms, known, at = terms_of(moves), versions.list(), list(places)
    told: list[tuple[float, VersionTold]] = []
    notes: list[str] = []
    for version in known:
        try:
            manifest = versions.manifest(version)
            use = _use(versions, version, manifest, item_id, at, labelled=TASKS[manifest.task].has_labels)
        except (RegistryError, OSError) as error:
            notes.append(f"version {version} cannot be read, and what it learned from is not known: {error}")
            continue
        told.append((manifest.created_s, _version(version, manifest, use, made.get(version), terms.get(version, []))))
    named = {move.version for move in moves} | made.keys()
    gone = sorted(version for version in named if version is not None and version not in known)
    if gone:
        notes.append(f"{', '.join(gone)}: no longer in the registry; whether they learned from it is not known")
    return Past(
        versions=[one for _, one in sorted(told, key=lambda pair: pair[0])],
        cycles=[_cycle(one) for one in cycles if one.version is None and one.at_s >= since_s],
        notes=[*notes, *_forgotten(cycles, since_s)],
    )


def terms_of(moves: Sequence[Move]) -> dict[str, list[Term]]:
    """When each version was the champion: from its promotion, or a rollback to it, until the next of either. Pure."""
    placed = [move for move in moves if move.kind in {"promote", "rollback"} and move.version is not None]
    found: dict[str, list[Term]] = {}
    for move, after in zip_longest(placed, placed[1:]):
        since, until = told_ms(move.time_s * 1000) or "", None if after is None else told_ms(after.time_s * 1000)
        found.setdefault(str(move.version), []).append(Term(since=since, until=until))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Used:
    use: Use
    told: str
    with_event: bool | None = None
    label: str | None = None
    cluster: int | None = None
    linked: tuple[str, ...] = ()


def _use(
    versions: Versions,
    version: str,
    manifest: Manifest,
    item_id: str,
    places: Sequence[tuple[LogSlot, int]],
    *,
    labelled: bool,
) -> _Used:
    """What a version's snapshot says of the item."""
    if manifest.snapshot is None or SNAPSHOT_NAME not in manifest.files:
        return _Used(use="unknown", told="made elsewhere: which rows it learned from is not known here")
    said = msgspec.json.decode(versions.part(version, SNAPSHOT_NAME))
    rows: list[dict[str, Any]] = said["rows"]
    row = next((one for one in rows if one["id"] == item_id), None)
    with_event = _applied(manifest.snapshot.positions, places)
    if row is None and with_event is False:
        return _Used(use="frozen_before", told="frozen before the event was applied", with_event=False)
    if row is None:
        left = ", ".join(f"{name} {count}" for name, count in said["left_out"].items() if count) or "none"
        return _Used(use="left_out", told=f"frozen without it; items left out: {left}", with_event=with_event)
    use = _USES[row["split"]]
    earlier = "; frozen before this event, after earlier ones of the question" if with_event is False else ""
    return _Used(
        use=use,
        told=f"{_TOLD[use]}{earlier}",
        with_event=with_event,
        label=row["label"] if labelled else None,
        cluster=row["cluster"],
        linked=tuple(one["id"] for one in rows if one["cluster"] == row["cluster"] and one["id"] != item_id),
    )


def _applied(positions: Mapping[str, str], places: Sequence[tuple[LogSlot, int]]) -> bool | None:
    """Whether a freeze came after the event was applied; None where its place, or what was read then, is not known."""
    topics = {name.rpartition("/")[0] for name in positions}
    found = [
        position.isdecimal() and offset < int(position)
        for slot, offset in places
        if slot.uuid in topics
        for position in [positions.get(f"{slot.uuid}/{slot.partition}", BEGINNING)]
    ]
    return any(found) if found else None


def _version(version: str, manifest: Manifest, used: _Used, cycle: str | None, served: list[Term]) -> VersionTold:
    verdict = manifest.verdict
    return VersionTold(
        id=version,
        created=told_ms(manifest.created_s * 1000) or "",
        kind=manifest.kind,
        cycle=cycle,
        use=used.use,
        told=used.told,
        label=used.label,
        cluster=used.cluster,
        linked=list(used.linked),
        with_event=used.with_event,
        parent=manifest.parent if manifest.student.fine_tune in _FROM_PARENT else None,
        verdict=None if verdict is None else verdict.outcome,
        refusals=[] if verdict is None else list(verdict.refusals),
        served=served,
    )


def _cycle(one: CycleEnded) -> str:
    return f"{told_ms(one.at_s * 1000)}: {one.kind} {one.id} came to no version ({one.verdict}): {one.why}"


def _forgotten(cycles: Sequence[CycleEnded], since_s: float) -> Iterator[str]:
    """Cycles that nobody remembers any more."""
    if len(cycles) >= ENDED_KEPT and cycles[0].at_s > since_s:
        yield f"the lane's newest {ENDED_KEPT} cycles are remembered, which does not reach back to the event"
