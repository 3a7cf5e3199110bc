"""The gateway's HTTP face: parsing, keys, and the shapes of answers. Deciding happens in `serve.gateway`."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serve.escalation import Answer, Question, Refusal
from serve.lifecycle import Gateway, OpenLane, Services
from serve.request.admission import OverloadedError
from serve.request.connected import while_connected
from serve.settings import GatewaySettings, is_loopback
from store.errors import SettingsError
from store.event import TextInput, canonical_text, event_id_of_key, new_event_id
from store.secrets import item_id

_MISSING_FIELD: Final = re.compile(r"missing required field `([^`]+)`")
_FIELD_PATH: Final = re.compile(r"at `\$\.?([^`]*)`")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_HEADER_CHARS: Final = 256


class ClassifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /classify`, in vLLM's shape; fields that we do not know are ignored."""

    model: str  # the use case
    input: str | list[str]
    user: str | None = None  # the subject, for erasure


class ApiError(Exception):
    """An answer that is an error: status, code, and the field that is to blame."""

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, *, retry_after_s: int | None = None
    ) -> None:
        """Keep what the client will read."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.retry_after_s = retry_after_s

    def response(self) -> Response:
        """The error in OpenAI's envelope."""
        error = {"code": self.code, "message": str(self)} | ({"field": self.field} if self.field else {})
        headers = None if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return _json({"error": error}, self.status, headers)


def build_app(services: Services, settings: GatewaySettings) -> Starlette:
    """The application; its lifespan starts and stops the gateway, which is at `app.state.gateway`.

    Raises:
        SettingsError: two lanes cannot be told apart by key and use case.
    """
    gateway = Gateway(services, settings)
    directory = Directory(gateway.lanes)

    async def classify(request: Request) -> Response:
        try:
            return await _classify(request, gateway, directory)
        except ApiError as error:
            return error.response()
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    routes = [
        *(Route(path, classify, methods=["POST"]) for path in ("/classify", "/v1/classify")),
        *(Route(path, _not_yet, methods=["POST"]) for path in ("/v1/rerank", "/v1/chat/completions")),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.gateway = gateway
    return app


class Directory:
    """Which lane a request means: its API key names the tenant, its `model` the use case."""

    def __init__(self, lanes: Sequence[OpenLane]) -> None:
        """Index the lanes.

        Raises:
            SettingsError: a key would open two tenants of one use case, or two lanes without keys share one.
        """
        self._by_key: dict[tuple[str, bytes], OpenLane] = {}
        self._open: dict[str, OpenLane] = {}
        self._use_cases = {lane.parts.settings.lane.use_case for lane in lanes}
        for lane in lanes:
            use_case = lane.parts.settings.lane.use_case
            for key in lane.parts.settings.api_keys:
                if self._by_key.setdefault((use_case, _digest(key)), lane) is not lane:
                    message = f"lanes.api_keys: one key opens two tenants of {use_case}"
                    raise SettingsError(message)
            if not lane.parts.settings.api_keys and self._open.setdefault(use_case, lane) is not lane:
                message = f"lanes.api_keys: two tenants of {use_case} have no keys and cannot be told apart"
                raise SettingsError(message)

    def find(self, use_case: str, key: str | None, host: str | None) -> OpenLane:
        """The lane of a request. A lane without keys is open to this machine alone, whatever key it is shown.

        Raises:
            ApiError: 404 for an unknown use case, 401 for a key that opens none of its lanes.
        """
        if use_case not in self._use_cases:
            raise ApiError(404, "unknown_model", "no lane serves this model", "model")
        lane = self._by_key.get((use_case, _digest(key))) if key is not None else None
        if lane is None and is_loopback(host):
            lane = self._open.get(use_case)
        if lane is None:
            raise ApiError(401, "invalid_api_key", "this API key opens no lane of this model")
        return lane


async def _classify(request: Request, gateway: Gateway, directory: Directory) -> Response:
    body = _decode(await _read(request, gateway.settings.max_body_bytes))
    host = request.client.host if request.client is not None else None
    lane = directory.find(body.model, _api_key(request), host)
    texts = 1 if isinstance(body.input, str) else min(len(body.input), gateway.settings.max_inputs)
    try:
        with gateway.admit(lane, texts, forced=_forced(request)) as ticket:
            questions = _questions(request, body, lane, gateway)
            answers = asyncio.gather(*(lane.service.answer(replace(one, ticket=ticket)) for one in questions))
            found = await while_connected(answers, request.receive)
    except OverloadedError as busy:
        raise ApiError(429, "overloaded", str(busy), retry_after_s=busy.retry_after_s) from busy
    return _respond(found, questions, body.model)


async def _not_yet(_: Request) -> Response:
    return ApiError(501, "not_yet", "this release serves /v1/classify alone").response()


async def _read(request: Request, max_bytes: int) -> bytes:
    """The body, bounded."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise ApiError(413, "request_too_large", f"the body is over {max_bytes} bytes")
    return bytes(body)


def _decode(body: bytes) -> ClassifyRequest:
    """The request, or a 422 that names the field; msgspec's messages hold types, never values."""
    try:
        return msgspec.json.decode(body, type=ClassifyRequest)
    except msgspec.ValidationError as error:
        message = str(error)
        named = _MISSING_FIELD.search(message) or _FIELD_PATH.search(message)
        raise _invalid(field=(named.group(1) if named else "") or "body", message=message) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(field="body", message="not JSON in UTF-8") from error


def _questions(request: Request, body: ClassifyRequest, lane: OpenLane, gateway: Gateway) -> list[Question]:
    """One question a text: canonical, redacted, and named.

    Raises:
        ApiError: 422, naming the field.
    """
    settings, services, parts = gateway.settings, gateway.services, lane.parts
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not 1 <= len(texts) <= settings.max_inputs:
        raise _invalid(field="input", message=f"{len(texts)} texts, 1 to {settings.max_inputs} allowed")
    for index, text in enumerate(texts):
        field = "input" if isinstance(body.input, str) else f"input[{index}]"
        if not text.strip():
            raise _invalid(field=field, message="an empty text")
        if len(text) > settings.max_text_chars:
            raise _invalid(field=field, message=f"{len(text)} characters, {settings.max_text_chars} allowed")
    if body.user is not None and not 1 <= len(body.user) <= _MAX_HEADER_CHARS:
        raise _invalid(field="user", message=f"1 to {_MAX_HEADER_CHARS} characters allowed")
    forced = _forced(request)
    key = _idempotency_key(request)
    traceparent = request.headers.get("traceparent")
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) is None:
        traceparent = None  # as W3C has it: a malformed one is ignored
    now_s = services.now()
    questions = []
    for index, text in enumerate(texts):
        redacted = TextInput(text=parts.redact(canonical_text(text)))
        if key is None:
            event_id = new_event_id(now_s, services.rng)
        else:
            event_id = event_id_of_key(parts.settings.lane, key if isinstance(body.input, str) else f"{key}\x1f{index}")
        questions.append(
            Question(
                text=text,
                redacted=redacted,
                item_id=item_id(parts.lane_key, "classify", redacted),
                event_id=event_id,
                at_s=now_s,
                subject=body.user,
                forced=forced,
                traceparent=traceparent,
            )
        )
    return questions


