"""The gateway's HTTP face: parsing, and the shapes of answers. Deciding happens in `serve.gateway`."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serve.escalation import Answer, Question, Refusal
from serve.front.admission import Caller, Doors, admit, is_local
from serve.front.bodies import Bodies, BodyLimits
from serve.front.directory import Directory, api_key
from serve.front.errors import ApiError, json_response
from serve.front.health import health_routes
from serve.front.once import Given, Once
from serve.intake import IntakeBusyError, Laborious, Named
from serve.lifecycle import Gateway, LaneParts, OpenLane, Services
from serve.request.admission import OverloadedError
from serve.request.connected import while_connected
from serve.settings import GatewaySettings
from store.event import Lane, event_id_of_key, new_event_id
from store.secrets import subject_token

_MISSING_FIELD: Final = re.compile(r"missing required field `([^`]+)`")
_FIELD_PATH: Final = re.compile(r"at `\$\.?([^`]*)`")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_HEADER_CHARS: Final = 256


class ClassifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /classify`, in vLLM's shape; fields that we do not know are ignored."""

    model: str  # the use case
    input: str | list[str]
    user: str | None = None  # the subject, for erasure; kept as a keyed token


@dataclass(frozen=True, slots=True, kw_only=True)
class _Front:
    """What stands between a request and its lane."""

    gateway: Gateway
    directory: Directory
    doors: Doors
    bodies: Bodies
    once: dict[Lane, Once]


def build_app(services: Services, settings: GatewaySettings) -> Starlette:
    """The application; its lifespan starts and stops the gateway, which is at `app.state.gateway`.

    Raises:
        SettingsError: two lanes cannot be told apart by key and use case.
    """
    gateway = Gateway(services, settings)
    front = _front(gateway)

    async def classify(request: Request) -> Response:
        try:
            return await _classify(request, front)
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
            await asyncio.gather(*(one.close() for one in front.once.values()))

    routes = [
        *health_routes(alive=gateway.healthy, ready=gateway.ready),
        *(Route(path, classify, methods=["POST"]) for path in ("/classify", "/v1/classify")),
        *(Route(path, _not_yet, methods=["POST"]) for path in ("/v1/rerank", "/v1/chat/completions")),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.gateway = gateway
    app.state.directory = front.directory
    return app


def _front(gateway: Gateway) -> _Front:
    settings, services = gateway.settings, gateway.services
    return _Front(
        gateway=gateway,
        directory=Directory(gateway.lanes),
        doors=Doors(hosts=settings.allowed_hosts, origins=settings.allowed_origins),
        bodies=Bodies(BodyLimits(each_bytes=settings.max_body_bytes, total_bytes=settings.max_buffered_bytes)),
        once={
            lane.parts.settings.lane: Once(
                lane.parts.answers,
                lane.parts.lane_key,
                new_id=lambda: new_event_id(services.now(), services.rng),
                monotonic=monotonic,
            )
            for lane in gateway.lanes
        },
    )


async def _classify(request: Request, front: _Front) -> Response:
    peer = request.client.host if request.client is not None else None
    local, key = is_local(peer, request.headers), api_key(request.headers)
    caller = Caller(keyed=front.directory.opens(key), local=local, open_here=front.directory.open_here)
    admit(request.headers, caller, front.doors, front.gateway.settings.max_body_bytes)
    body = _decode(await front.bodies.read(request))
    lane = front.directory.find(body.model, key, local=local)
    once_key = _idempotency_key(request)
    if once_key is None:
        work = asyncio.ensure_future(_answer(request, body, lane, front.gateway, ()))
        return _respond(await while_connected(work, request.receive), body.model)
    asked = [body.model, body.input, body.user, _forced(request)]
    given = await front.once[lane.parts.settings.lane].answer(
        once_key, asked, lambda so_far: _answer(request, body, lane, front.gateway, so_far)
    )
    if given.replayed:
        where = lane.parts.settings.lane
        front.gateway.services.metrics.replayed.labels(where.tenant, where.use_case).inc()
        lane.service.counts.replayed(len(given.found))
    return _respond(given, body.model)


async def _answer(
    request: Request, body: ClassifyRequest, lane: OpenLane, gateway: Gateway, so_far: Sequence[Answer | None]
) -> Given:
    """Answer every text that was not answered before.

    Raises:
        ApiError: the request is wrong, or there are too many.
    """
    texts = 1 if isinstance(body.input, str) else min(len(body.input), gateway.settings.max_inputs)
    asked = sum(one is None for one in so_far) if so_far else texts
    forced = _forced(request)
    try:
        with gateway.admit(lane, asked, forced=forced):
            pass  # a busy gateway says so now; a place is held only once the texts are ready to be read
        questions = await _questions(request, body, lane, gateway)
        with gateway.admit(lane, asked, forced=forced) as ticket:
            open_ones = [index for index in range(len(questions)) if not so_far or so_far[index] is None]
            answers = (lane.service.answer(replace(questions[index], ticket=ticket)) for index in open_ones)
            found = await asyncio.gather(*answers)
    except OverloadedError as busy:
        raise ApiError(429, "overloaded", str(busy), retry_after_s=busy.retry_after_s) from busy
    answered = dict(zip(open_ones, found, strict=True)) | {n: one for n, one in enumerate(so_far) if one is not None}
    return Given(
        first_id=questions[0].event_id,
        at_s=questions[0].at_s,
        found=[answered[index] for index in range(len(questions))],
    )


async def _not_yet(_: Request) -> Response:
    return ApiError(501, "not_yet", "this release serves /v1/classify alone").response()


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


async def _questions(request: Request, body: ClassifyRequest, lane: OpenLane, gateway: Gateway) -> list[Question]:
    """One question a text: canonical, redacted, and named.

    Raises:
        ApiError: 422, naming the field; 429 where too much waits to be redacted.
    """
    settings, services, parts = gateway.settings, gateway.services, lane.parts
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not 1 <= len(texts) <= settings.max_inputs:
        raise _invalid(field="input", message=f"{len(texts)} texts, 1 to {settings.max_inputs} allowed")
    for index, text in enumerate(texts):
        if not text.strip():
            raise _invalid(field=_field(body, index), message="an empty text")
        if len(text) > settings.max_text_chars:
            raise _invalid(
                field=_field(body, index), message=f"{len(text)} characters, {settings.max_text_chars} allowed"
            )
    if body.user is not None and not 1 <= len(body.user) <= _MAX_HEADER_CHARS:
        raise _invalid(field="user", message=f"1 to {_MAX_HEADER_CHARS} characters allowed")
    forced = _forced(request)
    key = _idempotency_key(request)
    traceparent = request.headers.get("traceparent")
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) is None:
        traceparent = None  # as W3C has it: a malformed one is ignored
    now_s = services.now()
    named = await _named(body, texts, parts, gateway)
    subject = None if body.user is None else subject_token(parts.subject_key, body.user)
    questions = []
    for index, (text, one) in enumerate(zip(texts, named, strict=True)):
        if key is None:
            event_id = new_event_id(now_s, services.rng)
        else:
            place = key if isinstance(body.input, str) else f"{key}\x1f{index}"
            event_id = event_id_of_key(parts.settings.lane, place, one.item_id)
        questions.append(
            Question(
                text=text,
                redacted=one.redacted,
                item_id=one.item_id,
                event_id=event_id,
                at_s=now_s,
                subject=subject,
                forced=forced,
                traceparent=traceparent,
            )
        )
    return questions


