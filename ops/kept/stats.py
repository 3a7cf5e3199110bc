"""`understudy buffer stats`: what a lane's buffer holds, and what of it the next cycle learns from."""

from collections import Counter

import msgspec
import redis

from ops.answers.kept import Kept, LaneItems, Selection
from ops.sections import LaneSection
from ops.site import Site
from store.answers.census import STATES, State
from store.answers.rulings import rules_of
from store.buffer.stored import encode_item
from store.event import Task

_NAMED = 20  # damaged values


class BufferStats(msgspec.Struct, frozen=True, kw_only=True):
    """One lane's part of the buffer."""

    lane: str
    task: Task
    items: int
    states: dict[State, int]
    labels: dict[str, dict[str, int]]  # label, as it is read today, or stratum -> state -> items
    prompts: dict[str, int]  # `model@prompt version` -> items that hold answers of it
    conflicted: int  # items to which the teacher gave answers that contradict one another, and both count
    corrected: int  # items whose answer a person gave
    ruled_gone: int  # corrected or dropped ones that are not kept now: evicted; the ruling waits for them
    asked: int  # events counted, of these items
    requests: float  # that these items stand for
    first_asked_s: float | None  # Unix seconds
    last_asked_s: float | None
    stored_bytes: int  # of the items' values in Redis
    counted: int  # events ever counted
    repeats: int  # events that came again, and were not
    ineligible: int
    evicted: int
    items_ever: int
    damaged: list[str]  # found damaged and not mended, the first 20: `understudy buffer rebuild` mends them


def stats_of(site: Site, client: redis.Redis, section: LaneSection, now_s: float) -> BufferStats:
    """Look at every kept item of a lane (now: Unix seconds).

    Raises:
        StoreUnavailableError: Redis does not answer.
        CorruptItemError: an item was written by another release.
        RegistryError, SettingsError: the rulings do not verify, or the prompt cannot be read.
    """
    lane = LaneItems.of(site, client, section, now_s)
    seen = _Seen()
    for one in lane.chosen(Selection()):
        seen.add(one, lane)
    buffer = site.buffer(client)
    counters = buffer.counters(section.lane)
    by_hand = rules_of(lane.rulings).by_hand
    return BufferStats(
        lane=str(section.lane),
        task=section.task,
        items=seen.states.total(),
        states={state: seen.states[state] for state in STATES},
        labels={label: dict(states) for label, states in sorted(seen.labels.items())},
        prompts=dict(sorted(seen.prompts.items())),
        conflicted=seen.conflicted,
        corrected=seen.corrected,
        ruled_gone=len(by_hand) - seen.ruled,
        asked=seen.asked,
        requests=seen.requests,
        first_asked_s=min(seen.times, default=None),
        last_asked_s=max(seen.times, default=None),
        stored_bytes=seen.stored_bytes,
        counted=counters.counted,
        repeats=counters.repeats,
        ineligible=counters.ineligible,
        evicted=counters.evicted,
        items_ever=counters.new_items,
        damaged=sorted(buffer.damaged(section.lane))[:_NAMED],
    )


class _Seen:
    """What was counted so far."""

    def __init__(self) -> None:
        self.states: Counter[State] = Counter()
        self.labels: dict[str, Counter[str]] = {}
        self.prompts: Counter[str] = Counter()
        self.times: tuple[float, ...] = ()  # the first and the last
        self.conflicted = self.corrected = self.ruled = self.asked = self.stored_bytes = 0
        self.requests = 0.0

    def add(self, one: Kept, lane: LaneItems) -> None:
        """Count one item."""
        item = one.item
        self.states[one.state] += 1
        self.labels.setdefault(one.label, Counter())[one.state] += 1
        self.prompts.update(item.tally.keys())
        self.conflicted += bool(one.answers) and lane.rules.conflicted(one.answers)
        self.corrected += lane.drawing.corrected(item)
        self.ruled += item.item_id in lane.drawing.rules.by_hand
        self.asked += item.count
        self.requests += item.mass
        self.stored_bytes += len(encode_item(item))
        times = (*self.times, item.first_asked_s, item.last_asked_s)
        self.times = (min(times), max(times))
