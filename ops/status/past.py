"""What became of a lane: its moves, its versions and its cycles, as `history` and the console show them."""

from dataclasses import dataclass
from typing import Any

import msgspec

from ops.checks.cycles import ended_cycles
from ops.site import Site
from store.control import CycleEnded
from store.errors import RegistryError
from store.event import Lane
from store.registry.moves import Move, Standing, fold
from store.registry.versions import Versions


class VersionShown(msgspec.Struct, frozen=True, kw_only=True):
    """A version in a list of them; of one that cannot be read `error` says why, and the rest is null."""

    id: str
    created_s: float | None = None
    kind: str | None = None
    verdict: str | None = None
    student_agreement: float | None = None
    error: str | None = None
    refusals: list[str] = []  # of the gate, for a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The newest moves and cycles of a lane, oldest first, and all of its versions by age."""

    moves: list[Move]
    standing: Standing  # after all moves, those left out here too
    versions: list[VersionShown]
    cycles: list[CycleEnded]


def past_of(site: Site, lane: Lane, limit: int) -> Past:
    """A lane's past, with so many moves and cycles at most.

    Raises:
        RegistryError: the moves do not verify.
    """
    moves = site.registry.moves(lane).read()
    versions = site.registry.versions(lane)
    return Past(
        moves=moves[-limit:],
        standing=fold(moves),
        versions=sorted(
            (version_shown(versions, version) for version in versions.list()), key=lambda shown: shown.created_s or 0.0
        ),
        cycles=ended_cycles(site, lane)[-limit:],
    )


def move_json(move: Move) -> dict[str, Any]:
    """A move as JSON shows it."""
    return {**msgspec.to_builtins(move), "lane": str(move.lane)}


def version_shown(versions: Versions, version: str) -> VersionShown:
    """What a version's manifest says of it."""
    try:
        manifest = versions.manifest(version)
    except RegistryError as error:
        return VersionShown(id=version, error=str(error))
    verdict = manifest.verdict
    return VersionShown(
        id=version,
        created_s=manifest.created_s,
        kind=manifest.kind,
        verdict=verdict.outcome if verdict else None,
        student_agreement=verdict.student_agreement if verdict else None,
        refusals=verdict.refusals if verdict else [],
    )
