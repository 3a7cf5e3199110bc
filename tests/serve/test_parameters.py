"""What cannot be sent is refused before anything is, and the message names the key and never a secret."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import dictionaries, floats, integers, none, one_of, recursive, text
from hypothesis.strategies import lists as lists_of

from serve.teacher.parameters import body_of, check_base_url, check_parameters, checked_key, most_output_tokens
from store.errors import SettingsError
from tests.serve.fakes import TEACHER


def nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for _ in range(depth):
        table = {"a": table}
    return table


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"model": "other"}, "model"),
        ({"messages": []}, "messages"),
        ({"stream": True}, "stream"),
        ({"stream_options": {}}, "stream_options"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"timeout": 5}, "timeout"),
        ({"tools": []}, "tools"),
        ({"max_tokens": "few"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": float("nan")}, "max_tokens"),
        ({"max_completion_tokens": [8]}, "max_completion_tokens"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": "5"}, "top_k"),
        ({"seed": 1 << 70}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"response_format": "json"}, "response_format"),
        ({"logprobs": 1}, "logprobs"),
        ({"since": date(2024, 1, 1)}, "since"),
        ({"chat_template_kwargs": {"a": [{"b": float("nan")}]}}, "chat_template_kwargs.a.0.b"),
        ({"user": "\ud800"}, "user"),
        ({"deep": nested(100)}, "deep"),
        ({"deep": nested(100_000)}, "deep"),
        ({"extra_body": 3}, "extra_body"),
        ({"extra_body": {"stream": True}}, "extra_body.stream"),
        ({"extra_body": {"top_k": 1}, "top_k": 1}, "extra_body.top_k"),
        ({"extra_body": {"extra_body": {"model": "other"}}}, "extra_body.extra_body"),
        ({"extra_headers": {"X-A": "a\nHost: b"}}, "extra_headers.X-A"),
        ({"extra_headers": {"X A": "a"}}, "extra_headers.X A"),
        ({"extra_headers": {"Host": "other"}}, "extra_headers.Host"),
        ({"extra_headers": {"Accept-Encoding": "gzip"}}, "extra_headers.Accept-Encoding"),
        ({"extra_query": {"a": 1}}, "extra_query.a"),
        ({"padding": "x" * 100_000}, "over 65536 bytes"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_key(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError) as raised:
        replace(TEACHER, parameters=parameters)
    assert str(raised.value).startswith(f"teacher.parameters.{key}")
    assert len(str(raised.value)) < 2_000


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"stream": False, "n": 1},
        {"max_tokens": None},
        {"max_tokens": 8, "temperature": 0.0, "top_k": -1, "stop": ["\n"], "seed": 7},
        {"response_format": {"type": "json_object"}, "provider": {"order": ["a", "b"]}},
        {"extra_headers": {"X-Title": "a desk"}, "extra_query": {"api-version": "2024-10-21"}},
    ],
)
def test_what_endpoints_know_is_accepted(parameters: dict[str, Any]) -> None:
    assert replace(TEACHER, parameters=parameters).parameters == parameters


VALUES = recursive(
    one_of(none(), integers(), floats(), text()),
    lambda inner: one_of(lists_of(inner, max_size=3), dictionaries(text(), inner, max_size=3)),
    max_leaves=10,
)


@given(parameters=dictionaries(text(max_size=12), VALUES, max_size=5))
def test_what_is_accepted_is_json_and_what_is_not_is_an_error_of_ours(parameters: dict[str, Any]) -> None:
    try:
        check_parameters(parameters)
    except SettingsError:
        return
    json.dumps(body_of(parameters), allow_nan=False).encode()
    most_output_tokens(parameters)


@pytest.mark.parametrize(
    "key", ["", " ", "a b", "a\nb", "sk-\xe9", "sk-\u2013", "a\x00", "a\rb", "\udc80", "x" * 5_000]
)
def test_a_key_that_no_header_carries_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError) as raised:
        checked_key(key)
    assert not key.strip() or key not in str(raised.value)
    with pytest.raises(SettingsError, match=r"^teacher\.api_key: "):
        replace(TEACHER, api_key=key)


def test_a_last_newline_of_a_key_is_taken_off() -> None:
    assert checked_key("sk-abc\r\n") == "sk-abc"


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@example.com/v1",
        "https://secret@example.com/v1",
        "https://@example.com/v1",
        "https://example.com/v1?key=secret",
        "https://example.com/v1#secret",
        "https://example.com/v1?",
        "https://exa mple.com/v1",
        "https://example.com/v1\n",
        "https://example.com:99999/v1",
        "https://example.com:port/v1",
        "https:///v1",
        "https://[::1/v1",
        "https://ex\xe4mple.com/v1",
        "ftp://example.com",
        "example.com",
        "",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        check_base_url(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://localhost:8000", "https://[::1]:8000/v1", "https://a_b.example.com/v1/"])
def test_an_address_is_accepted(url: str) -> None:
    check_base_url(url)


@pytest.mark.parametrize("model", ["", "  ", "a\nb", "\ud800", "x" * 300])
def test_a_name_that_no_model_has_is_refused(model: str) -> None:
    with pytest.raises(SettingsError, match=r"^teacher\.model: "):
        replace(TEACHER, model=model)


def test_checking_settings_loads_no_client() -> None:
    code = "import sys, ops.sections; print(sorted({'openai', 'httpx2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
