"""The rows that a trace holds: OpenTelemetry's JSON, as its collector writes it to files; Langfuse's observations."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ops.readers.traces.conventions import call_in

BATCH: Final = b'{"resourceSpans"'  # how a line begins that holds many rows
_OBSERVATIONS: Final = frozenset(  # of Langfuse: not of a model
    {"SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "GUARDRAIL", "EMBEDDING"}
)
_WRAPPED: Final = ("stringValue", "boolValue", "doubleValue", "bytesValue")


def rows_within(value: Any) -> list[Any]:
    """The calls of models in a batch of spans; none for what was observed of something else; else the value itself."""
    if not isinstance(value, Mapping):
        return [value]
    batches = value.get("resourceSpans", value.get("resource_spans"))
    if isinstance(batches, list):
        found = (_call(span) for batch in _mappings(batches) for span in _spans(batch))
        return [call for call in found if call is not None]
    kind = value.get("type")
    is_other = "traceId" in value and isinstance(kind, str) and kind.upper() in _OBSERVATIONS
    return [] if is_other else [value]


def _spans(batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name in ("scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
        for scope in _mappings(batch.get(name)):
            yield from _mappings(scope.get("spans"))


def _call(span: Mapping[str, Any]) -> dict[str, Any] | None:
    """A span as a row of a log; None: it calls no model, failed, or does not say what was said."""
    status = span.get("status")
    if isinstance(status, Mapping) and status.get("code") in {2, "STATUS_CODE_ERROR"}:
        return None
    attributes = _attributes(span)
    events = [(str(event.get("name")), _attributes(event)) for event in _mappings(span.get("events"))]
    call = call_in(attributes, events)
    if call is None:
        return None
    ids = [str(span[name]) for name in ("traceId", "spanId") if span.get(name)]
    return {"id": "/".join(ids) or None, "time": span.get("startTimeUnixNano"), **call}


def _attributes(held: Mapping[str, Any]) -> dict[str, Any]:
    found = held.get("attributes")
    if isinstance(found, Mapping):  # as some exporters flatten them
        return dict(found)
    return {str(one.get("key")): _value(one.get("value")) for one in _mappings(found)}


def _value(value: Any) -> Any:
    """A value of OTLP without what says its kind."""
    if not isinstance(value, Mapping):
        return value
    if "intValue" in value:  # 64 bits, which JSON spells as a text
        digits = str(value["intValue"])
        return int(digits) if digits.removeprefix("-").isdecimal() and len(digits) < 21 else None  # noqa: PLR2004
    if isinstance(inner := value.get("arrayValue"), Mapping):
        return [_value(one) for one in inner.get("values") or ()]
    if isinstance(inner := value.get("kvlistValue"), Mapping):
        return {str(one.get("key")): _value(one.get("value")) for one in _mappings(inner.get("values"))}
    return next((value[name] for name in _WRAPPED if name in value), None)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
