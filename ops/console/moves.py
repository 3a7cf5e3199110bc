"""Moves by hand in the console: first what would happen, then, with a reason, the move that the command makes."""

import threading
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

from ops.access.tokens import Role
from ops.console.pages import Page
from ops.console.reads import Reads
from ops.console.visitor import Visitor
from ops.console.web import Asked
from ops.exits import RefusedError
from ops.moves.by_hand import operator_of
from ops.moves.operator import Foreseen, MoveReport, Operator
from ops.sections import LaneSection
from store.errors import UnderstudyError
from store.log.lazy import logger
from store.registry.moves import Move

Kind = Literal["rollback", "promote", "pause", "resume"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_MOVES: Final[Role] = "operate"
_FORCES: Final[Role] = "admin"

_log = logger(__name__)
_one_at_a_time = threading.Lock()


class _Wanted(NamedTuple):
    """A move as it was asked for."""

    kind: Kind
    version: str | None
    why: str
    force: bool


def confirm_page(reads: Reads, section: LaneSection, asked: Asked, visitor: Visitor) -> Page:
    """What a move would come to, with a form that makes it.

    Raises:
        NotOpenError: the visitor may move nothing.
        UnderstudyError: there is no such move to make; see `Operator`.
    """
    visitor.need(_MOVES)
    wanted = _wanted(asked)
    return Page("confirm", _form(section, wanted, _foreseen(operator_of(reads.site), section, wanted), visitor))


def move_page(reads: Reads, section: LaneSection, asked: Asked, visitor: Visitor) -> Page:
    """Make a move, signed into the chain as who shows the token; errors are those of `confirm_page`."""
    visitor.need(_MOVES)
    wanted = _wanted(asked)
    if wanted.force:
        visitor.need(_FORCES)
    operator = operator_of(reads.site, who=f"{visitor.name}, by the console")
    if not wanted.why:
        foreseen = _foreseen(operator, section, wanted)
        return Page("confirm", {**_form(section, wanted, foreseen, visitor), "missing": True})
    if not _one_at_a_time.acquire(blocking=False):
        message = "another move is being made from here: look what it came to first"
        raise RefusedError(message)
    try:
        made = _made(operator, section, wanted)
    except UnderstudyError as error:
        _log.warning("console_move_refused", lane=str(section.lane), kind=wanted.kind, who=visitor.name, why=str(error))
        raise
    finally:
        _one_at_a_time.release()
        reads.forget()
    _log.info("console_move", lane=str(section.lane), kind=wanted.kind, who=visitor.name)
    report = made if isinstance(made, MoveReport) else None
    return Page("moved", {"kind": wanted.kind, "lane": section.lane, "report": report, "made": made})


def _made(operator: Operator, section: LaneSection, wanted: _Wanted) -> MoveReport | Move:
    match wanted.kind:
        case "rollback":
            return operator.rollback(section.lane, to=wanted.version, why=wanted.why)
        case "promote":
            return operator.promote(section.lane, version=wanted.version or "", why=wanted.why, force=wanted.force)
        case "pause":
            return operator.pause(section.lane, why=wanted.why)
        case "resume":
            return operator.resume(section.lane, why=wanted.why)


def _foreseen(operator: Operator, section: LaneSection, wanted: _Wanted) -> Foreseen | None:
    """Of a move of the champion, what it would come to."""
    if wanted.kind in {"pause", "resume"}:
        return None
    kind: Literal["rollback", "promote"] = "rollback" if wanted.kind == "rollback" else "promote"
    return operator.foresee(kind, section.lane, version=wanted.version)


def _form(section: LaneSection, wanted: _Wanted, foreseen: Foreseen | None, visitor: Visitor) -> Mapping[str, Any]:
    forced = wanted.kind == "promote" and foreseen is not None and bool(foreseen.warnings)
    return {
        "kind": wanted.kind,
        "lane": section.lane,
        "foreseen": foreseen,
        "forced": forced,  # it would be refused without force
        "may_force": visitor.may(_FORCES),
        "missing": False,
    }


def _wanted(asked: Asked) -> _Wanted:
    named = asked.value("kind")
    kind = next((one for one in KINDS if one == named), None)
    if kind is None:
        message = f"there is no such move; there is {', '.join(KINDS)}"
        raise RefusedError(message)
    return _Wanted(kind, asked.value("version") or None, asked.value("why").strip(), asked.value("force") == "yes")
