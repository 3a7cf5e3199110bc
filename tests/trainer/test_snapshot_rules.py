"""The snapshot's rules by hand: who is drawn, who is held out, what is written down."""

import json
import math
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.answers.rules import Drawing, Rules, answer_of
from store.buffer.item import FirstOpinion, Item
from store.event import AgreementVerdict, RankInput, StudentOpinion
from store.secrets import unit_hash
from tests.trainer.test_snapshot import NOW_S, SPLIT, frozen, ids_of, item
from trainer.learn.classify.freezing import LabelFreezing
from trainer.snapshot import LeftOut, Split, SplitSettings, freeze, rows_of, split_of, trials

DAY_S: Final = 86_400.0


def asked(one: Item, first_s: float, last_s: float) -> Item:
    return msgspec.structs.replace(one, first_asked_s=first_s, last_asked_s=last_s)


@pytest.mark.parametrize(
    ("calibrate", "judge", "allowed"),
    [
        (0.0, 0.0, True),
        (0.5, 0.49, True),
        (0.0, 0.99, True),
        (0.5, 0.5, False),
        (1.0, 0.0, False),
        (0.7, 0.7, False),
        (-0.1, 0.5, False),
        (0.5, -0.1, False),
    ],
)
def test_held_out_shares_are_no_less_than_nothing_and_less_than_all(
    calibrate: float, judge: float, *, allowed: bool
) -> None:
    if allowed:
        assert SplitSettings(salt="s", calibrate_ratio=calibrate, judge_ratio=judge).judge_ratio == judge
        return
    with pytest.raises(ValueError, match="must sum to below 1") as refused:
        SplitSettings(salt="s", calibrate_ratio=calibrate, judge_ratio=judge)
    assert str(calibrate) in str(refused.value)
    assert str(judge) in str(refused.value)


@given(calibrate=st.floats(0, 0.5), judge=st.floats(0, 0.49), item_id=st.text("0123456789abcdef", min_size=1))
def test_a_split_is_a_place_on_the_line_from_0_to_1(calibrate: float, judge: float, item_id: str) -> None:
    place = unit_hash("salt", item_id)
    expected = "calibrate" if place < calibrate else "judge" if place - calibrate < judge else "train"
    found = split_of(SplitSettings(salt="salt", calibrate_ratio=calibrate, judge_ratio=judge), item_id)
    assert found == expected or abs(place - calibrate - judge) < 1e-12


@pytest.mark.parametrize(
    ("quarantine_s", "first_s", "last_s", "drawn"),
    [
        (DAY_S, NOW_S - DAY_S, NOW_S, True),  # asked again just now: it has been there for a day
        (DAY_S, NOW_S - DAY_S + 0.001, NOW_S, False),
        (DAY_S, NOW_S - DAY_S - 0.001, NOW_S - DAY_S - 0.001, True),
        (DAY_S, NOW_S + 5.0, NOW_S + 5.0, False),
        (0.0, NOW_S + DAY_S, NOW_S + DAY_S, True),  # without a quarantine no clock keeps anything out
        (0.5, NOW_S, NOW_S, False),
    ],
)
def test_quarantine_counts_from_the_first_time_that_a_question_was_asked(
    quarantine_s: float, first_s: float, last_s: float, *, drawn: bool
) -> None:
    one = asked(item("where is my parcel"), first_s, last_s)
    drawing = Drawing(prompt_version="m@p", quarantine_s=quarantine_s, now_s=NOW_S)
    assert (drawing.aged(one), drawing.draws(one)) == (drawn, drawn)
    snapshot = freeze(
        [one],
        LabelFreezing(labels_min=1),
        prompt_version="m@p",
        split=SPLIT,
        quarantine_s=quarantine_s,
        now_s=NOW_S,
        seed=0,
        positions={},
    )
    assert (len(snapshot.rows), snapshot.left_out.quarantined) == (int(drawn), int(not drawn))


@pytest.mark.parametrize(
    ("allowed", "answers"),
    [((), {"a": 2, "b": 1}), (("b", "c"), {"b": 1}), (("c",), {})],
)
def test_an_item_is_drawn_for_its_answers_to_the_present_prompt_that_are_on_the_list(
    allowed: tuple[str, ...], answers: dict[str, int]
) -> None:
    one = item("where is my parcel", {"a": 2, "b": 1})
    drawing = Drawing(prompt_version="m@p", quarantine_s=0.0, now_s=NOW_S, allowed_labels=frozenset(allowed))
    assert drawing.answers(one) == answers
    assert drawing.draws(one) == bool(answers)
    other = Drawing(prompt_version="m@q", quarantine_s=0.0, now_s=NOW_S, allowed_labels=frozenset(allowed))
    assert not other.draws(one)


