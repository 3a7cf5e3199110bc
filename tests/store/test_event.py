"""The event's codec and the identity of a question."""

import json
import random
import sys
import time
import unicodedata
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import store.event
from store.event import (
    MAX_EVENT_BYTES,
    ClassifyEscalation,
    EscalationCause,
    LabelAnswer,
    Lane,
    RankInput,
    StudentOpinion,
    TextInput,
    Undecodable,
    UnknownTask,
    canonical_input,
    canonical_text,
    decode,
    encode,
    event_id_of_key,
    json_schema,
    new_event_id,
    utc,
)
from store.tasks.classify import ClassifyRules
from store.tasks.rank import RankRules
from store.tasks.rules import TaskRules


def identity(value: TextInput | RankInput) -> bytes:
    """What an item's id is made from."""
    rules: TaskRules = ClassifyRules() if isinstance(value, TextInput) else RankRules()
    return canonical_input(rules.task, rules.parts(value))


def an_event(text: str = "where is my order?", **changes: Any) -> ClassifyEscalation:
    fields: dict[str, Any] = {
        "id": new_event_id(1_700_000_000.0, random.Random(0)),
        "time": utc(1_700_000_000.0),
        "use_case": "support",
        "tenant": "acme",
        "student": StudentOpinion(version="0123456789abcdef", output="track", confidence=0.5, members=[[0.5, 0.5]]),
        "escalation": EscalationCause(reason="low_confidence", threshold=0.9, propensity=1.0),
        "input": TextInput(text=text),
        "teacher": LabelAnswer(model="m", prompt_version="p", label="track"),
    }
    return ClassifyEscalation(**{**fields, **changes})


@given(text=st.text(), propensity=st.floats(min_value=1e-6, max_value=1.0))
def test_an_event_survives_the_log(text: str, propensity: float) -> None:
    event = an_event(text, escalation=EscalationCause(reason="audit", threshold=None, propensity=propensity))
    assert decode(encode(event)) == event


@given(st.binary(max_size=200))
def test_no_bytes_whatever_make_decode_raise(value: bytes) -> None:
    assert isinstance(decode(value), Undecodable)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "unknown_schema"),
        ({"schema": "1"}, "unknown_schema"),
        ({"schema": True}, "unknown_schema"),
        ({"input": {"text": 7}}, "wrong_shape"),
        ({"input": {"query": "q", "documents": []}}, "wrong_shape"),
        ({"id": "42"}, "wrong_shape"),
        ({"tenant": "No Slug"}, "wrong_shape"),
        ({"time": "2026-01-01T00:00:00"}, "wrong_shape"),
        ({"escalation": {"reason": "audit", "threshold": None, "propensity": 0.0}}, "wrong_shape"),
        ({"escalation": {"reason": "audit", "threshold": None, "propensity": 5e-324}}, "wrong_shape"),
        ({"task": 7}, "wrong_shape"),
        ({"task": "4111111111111111"}, "wrong_shape"),
        ({"task": "translate", "id": "42"}, "wrong_shape"),
        ({"task": "translate", "tenant": "No Slug"}, "wrong_shape"),
        ({"task": "translate", "time": "yesterday"}, "wrong_shape"),
        ({"task": "translate", "schema": 0}, "unknown_schema"),
        ({"task": "translate", "schema": "2"}, "unknown_schema"),
    ],
)
def test_a_bad_event_is_dead_for_a_stated_reason(change: dict[str, Any], reason: str) -> None:
    value = json.dumps({**json.loads(encode(an_event())), **change}).encode()
    found = decode(value)
    assert isinstance(found, Undecodable)
    assert found.reason == reason


@pytest.mark.parametrize(
    "change",
    [
        {"task": "translate"},
        {"task": "translate", "schema": 2},
        {"task": "translate2", "schema": 2, "input": [], "teacher": 7, "escalation": {"reason": "curious"}},
    ],
)
def test_a_whole_envelope_of_a_task_to_come_is_not_dead(change: dict[str, Any]) -> None:
    found = decode(json.dumps({**json.loads(encode(an_event())), **change}).encode())
    assert found == UnknownTask(task=change["task"], use_case="support")
    assert f"'{change['task']}'" in found.detail


def test_an_event_over_the_limit_is_dead_before_it_is_parsed() -> None:
    found = decode(b"x" * (MAX_EVENT_BYTES + 1))
    assert isinstance(found, Undecodable)
    assert found.reason == "oversized"


