"""The demo's traffic: repeatable, varied, with the teacher wrong in its one way."""

import json
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.demo.traffic.generate import TrafficRow, TrafficSettings, expand, generate, teacher_label, to_jsonl
from ops.demo.traffic.support_desk import INTENTS, LATE, OFF_TOPIC, OFF_TOPIC_TALK, PAIRS
from store.event import canonical_text


@pytest.fixture(scope="module")
def rows() -> list[TrafficRow]:
    return generate(TrafficSettings(seed=1))


def test_there_are_at_least_twenty_four_intents_and_five_pairs() -> None:
    assert len(INTENTS) >= 24
    assert len(PAIRS) >= 5
    assert {name for pair in PAIRS for name in pair} | set(LATE) <= INTENTS.keys()


@given(seed=st.integers(0, 50))
def test_the_same_seed_gives_the_same_rows(seed: int) -> None:
    settings = TrafficSettings(seed=seed, rows=40)
    assert generate(settings) == generate(settings)


def test_another_seed_gives_other_rows() -> None:
    assert generate(TrafficSettings(seed=1, rows=40)) != generate(TrafficSettings(seed=2, rows=40))


@pytest.mark.parametrize("intent", sorted(INTENTS))
def test_every_intent_has_hundreds_of_texts(intent: str) -> None:
    rng = Random(1)
    texts = {expand(f"{{open}}{rng.choice(INTENTS[intent])}{{aside}}{{close}}", rng) for _ in range(600)}
    assert len(texts) > 400


@given(seed=st.integers(), template=st.sampled_from([*OFF_TOPIC_TALK, *(t for ts in INTENTS.values() for t in ts)]))
def test_nothing_of_the_grammar_is_left_in_a_text(seed: int, template: str) -> None:
    text = expand(f"{{open}}{template}{{aside}}{{close}}", Random(seed))
    assert not set("(){}|") & set(text)
    assert text == canonical_text(text) != ""


def test_a_grammar_that_does_not_end_is_refused() -> None:
    with pytest.raises(ValueError, match="does not end"):
        expand("(a|b)" * 100, Random(1))


def test_the_teacher_always_says_the_same_to_a_text(rows: list[TrafficRow]) -> None:
    said: dict[str, set[str]] = {}
    for row in rows:
        said.setdefault(canonical_text(row.text), set()).add(row.label)
    assert {len(labels) for labels in said.values()} == {1}


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_teacher_errs_on_one_to_three_percent_of_the_questions_inside_the_pairs(seed: int) -> None:
    questions = {row.text: row for row in generate(TrafficSettings(seed=seed))}
    wrong = [row for row in questions.values() if row.label != row.intent]
    assert 0.01 <= len(wrong) / len(questions) <= 0.03
    twins = {frozenset(pair) for pair in PAIRS}
    assert {frozenset((row.intent, row.label)) for row in wrong} <= twins


def test_a_teacher_that_never_errs_is_always_right() -> None:
    assert all(
        teacher_label(intent, f"{intent} {n}", confused_ratio=0.0) == intent for intent in INTENTS for n in range(9)
    )


def test_the_late_topic_appears_only_from_half_way(rows: list[TrafficRow]) -> None:
    half = len(rows) // 2
    assert not [row for row in rows[:half] if row.intent in LATE]
    assert {row.intent for row in rows[half:]} >= set(LATE)


def test_repeats_near_repeats_and_off_topic_talk_have_their_shares(rows: list[TrafficRow]) -> None:
    kinds = Counter(row.kind for row in rows)
    assert 0.08 < kinds["repeat"] / len(rows) < 0.12
    assert 0.06 < kinds["near_repeat"] / len(rows) < 0.10
    assert 0.02 < sum(row.intent == OFF_TOPIC for row in rows) / len(rows) < 0.045
    texts = [row.text for row in rows]
    assert all(row.text in texts[:place] for place, row in enumerate(rows) if row.kind == "repeat")


def test_popular_intents_are_asked_several_times_as_often(rows: list[TrafficRow]) -> None:
    counts = Counter(row.intent for row in rows if row.intent in INTENTS and row.intent not in LATE)
    (_, most), (_, least) = counts.most_common()[0], counts.most_common()[-1]
    assert most > 3 * least


def test_a_slip_never_touches_a_short_word(rows: list[TrafficRow]) -> None:
    kept = [row for row in rows if row.intent == "keep_order" and row.kind == "near_repeat"]
    assert kept
    assert all({"not", "don't", "keep", "stop"} & set(row.text.lower().split()) for row in kept)


def test_rows_are_written_as_the_lines_that_a_file_of_traffic_has(rows: list[TrafficRow]) -> None:
    line = json.loads(next(to_jsonl(rows)))
    assert line == {"text": rows[0].text, "teacher": {"label": rows[0].label}, "gold": rows[0].intent}
