"""The snapshot: splits, links, weights, and the same hash for the same items."""

import hashlib
import json
import math
from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.answers.rules import NO_RULES, Drawing, Rules
from store.buffer.item import Item
from store.event import TextInput
from store.secrets import unit_hash
from trainer.learn.classify.freezing import LabelFreezing
from trainer.snapshot import Snapshot, SplitSettings, freeze, split_of, trials

SPLIT = SplitSettings(salt="salt", calibrate_ratio=0.2, judge_ratio=0.2)
NOW_S = 10_000.0


def item(
    text: str,
    answers: dict[str, int] | None = None,
    *,
    version: str = "m@p",
    propensities: dict[str, int] | None = None,
    asked_s: float = 0.0,
    item_id: str | None = None,
) -> Item:
    tally = answers or {"a": 1}
    count = sum(tally.values())
    return Item(
        item_id=item_id or hashlib.sha256(text.encode()).hexdigest()[:32],
        task="classify",
        input=TextInput(text=text),
        stratum="a",
        tally={version: tally},
        count=count,
        escalated=count,
        propensities=propensities or {"1.0": count},
        first_asked_s=asked_s,
        last_asked_s=asked_s,
        event_ids=[],
        first_opinion=None,
        subjects=[],
    )


def frozen(
    items: list[Item],
    *,
    split: SplitSettings = SPLIT,
    labels_min: int = 1,
    known: tuple[str, ...] = (),
    allowed: tuple[str, ...] = (),
    rules: Rules = NO_RULES,
) -> Snapshot:
    return freeze(
        items,
        LabelFreezing(labels_min=labels_min, known=known),
        prompt_version="m@p",
        split=split,
        quarantine_s=100.0,
        now_s=NOW_S,
        seed=1,
        positions={"topic/0": "7"},
        allowed_labels=allowed,
        rules=rules,
    )


def ids_of(split: SplitSettings, name: str, count: int) -> list[str]:
    found = (f"{i:032x}" for i in range(10_000))
    return [i for i in found if split_of(split, i) == name][:count]


def test_every_item_is_in_the_split_of_its_hash() -> None:
    snapshot = frozen([item(f"what is thing {i}") for i in range(300)])
    for row in snapshot.rows:
        place = unit_hash("salt", row.item_id)
        assert row.split == ("calibrate" if place < 0.2 else "judge" if place < 0.4 else "train")
    assert {row.split for row in snapshot.rows} == {"train", "calibrate", "judge"}


def test_a_planted_near_duplicate_of_a_held_out_row_is_not_trained_on() -> None:
    train, judge = ids_of(SPLIT, "train", 3), ids_of(SPLIT, "judge", 1)
    snapshot = frozen(
        [
            item("how do i change the address on my account", item_id=judge[0], asked_s=1.0),
            item("how do i chnage the address on my account please", item_id=train[0], asked_s=2.0),
            item("where is my parcel", item_id=train[1], asked_s=1.0),
        ]
    )
    assert [row.item_id for row in snapshot.split("train")] == [train[1]]
    assert {row.item_id for row in snapshot.split("judge")} == {judge[0], train[0]}
    assert snapshot.record.moved_linked == 1
    assert snapshot.clusters[train[0]] == snapshot.clusters[judge[0]]


def test_a_question_first_seen_in_training_stays_there_with_all_its_spellings() -> None:
    train, judge = ids_of(SPLIT, "train", 1), ids_of(SPLIT, "judge", 3)
    spellings = ["{} please", "hello, {}", "{} thanks"]
    question = "how do i change the address on my account"
    snapshot = frozen(
        [
            item(question, item_id=train[0], asked_s=1.0),
            *(
                item(spelling.format(question), item_id=held_out, asked_s=2.0)
                for spelling, held_out in zip(spellings, judge, strict=True)
            ),
        ]
    )
    assert len(snapshot.split("train")) == 4
    assert snapshot.record.moved_linked == 3


@given(asked=st.lists(st.integers(1, 50), min_size=30, max_size=30))
def test_no_training_row_is_ever_linked_to_a_held_out_one(asked: list[int]) -> None:
    snapshot = frozen(
        [
            item(f"how do i change thing {n % 5} of my account{' please' * (n // 5)}", asked_s=float(at_s))
            for n, at_s in enumerate(asked)
        ]
    )
    train = {row.cluster for row in snapshot.split("train")}
    assert train.isdisjoint({row.cluster for row in snapshot.rows if row.split != "train"})