@pytest.mark.parametrize(
    ("answers", "label"),
    [({"b": 1}, "b"), ({"a": 1, "b": 2}, "b"), ({"b": 2, "a": 2}, "a"), ({"c": 1, "a": 3, "b": 3}, "a")],
)
def test_the_answer_is_the_most_frequent_one_and_of_equals_the_first_in_the_alphabet(
    answers: dict[str, int], label: str
) -> None:
    assert answer_of(answers) == label


SPELLINGS: Final = ("how do i change the address on my account", "how do i change the address on my account please")


@pytest.mark.parametrize("founder", ["train", "judge"])
def test_linked_rows_are_where_the_one_is_that_was_asked_first_whoever_was_asked_last(founder: str) -> None:
    other = {"train": "judge", "judge": "train"}[founder]
    first, second = ids_of(SPLIT, founder, 1)[0], ids_of(SPLIT, other, 1)[0]
    for texts in (SPELLINGS, SPELLINGS[::-1]):
        snapshot = frozen(
            [
                asked(item(texts[0], item_id=first), 1.0, 9.0),  # and asked again after the other
                asked(item(texts[1], item_id=second), 2.0, 2.0),
            ]
        )
        assert {row.split for row in snapshot.rows} == {founder}
        assert snapshot.record.moved_linked == 1


def test_of_linked_rows_that_were_asked_at_once_the_lower_id_decides() -> None:
    train, judge = ids_of(SPLIT, "train", 1)[0], ids_of(SPLIT, "judge", 1)[0]
    snapshot = frozen([item(SPELLINGS[0], item_id=train), item(SPELLINGS[1], item_id=judge)])
    assert {row.split for row in snapshot.rows} == {split_of(SPLIT, min(train, judge))}


def test_a_row_says_of_its_item_what_a_cycle_needs() -> None:
    opinion = FirstOpinion(time_s=1.0, event_id="e", opinion=StudentOpinion(version="v", output="a", confidence=0.5))
    one = msgspec.structs.replace(
        asked(item("where is my parcel", {"a": 3, "b": 1}, propensities={"1.0": 2, "0.1": 2}), 1.0, 7.0),
        escalated=2,
        first_opinion=opinion,
    )
    (row,) = frozen([one]).rows
    assert (row.item_id, row.words, row.label, row.soft) == (
        one.item_id,
        "where is my parcel",
        "a",
        {"a": 0.75, "b": 0.25},
    )
    assert (row.mass, row.requests, row.count, row.escalated) == (5.5, 22.0, 4, 2)
    assert (row.asked_s, row.first_opinion, row.conflicted) == (7.0, opinion, True)
    assert (row.weight, row.cluster) == (1 + math.log(4), 0)


def test_what_is_written_down_is_all_that_was_decided_and_what_it_was_decided_from() -> None:
    train, judge = ids_of(SPLIT, "train", 3), ids_of(SPLIT, "judge", 1)
    items = [
        item(SPELLINGS[0], {"a": 3}, item_id=train[0], asked_s=1.0),
        item(SPELLINGS[1], {"a": 1, "b": 1}, item_id=judge[0], asked_s=2.0, propensities={"1.0": 1, "0.5": 1}),
        item("where is my parcel", {"rare": 1}, item_id=train[1]),
        item("what is the fee", {"a": 1}, item_id=train[2], version="m@old"),
        asked(item("how long does it take", {"a": 1}), NOW_S, NOW_S),
        item("who are you", {"off": 1}),
    ]
    snapshot = frozen(items, labels_min=2, known=("b",), allowed=("a", "b", "rare"))
    weight = (1 + math.log(5)) / 2

    def row(item_id: str, count: int, requests: float, soft: dict[str, float] | None) -> dict[str, object]:
        return {
            "id": item_id,
            "split": "train",
            "label": "a",
            "soft": soft,
            "weight": weight,
            "mass": requests / count,
            "requests": requests,
            "count": count,
            "cluster": 0,
        }

    rows = [row(train[0], 3, 3.0, None), row(judge[0], 2, 3.0, {"a": 0.5, "b": 0.5})]
    cluster = snapshot.clusters[train[0]]
    for one in rows:
        one["cluster"] = cluster
    assert json.loads(snapshot.content) == {
        "schema": 1,
        "prompt_version": "m@p",
        "split": {"salt": "salt", "calibrate_ratio": 0.2, "judge_ratio": 0.2},
        "quarantine_s": 100.0,
        "frozen_s": NOW_S,
        "seed": 1,
        "positions": {"topic/0": "7"},
        "labels": ["b", "a"],
        "left_out": {"stale": 1, "quarantined": 1, "rare_label": 1, "off_list": 1, "retired": 0},
        "rows": sorted(rows, key=lambda one: str(one["id"])),
    }
    assert snapshot.left_out == LeftOut(stale=1, quarantined=1, rare_label=1, off_list=1)
    record = snapshot.record
    assert (record.rows, record.train, record.calibrate, record.judge) == (2, 2, 0, 0)
    assert (record.clusters, record.contrasts, record.moved_linked) == (1, 0, 1)
    assert (record.prompt_version, record.positions) == ("m@p", {"topic/0": "7"})
    assert set(snapshot.clusters) == {train[0], train[1], judge[0]}  # of what is left out as rare, too


