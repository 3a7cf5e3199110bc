"""What every answer of the gateway may be beside its body: headers, and errors by status."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from serve.escalation import Degraded
from serve.openapi.operation import MAX_HEADER_CHARS, SCHEMAS
from store.event import Reason

JSON: Final = "application/json"
_WRONG: Final = ("invalid_request", "idempotency_key_reused")
ERRORS: Final[Mapping[int, tuple[str, Sequence[str]]]] = {
    400: ("Mend what `field` names, as the message says.", ("unsupported_value", *_WRONG)),
    401: ("Show a key that opens this lane.", ("invalid_api_key",)),
    403: ("A web page or a name that is not allowed.", ("origin_not_allowed", "host_not_allowed")),
    404: ("`model` is no use case that is asked so.", ("unknown_model",)),
    408: ("The body came too slowly.", ("request_timeout",)),
    409: ("The same request is at work elsewhere: come again.", ("idempotency_in_progress",)),
    413: ("Send less.", ("request_too_large",)),
    415: ("Send `application/json`.", ("unsupported_media_type",)),
    422: ("Mend what `field` names, as the message says.", _WRONG),
    429: ("Come again after `Retry-After`; nobody was paid.", ("overloaded",)),
    502: ("The teacher's answer was none.", ("invalid_answer",)),
    503: (
        "Nobody can answer now.",
        ("budget_exhausted", "budget_unavailable", "overloaded", "teacher_down", "shutting_down"),
    ),
}
"""What is answered before a stream begins, by status: what to do, and the codes."""
INVALID_STATUSES: Final = frozenset({400, 422})
"""Of which a path has one: what a wrong request is answered with there."""
_RETRIED: Final = frozenset({409, 429, 502, 503})
_MIXED: Final = "mixed"


def error_responses() -> dict[str, Any]:
    """All of them, by the names that `errors` gives."""
    return {f"Error{status}": _error(status, *told) for status, told in ERRORS.items()}


def errors(*statuses: int) -> dict[str, Any]:
    """The responses of these statuses, by reference."""
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in statuses}


def _error(status: int, description: str, codes: Sequence[str]) -> dict[str, Any]:
    narrowed = {"error": {"properties": {"code": {"enum": codes}}}}
    schema = {"allOf": [{"$ref": f"{SCHEMAS}Envelope"}], "properties": narrowed}
    found: dict[str, Any] = {"description": description, "content": {JSON: {"schema": schema}}}
    if status in _RETRIED:
        found["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    return found


REQUEST_HEADERS: Final[Mapping[str, Any]] = {
    "Idempotency-Key": {
        "description": "An answer is kept for a day under it, and given again.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_HEADER_CHARS},
    },
    "X-Understudy-Force": {
        "description": "Asks the teacher by name.",
        "schema": {"enum": ["teacher"]},
    },
    "traceparent": {
        "description": "W3C trace context, kept with the event; a malformed one is ignored.",
        "schema": {"type": "string"},
    },
}

ANSWER_HEADERS: Final[Mapping[str, Any]] = {
    "X-Understudy-Served-By": {
        "description": "Who answered; `mixed` where a list's texts differ.",
        "schema": {"enum": ["student", "teacher", _MIXED]},
    },
    "X-Understudy-Version": {
        "description": "The version that the request was pinned to, whoever answered.",
        "schema": {"type": "string"},
    },
    "X-Understudy-Reason": {
        "description": "Why it went to the teacher, was audited or was withheld.",
        "schema": {"enum": [*get_args(Reason), _MIXED]},
    },
    "X-Understudy-Event": {"description": "The event of a single text.", "schema": {"type": "string"}},
    "X-Understudy-Propensity": {
        "description": "The probability that a request like it reaches the teacher.",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "X-Understudy-Degraded": {
        "description": "Only where something was not as it should be.",
        "schema": {"enum": [*get_args(Degraded), _MIXED]},
    },
    "X-Understudy-Withheld": {
        "description": "Only where it would have gone to the teacher, and the budget binds.",
        "schema": {"enum": ["1", _MIXED]},
    },
    "Idempotency-Replayed": {"description": "It was kept, and is given again.", "schema": {"enum": ["true"]}},
    "X-Understudy-Idempotency": {
        "description": "Redis did not take it: another replica may pay again.",
        "schema": {"enum": ["this-replica"]},
    },
}
RETRY_AFTER: Final[Mapping[str, Any]] = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}