def test_linked_with_another_answer_both_stay_as_a_contrast() -> None:
    train, judge = ids_of(SPLIT, "train", 1), ids_of(SPLIT, "judge", 1)
    snapshot = frozen(
        [
            item("please cancel my order now", {"cancel": 1}, item_id=judge[0]),
            item("please cancel my ordr now", {"keep": 1}, item_id=train[0]),
        ]
    )
    assert snapshot.record.contrasts == 1
    assert len(snapshot.rows) == 2


def test_of_linked_held_out_rows_one_counts_as_a_trial() -> None:
    calibrate, judge = ids_of(SPLIT, "calibrate", 2), ids_of(SPLIT, "judge", 1)
    snapshot = frozen(
        [
            item("how do i change the address on my account", item_id=calibrate[0]),
            item("how do i change the address on my account please", item_id=calibrate[1]),
            item("where is my parcel", item_id=judge[0]),
        ]
    )
    counted = [snapshot.rows[place].item_id for place in trials(snapshot, ())]
    assert sorted(counted) == sorted([min(calibrate), judge[0]])


def test_nothing_that_a_student_has_learned_in_any_spelling_is_a_trial_of_it() -> None:
    snapshot = frozen([item(f"what is thing {i}") for i in range(200)])
    held_out = [row for row in snapshot.rows if row.split != "train"]
    learned = {row.item_id for row in held_out[::2]}
    counted = {snapshot.rows[place].item_id for place in trials(snapshot, learned)}
    clusters = {snapshot.clusters[item_id] for item_id in learned}
    assert counted == {row.item_id for row in held_out if row.cluster not in clusters}
    assert counted.isdisjoint({row.item_id for row in snapshot.split("train")})


def test_a_linked_cluster_is_drawn_as_one_question() -> None:
    train = ids_of(SPLIT, "train", 3)
    snapshot = frozen(
        [
            item("how do i change the address on my account", {"a": 3}, item_id=train[0]),
            item("how do i change the address on my account please", {"a": 1}, item_id=train[1]),
            item("where is my parcel", item_id=train[2]),
        ]
    )
    weights = {row.item_id: row.weight for row in snapshot.rows}
    assert weights[train[0]] + weights[train[1]] == pytest.approx(1 + math.log(4))
    assert weights[train[2]] == 1


def test_a_contradicted_item_has_a_soft_target_and_a_mark() -> None:
    row = frozen([item("where is my parcel", {"b": 1, "a": 3})]).rows[0]
    assert (row.label, row.soft, row.conflicted) == ("a", {"a": 0.75, "b": 0.25}, True)
    tied = frozen([item("where is my parcel", {"b": 1, "a": 1})]).rows[0]
    assert tied.label == "a"
    assert frozen([item("where is my parcel", {"b": 2})]).rows[0].soft is None


def test_stale_and_too_new_items_are_left_out_and_counted() -> None:
    snapshot = frozen(
        [
            item("where is my parcel"),
            item("what is the fee", version="m@old"),
            item("how long does it take", asked_s=NOW_S - 99),
        ]
    )
    assert [row.words for row in snapshot.rows] == ["where is my parcel"]
    assert (snapshot.left_out.stale, snapshot.left_out.quarantined) == (1, 1)


def test_answers_off_todays_list_are_neither_learned_nor_judged_by_and_counted() -> None:
    questions = [{"a": 1}, {"angry": 1}, {"angry": 3, "a": 1}, {"b": 2, "a": 1, "angry": 1}, {"a": 1}]
    items = [item(f"what is thing {i}", answers) for i, answers in enumerate(questions)]
    snapshot = frozen(items, allowed=("a", "b"))
    assert (len(snapshot.rows), snapshot.left_out.off_list, snapshot.left_out.stale) == (4, 1, 0)
    assert {row.label for row in snapshot.rows} == {"a", "b"}
    assert {row.words: row.soft for row in snapshot.rows if row.soft} == {"what is thing 3": {"a": 1 / 3, "b": 2 / 3}}
    assert set(snapshot.labels) <= {"a", "b"}
    assert b"angry" not in snapshot.content
    assert frozen(items).left_out.off_list == 0


