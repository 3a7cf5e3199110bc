"""`understudy cycle start --wait`: what becomes of a cycle that was asked for. Whoever stops waiting stops nothing."""

import time
from collections.abc import Callable
from typing import Final

from ops.cycles.shown import running_line
from ops.exits import FAILED_CHECK, OK, REFUSED
from store.control import Control, CycleEnded
from store.cycles.signs import Signs, TrainerSign
from store.errors import StoreUnavailableError
from store.event import Lane

POLL_S: Final = 0.3
SILENT_S: Final = 20.0  # without a sign of a trainer, or a word of Redis
_TOLD_EVERY_S: Final = 10.0


def await_cycle(
    control: Control,
    signs: Signs,
    lane: Lane,
    request: str,
    tell: Callable[[str], None],
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> CycleEnded:
    """Wait until the cycle that answers a request has ended.

    Args:
        control: where cycles are noted.
        signs: of the trainer.
        lane: the lane.
        request: id of the request.
        tell: told of each stage, and of how far it has come every 10 s.
        monotonic: seconds.
        sleep: between two looks.

    Raises:
        StoreUnavailableError: Redis, or any trainer, has been silent for 20 s; the request is kept.
    """
    heard_s, told = monotonic(), _Told(tell)
    why = "no trainer is at work on this Redis"
    while True:
        try:
            if (ended := _answer_to(control, lane, request)) is not None:
                return ended
            sign = signs.of(lane)
        except StoreUnavailableError as error:
            sign, why = None, f"Redis does not answer: {error}"
        now_s = monotonic()
        if sign is not None:
            heard_s = now_s
            told.see(sign, request, now_s)
        elif now_s - heard_s > SILENT_S:
            message = (
                f"{why}; the request is kept: start `understudy run train`, and `understudy status` shows the cycle"
            )
            raise StoreUnavailableError(message)
        sleep(POLL_S)


def exit_code_of_cycle(ended: CycleEnded) -> int:
    """0: adopted, or there was nothing new; 4: declined or held; 1: it failed."""
    if ended.verdict == "error":
        return FAILED_CHECK
    return OK if ended.verdict == "pass" or ended.nothing_new else REFUSED


def verdict_line(ended: CycleEnded) -> str:
    """What became of it, in words."""
    if ended.nothing_new:
        told = "nothing to do"
    elif ended.verdict == "pass":
        told = f"adopted: {ended.version} is the champion"
    elif ended.verdict == "error":
        told = "failed"
    else:
        told = f"declined ({ended.verdict}): the champion stays"
    return f"{told}, after {ended.seconds:.0f} s" + (f": {ended.why}" if ended.why else "")


class _Told:
    """Says what is new, and else now and then how far it is."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._at: tuple[object, ...] = ()
        self._told_s = 0.0

    def see(self, sign: TrainerSign, request: str, now_s: float) -> None:
        ours = sign.cycle if sign.cycle is not None and sign.cycle.request == request else None
        at = (ours.id, ours.stage) if ours is not None else (sign.busy_with,)
        if at == self._at and (ours is None or now_s - self._told_s < _TOLD_EVERY_S):
            return
        self._at, self._told_s = at, now_s
        if ours is not None:
            self._tell(running_line(ours))
        elif sign.busy_with is not None:
            self._tell(f"waiting: the trainer is at another cycle, of {sign.busy_with}")


def _answer_to(control: Control, lane: Lane, request: str) -> CycleEnded | None:
    return next((one for one in reversed(control.ended_cycles(lane)) if one.request == request), None)
