"""Items of a small shop, for the tests of whole cycles of `rank`: a teacher with favourites."""

from random import Random

import numpy as np

from store.buffer.item import Entry, Item, merge
from store.event import EscalationCause, Lane, RankAnswer, RankEscalation, RankInput, new_event_id, utc
from store.secrets import DataSecret, item_id
from store.tasks.rank import RankRules, Tolerance

LANE = Lane("acme", "shop")
SECRET = DataSecret(bytes(32))
MODEL, PROMPT = "reranker-1", "none"
PROMPT_VERSION = f"{MODEL}@{PROMPT}"
NOW_S = 1_800_000_000.0
TOLERANCE = Tolerance(k=1, epsilon=0.05)
RULES = RankRules(tolerance=TOLERANCE)

WORDS = ["money", "refund", "parcel", "courier", "password", "account", "late", "reset", "email", "code", "address"]
CATALOGUE = tuple(f"{one} {other}" for one in WORDS for other in WORDS if one != other)[:60]


def favour_of(document: str) -> float:
    """What the teacher thinks of a document whatever is asked: nothing in its words tells."""
    return float(np.random.default_rng(abs(hash_of(document))).normal(0.0, 0.3))


def hash_of(document: str) -> int:
    """Of the text, the same in every process."""
    return int.from_bytes(document.encode()[-8:], "big")


def a_list(rng: Random, *, size: int = 6) -> RankInput:
    """A question of the shop."""
    query = f"{rng.choice(WORDS)} {rng.choice(['please', 'today', 'with', 'my'])} {rng.choice(WORDS)}"
    return RankInput(query=query, documents=sorted(rng.sample(CATALOGUE, size)))


def scores_of(value: RankInput, rng: Random, noise: float = 0.01) -> list[float]:
    """What the teacher says: shared words, its favourites, and a little chance."""
    asked = set(value.query.split())
    return [0.2 * len(asked & set(one.split())) + favour_of(one) + rng.gauss(0.0, noise) for one in value.documents]


def event_of(
    value: RankInput, answer: RankAnswer, rng: Random, *, at_s: float = NOW_S - 1e6, propensity: float = 1.0
) -> RankEscalation:
    """One request that the teacher answered."""
    return RankEscalation(
        id=new_event_id(at_s, rng),
        time=utc(at_s),
        use_case=LANE.use_case,
        tenant=LANE.tenant,
        student=None,
        escalation=EscalationCause(reason="cold", threshold=None, propensity=propensity),
        input=value,
        teacher=answer,
    )


def scored(scores: list[float]) -> RankAnswer:
    """An answer that gives scores."""
    return RankAnswer(model=MODEL, prompt_version=PROMPT, scores=scores)


def ordered(scores: list[float]) -> RankAnswer:
    """An answer that gives an order alone."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return RankAnswer(model=MODEL, prompt_version=PROMPT, order=order)


def item_of(*events: RankEscalation) -> Item:
    """The item that these events of one question make."""
    item: Item | None = None
    for event in events:
        kept = RULES.normal(event, b"key")
        name = item_id(SECRET.lane_key(LANE), RULES, kept.input)
        item, _ = merge(item, Entry.of(kept, name, RULES))
    assert item is not None
    return item


def items(count: int, seed: int = 1, *, orders: bool = False) -> list[Item]:
    """Distinct questions of the shop with one answer each."""
    rng, found = Random(seed), dict[str, Item]()
    while len(found) < count:
        value = a_list(rng)
        scores = scores_of(value, rng)
        one = item_of(event_of(value, ordered(scores) if orders else scored(scores), rng))
        found.setdefault(one.item_id, one)
    return list(found.values())
