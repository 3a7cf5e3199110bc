"""Topics of a cycle's rows, for its record and for the slices of its verdict that are watched."""

from collections.abc import Mapping

from store.buffer.topics import Topics, find_topics
from trainer.learn.recipe import Frozen


def topics_of(frozen: Frozen, *, seed: int) -> Topics:
    """What the rows are about, by the vectors that the task says."""
    rows = frozen.snapshot.rows
    vectors, words = frozen.topics_from()
    return find_topics(
        vectors,
        words,
        [row.requests for row in rows],
        [float(row.escalated) for row in rows],
        seed=seed,
        conflicted={place for pair in frozen.conflicts() for place in pair},
    )


def members(frozen: Frozen, *, seed: int) -> Mapping[str, frozenset[str]]:
    """The ids of each topic's items, by a name that says that it is a topic."""
    found = topics_of(frozen, seed=seed)
    ids: dict[str, set[str]] = {f"topic: {topic.name}": set() for topic in found.topics}
    names = list(ids)
    for row, number in zip(frozen.snapshot.rows, found.of_row.tolist(), strict=True):
        ids[names[number]].add(row.item_id)
    return {name: frozenset(each) for name, each in ids.items()}
