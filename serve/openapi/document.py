"""The OpenAPI document of the gateway: every path, from what each task says of its forms."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

import msgspec

from serve.completions.stream import DONE
from serve.front.errors import Envelope
from serve.openapi.operation import SCHEMAS, Operation
from serve.openapi.responses import (
    ANSWER_HEADERS,
    ERRORS,
    INVALID_STATUSES,
    JSON,
    REQUEST_HEADERS,
    RETRY_AFTER,
    error_responses,
    errors,
)
from serve.tasks.face import Form, RequestLimits
from serve.tasks.tasks import PATHS, TASKS, forms

PATH: Final = "/openapi.json"
_BOUNDS: Final = frozenset({"maxItems", "maxLength"})
_KEYED: Final[Sequence[Mapping[str, Sequence[str]]]] = [{"bearer": []}, {"header": []}, {}]
_DESCRIPTION: Final = (
    "A small student answers what it is certified to answer; the rest goes to the large teacher. `model` is the use "
    "case. A lane without keys answers this machine alone. The console is for people, on the admin port, and no API."
)


class ModelCard(TypedDict):
    """A use case that a key opens, as OpenAI describes a model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelCards(TypedDict):
    """The use cases that a key opens."""

    object: Literal["list"]
    data: list[ModelCard]


def document(limits: RequestLimits) -> dict[str, Any]:
    """The document of a gateway that takes so much in one request."""
    served = [form for task in TASKS for form in forms(task)]
    told = [form.operation for form in served]
    kinds = [one for each in told for one in (each.asked, each.answered, each.chunk, *each.named) if one is not None]
    _, schemas = msgspec.json.schema_components([Envelope, ModelCards, *kinds], ref_template=SCHEMAS + "{name}")
    paths = {path: {"post": _post(path, [form for form in served if path in form.paths])} for path in PATHS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Understudy", "version": "1", "description": _DESCRIPTION},
        "servers": [{"url": "http://localhost:8080", "description": "`gateway.host` and `gateway.port`"}],
        "tags": [
            {"name": "questions", "description": "Answered by the student or the teacher."},
            {"name": "gateway", "description": "What this gateway is and has."},
        ],
        "paths": {**paths, **_OTHERS},
        "components": {
            "schemas": bounded(schemas, limits),
            "parameters": {name: {"name": name, "in": "header", **header} for name, header in REQUEST_HEADERS.items()},
            "headers": {**ANSWER_HEADERS, "Retry-After": RETRY_AFTER},
            "responses": error_responses(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def bounded(schema: Any, limits: RequestLimits) -> Any:
    """A schema with the numbers of its bounds that are names of limits."""
    if isinstance(schema, Mapping):
        return {
            name: getattr(limits, value) if name in _BOUNDS and isinstance(value, str) else bounded(value, limits)
            for name, value in schema.items()
        }
    return [bounded(one, limits) for one in schema] if isinstance(schema, list | tuple) else schema


def _post(path: str, served: Sequence[Form]) -> dict[str, Any]:
    """What is asked and answered at a path, in whichever of its forms."""
    told = [form.operation for form in served]
    (invalid_status,) = {form.invalid_status for form in served}
    others = INVALID_STATUSES - {invalid_status}
    content = {JSON: {"schema": _any([one.answered for one in told]), "examples": _answers(told)}}
    if any(one.chunk for one in told):
        content["text/event-stream"] = {"schema": _event([one.chunk for one in told if one.chunk is not None])}
    return {
        "tags": ["questions"],
        "operationId": _name(path),
        "summary": "; ".join(one.summary for one in told),
        "description": " ".join(one.description for one in told),
        "security": _KEYED,
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in REQUEST_HEADERS],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _any([one.asked for one in told]), "examples": _requests(told)}},
        },
        "responses": {
            "200": {
                "description": "The answer. A list of which some texts were answered is one.",
                "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in ANSWER_HEADERS},
                "content": content,
            },
            **errors(*(status for status in ERRORS if status not in others)),
        },
    }


def _event(chunks: Sequence[Any]) -> dict[str, Any]:
    """Each event of a stream: OpenAPI 3.1 has no other place for it."""
    held = {"contentMediaType": JSON, "contentSchema": _any([*chunks, Envelope])}
    data = {"type": "string", "anyOf": [{"const": DONE.decode()}, held]}
    text = "One server-sent event. The last one's data is `[DONE]`, or an `Envelope` where the answer broke off."
    return {"type": "object", "description": text, "required": ["data"], "properties": {"data": data}}


def _any(kinds: Sequence[Any]) -> dict[str, Any]:
    """One of these types."""
    names = [{"$ref": SCHEMAS + kind.__name__} for kind in dict.fromkeys(kinds)]
    return names[0] if len(names) == 1 else {"anyOf": names}


def _requests(told: Sequence[Operation]) -> dict[str, Any]:
    """Examples by what they are of; of a form that streams, one as a stream, too."""
    found = {one.example["model"]: {"summary": one.summary, "value": one.example} for one in told}
    streams = [one for one in told if one.chunk is not None]
    return found | {
        f"{one.example['model']}-streamed": {"summary": one.summary, "value": {**one.example, "stream": True}}
        for one in streams
    }


def _answers(told: Sequence[Operation]) -> dict[str, Any]:
    return {one.answer["model"]: {"summary": one.summary, "value": one.answer} for one in told}


def _name(path: str) -> str:
    return path.strip("/").replace("/", "_")


def _get(
    name: str, summary: str, schema: Mapping[str, Any], statuses: Sequence[int] = (401, 403), **rest: Any
) -> dict[str, Any]:
    answer = {"description": "Found.", "content": {JSON: {"schema": schema}}}
    return {
        "tags": ["gateway"],
        "operationId": name,
        "summary": summary,
        "security": _KEYED,
        **rest,
        "responses": {"200": answer, **errors(*statuses)},
    }


def _health(name: str, summary: str) -> dict[str, Any]:
    """GET and HEAD of a path that takes no key."""
    answers = {"200": ("It is so.", ["ok\n"]), "503": ("It is not.", ["no\n"])}
    told = {"tags": ["gateway"], "summary": summary, "security": []}
    found = {
        status: {"description": said, "content": {"text/plain": {"schema": {"type": "string", "enum": words}}}}
        for status, (said, words) in answers.items()
    }
    bare = {status: {"description": said} for status, (said, _) in answers.items()}
    return {
        "get": {**told, "operationId": name, "responses": found},
        "head": {**told, "operationId": f"{name}_head", "responses": bare},
    }


_MODEL: Final = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_OTHERS: Final[Mapping[str, Any]] = {
    "/v1/models": {"get": _get("models", "The use cases that a key opens", {"$ref": f"{SCHEMAS}ModelCards"})},
    "/v1/models/{model}": {
        "get": _get(
            "model",
            "One use case that a key opens",
            {"$ref": f"{SCHEMAS}ModelCard"},
            (401, 403, 404),
            parameters=[_MODEL],
        )
    },
    PATH: {"get": _get("openapi", "This document", {"type": "object", "required": ["openapi", "paths"]})},
    "/healthz": _health("healthz", "Restart it where this fails"),
    "/readyz": _health("readyz", "Send it requests where this succeeds"),
}
