"""A lane's kept items, counted by how their answers are read today, label by label and prompt by prompt.

Counting takes seconds where there are a hundred thousand items, so a count is kept in Redis and serves for a while.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Literal, get_args

import msgspec

from store.answers.rules import Drawing
from store.buffer.item import Item
from store.buffer.ledger import Buffer, Counters
from store.control import Control
from store.event import Lane
from store.log.lazy import logger

State = Literal["fresh", "quarantined", "stale", "retired", "off_list", "dropped"]
STATES: Final[tuple[State, ...]] = get_args(State)

_log = logger(__name__)
_LOGGED: Final = 100  # labels in a line of the log
_EVERY: Final = 500  # items between two signs of life
_REST: Final = 50.0  # times a count's duration, before the next
_LEAST_REST_S: Final = 10.0
_NAMED: Final = 5  # labels and prompts in a sentence


class PromptCount(msgspec.Struct, frozen=True, kw_only=True):
    """The items that hold answers of one prompt version."""

    items: int
    counts: bool  # its answers are read today
    first_s: float  # of these items, the first asked, Unix seconds
    last_s: float  # the last asked
    alone: int = 0  # of these, the ones without any answer that counts


class Census(msgspec.Struct, frozen=True, kw_only=True):
    """What a count came to."""

    at_s: float  # Unix seconds
    took_s: float
    reading: str  # `Drawing.digest`
    counted: int  # events counted in the lane by then
    items: int
    labels: dict[str, dict[str, int]]  # label, as it is read today or else as it was said -> state -> items
    prompts: dict[str, PromptCount]  # `model@prompt version` -> its items
    quarantine_s: float = 0.0

    def of(self, state: State) -> int:
        """Items in a state."""
        return sum(states.get(state, 0) for states in self.labels.values())

    def having(self, labels: Iterable[str]) -> int:
        """Items that have one of these labels, in whatever state."""
        return sum(sum(self.labels.get(label, {}).values()) for label in labels)


def state_of(item: Item, drawing: Drawing) -> tuple[State, str]:
    """How an item stands today, and under which label it is counted."""
    if answers := drawing.answers(item):
        return "fresh" if drawing.aged(item) else "quarantined", drawing.name(item, answers)
    counted = drawing.counted(item)
    if not counted:
        said: Counter[str] = Counter()
        for answers in item.tally.values():
            said.update(answers)
        label = drawing.name(item, said)
        return "dropped" if drawing.dropped(item) else "stale", drawing.read(label) or label
    label = drawing.name(item, counted)
    return ("retired" if drawing.has_retired(item) else "off_list"), label


def count(
    items: Iterable[Item],
    drawing: Drawing,
    *,
    counted: int = 0,
    monotonic: Callable[[], float] = time.monotonic,
    alive: Callable[[], None] = lambda: None,
) -> Census:
    """Count items.

    Args:
        items: of one lane.
        drawing: how their answers are read now.
        counted: events counted in the lane.
        monotonic: seconds.
        alive: called now and then: there may be a hundred thousand.
    """
    started_s = monotonic()
    labels: dict[str, Counter[str]] = {}
    prompts: dict[str, PromptCount] = {}
    total = 0
    for item in items:
        if total % _EVERY == 0:
            alive()
        total += 1
        state, label = state_of(item, drawing)
        labels.setdefault(label, Counter())[state] += 1
        for prompt in item.tally:
            prompts[prompt] = _with(prompts.get(prompt), item, counts=drawing.counts(prompt), alone=state == "stale")
    return Census(
        at_s=drawing.now_s,
        took_s=monotonic() - started_s,
        reading=drawing.digest,
        counted=counted,
        items=total,
        labels={label: dict(states) for label, states in sorted(labels.items())},
        prompts=dict(sorted(prompts.items())),
        quarantine_s=drawing.quarantine_s,
    )


def _with(before: PromptCount | None, item: Item, *, counts: bool, alone: bool) -> PromptCount:
    return PromptCount(
        items=(before.items if before else 0) + 1,
        counts=counts,
        first_s=min(item.first_asked_s, before.first_s if before else item.first_asked_s),
        last_s=max(item.last_asked_s, before.last_s if before else item.last_asked_s),
        alone=(before.alone if before else 0) + alone,
    )


def present_census(
    lane: Lane,
    drawing: Drawing,
    *,
    buffer: Buffer,
    control: Control,
    counters: Counters | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Census:
    """The lane's census: the one that is kept, while it is true or the next must wait; else a new one, which is kept.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    known = counters or buffer.counters(lane)
    if (kept := _kept(control.census(lane))) is not None and kept.reading == drawing.digest:
        age_s = drawing.now_s - kept.at_s
        same = kept.counted == known.counted and not kept.of("quarantined")
        if 0 <= age_s < max(_LEAST_REST_S if same else 0.0, _REST * kept.took_s):
            return kept
    census = count(buffer.items(lane), drawing, counted=known.counted, alive=alive)
    control.keep_census(lane, msgspec.json.encode(census))
    return census


def _kept(value: bytes | None) -> Census | None:
    try:
        return None if value is None else msgspec.json.decode(value, type=Census)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # damaged, or of another release: it is counted anew


def advice(census: Census) -> list[str]:
    """What keeps paid answers from being learned, a sentence each, with what to do about it."""
    found: list[str] = []
    if stale := census.of("stale"):
        others = {prompt: one for prompt, one in census.prompts.items() if one.alone}
        most = max(others, key=lambda prompt: others[prompt].alone, default="")
        version = most.rpartition("@")[2]
        found.append(
            f"{stale} of {census.items} items were paid under another prompt ({_few(list(others))}): "
            f'`understudy prompt accept --from {version} --reason "…"` counts their answers again, and with '
            "--sample 50 the teacher is asked first"
        )
    if off_list := census.of("off_list"):
        found.append(
            f"{off_list} of {census.items} items are off today's list of labels ({_labels(census, 'off_list')}): put "
            "the label back, or say how it is read with `understudy labels rename`, `merge` or `retire`"
        )
    if retired := census.of("retired"):
        found.append(
            f"{retired} of {census.items} items have retired labels alone ({_labels(census, 'retired')}) and count no "
            "more: `understudy answers undo` brings them back"
        )
    return found


def waits(census: Census) -> list[str]:
    """What is to be said of items that only wait."""
    young = census.of("quarantined")
    quarantine = f"trainer.quarantine_s ({census.quarantine_s:g} s)"
    return [f"{young} of {census.items} items are younger than {quarantine} and wait"] if young else []


def tell(lane: Lane, census: Census) -> None:
    """One line in the log: how the lane's items stand, and what is to be done where some count no more."""
    wrong = advice(census)
    states = {state: census.of(state) for state in STATES}
    labels = dict(list(census.labels.items())[:_LOGGED])
    say = _log.warning if wrong else _log.info
    say("how the answers are read today", lane=str(lane), items=census.items, **states, labels=labels, why=wrong)


def _labels(census: Census, state: State) -> str:
    counted = {label: states[state] for label, states in census.labels.items() if states.get(state)}
    return _few([f"{label}: {counted[label]}" for label in sorted(counted, key=lambda one: (-counted[one], one))])


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
