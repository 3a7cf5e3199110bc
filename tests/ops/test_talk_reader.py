"""Logs of conversations, in the shapes that exports have, as a lane of chat reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from ops.readers.files import BadRow
from ops.readers.rows import Told
from ops.readers.talk.reader import TalkRow
from ops.readers.tasks import open_reader
from store.errors import SettingsError

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
SAID = {"role": "assistant", "content": "hi"}
RESPONSE = {"choices": [{"index": 0, "message": SAID, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TURNS = [("system", "Be brief."), ("user", "hello")]


def read(folder: Path, *rows: Any, **named: str) -> list[TalkRow | BadRow]:
    path = folder / "log.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    reader = open_reader("chat", path, {f"--{name}": column for name, column in named.items()})
    found = list(reader.rows(Told()))
    assert all(isinstance(row, TalkRow | BadRow) for row in found)
    return [row for row in found if isinstance(row, TalkRow | BadRow)]


def turns(row: TalkRow | BadRow) -> list[tuple[str, str]]:
    assert isinstance(row, TalkRow), row
    return [(message.role, message.content) for message in row.value.messages]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"messages": ASKED, "teacher": {"text": "hi"}}, TURNS),
        ({"messages": [*ASKED, SAID]}, TURNS),
        ({"request": {"model": "m", "messages": ASKED}, "response": RESPONSE}, TURNS),
        ({"request": json.dumps({"messages": ASKED}), "response": json.dumps(RESPONSE)}, TURNS),
        ({"body": {"messages": ASKED}, "response": {"status_code": 200, "body": RESPONSE}}, TURNS),
        ({"messages": json.dumps(ASKED), "response": "hi"}, TURNS),
        ({"input": {"system": "Be brief.", "messages": ASKED[1:]}, "output": SAID}, TURNS),
        ({"prompt": "hello", "completion": "hi"}, [("user", "hello")]),
        ({"question": "hello", "answer": {"label": 3, "why": "so"}}, [("user", "hello")]),
        ({"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]}, [("user", "hello")]),
    ],
)
def test_every_turn_that_the_assistant_was_shown_is_the_question(
    tmp_path: Path, row: dict[str, Any], wanted: list[tuple[str, str]]
) -> None:
    (found,) = read(tmp_path, row)
    assert turns(found) == wanted
    assert isinstance(found, TalkRow)
    assert found.answer == ('{"label":3,"why":"so"}' if "question" in row else "hi")


@pytest.mark.parametrize("around", [None, "body"])
def test_what_shapes_the_answer_is_a_part_of_the_question(tmp_path: Path, around: str | None) -> None:
    asked = {"model": "m", "messages": ASKED, "temperature": 1, "stop": ["x"], "response_format": {"type": "text"}}
    tooled = {**asked, "tools": [CALL]}
    rows = [{"request": {around: one} if around else one, "response": RESPONSE} for one in (asked, tooled)]
    plain, tools = read(tmp_path, *rows)
    assert isinstance(plain, TalkRow)
    assert isinstance(tools, TalkRow)
    assert (plain.value.shape, plain.calls_tools) == ({"stop": ["x"]}, False)
    assert (tools.value.shape, tools.calls_tools) == ({"stop": ["x"], "tools": [CALL]}, True)


def test_layout_earlier_answers_and_tools_stay_as_they_are(tmp_path: Path) -> None:
    code = "def f():\n    return 1\n"
    talk = [
        {"role": "user", "content": code},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "and"}, {"type": "text", "text": "now?"}]},
    ]
    (found,) = read(tmp_path, {"messages": talk, "answer": "  indented"})
    assert turns(found) == [("user", code), ("assistant", ""), ("tool", "1"), ("user", "and\nnow?")]
    assert isinstance(found, TalkRow)
    assert found.value.messages[1].tool_calls == [CALL]
    assert found.answer == "  indented"


def test_a_row_without_a_question_or_an_answer_is_a_bad_one_and_is_named(tmp_path: Path) -> None:
    good = {"messages": ASKED, "answer": "hi"}
    rows = [good, {"messages": [], "answer": "hi"}, {"messages": ASKED, "answer": " "}, 3, {**good, "id": "a"}]
    found = read(tmp_path, *rows)
    assert [type(row) for row in found] == [TalkRow, BadRow, BadRow, BadRow, TalkRow]
    assert [row.why for row in found if isinstance(row, BadRow)] == [
        "no conversation in messages",
        "no answer in answer",
        "not a JSON object",
    ]


def test_an_answer_that_was_cut_off_is_none(tmp_path: Path) -> None:
    cut = {"choices": [{"message": SAID, "finish_reason": "length"}]}
    rows = [{"messages": ASKED, "response": RESPONSE}] * 3 + [{"messages": ASKED, "response": cut}]
    assert isinstance(read(tmp_path, *rows)[-1], BadRow)


def test_the_same_rows_are_the_same_again_and_layout_tells_two_apart(tmp_path: Path) -> None:
    one = {"messages": [{"role": "user", "content": "a\n  b"}], "answer": "hi"}
    other = {"messages": [{"role": "user", "content": "a\nb"}], "answer": "hi"}
    keys = [[row.key for row in read(tmp_path, one, one, other) if isinstance(row, TalkRow)] for _ in range(2)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 3


def test_columns_are_named_or_the_error_names_the_flag(tmp_path: Path) -> None:
    row = {"asked": ASKED, "told": "hi"}
    (found,) = read(tmp_path, row, messages="asked", answer="told")
    assert turns(found) == TURNS
    with pytest.raises(SettingsError, match="--messages"):
        read(tmp_path, row)
    with pytest.raises(SettingsError, match="--label: a log of the task chat has no such column"):
        read(tmp_path, row, label="told")
