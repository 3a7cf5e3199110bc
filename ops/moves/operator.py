"""What an operator does to a lane: move its champion, hold automation, ask for a cycle.

Every move is signed with the operator's key and says why.
"""

import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from ops.checks.concerns import LanePromise, concerns, remarks
from ops.exits import RefusedError
from store.errors import RegistryError
from store.event import Lane
from store.registry.moves import Move, Standing, fold
from store.registry.registry import Registry
from store.registry.signing import SigningKey
from store.registry.students.records import StudentRecord

FOLLOW_S: Final = 5.0
_POLL_S: Final = 0.05


class MoveReport(msgspec.Struct, frozen=True, kw_only=True, rename={"before": "from", "after": "to"}):
    """What became of a move of the champion."""

    lane: str
    move: int
    before: str | None
    after: str
    pinned: bool
    seconds: float  # until every live gateway served it; the time waited where one did not
    followed: bool  # every gateway that is known has confirmed it; true where none is alive
    served_by: dict[str, str | None]  # replica -> version, of those that answered
    silent: list[str]  # replicas that run, or did before the move, and did not answer
    redis_answered: bool  # false: gateways of other machines could not be heard
    warnings: list[str] = []  # what is to be expected of the version


@dataclass(frozen=True, slots=True, kw_only=True)
class Followers:
    """The gateways that are known, and what each says it serves."""

    serves: Mapping[str, str | None]
    silent: frozenset[str] = frozenset()  # known to run, and did not answer
    redis_answered: bool = True

    def confirm(self, version: str, expected: AbstractSet[str]) -> bool:
        """Whether every one of them, and every one that is expected, serves a version."""
        return not self.silent and expected <= self.serves.keys() and all(it == version for it in self.serves.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a move of the champion would come to."""

    before: str | None
    after: str
    warnings: tuple[str, ...]  # what would go wrong: a promotion has to be forced against them
    remarks: tuple[str, ...]  # what is worth knowing, and stands in nobody's way


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A person at the command line or the console, with a key."""

    registry: Registry
    key: SigningKey
    now: Callable[[], float]  # Unix seconds
    promise: Callable[[Lane], LanePromise]
    followers: Callable[[Lane], Followers]  # what each gateway serves now
    who: str | None = None  # as whom moves are signed; None: by the key's own name

    def rollback(self, lane: Lane, *, to: str | None, why: str) -> MoveReport:
        """Go back to a version (None: the champion before this one), pin it, and wait for the live gateways.

        Raises:
            RefusedError: there is nothing to go back to, or it is so already.
            UnknownVersionError, CorruptVersionError, BadSignatureError: the version cannot be served.
            MoveConflictError: somebody else moved meanwhile.
        """
        standing, number = self._read(lane)
        target = self._back_to(lane, standing, to)
        warnings = self._concerns(lane, target, standing, removal_declared=True)  # said, and no more: it is urgent
        return msgspec.structs.replace(self._crown("rollback", lane, target, standing, number, why), warnings=warnings)

    def promote(self, lane: Lane, *, version: str, why: str, force: bool = False) -> MoveReport:
        """Make a version the champion because a person says so. A pin stays.

        Raises:
            RefusedError: as for `rollback`; or the lane would not keep its promise, or no gateway would serve the
                version, and it is not forced. The message says what would happen.
        """
        standing, number = self._read(lane)
        target = self._on_to(lane, standing, version)
        warnings = self._concerns(lane, target, standing, removal_declared=standing.pinned)
        if warnings and not force:
            message = f"nothing was moved: {'; '.join(warnings)}. `--force` promotes it all the same"
            raise RefusedError(message)
        warnings += remarks(target, self.registry.versions(lane).manifest(target))
        return msgspec.structs.replace(self._crown("promote", lane, target, standing, number, why), warnings=warnings)

    def foresee(self, kind: Literal["rollback", "promote"], lane: Lane, *, version: str | None) -> Foreseen:
        """What such a move would come to; nothing is moved. Errors are those of the move.

        Args:
            kind: of the move.
            lane: the lane.
            version: where to; of a rollback None: the champion before this one.
        """
        standing, _ = self._read(lane)
        back = kind == "rollback"
        target = self._back_to(lane, standing, version) if back else self._on_to(lane, standing, version or "")
        warnings = self._concerns(lane, target, standing, removal_declared=back or standing.pinned)
        told = [] if back else remarks(target, self.registry.versions(lane).manifest(target))
        return Foreseen(before=standing.champion, after=target, warnings=tuple(warnings), remarks=tuple(told))

    def pause(self, lane: Lane, *, why: str) -> Move:
        """No cycles from now on.

        Raises:
            RefusedError: it is so already.
            MoveConflictError: somebody else moved meanwhile.
        """
        standing, number = self._read(lane)
        if standing.paused:
            message = f"{lane} is paused already"
            raise RefusedError(message)
        return self._append("pause", lane, None, number, why)

    def resume(self, lane: Lane, *, why: str) -> Move:
        """Cycles run and automation promotes again; errors are those of `pause`."""
        standing, number = self._read(lane)
        if not (standing.paused or standing.pinned):
            message = f"{lane} is neither paused nor pinned"
            raise RefusedError(message)
        return self._append("resume", lane, None, number, why)

    def submit(self, lane: Lane, *, candidate: str, why: str) -> str:
        """Put a version before the gate; its id.

        Raises:
            RefusedError: it is the champion.
            UnknownVersionError, CorruptVersionError, BadSignatureError: the version cannot be judged.
            MoveConflictError: somebody else moved meanwhile.
        """
        version = self.registry.versions(lane).resolve(candidate)
        self.registry.versions(lane).open(version)
        standing, number = self._read(lane)
        if version == standing.champion:
            message = f"{version} is the champion of {lane}: there is nothing to judge"
            raise RefusedError(message)
        if version not in standing.candidates:
            self._append("submit", lane, version, number, why)
        return version

    def _back_to(self, lane: Lane, standing: Standing, to: str | None) -> str:
        """Where a rollback leads; see there."""
        target = self.registry.versions(lane).resolve(to) if to else standing.previous
        if target is None:
            message = f"{lane} has no version to go back to: `understudy history` shows its moves"
            raise RefusedError(message)
        if target == standing.champion and standing.pinned:
            message = f"{target} is the champion of {lane} already, and pinned"
            raise RefusedError(message)
        return target

    def _on_to(self, lane: Lane, standing: Standing, version: str) -> str:
        """Where a promotion leads; see there."""
        target = self.registry.versions(lane).resolve(version)
        if target == standing.champion:
            message = f"{target} is the champion of {lane} already"
            raise RefusedError(message)
        return target

    def _concerns(self, lane: Lane, version: str, standing: Standing, *, removal_declared: bool) -> list[str]:
        """What would go wrong with the version in service; a damaged champion stands in nobody's way."""
        versions = self.registry.versions(lane)
        serving: StudentRecord | None = None
        if standing.champion is not None:
            with suppress(RegistryError):
                serving = versions.manifest(standing.champion).student
        manifest = versions.manifest(version)
        return concerns(version, manifest, self.promise(lane), serving=serving, removal_declared=removal_declared)

    def _read(self, lane: Lane) -> tuple[Standing, int]:
        """Where the lane stands, and the number of its next move."""
        history = self.registry.moves(lane).read()
        return fold(history), len(history) + 1

    def _append(
        self,
        kind: Literal["submit", "promote", "rollback", "resume", "pause"],
        lane: Lane,
        version: str | None,
        number: int,
        why: str,
    ) -> Move:
        moves = self.registry.moves(lane)
        return moves.append(
            kind,
            version=version,
            who=self.who or self.key.name,
            why=why,
            key=self.key,
            now_s=self.now(),
            expected=number,
        )

    def _crown(
        self, kind: Literal["promote", "rollback"], lane: Lane, version: str, standing: Standing, number: int, why: str
    ) -> MoveReport:
        """Verify the version, append the move, wait for the gateways."""
        started_s = time.monotonic()
        self.registry.versions(lane).open(version)
        before = self.followers(lane)
        move = self._append(kind, lane, version, number, why)
        expected = before.serves.keys() | before.silent
        found, followed = self._await_followers(lane, version, expected, started_s + FOLLOW_S)
        return MoveReport(
            lane=str(lane),
            move=move.number,
            before=standing.champion,
            after=version,
            pinned=standing.pinned or kind == "rollback",
            seconds=round(time.monotonic() - started_s, 3),
            followed=followed,
            served_by=dict(found.serves),
            silent=sorted((found.silent | expected) - found.serves.keys()),
            redis_answered=found.redis_answered,
        )

    def _await_followers(
        self, lane: Lane, version: str, expected: AbstractSet[str], deadline_s: float
    ) -> tuple[Followers, bool]:
        """What the gateways serve once all of them have followed, or when the time is over; and whether they have.

        One that is heard of on the way is expected from then on.
        """
        while True:
            found = self.followers(lane)
            expected = expected | found.serves.keys() | found.silent
            followed = found.confirm(version, expected)
            if followed or time.monotonic() >= deadline_s:
                return found, followed
            time.sleep(_POLL_S)
