"""Traces of OpenTelemetry and observations of Langfuse are logs: the calls of models in them, for every task."""

import json
from pathlib import Path
from typing import Any

import pytest

from ops.readers.files import BadRow, rows_of
from ops.readers.lists.rows import ListRow
from ops.readers.rows import Told
from ops.readers.talk.reader import TalkRow
from ops.readers.tasks import open_reader

SYSTEM, USER = {"role": "system", "content": "be brief"}, {"role": "user", "content": "where is it?"}
NANO = "1800000000000000000"


def wrapped(value: Any) -> dict[str, Any]:
    """A value as OTLP writes it in JSON."""
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [wrapped(one) for one in value]}}
        case dict():
            return {"kvlistValue": {"values": listed(value)}}
        case _:
            return {"stringValue": value}


def listed(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": wrapped(value)} for key, value in attributes.items()]


def span(number: int, attributes: dict[str, Any], *events: tuple[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    told = [{"name": name, "attributes": listed(held)} for name, held in events]
    ids = {"traceId": "t", "spanId": str(number), "startTimeUnixNano": NANO}
    return {**ids, "name": "chat", "attributes": listed(attributes), "events": told, **more}


def batch(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]}


def parts(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


ASKED = [parts("system", "be brief"), parts("user", "where is it?")]
SAID = [{**parts("assistant", "delivery"), "finish_reason": "stop"}]
KINDS = {
    "messages as JSON": span(
        1, {"gen_ai.input.messages": json.dumps(ASKED), "gen_ai.output.messages": json.dumps(SAID)}
    ),
    "messages as values": span(1, {"gen_ai.input.messages": ASKED, "gen_ai.output.messages": SAID}),
    "instructions beside": span(
        1,
        {
            "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "be brief"}]),
            "gen_ai.input.messages": json.dumps(ASKED[1:]),
            "gen_ai.output.messages": json.dumps(SAID),
        },
    ),
    "details in an event": span(
        1,
        {"gen_ai.request.model": "big"},
        (
            "gen_ai.client.inference.operation.details",
            {"gen_ai.input.messages": json.dumps(ASKED), "gen_ai.output.messages": json.dumps(SAID)},
        ),
    ),
    "an event a message": span(
        1,
        {},
        ("gen_ai.system.message", {"content": "be brief"}),
        ("gen_ai.user.message", {"content": "where is it?"}),
        ("gen_ai.choice", {"message": json.dumps({"content": "delivery"}), "finish_reason": "stop", "index": 0}),
    ),
    "OpenLLMetry": span(
        1,
        {
            "gen_ai.prompt.0.role": "system",
            "gen_ai.prompt.0.content": "be brief",
            "gen_ai.prompt.1.role": "user",
            "gen_ai.prompt.1.content": "where is it?",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "delivery",
            "gen_ai.completion.0.finish_reason": "stop",
        },
    ),
    "OpenInference": span(
        1,
        {
            "llm.input_messages.0.message.role": "system",
            "llm.input_messages.0.message.content": "be brief",
            "llm.input_messages.1.message.role": "user",
            "llm.input_messages.1.message.content": "where is it?",
            "llm.output_messages.0.message.content": "delivery",
        },
    ),
    "Langfuse": span(
        1,
        {
            "langfuse.observation.type": "generation",
            "langfuse.observation.input": json.dumps([SYSTEM, USER]),
            "langfuse.observation.output": json.dumps({"role": "assistant", "content": "delivery"}),
        },
    ),
}


def read(folder: Path, task: Any, *lines: Any) -> list[Any]:
    path = folder / "traces.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    return list(open_reader(task, path, {}, labels=("delivery", "refund") if task == "classify" else ()).rows(Told()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_instrumentations_spans_are_conversations_and_texts(tmp_path: Path, kind: str) -> None:
    (talk,) = read(tmp_path, "chat", batch(KINDS[kind]))
    assert isinstance(talk, TalkRow), talk
    assert [(one.role, one.content) for one in talk.value.messages] == [
        ("system", "be brief"),
        ("user", "where is it?"),
    ]
    assert (talk.answer, talk.id, talk.time_s) == ("delivery", "t/1", 1_800_000_000.0)
    (text,) = read(tmp_path, "classify", batch(KINDS[kind]))
    assert (text.text, text.label) == ("where is it?", "delivery")


def test_a_batch_holds_many_calls_and_what_calls_no_model_is_none(tmp_path: Path) -> None:
    good = KINDS["OpenInference"]
    other = span(2, {"http.method": "GET"})
    failed = {**good, "spanId": "3", "status": {"code": 2}}
    unsaid = span(4, {"gen_ai.request.model": "big"})
    found = read(tmp_path, "chat", batch(good, other, failed, unsaid, {**good, "spanId": "5"}), batch(other))
    assert [row.id for row in found] == ["t/1", "t/5"]


def test_a_batch_may_be_longer_than_an_event(tmp_path: Path) -> None:
    spans = [{**KINDS["OpenInference"], "spanId": str(number)} for number in range(2_000)]
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(batch(*spans)) + "\n" + json.dumps(batch(KINDS["Langfuse"])) + "\n", "utf-8")
    assert path.stat().st_size > 1 << 20
    assert sum(isinstance(row, dict) for _, row in rows_of(path)) == 2_001


def test_a_cut_answer_costs_itself_alone(tmp_path: Path) -> None:
    cut = [{**parts("assistant", "deli"), "finish_reason": "length"}]
    spans = span(1, {"gen_ai.input.messages": json.dumps(ASKED), "gen_ai.output.messages": json.dumps(cut)})
    found = read(tmp_path, "chat", batch(spans, {**KINDS["OpenInference"], "spanId": "2"}))
    assert [isinstance(row, BadRow) for row in found] == [True, False]


def test_a_rerankers_span_is_a_list(tmp_path: Path) -> None:
    documents = {f"reranker.input_documents.{n}.document.content": text for n, text in enumerate(["boots", "sandals"])}
    answered = {
        "reranker.output_documents.0.document.content": "sandals",
        "reranker.output_documents.0.document.score": 0.9,
        "reranker.output_documents.1.document.content": "boots",
        "reranker.output_documents.1.document.score": 0.1,
    }
    (row,) = read(tmp_path, "rank", batch(span(1, {"reranker.query": "shoes", **documents, **answered})))
    assert isinstance(row, ListRow), row
    assert (row.query, row.documents) == ("shoes", ("boots", "sandals"))
    assert row.said is not None
    assert row.said.scores == (0.1, 0.9)


def test_of_langfuses_observations_those_of_models_are_read(tmp_path: Path) -> None:
    seen = {"traceId": "t", "startTime": "2026-11-01T10:00:00Z", "input": [SYSTEM, USER], "output": "delivery"}
    rows = [{**seen, "id": kind, "type": kind} for kind in ("GENERATION", "SPAN", "TOOL", "EVENT")]
    (row,) = read(tmp_path, "chat", *rows)
    assert (row.id, row.answer) == ("GENERATION", "delivery")


def test_a_document_over_several_lines_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    path.write_text(json.dumps(batch(KINDS["Langfuse"]), indent=2), "utf-8")
    ((_, row),) = rows_of(path)
    assert row["response"]["choices"][0]["message"]["content"] == "delivery"


@pytest.mark.parametrize("broken", [{"resourceSpans": [1, {"scopeSpans": [{"spans": [None, {"attributes": 3}]}]}]}, {}])
def test_what_is_no_span_is_passed_over(tmp_path: Path, broken: dict[str, Any]) -> None:
    rows = read(tmp_path, "chat", broken, batch(KINDS["Langfuse"]))
    assert [row.id for row in rows if isinstance(row, TalkRow)] == ["t/1"]