def test_a_dead_letters_detail_holds_nothing_of_the_text() -> None:
    value = encode(an_event("my card is 4111 1111 1111 1111")).replace(b'"prompt_version":"p"', b'"prompt_version":7')
    found = decode(value)
    assert isinstance(found, Undecodable)
    assert "4111" not in found.detail


def test_fields_of_the_future_are_ignored() -> None:
    value = json.dumps({**json.loads(encode(an_event())), "new_field": [1, 2]}).encode()
    assert decode(value) == an_event()


def test_white_space_and_composition_do_not_tell_questions_apart() -> None:
    assert canonical_text("  Cafe\u0301 \n\t open? ") == "Café open?"


MARKS = st.sampled_from(
    "\u0301\u0316\u0315\u0338\u0327\u0344\u0340\u0f71\u0f72\u0f73\u0f75\u0f81\u05b0\u3099\u0345\U0001d165\U0001d15e"
)


@given(parts=st.lists(st.tuples(st.text(max_size=3), st.lists(MARKS, max_size=70).map("".join)), max_size=4))
def test_long_runs_of_marks_end_as_unicode_has_it(parts: list[tuple[str, str]]) -> None:
    text = "".join(text + marks for text, marks in parts)
    assert canonical_text(text) == " ".join(unicodedata.normalize("NFC", text).split())


def test_every_mark_that_can_be_moved_is_seen_as_one() -> None:
    for code in set(range(sys.maxunicode + 1)) - set(range(0xD800, 0xE000)):
        first = unicodedata.normalize("NFD", chr(code))[0]
        assert not unicodedata.combining(first) or store.event.MANY_MARKS.fullmatch(chr(code) * 32), hex(code)


@pytest.mark.parametrize(
    "unit",
    ["\u0301\u0316", "e\u0301", "\u0f73", "\u0344\u0316", "a" + "\u0301\u0316" * 15, "\u2026", "\u3000a", "\u00e9"],
)
def test_the_time_of_canonicalising_grows_with_the_length(unit: str) -> None:
    def seconds(text: str) -> float:
        def once() -> float:
            started = time.process_time()
            canonical_text(text)
            return time.process_time() - started

        return min(once() for _ in range(3))

    text = unit * (10_000 // len(unit))
    assert seconds(text * 4) <= 8 * seconds(text) + 0.05


@pytest.mark.parametrize(
    ("a", "b"), [("1.5?", "15"), ("C++", "C#"), ("Cancel it", "cancel it"), ("no, thanks", "no thanks")]
)
def test_case_and_punctuation_do(a: str, b: str) -> None:
    assert identity(TextInput(text=a)) != identity(TextInput(text=b))


def test_structure_tells_questions_apart() -> None:
    one = RankInput(query="a", documents=["b", "c"])
    two = RankInput(query="a b", documents=["c"])
    assert identity(one) != identity(two)


def test_documents_in_another_order_are_the_same_question_and_each_counts() -> None:
    one = RankInput(query="a", documents=["b", "c", "b"])
    moved = RankInput(query="a", documents=["c", "b ", "b"])
    fewer = RankInput(query="a", documents=["c", "b"])
    assert identity(one) == identity(moved) != identity(fewer)


@given(now_s=st.floats(min_value=0, max_value=4e9), seed=st.integers())
def test_an_event_id_is_a_uuid_7_in_order_of_time(now_s: float, seed: int) -> None:
    value = uuid.UUID(new_event_id(now_s, random.Random(seed)))
    assert value.version == 7
    assert value.int >> 80 == int(now_s * 1000)


def test_one_idempotency_key_is_one_event_in_one_lane() -> None:
    lane, other = Lane("acme", "support"), Lane("globex", "support")
    assert event_id_of_key(lane, "k", "i") == event_id_of_key(lane, "k", "i") != event_id_of_key(other, "k", "i")
    assert event_id_of_key(lane, "k", "i") != event_id_of_key(
        lane, "k", "j"
    )  # the key is used again, for another question
    assert uuid.UUID(event_id_of_key(lane, "k", "i")).version == 5


def test_the_schema_is_json_and_names_every_field() -> None:
    schema = msgspec.json.encode(json_schema()).decode()
    for name in ("schema", "id", "time", "use_case", "tenant", "input", "teacher", "student", "escalation", "subject"):
        assert f'"{name}"' in schema


def test_the_shipped_schema_is_the_codes_own() -> None:
    shipped = Path(store.event.__file__).with_name("escalation-v1.schema.json")
    assert json.loads(shipped.read_text()) == json_schema(), "write json_schema() to store/escalation-v1.schema.json"
