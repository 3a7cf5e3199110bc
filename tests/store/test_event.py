"""The event's codec and the identity of a question."""

import json
import random
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
    ChatInput,
    ClassifyEscalation,
    EscalationCause,
    LabelAnswer,
    Lane,
    Message,
    RankInput,
    StudentOpinion,
    TextInput,
    Undecodable,
    canonical_input,
    canonical_text,
    decode,
    encode,
    event_id_of_key,
    json_schema,
    new_event_id,
    utc,
)


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
        ({"task": "translate"}, "wrong_shape"),
    ],
)
def test_a_bad_event_is_dead_for_a_stated_reason(change: dict[str, Any], reason: str) -> None:
    value = json.dumps({**json.loads(encode(an_event())), **change}).encode()
    found = decode(value)
    assert isinstance(found, Undecodable)
    assert found.reason == reason


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


@pytest.mark.parametrize(
    ("a", "b"), [("1.5?", "15"), ("C++", "C#"), ("Cancel it", "cancel it"), ("no, thanks", "no thanks")]
)
def test_case_and_punctuation_do(a: str, b: str) -> None:
    assert canonical_input("classify", TextInput(text=a)) != canonical_input("classify", TextInput(text=b))


def test_structure_tells_questions_apart() -> None:
    one = RankInput(query="a", documents=["b", "c"])
    two = RankInput(query="a b", documents=["c"])
    system = ChatInput(messages=[Message(role="system", content="x")])
    user = ChatInput(messages=[Message(role="user", content="x")])
    assert canonical_input("rank", one) != canonical_input("rank", two)
    assert canonical_input("chat", system) != canonical_input("chat", user)


@given(now_s=st.floats(min_value=0, max_value=4e9), seed=st.integers())
def test_an_event_id_is_a_uuid_7_in_order_of_time(now_s: float, seed: int) -> None:
    value = uuid.UUID(new_event_id(now_s, random.Random(seed)))
    assert value.version == 7
    assert value.int >> 80 == int(now_s * 1000)


def test_one_idempotency_key_is_one_event_in_one_lane() -> None:
    lane, other = Lane("acme", "support"), Lane("globex", "support")
    assert event_id_of_key(lane, "k") == event_id_of_key(lane, "k") != event_id_of_key(other, "k")
    assert uuid.UUID(event_id_of_key(lane, "k")).version == 5


def test_the_schema_is_json_and_names_every_field() -> None:
    schema = msgspec.json.encode(json_schema()).decode()
    for name in ("schema", "id", "time", "use_case", "tenant", "input", "teacher", "student", "escalation", "subject"):
        assert f'"{name}"' in schema


def test_the_shipped_schema_is_the_codes_own() -> None:
    shipped = Path(store.event.__file__).with_name("escalation-v1.schema.json")
    assert json.loads(shipped.read_text()) == json_schema(), "write json_schema() to store/escalation-v1.schema.json"
