"""How older answers are read today: the list comes first, then the rules."""

from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.answers.rules import Drawing, Rules
from store.buffer.item import Item
from tests.trainer.questions import NOW_S, PROMPT_VERSION, an_item

LIST = frozenset({"refund", "delivery", "other"})
NOW = Drawing(prompt_version=PROMPT_VERSION, quarantine_s=0.0, now_s=NOW_S, allowed_labels=LIST)


def by(labels: dict[str, str | None], *prompts: str) -> Drawing:
    return replace(NOW, rules=Rules(labels=labels, prompts=frozenset(prompts)))


def answered(**tally: dict[str, int]) -> Item:
    item = an_item("where is it?", "refund", Random(1))
    names = {"now": PROMPT_VERSION, "old": "m@old", "older": "m@older"}
    return msgspec.structs.replace(item, tally={names[name]: answers for name, answers in tally.items()})


@pytest.mark.parametrize(
    ("said", "labels", "read"),
    [
        ("refund", {}, "refund"),
        ("fax", {}, None),
        ("money back", {"money back": "refund"}, "refund"),
        ("refund", {"refund": "delivery"}, "refund"),  # it sleeps while the label is on the list
        ("fax", {"fax": None}, None),
        ("a", {"a": "b", "b": "refund"}, "refund"),
        ("a", {"a": "delivery", "delivery": "refund"}, "delivery"),
        ("a", {"a": "b", "b": None}, None),
        ("a", {"a": "b", "b": "a"}, None),
        ("a", {"a": "gone"}, None),
    ],
)
def test_an_answer_is_read_by_the_list_and_then_by_the_rules(
    said: str, labels: dict[str, str | None], read: str | None
) -> None:
    assert by(labels).read(said) == read


def test_without_a_list_a_rule_is_all_there_is() -> None:
    rules = Rules(labels={"a": "b", "c": None})
    assert [rules.read(said, ()) for said in "abcd"] == ["b", "b", None, "d"]


def test_why_an_answer_is_not_read_is_told_apart() -> None:
    rules = Rules(labels={"fax": None, "telex": "fax", "a": "b", "x": "y", "y": "x"})
    assert {said: rules.unread(said) for said in ("fax", "telex", "a", "pigeon", "x")} == {
        "fax": "retired",
        "telex": "retired",
        "a": "off_list",
        "pigeon": "off_list",
        "x": "off_list",
    }


def test_answers_that_are_read_alike_are_counted_together_over_prompts_that_count() -> None:
    item = answered(now={"refund": 1, "fax": 4}, old={"money back": 2, "delivery": 1}, older={"other": 9})
    assert NOW.answers(item) == {"refund": 1}
    assert by({"money back": "refund"}, "m@old").answers(item) == {"refund": 3, "delivery": 1}
    assert by({}, "m@old", "m@older").answers(item) == {"refund": 1, "delivery": 1, "other": 9}
    assert by({"fax": "other"}).answers(item) == {"refund": 1, "other": 4}


def test_two_drawings_have_the_same_digest_iff_they_read_alike() -> None:
    assert by({"a": "refund"}).digest == replace(by({"a": "refund"}), now_s=0.0, quarantine_s=9.0).digest
    others = [NOW, by({"a": None}), by({"a": "delivery"}), by({"a": "refund"}, "m@old")]
    others += [
        replace(by({"a": "refund"}), prompt_version="m@x"),
        replace(by({"a": "refund"}), allowed_labels=LIST - {"other"}),
    ]
    digests = {one.digest for one in others}
    assert len(digests) == len(others)
    assert by({"a": "refund"}).digest not in digests


@given(
    labels=st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([*"abcdef", None])),
    said=st.sampled_from("abcdef"),
    today=st.frozensets(st.sampled_from("abcdef"), min_size=1),
)
def test_reading_ends_on_the_list_or_nowhere_and_twice_is_once(
    labels: dict[str, str | None], said: str, today: frozenset[str]
) -> None:
    read = Rules(labels=labels).read(said, today)
    assert read is None or read in today
    assert read is None or Rules(labels=labels).read(read, today) == read
    assert said not in today or read == said


def ruled(item: Item, said: str | None, labels: dict[str, str | None] | None = None) -> Drawing:
    return replace(NOW, rules=Rules(by_hand={item.item_id: said}, labels=labels or {}))


def test_a_persons_word_stands_alone_before_all_that_a_teacher_said_under_any_prompt() -> None:
    item = answered(now={"refund": 3, "delivery": 1}, old={"delivery": 4})
    assert ruled(item, "other").answers(item) == {"other": item.count}
    stale = answered(old={"delivery": 4})
    assert (NOW.heard(stale), NOW.draws(stale)) == (False, False)
    assert (ruled(stale, "other").heard(stale), ruled(stale, "other").draws(stale)) == (True, True)


def test_a_corrected_label_is_read_by_the_rules_of_labels_as_any_other() -> None:
    item = answered(now={"refund": 1})
    assert ruled(item, "fax", {"fax": "other"}).answers(item) == {"other": item.count}
    retired = ruled(item, "fax", {"fax": None})
    assert (retired.answers(item), retired.has_retired(item)) == ({}, True)


def test_a_dropped_item_is_neither_drawn_nor_heard_and_the_digest_tells_it() -> None:
    item = answered(now={"refund": 1})
    dropped = ruled(item, None)
    assert (dropped.draws(item), dropped.heard(item), dropped.dropped(item)) == (False, False, True)
    assert len({NOW.digest, dropped.digest, ruled(item, "refund").digest}) == 3
    other = msgspec.structs.replace(item, item_id="f" * 32)
    assert dropped.draws(other)