def test_rules_say_as_what_answers_are_learned_and_the_snapshot_says_by_which() -> None:
    answers = [{"a": 1}, {"old": 1}, {"old": 2, "a": 1}, {"fax": 1}, {"pigeon": 1}]
    items = [item(f"what is thing {i}", said) for i, said in enumerate(answers)]
    items.append(item("what is thing 5", {"old": 1}, version="m@before"))
    items.append(item("what is thing 6", {"a": 1}, version="m@never"))
    rules = Rules(labels={"old": "b", "fax": None}, prompts=frozenset({"m@before"}))
    snapshot = frozen(items, allowed=("a", "b"), rules=rules)
    assert [(row.words[-1], row.label) for row in sorted(snapshot.rows, key=lambda row: row.words)] == [
        ("0", "a"), ("1", "b"), ("2", "b"), ("5", "b"),
    ]  # fmt: skip
    left_out = snapshot.left_out
    assert (left_out.retired, left_out.off_list, left_out.stale) == (1, 1, 1)
    said = json.loads(snapshot.content)
    assert said["labels_read_as"] == {"old": "b", "fax": None}
    assert said["prompts_accepted"] == ["m@before"]
    assert "labels_read_as" not in json.loads(frozen(items).content)
    drawing = Drawing(
        prompt_version="m@p", quarantine_s=100.0, now_s=NOW_S, allowed_labels=frozenset("ab"), rules=rules
    )
    assert [drawing.draws(one) for one in items] == [True, True, True, False, False, True, False]


def test_mass_is_a_question_s_and_requests_are_all_of_them() -> None:
    row = frozen([item("where is my parcel", {"a": 3}, propensities={"1.0": 1, "0.25": 2})]).rows[0]
    assert row.requests == 9.0
    assert row.mass == 3.0


def test_known_labels_keep_their_places_and_new_ones_need_items() -> None:
    train = ids_of(SPLIT, "train", 9)
    questions = ["rare", "new", "new", "old", "old", "first", "first", "first", "new"]
    items = [item(f"what is thing {i}", {label: 1}, item_id=train[i]) for i, label in enumerate(questions)]
    snapshot = frozen(items, labels_min=2, known=("old", "gone"))
    assert snapshot.labels == ("old", "gone", "first", "new")
    assert snapshot.left_out.rare_label == 1
    assert all(row.label != "rare" for row in snapshot.split("train"))


def test_a_held_out_row_of_a_rare_label_still_judges() -> None:
    judge = ids_of(SPLIT, "judge", 1)
    snapshot = frozen([item("where is my parcel", {"rare": 1}, item_id=judge[0])], labels_min=5)
    assert snapshot.record.judge == 1
    assert snapshot.labels == ()


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text("abc dehiow", min_size=1, max_size=20), unique=True, max_size=20), seed=st.integers(0, 99)
)
def test_the_order_of_the_items_changes_nothing(texts: list[str], seed: int) -> None:
    items = [item(text, {"ab"[len(text) % 2]: 1}) for text in texts]
    one, two = frozen(items), frozen(Random(seed).sample(items, len(items)))
    assert one == two
    assert one.sha256 == hashlib.sha256(one.content).hexdigest()


def test_the_hash_tells_snapshots_apart_and_the_content_holds_no_text() -> None:
    items = [item(f"what is thing {i}") for i in range(20)]
    one = frozen(items)
    assert frozen(items[:-1]).sha256 != one.sha256
    assert frozen([*items[:-1], msgspec.structs.replace(items[-1], tally={"m@p": {"b": 1}})]).sha256 != one.sha256
    assert frozen(items, split=replace(SPLIT, salt="other")).sha256 != one.sha256
    assert b"thing" not in one.content
    assert len(json.loads(one.content)["rows"]) == one.record.rows == 20
    assert one.record.positions == {"topic/0": "7"}


def test_nothing_is_frozen_from_nothing() -> None:
    assert frozen([]).rows == ()


def test_a_split_without_training_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="below 1"):
        SplitSettings(salt="s", calibrate_ratio=0.5, judge_ratio=0.5)
