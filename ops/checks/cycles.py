"""What became of a lane's cycles: from Redis or, while that does not answer, from this machine's own cycle log."""

from typing import Final

import msgspec

from ops.site import Site
from store.control import CycleEnded
from store.errors import StoreUnavailableError
from store.event import Lane

_ANSWER_S: Final = 0.5
_READ_BYTES: Final = 1 << 20


class _Line(msgspec.Struct, frozen=True):
    lane: str
    refusals: list[str]


def ended_cycles(site: Site, lane: Lane) -> list[CycleEnded]:
    """The last cycles of a lane, oldest first."""
    try:
        with site.control(answer_s=_ANSWER_S) as control:
            return control.ended_cycles(lane)
    except StoreUnavailableError:
        return logged_cycles(site, lane)


def logged_cycles(site: Site, lane: Lane) -> list[CycleEnded]:
    """The last cycles of a lane by the cycle log of this machine; lines that are torn are passed over."""
    try:
        with (site.run_directory / "cycles.jsonl").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _READ_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            said = msgspec.json.decode(line, type=_Line)
            fields = msgspec.json.decode(line)
            ended = msgspec.convert({**fields, "why": "; ".join(said.refusals)}, CycleEnded)
        except msgspec.MsgspecError:
            continue
        if said.lane == str(lane):
            found.append(ended)
    return found
