"""Topics: sizes, shares, names, and the same result twice."""

import numpy as np

from store.buffer.topics import find_topics

TEXTS = ["where is my parcel", "my parcel is late", "refund my card", "a refund for <CARD:0123456789> please"] * 10
VECTORS = np.array([[1.0, 0.1], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]] * 10)


def test_topics_are_sized_and_named_by_their_words() -> None:
    found = find_topics(VECTORS, TEXTS, [1.0, 1.0, 3.0, 3.0] * 10, [1.0, 1.0, 0.0, 3.0] * 10, seed=1)
    assert sum(topic.items for topic in found.topics) == 40
    assert [topic.requests for topic in found.topics] == sorted((t.requests for t in found.topics), reverse=True)
    for row, text in enumerate(TEXTS):
        assert ("refund" if "refund" in text else "parcel") in found.topics[found.of_row[row]].name
    refunds = [t for t in found.topics if "refund" in t.name]
    assert sum(t.requests * t.escalated_ratio for t in refunds) == 30.0
    assert sum(t.requests for t in refunds) == 60.0


def test_a_redaction_token_is_no_part_of_a_name() -> None:
    found = find_topics(VECTORS, ["<CARD:abcdefabcd> <EMAIL:abcdefabcd>"] * 40, [1.0] * 40, [0.0] * 40, seed=1)
    assert all(topic.name.startswith("no words") for topic in found.topics)
    assert len({topic.name for topic in found.topics}) == len(found.topics)


def test_the_same_rows_give_the_same_topics() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(300, 16))
    texts = [f"word{chr(97 + i % 9)} thing" for i in range(300)]
    one, two = (find_topics(vectors, texts, [1.0] * 300, [1.0] * 300, seed=7) for _ in range(2))
    assert one.topics == two.topics
    assert one.of_row.tolist() == two.of_row.tolist()
    assert 2 <= len(one.topics) <= 30


def test_no_rows_have_no_topics_and_one_row_has_one() -> None:
    assert find_topics(np.empty((0, 4)), [], [], [], seed=0).topics == ()
    assert [t.items for t in find_topics(np.ones((1, 4)), ["a parcel"], [2.0], [1.0], seed=0).topics] == [1]
