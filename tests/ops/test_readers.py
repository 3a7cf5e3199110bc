"""A log is read where it is certain what it is, and named where it is something else."""

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.backtest.tasks.texts import ColumnNames, read_log
from ops.imports.importer import publish_rows
from ops.readers import streams
from ops.readers.classify import TextRow, read_rows
from ops.readers.columns import Columns, find_columns, label_of, text_of, value_at
from ops.readers.files import BadRow, look, rows_of
from ops.readers.rows import Told
from ops.readers.times import moment_of
from store.errors import SettingsError
from store.event import ClassifyEscalation, decode
from stream.log import topic_of
from stream.memory import MemoryLog
from tests.ops.test_importer import INTO, LANE

ROWS: list[dict[str, Any]] = [
    {"text": f"where is parcel {n} é?", "label": ["refund", "cancel"][n % 2]} for n in range(12)
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def table(delimiter: str, *, names: tuple[str, str] = ("text", "label")) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([names, *([row["text"], row["label"]] for row in ROWS)])
    return out.getvalue()


WAYS: dict[str, bytes] = {
    "lines": LINES.encode(),
    "carriage returns": LINES.replace("\n", "\r\n").encode(),
    "byte order mark": b"\xef\xbb\xbf" + LINES.encode(),
    "utf-16": LINES.encode("utf-16"),
    "utf-16 without a mark": LINES.encode("utf-16-le"),
    "utf-16 big endian": b"\xfe\xff" + LINES.encode("utf-16-be"),
    "utf-32": LINES.encode("utf-32"),
    "gzip": gzip.compress(LINES.encode()),
    "gzip of utf-16": gzip.compress(LINES.encode("utf-16")),
    "gzip of a table": gzip.compress(table(",").encode()),
    "array on a line": json.dumps(ROWS).encode(),
    "array, a row a line": ("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n").encode(),
    "pretty array": json.dumps(ROWS, indent=2).encode(),
    "pretty objects": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "an export around it": json.dumps({"data": ROWS, "meta": {"page": 1}}, indent=1).encode(),
    "csv": table(",").encode(),
    "csv of a spreadsheet": b"\xef\xbb\xbf" + table(";").encode(),
    "csv with capitals": table(",", names=("Text", "Label")).encode(),
    "csv with sep": b"sep=;\r\n" + table(";").encode(),
    "tsv": table("\t").encode(),
    "utf-32 without a mark": LINES.encode("utf-32-be"),
    "utf-16 without a mark, a table": table(",").encode("utf-16-be"),
    "line ends of an old Mac": LINES.replace("\n", "\r").encode(),
    "a table of an old Mac": table(",").replace("\r\n", "\r").encode(),
    "files with marks, one behind another": "".join(f"\ufeff{line}\n" for line in LINES.splitlines()).encode(),
    "line ends of three systems": "".join(
        line + end for line, end in zip(LINES.splitlines(), ["\r", "\n", "\r\n"] * 4, strict=True)
    ).encode(),
    "a table with lines in its cells": b"text,label\r\n"
    + "".join(f'"{row["text"]}",{row["label"]}\r\n' for row in ROWS).encode(),
    "a table with semicolons and commas of numbers": b"text;label;x\n"
    + "".join(f"{row['text']};{row['label']};1,5\n" for row in ROWS).encode(),
    "two marks": b"\xef\xbb\xbf" * 2 + LINES.encode(),
    "the end of a DOS file": LINES.encode() + b"\x1a",
    "a crash's zeros": LINES.encode() + bytes(300),
    "record separators": "".join(f"\x1e{line}\n" for line in LINES.splitlines()).encode(),
    "commas between lines": LINES.replace("\n", ",\n").encode(),
    "objects on a line": LINES.replace("\n", "").encode(),
    "gzip in pieces": gzip.compress(LINES[:300].encode()) + gzip.compress(LINES[300:].encode()) + bytes(64),
    "an export on a line": json.dumps({"data": ROWS, "meta": {"page": 1}}).encode(),
    "an export on a long line": json.dumps(
        {"meta": {"page": 1}, "data": [{**row, "x": "y" * 9000} for row in ROWS]}
    ).encode(),
    "a data set's viewer": json.dumps({"rows": [{"row_idx": n, "row": row} for n, row in enumerate(ROWS)]}).encode(),
    "a dictionary of data sets": json.dumps({"train": ROWS, "test": []}).encode(),
    "a search": json.dumps({"took": 1, "hits": {"hits": [{"_id": "1", "_source": row} for row in ROWS]}}).encode(),
    "a search's hits": "".join(json.dumps({"_id": "1", "_source": row}) + "\n" for row in ROWS).encode(),
    "a frame by columns": json.dumps(
        {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}
    ).encode(),
    "a long frame by columns": json.dumps(
        {name: {str(n): row[name] for n, row in enumerate(ROWS)} | {} for name in ROWS[0]}
        | {"x": {str(n): "y" * 9000 for n in range(12)}}
    ).encode(),
    "a frame by rows": json.dumps({str(n): row for n, row in enumerate(ROWS)}).encode(),
    "a split frame": json.dumps(
        {"columns": ["text", "label"], "index": [*range(12)], "data": [[*row.values()] for row in ROWS]}
    ).encode(),
    "a frame of lists": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(),
    "csv with an index": "\n".join(
        [",text,label", *(f"{n},{row['text']},{row['label']}" for n, row in enumerate(ROWS))]
    ).encode(),
    "csv with commas at the ends": table(",").replace("\r\n", ",\r\n").encode(),
    "csv with a name twice": table(",", names=("text", "label"))
    .replace("\r\n", ",x\r\n")
    .replace("label,x", "label,label")
    .encode(),
    "csv with blanks": "\n".join(["text, label", *(f'"{row["text"]}", "{row["label"]}"' for row in ROWS)]).encode(),
    "csv with a long first row": (
        "text,label,x\n" + "".join(f'{row["text"]},{row["label"]},"{"y, " * 25_000}"\n' for row in ROWS)
    ).encode(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_log_is_read_in_any_way_that_is_certain(tmp_path: Path, way: str) -> None:
    path = tmp_path / "anything"
    path.write_bytes(WAYS[way])
    columns = find_columns(path, text=None, label=None)
    found = list(read_rows(path, columns, ("refund", "cancel")))
    assert [(row.text, row.label) for row in found if isinstance(row, TextRow)] == [
        (r["text"], r["label"]) for r in ROWS
    ]
    log = read_log(path, ColumnNames(), 1.0)
    assert (log.rows, log.labels, log.skipped) == (12, [row["label"] for row in ROWS], 0)


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (zipped("log.jsonl"), "a zip archive"),
        (zipped("xl/workbook.xml"), "an Excel workbook"),
        (b"PAR1\0\0", "a Parquet file"),
        (b"Obj\x01\0", "an Avro file"),
        (pickle.dumps(ROWS), "a Python pickle"),
        (b"<!DOCTYPE html><html><p>log in", "an HTML page"),
        (b"\n <html>", "an HTML page"),
        (b"<?xml version='1.0'?><a/>", "XML"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"BZh91AY", "packed with bzip2"),
        (b"\x28\xb5\x2f\xfd\0", r"packed with zstd \(unpack it: zstd -d\)"),
        (b"\xfd7zXZ\0\0", r"packed with xz \(unpack it: xz -d\)"),
        (lzma.compress(LINES.encode(), lzma.FORMAT_ALONE), "packed with LZMA"),
        (zlib.compress(LINES.encode()), "packed with zlib"),
        (gzip.compress(gzip.compress(LINES.encode(), mtime=0), mtime=0), "packed with gzip twice"),
        (gzip.compress(bz2.compress(LINES.encode()), mtime=0), "packed with bzip2"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a pointer of Git LFS"),
        (repr(ROWS).encode(), "Python's own spelling"),
        ("\n".join(map(repr, ROWS)).encode(), "Python's own spelling"),
        (b"- text: a\n  label: b\n- text: c\n  label: d\n", "plain text"),
        (b"| text | label |\n|---|---|\n| a | b |\n", "plain text"),
        (b"%PDF-1.7", "a PDF"),
        (b"\x7fELF\x02", "a program"),
        (bytes(range(256)), "not a text"),
        (b'\xd8\0\0\0\0\0\0\0{"a":1}', "a model's weights"),
        (b"dear all,\nplease find\n", "plain text"),
        (b"one\ntwo\nthree\n", "plain text"),
        (b"", "is empty"),
        (gzip.compress(LINES.encode(), mtime=0)[:-20], "packed with gzip, and damaged"),
        (b"\x1f\x8bnot", "packed with gzip, and damaged"),
    ],
)  # fmt: skip
def test_what_is_no_log_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=what) as caught:
        find_columns(path, text=None, label=None)
    assert str(path) in str(caught.value)
    if "damaged" not in what:
        with pytest.raises(SettingsError, match=what):
            look(path)


SYSTEM, USER = {"role": "system", "content": "Sort this."}, {"role": "user", "content": "where is it?"}
EARLIER = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
SAID = {"role": "assistant", "content": "refund"}
COMPLETION = {"id": "c", "created": 1_700_000_000, "choices": [{"index": 0, "message": SAID}]}
PARTS = {"role": "user", "content": [{"type": "text", "text": "where is it?"}]}
CALL = {"type": "function", "function": {"name": "c", "arguments": '{"label": "refund"}'}}


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_can_be_read_once_alone_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    os.mkfifo(path)  # nobody writes into it
    with pytest.raises(SettingsError, match="a pipe or a device"):
        look(path if kind == "pipe" else Path("/dev/zero"))


def one(value: Any, **more: Any) -> bytes:
    """A line of JSON."""
    return json.dumps({"text": value, "label": "refund"} | more).encode() + b"\n"


CALLED: dict[str, Any] = {"role": "assistant", "content": None}
DAMAGED: dict[str, tuple[bytes, int, list[tuple[int, str]]]] = {  # what comes first, good rows of it, its bad ones
    "zeros in a text": (b'{"text": "a\0b", "label": "refund"}\n', 1, []),
    "an escaped zero": (one("a\0b"), 1, []),
    "a line that is too long": (one("x" * (2 << 20)), 0, [(1, "longer than")]),
    "keys twice": (b'{"text": "a", "label": "no", "text": "b", "label": "cancel"}\n', 1, []),
    "a surrogate in a text": (one("a \ud800 b"), 0, [(1, "text is not in UTF-8")]),
    "a surrogate in a label": (one("a", label="refund\udc00"), 0, [(1, "label is not in UTF-8")]),
    "a surrogate elsewhere": (one("a", note="\ud800"), 1, []),
    "NaN elsewhere": (b'{"text": "a", "label": "refund", "score": NaN, "x": -Infinity}\n', 1, []),
    "a number without end": (b'{"text": "a", "label": "refund", "n": ' + b"9" * 9999 + b"}\n", 1, []),
    "lists without end": (b'{"text": ' + b"[" * 99_999 + b"\n", 0, [(1, "not JSON")]),
    "bytes of another encoding": (b'{"text": "\xff", "label": "refund"}\n', 0, [(1, "text is not in UTF-8")]),
    "a value that is no row": (b"[1]\n", 0, [(1, "not a JSON object")]),
    "nothing": (b"null\n", 0, [(1, "not a JSON object")]),
    "a text that is a number": (one(5), 0, [(1, "no text in text")]),
    "a blank text": (one(" \t"), 0, [(1, "no text in text")]),
    "a label that is a list": (one("a", label=["refund"]), 0, [(1, "no label in label")]),
    "a label off the list": (one("a", label="lost"), 0, [(1, "not one of the lane's labels")]),
    "a line that was cut": (b'{"text": "a", "lab\n', 0, [(1, "not JSON")]),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_row_costs_itself_alone_and_is_named(tmp_path: Path, what: str) -> None:
    damaged, good, bad = DAMAGED[what]
    path = tmp_path / "log.jsonl"
    path.write_bytes(damaged + LINES.encode())
    found = list(read_rows(path, find_columns(path, text=None, label=None), ("refund", "cancel")))
    assert sum(isinstance(row, TextRow) for row in found) == good + len(ROWS)
    said = [(row.line, row.why) for row in found if isinstance(row, BadRow)]
    assert len(said) == len(bad)
    for (line, why), (at, part) in zip(said, bad, strict=True):
        assert (line, part in why) == (at, True), why


def answered(message: Any) -> dict[str, Any]:
    """A call with its answer."""
    return {"messages": [USER], "response": {"choices": [{"message": message}]}}


MISSING: dict[str, dict[str, Any]] = {
    "no choices": {"messages": [USER], "response": {"choices": []}},
    "choices that are null": {"messages": [USER], "response": {"choices": None}},
    "an empty response": {"messages": [USER], "response": {}},
    "a response that is null": {"messages": [USER], "response": None},
    "an error": {"messages": [USER], "response": {"error": {"message": "overloaded"}}},
    "no content": answered(CALLED),
    "a tool call that is null": answered(CALLED | {"tool_calls": [None]}),
    "a tool call that was cut": answered(CALLED | {"tool_calls": [{"function": {"arguments": '{"label": '}}]}),
    "no messages": {"messages": [], "response": COMPLETION},
    "messages that are null": {"messages": None, "response": COMPLETION},
    "messages that are an object": {"messages": {}, "response": COMPLETION},
    "messages without a user": {"messages": [SYSTEM], "response": COMPLETION},
}


@pytest.mark.parametrize("what", MISSING)
def test_calls_without_an_answer_or_a_question_cost_themselves_alone_even_where_they_are_most(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "log.jsonl"
    rows = [MISSING[what]] * 3 + [{"messages": [USER], "response": COMPLETION}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(read_rows(path, find_columns(path, text=None, label=None), ("refund", "cancel")))
    assert [type(row) for row in found] == [BadRow] * 3 + [TextRow]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("0000-01-01T00:00:00Z", "outside"),
        ("10000-01-01T00:00:00Z", "outside"),
        ("+010000-01-01T00:00:00Z", "outside"),
        ("-0044-03-15", "outside"),
        ("0001-01-01T00:00:00+14:00", "outside"),
        ("9999-12-31T23:59:59-14:00", "outside"),
        ("9999-12-31T23:59:59Z", None),
        ("2024-02-30T00:00:00Z", "unreadable"),
        ("12345-6789", "unreadable"),
        ("02139-4307", "unreadable"),
        (1e30, "unreadable"),
        (0, "unreadable"),
        (True, "unreadable"),
        ([], "unreadable"),
        ("NaN", "unreadable"),
    ],
)
def test_a_time_outside_of_the_calendar_is_told_from_one_that_is_none(value: Any, fault: str | None) -> None:
    assert moment_of({"time": value}).fault == fault


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_ALWAYS_BYTES", 1 << 14)
    monkeypatch.setattr(streams, "_MOST_TIMES", 50)
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a", "label": "b"}\n' * (1 << 14)))
    with pytest.raises(SettingsError, match="unpacks to more than"):
        find_columns(path, text=None, label=None)


CHATS: dict[str, dict[str, Any]] = {
    "fine-tuning": {"messages": [SYSTEM, USER, SAID]},
    "fine-tuning of several turns": {"messages": [SYSTEM, *EARLIER, USER, SAID]},
    "parts": {"messages": [SYSTEM, PARTS, SAID]},
    "OpenAI's request and response": {"request": {"model": "m", "messages": [SYSTEM, USER]}, "response": COMPLETION},
    "a request beside its response": {"model": "m", "messages": [SYSTEM, USER], "response": COMPLETION},
    "a request beside its choices": {"messages": [USER], "choices": COMPLETION["choices"]},
    "a batch with its input": {
        "custom_id": "1",
        "body": {"messages": [USER]},
        "response": {"status_code": 200, "body": COMPLETION},
    },
    "LiteLLM": {
        "id": "1",
        "messages": [USER],
        "response": COMPLETION,
        "startTime": 1_700_000_000.5,
        "response_cost": 1e-3,
    },
    "LiteLLM in words": {"id": "1", "messages": [USER], "response": "refund"},
    "Langfuse": {"id": "1", "input": [SYSTEM, USER], "output": SAID, "startTime": "2026-01-01T00:00:00Z"},
    "Langfuse with a body": {"input": {"messages": [USER]}, "output": "refund"},
    "Langfuse in a table": {"input": json.dumps([SYSTEM, USER]), "output": json.dumps(SAID)},
    "flywheel": {
        "workload_id": "w",
        "client_id": "c",
        "timestamp": 1_700_000_000,
        "request": {"messages": [USER]},
        "response": COMPLETION,
    },
    "ShareGPT": {"conversations": [{"from": "human", "value": "where is it?"}, {"from": "gpt", "value": "refund"}]},
    "prompt and completion": {"prompt": "where is it?", "completion": " refund"},
    "OpenAI's responses": {
        "request": {"input": [USER]},
        "response": {
            "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "refund"}]}]
        },
    },
    "Anthropic": {"request": {"messages": [USER]}, "response": {"content": [{"type": "text", "text": "refund"}]}},
    "a call of a tool": {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
    "Anthropic's call of a tool": {
        "messages": [USER],
        "response": {"role": "assistant", "content": [{"type": "tool_use", "name": "c", "input": {"label": "refund"}}]},
    },
    "Anthropic's batch": {"custom_id": "1", "params": {"messages": [USER]}, "result": {"message": SAID}},
    "Azure behind a gateway": {
        "requestBody": json.dumps({"messages": [SYSTEM, USER]}),
        "responseBody": json.dumps(COMPLETION),
    },
    "Bedrock": {
        "input": {"inputBodyJson": {"messages": [{"role": "user", "content": [{"text": "where is it?"}]}]}},
        "output": {"outputBodyJson": {"output": {"message": {"role": "assistant", "content": [{"text": "refund"}]}}}},
    },
    "LiteLLM's request as it came": {
        "messages": {},
        "proxy_server_request": {"messages": [USER]},
        "response": COMPLETION,
    },
    "LangSmith": {
        "inputs": {"messages": [[{"id": ["langchain", "HumanMessage"], "kwargs": {"content": "where is it?"}}]]},
        "outputs": {"generations": [[{"text": "refund"}]]},
    },
    "LangSmith's data set": {"inputs": {"question": "where is it?"}, "outputs": {"answer": "refund"}},
    "Ragas": {"question": "where is it?", "answer": "refund", "contexts": ["a"], "ground_truth": "other"},
    "Ragas of today": {"user_input": "where is it?", "response": "refund", "reference": "other"},
    "Helicone": {"request_body": {"messages": [USER]}, "response_body": COMPLETION},
    "Phoenix": {"attributes": {"input": {"value": "where is it?"}, "output": {"value": "refund"}}},
    "Dolly": {"instruction": "where is it?", "context": "", "response": "refund"},
    "Vertex's fine-tuning": {
        "contents": [
            {"role": "user", "parts": [{"text": "where is it?"}]},
            {"role": "model", "parts": [{"text": "refund"}]},
        ]
    },
    "Google": {
        "request": {"contents": [{"role": "user", "parts": [{"text": "where is it?"}]}]},
        "response": {"candidates": [{"content": {"role": "model", "parts": [{"text": "refund"}]}}]},
    },
}


@pytest.mark.parametrize("export", CHATS)
def test_an_export_of_chats_is_found_by_itself(tmp_path: Path, export: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text((json.dumps(CHATS[export]) + "\n") * 3)
    found = list(read_rows(path, find_columns(path, text=None, label=None), ("refund", "cancel")))
    assert [(row.text, row.label) for row in found if isinstance(row, TextRow)] == [("where is it?", "refund")] * 3


@pytest.mark.parametrize("ended", ["length", "content_filter"])
def test_an_answer_that_was_cut_is_none(ended: str) -> None:
    assert label_of({"choices": [{"message": SAID, "finish_reason": "stop"}]}) == "refund"
    assert label_of({"choices": [{"message": SAID, "finish_reason": ended}]}) is None


@pytest.mark.parametrize("export", [{"custom_id": "1", "response": {"status_code": 200, "body": COMPLETION}},
                                    {"custom_id": "1", "method": "POST", "body": {"messages": [USER]}}])  # fmt: skip
def test_one_half_of_a_batch_is_told_to_be_that(tmp_path: Path, export: dict[str, Any]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text((json.dumps(export) + "\n") * 3)
    with pytest.raises(SettingsError, match=r"one half of a batch alone: join .* by custom_id"):
        find_columns(path, text=None, label=None)


@pytest.mark.parametrize("content", [LINES.encode("latin-1"), table(";").encode("latin-1"), LINES.encode("cp850")])
def test_a_file_that_is_not_in_utf_8_is_told_to_be_that(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"the text is not in UTF-8: .*iconv"):
        find_columns(path, text=None, label=None)


def test_a_row_that_is_not_in_utf_8_or_holds_a_zero_costs_that_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = LINES.encode().splitlines()
    lines[3], lines[5] = lines[3].decode().encode("latin-1"), b'{"text": "a", "label": \0\0\0\0}'
    path.write_bytes(b"\n".join(lines))
    columns = find_columns(path, text=None, label=None)
    bad = [(row.line, row.why) for row in read_rows(path, columns, ("refund", "cancel")) if isinstance(row, BadRow)]
    assert bad == [(4, "text is not in UTF-8"), (6, "not JSON in UTF-8")]
    assert [row.why for row in read_log(path, ColumnNames(), 1.0).bad] == [why for _, why in bad]


def test_of_a_chat_it_is_said_what_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text((json.dumps(CHATS["fine-tuning"]) + "\n") * 3)
    told = Told()
    list(read_rows(path, find_columns(path, text=None, label=None), ("refund",), told))
    notes = "\n".join(told.notes)
    assert "3 texts are the last turn of the user in messages" in notes
    assert "3 of them have a system prompt or other turns" in notes


def test_a_template_around_every_question_is_said(tmp_path: Path) -> None:
    path, told = tmp_path / "log.jsonl", Told()
    rows = [{"prompt": f"Classify the following message of a customer: q{n}", "label": "refund"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    list(read_rows(path, Columns(text="prompt", label="label"), ("refund",), told))
    assert any("begins with the same" in note for note in told.notes)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("messages.1.content", "where is it?"),
        ("messages[1].content", "where is it?"),
        ("messages.-1.content", "refund"),
        ("messages[-1].content", "refund"),
        ("choices[0].message.content", "refund"),
        ("messages.7.content", None),
        ("messages.x", None),
        ("a.b", "own name"),
        ("messages", [SYSTEM, USER, SAID]),
    ],
)
def test_a_column_may_lead_into_lists(column: str, value: Any) -> None:
    row = {"messages": [SYSTEM, USER, SAID], "choices": COMPLETION["choices"], "a.b": "own name"}
    assert value_at(row, column) == value


@pytest.mark.parametrize("value", ['{"label": "refund"}', '{"message": "a", "label": "refund"}', "[refund]"])
def test_an_answer_in_json_is_no_chat(value: str) -> None:
    assert label_of(value) == value
    assert text_of(value) == value


def test_what_nobody_reads_costs_no_row(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    odd = ["NaN", "-Infinity", '"\\ud800"', "1e999", "9" * 5000, '"\n"', "[NaN, {}]", '"\xff"']
    lines = [
        b'{"text": "q%d", "label": "refund", "x": %s}' % (n, value.encode("latin-1")) for n, value in enumerate(odd)
    ]
    path.write_bytes(b"\n".join(line.replace(b"\n", b"\\n") for line in lines))
    columns = Columns(text="text", label="label")
    assert [type(row) for row in read_rows(path, columns, ("refund",))] == [TextRow] * len(odd)
    unread = [b'"\\ud800"', b'"\xff"', b"NaN"]
    path.write_bytes(b"\n".join(b'{"text": %s, "label": "refund"}' % text for text in unread))
    assert [type(row) for row in read_rows(path, columns, ("refund",))] == [BadRow] * 3


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-05:00"])
def test_a_row_whose_time_is_outside_of_all_years_is_one_bad_row(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{**row, "created_at": moment if n == 5 else "2026-01-01T00:00:00Z"} for n, row in enumerate(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(read_rows(path, Columns(text="text", label="label"), ("refund", "cancel")))
    assert [(row.line, row.why) for row in found if isinstance(row, BadRow)] == [
        (6, "the time in created_at is outside of the years 1 to 9999, UTC")
    ]
    log = read_log(path, ColumnNames(), 1.0)
    assert (log.rows, [row.line for row in log.bad]) == (11, [6])


@pytest.mark.parametrize(
    ("value", "time_s", "fault"),
    [
        (1_700_000_000, 1_700_000_000.0, None),
        ("1700000000", 1_700_000_000.0, None),
        ("1700000000123", 1_700_000_000.123, None),
        (1_767_225_600_000_000, 1_767_225_600.0, None),
        ("1767225600000000000", 1_767_225_600.0, None),
        ("1.7672256e9", 1_767_225_600.0, None),
        ("2026-01-01T00:00:00Z", 1_767_225_600.0, None),
        ("2026-01-01T00:00:00z", 1_767_225_600.0, None),
        ("2026-01-01 00:00:00 UTC", 1_767_225_600.0, None),
        ("2026-01-01T00:00:00GMT", 1_767_225_600.0, None),
        ("2026-01-01 05:30:00 +0530", 1_767_225_600.0, None),
        ("2026-01-01 00:00:00.000000001 +0000 UTC", 1_767_225_600.0, None),
        ("2025-12-31T19:00:00\u221205:00", 1_767_225_600.0, None),
        ("2026-01-01T01:00:00+01:00[Europe/Paris]", 1_767_225_600.0, None),
        ("2026/01/01 00:00:00Z", 1_767_225_600.0, None),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 1_767_225_600.0, None),
        ("Wed, 31 Dec 2025 19:00:00 -0500", 1_767_225_600.0, None),
        ({"$date": "2026-01-01T00:00:00Z"}, 1_767_225_600.0, None),
        ({"$date": 1_767_225_600_000}, 1_767_225_600.0, None),
        (20_260_101, None, "unreadable"),  # a date
        ("20260101", None, "unreadable"),
        (46_023.5, None, "unreadable"),  # a day of Excel
        (17, None, "unreadable"),  # a place in the file
        (1e300, None, "unreadable"),
        ("01/02/2026 00:00", None, "unreadable"),
        ("2026-01-01T00:00:00[Europe/Paris]", None, "naive"),
        ("Thu Jan  1 00:00:00 2026", None, "naive"),
        ("2026-01-01 00:00:00", None, "naive"),
        ("2026-01-01", None, "naive"),
        ("noon", None, "unreadable"),
        (math.inf, None, "unreadable"),
        (math.nan, None, "unreadable"),
        (-5, None, "unreadable"),
        (True, None, "unreadable"),
        ([1], None, "unreadable"),
        ("", None, "none"),
        (None, None, "none"),
    ],
)
def test_a_time_is_read_or_its_fault_is_named(value: Any, time_s: float | None, fault: str | None) -> None:
    found = moment_of({"time": value})
    assert (found.time_s, found.fault) == (time_s, fault)


def published(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[list[ClassifyEscalation], list[str]]:
    """What an import at the second 2,000,000,000 sends, and what it notes."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log, told = MemoryLog(), Told()
    log.ensure(topic_of(LANE.use_case), 1)
    found = read_rows(path, Columns(text="text", label="label"), ("refund", "cancel"), told)
    publish_rows(found, INTO, log, undated_s=7.0, oldest_s=0.0, seen=lambda: None, now_s=2e9, told=told)
    records = [r for slot in log.slots(topic_of(LANE.use_case)) for r in log.read(slot, *log.bounds(slot))]
    events = [event for record in records if isinstance(event := decode(record.value), ClassifyEscalation)]
    return events, told.notes


def test_times_of_the_future_are_not_quarantined_for_decades_and_said(tmp_path: Path) -> None:
    events, notes = published(tmp_path, [{**row, "time": "2099-01-01T00:00:00Z"} for row in ROWS])
    assert {event.time_s for event in events} == {7.0}
    assert notes == ["12 rows have a time in the future: taken as of just before the quarantine"]


@pytest.mark.parametrize(("moment", "said"), [("2026-01-01T00:00:00", "12 rows have a time in time without a zone"),
                                              ("noon", "12 rows have something in time that is no time"),
                                              (None, "12 of 12 rows have no time")])  # fmt: skip
def test_times_that_are_not_used_are_said_with_what_is_assumed(tmp_path: Path, moment: Any, said: str) -> None:
    events, notes = published(tmp_path, [{**row, "time": moment} for row in ROWS])
    assert {event.time_s for event in events} == {7.0}
    (note,) = notes
    assert note.startswith(said)
    assert "just before the quarantine" in note


def test_an_empty_id_is_none_and_ids_that_repeat_are_said(tmp_path: Path) -> None:
    same = [{"id": "", "text": "q", "label": label} for label in ["refund"] * 2 + ["cancel"] * 3]
    events, notes = published(tmp_path, same)
    assert len({event.id for event in events}) == 5
    events, notes = published(
        tmp_path, [{"id": 1, "text": f"q{n // 2}", "label": "refund", "time": 1_700_000_005} for n in range(6)]
    )
    assert len({event.id for event in events}) == 3
    assert "3 rows have id and text of an earlier one: they count once" in notes
    assert "2 rows have the id of an earlier one and another text: each counts" in notes


def test_answers_are_read_as_the_gateway_reads_them(tmp_path: Path) -> None:
    said = [
        "refund",
        "Refund.",
        " refund",
        '{"label": "refund"}',
        "**refund**",
        "<think>x</think>refund",
        "angry",
        "refund or cancel",
    ]
    events, notes = published(
        tmp_path, [{"text": f"q{n}", "label": one, "time": 1_700_000_005} for n, one in enumerate(said)]
    )
    assert [event.teacher.label for event in events] == ["refund"] * 6
    assert notes == [
        "4 answers in label were in another spelling than the lane's list",
        "2 answers in label are none of the lane's labels",
    ]


SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    lambda label: f"{label}.",
    lambda label: f'{{"label": "{label}"}}',
)


@pytest.mark.parametrize("allowed", [(), ("cancel", "refund")])
def test_a_backtest_takes_spellings_of_one_label_as_one(tmp_path: Path, allowed: tuple[str, ...]) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{**row, "label": SPELLINGS[n // 2 % 4](row["label"]), "gold": row["label"]} for n, row in enumerate(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_log(path, ColumnNames(), 1.0, allowed)
    assert (log.labels, log.gold) == ([row["label"] for row in ROWS], [row["label"] for row in ROWS])
    assert (log.label_set, log.spellings, log.off_list) == (("cancel", "refund"), 8, 0)


def test_a_backtest_counts_answers_off_the_lanes_list(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, {"text": "t", "label": "angry"}]))
    log = read_log(path, ColumnNames(), 1.0, ("refund", "cancel"))
    assert (log.label_set, log.off_list, log.unusable) == (("cancel", "refund"), 1, 1)


def test_a_first_line_that_is_no_json_does_not_hide_the_lines_after_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("{oops\n" + LINES)
    found = list(rows_of(path))
    assert isinstance(found[0][1], BadRow)
    assert [line for line, _ in found] == list(range(1, 14))
