"""Items of a small support desk, for the tests of whole cycles."""

from random import Random

from ops.demo.traffic.generate import TrafficSettings, generate
from store.buffer.item import Entry, Item, merge
from store.event import (
    ClassifyEscalation,
    EscalationCause,
    LabelAnswer,
    Lane,
    TextInput,
    new_event_id,
    utc,
)
from store.secrets import DataSecret, item_id
from store.tasks.classify import ClassifyRules

LANE = Lane("acme", "support")
SECRET = DataSecret(bytes(32))
TEACHER, PROMPT = "teacher-1", "prompt-1"
PROMPT_VERSION = f"{TEACHER}@{PROMPT}"
NOW_S = 1_800_000_000.0


def questions(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Distinct (text, label) pairs of the support desk's first half."""
    settings = TrafficSettings(seed=seed, rows=3 * count, confused_ratio=0.0)
    distinct = {row.text: row.label for row in generate(settings)}
    return list(distinct.items())[:count]


def an_item(text: str, label: str, rng: Random, *, at_s: float = NOW_S - 1e6, propensity: float = 1.0) -> Item:
    """One item, asked once."""
    event = ClassifyEscalation(
        id=new_event_id(at_s, rng),
        time=utc(at_s),
        use_case=LANE.use_case,
        tenant=LANE.tenant,
        student=None,
        escalation=EscalationCause(reason="cold", threshold=None, propensity=propensity),
        input=TextInput(text=text),
        teacher=LabelAnswer(model=TEACHER, prompt_version=PROMPT, label=label),
    )
    rules = ClassifyRules()
    item, _ = merge(None, Entry.of(event, item_id(SECRET.lane_key(LANE), rules, event.input), rules))
    if item is None:
        message = "the event was not counted"
        raise AssertionError(message)
    return item


def items(count: int, seed: int = 1) -> list[Item]:
    """Items of the support desk."""
    rng = Random(seed)
    return [an_item(text, label, rng) for text, label in questions(count, seed)]