async def _named(body: ClassifyRequest, texts: Sequence[str], parts: LaneParts, gateway: Gateway) -> list[Named]:
    """The texts redacted, away from the event loop; errors as of `_questions`."""
    try:
        named = await gateway.intake.read(texts, redact=parts.redact, lane_key=parts.lane_key)
    except IntakeBusyError as error:
        message = "too much text waits to be redacted: send less at once"
        raise ApiError(429, "overloaded", message, retry_after_s=1) from error
    if isinstance(named, Laborious):
        raise _invalid(field=_field(body, named.place), message=named.why)
    return named


def _field(body: ClassifyRequest, index: int) -> str:
    return "input" if isinstance(body.input, str) else f"input[{index}]"


def _forced(request: Request) -> bool:
    value = request.headers.get("x-understudy-force")
    if value not in {None, "teacher"}:
        raise _invalid(field="X-Understudy-Force", message="only `teacher` can be forced")
    return value is not None


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise _invalid(field="Idempotency-Key", message="more than one")
    key = keys[0] if keys else None
    if key is not None and not 1 <= len(key) <= _MAX_HEADER_CHARS:
        raise _invalid(field="Idempotency-Key", message=f"1 to {_MAX_HEADER_CHARS} characters allowed")
    return key


def _respond(given: Given, model: str) -> Response:
    """Vllm's shape with our fields added. A text that nobody could answer has `error`; all of them: an HTTP error.

    Where several causes kept a whole list from being answered, it is told the one that lasts longest: who comes back
    sooner would be refused again.
    """
    found = given.found
    answers = [one for one in found if isinstance(one, Answer)]
    if not answers:
        refusal = max((one for one in found if isinstance(one, Refusal)), key=lambda one: one.retry_after_s or 0)
        return ApiError(refusal.status, refusal.code, refusal.message, retry_after_s=refusal.retry_after_s).response()
    tokens = [sum(one.usage.prompt_tokens for one in answers), sum(one.usage.completion_tokens for one in answers)]
    body = {
        "id": f"classify-{given.first_id}",
        "object": "list",
        "created": int(given.at_s),
        "model": model,
        "data": [_datum(index, one) for index, one in enumerate(found)],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }
    once = {"Idempotency-Replayed": "true"} if given.replayed else {}
    if not given.shared:
        once["X-Understudy-Idempotency"] = "this-replica"  # Redis did not take the answer: other replicas may pay again
    return json_response(body, 200, _headers(found) | once)


def _datum(index: int, one: Answer | Refusal) -> dict[str, Any]:
    if isinstance(one, Refusal):
        return {"index": index, "label": None, "error": {"code": one.code, "message": one.message}}
    return {
        "index": index,
        "label": one.label,
        "probs": one.probs,
        "labels": one.labels,
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