def _forced(request: Request) -> bool:
    value = request.headers.get("x-understudy-force")
    if value not in {None, "teacher"}:
        raise _invalid(field="X-Understudy-Force", message="only `teacher` can be forced")
    return value is not None


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= _MAX_HEADER_CHARS:
        raise _invalid(field="Idempotency-Key", message=f"1 to {_MAX_HEADER_CHARS} characters allowed")
    return key


def _api_key(request: Request) -> str | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.headers.get("x-api-key")


def _digest(key: str) -> bytes:
    """Keys are looked up by their hash, so that the time a look-up takes says nothing about a key."""
    return hashlib.sha256(key.encode()).digest()


def _respond(found: Sequence[Answer | Refusal], questions: Sequence[Question], model: str) -> Response:
    """Vllm's shape with our fields added. A text that nobody could answer has `error`; all of them: an HTTP error."""
    answers = [one for one in found if isinstance(one, Answer)]
    if not answers:
        refusal = next(one for one in found if isinstance(one, Refusal))
        return ApiError(refusal.status, refusal.code, refusal.message, retry_after_s=refusal.retry_after_s).response()
    tokens = [sum(one.usage.prompt_tokens for one in answers), sum(one.usage.completion_tokens for one in answers)]
    body = {
        "id": f"classify-{questions[0].event_id}",
        "object": "list",
        "created": int(questions[0].at_s),
        "model": model,
        "data": [_datum(index, one) for index, one in enumerate(found)],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }
    return _json(body, 200, _headers(found))


def _datum(index: int, one: Answer | Refusal) -> dict[str, Any]:
    if isinstance(one, Refusal):
        return {"index": index, "label": None, "error": {"code": one.code, "message": one.message}}
    return {
        "index": index,
        "label": one.label,
        "probs": one.probs,
        "num_classes": one.num_classes,
        "served_by": one.served_by,
        "reason": one.reason,
        "version": one.version,
        "event_id": one.event_id,
        "propensity": one.propensity,
        "withheld": one.withheld,
        "degraded": one.degraded,
    }


def _headers(found: Sequence[Answer | Refusal]) -> dict[str, str]:
    """What all texts of the request share; `mixed` where they differ, nothing where it does not apply."""
    answers = [one for one in found if isinstance(one, Answer)]
    values: dict[str, set[str | None]] = {
        "X-Understudy-Served-By": {one.served_by for one in answers},
        "X-Understudy-Version": {one.version for one in answers},
        "X-Understudy-Reason": {one.reason for one in answers},
        "X-Understudy-Degraded": {one.degraded for one in answers},
        "X-Understudy-Withheld": {"1" if one.withheld else None for one in answers},
    }
    if len(found) == 1:
        values["X-Understudy-Event"] = {answers[0].event_id}
        values["X-Understudy-Propensity"] = {f"{answers[0].propensity:g}"}
    shared = {name: "mixed" if len(seen) > 1 else next(iter(seen)) for name, seen in values.items()}
    return {name: value for name, value in shared.items() if value is not None}


def _invalid(*, field: str, message: str) -> ApiError:
    return ApiError(422, "invalid_request", message, field)


def _json(body: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