def test_the_record_counts_each_split_and_each_question_once() -> None:
    names = {name: ids_of(SPLIT, name, count) for name, count in (("train", 4), ("calibrate", 2), ("judge", 3))}
    everything = [one for ids in names.values() for one in ids]
    snapshot = frozen([item(f"what is thing {number}", item_id=one) for number, one in enumerate(everything)])
    record = snapshot.record
    assert (record.rows, record.train, record.calibrate, record.judge, record.clusters) == (9, 4, 2, 3, 9)
    assert record.moved_linked == 0
    assert [row.item_id for row in snapshot.rows] == sorted(everything)
    splits: tuple[Split, ...] = ("train", "calibrate", "judge")
    for name in splits:
        assert {row.item_id for row in snapshot.split(name)} == set(names[name])
        assert [snapshot.rows[place] for place in rows_of(snapshot, name)] == list(snapshot.split(name))


def test_a_row_carries_its_question_and_what_was_answered() -> None:
    one = item("where is my parcel")
    (row,) = frozen([one]).rows
    assert (row.input, row.item_id) == (one.input, one.item_id)
    assert dict(row.answers) == one.answers("m@p")


def test_an_item_of_another_task_is_no_row_of_this_one() -> None:
    one = msgspec.structs.replace(item("where is my parcel"), input=RankInput(query="x", documents=["y"]))
    with pytest.raises(TypeError, match="RankInput in a lane of classify"):
        frozen([one])


@settings(max_examples=40, deadline=None)
@given(
    spelt=st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 2), st.floats(0, 50)), max_size=30, unique_by=lambda s: s[:2]
    ),
    learned=st.sets(st.integers(0, 29)),
)
def test_no_split_and_no_trial_knows_another_spelling_of_what_was_learned(
    spelt: list[tuple[int, int, float]], learned: set[int]
) -> None:
    spellings = ("where is order {}", "where is order {} please", "hello, where is order {}")
    snapshot = frozen(
        [item(spellings[how].format(number), item_id=f"{number:02x}{how}" * 8, asked_s=at) for number, how, at in spelt]
    )
    question = {f"{number:02x}{how}" * 8: number for number, how, _ in spelt}
    splits = {(question[row.item_id], row.split) for row in snapshot.rows}
    assert len(splits) == len({number for number, _ in splits})  # each question is in one split
    trained = {row.item_id for row in snapshot.split("train")}
    trained |= {snapshot.rows[place].item_id for place in learned if place < len(snapshot.rows)}
    counted = [question[snapshot.rows[place].item_id] for place in trials(snapshot, trained)]
    known = {question[item_id] for item_id in trained}
    assert sorted(counted) == sorted({question[row.item_id] for row in snapshot.rows} - known)


def test_a_referees_verdict_about_the_older_answer_goes_with_a_correction_and_the_opinion_stays() -> None:
    verdict = AgreementVerdict(agreed=True, by="judge")
    opinion = StudentOpinion(version="v1", output="a", confidence=0.5, verdict=verdict)
    first = FirstOpinion(time_s=1.0, event_id="e", opinion=opinion)
    judged = msgspec.structs.replace(item("where is my parcel", {"a": 1}), first_opinion=first)
    kept, corrected = frozen([judged]), frozen([judged], rules=Rules(by_hand={judged.item_id: "b"}))
    assert kept.rows[0].first_opinion == first
    found = corrected.rows[0].first_opinion
    assert found is not None
    assert (found.opinion.verdict, found.opinion.output, corrected.rows[0].label) == (None, "a", "b")


def test_a_dropped_item_is_left_out_by_that_name_and_a_corrected_one_is_in_under_any_prompt() -> None:
    dropped, stale = item("where is my parcel", {"a": 1}), item("cancel my order", {"a": 1}, version="m@older")
    rules = Rules(by_hand={dropped.item_id: None, stale.item_id: "b"})
    snapshot = frozen([dropped, stale], rules=rules)
    assert [(row.item_id, row.label) for row in snapshot.rows] == [(stale.item_id, "b")]
    assert snapshot.left_out == LeftOut(stale=0, quarantined=0, rare_label=0, dropped=1)
    content = json.loads(snapshot.content)
    assert (content["corrected"], content["dropped"]) == ([stale.item_id], [dropped.item_id])
