"""A cycle in hand, in words."""

from store.cycles.signs import CycleRunning, TrainerSign

_MINUTE_S = 60
_HOUR_S = 3600


def running_line(cycle: CycleRunning) -> str:
    """Kind, stage and time left."""
    done = "" if cycle.done_ratio is None else f" {cycle.done_ratio:.0%}"
    told = f"{cycle.kind}, {cycle.stage.replace('_', '-')}{done} (stage {cycle.number} of {cycle.stages})"
    told += f", {length(cycle.elapsed_s)} so far, "
    if cycle.left_s is None:
        return f"{told}time left unknown"
    by = "by its steps" if cycle.left_by == "steps" else "by earlier ones"
    return f"{told}about {length(cycle.left_s)} left, {by}"


def cycle_now(sign: TrainerSign | None) -> str:
    """What the trainer is at, as far as one lane is concerned."""
    if sign is None:
        return "no trainer was heard"
    if sign.cycle is not None:
        return running_line(sign.cycle)
    return "none" if sign.busy_with is None else f"none: the trainer is at {sign.busy_with}"


def length(seconds: float) -> str:
    """A span of time, to the second below an hour."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
