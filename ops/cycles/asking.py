"""Asks the trainer for a cycle."""

import uuid

import msgspec

from store.control import Control, CycleEnded, CycleKind, CycleRequest
from store.event import Lane


class CycleAsked(msgspec.Struct, frozen=True, kw_only=True):
    """A cycle was asked for; the trainer begins it at its next look."""

    lane: str
    kind: CycleKind
    candidate: str | None
    request: str = ""  # its id
    ended: CycleEnded | None = None  # what came of it, where somebody waited


def ask_for_cycle(
    control: Control, lane: Lane, *, kind: CycleKind, candidate: str | None, why: str, now_s: float
) -> CycleAsked:
    """Ask the trainer for a cycle.

    Raises:
        StoreUnavailableError: Redis did not answer.
    """
    request = CycleRequest(kind=kind, who="operator", why=why, at_s=now_s, candidate=candidate, id=uuid.uuid4().hex)
    control.request_cycle(lane, request)
    return CycleAsked(lane=str(lane), kind=kind, candidate=candidate, request=request.id)
