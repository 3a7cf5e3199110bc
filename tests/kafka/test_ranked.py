"""A lane of `rank` beside one of `classify`, on real Kafka."""

from tests.ops.shared_topic import two_producers_ask_one_question
from tests.ops.stand import Stand


def test_two_producers_who_offer_documents_in_another_order_ask_one_question(stand: Stand) -> None:
    two_producers_ask_one_question(stand)
