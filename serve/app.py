"""The gateway's HTTP face: which lane a request means, and the way of its questions. Each task decodes its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from serve.escalation import Answer, Given, Question, Refusal
from serve.front.admission import Caller, Doors, admit, admit_caller, is_local
from serve.front.bodies import Bodies, BodyLimits
from serve.front.directory import Directory, api_key
from serve.front.errors import ApiError, json_response
from serve.front.health import health_routes
from serve.front.once import Once
from serve.intake import IntakeBusyError, Laborious, Named
from serve.lane.opened import OpenLane
from serve.lane.parts import Services
from serve.lifecycle import Gateway
from serve.openapi.document import document
from serve.openapi.operation import MAX_HEADER_CHARS
from serve.openapi.routes import FALLBACKS, Tell, told_routes
from serve.request.admission import OverloadedError
from serve.request.connected import while_connected
from serve.request.relay import Relay, streamed
from serve.settings import GatewaySettings
from serve.tasks.face import Addressed, Asked, Form, RequestLimits, decode_body, invalid
from serve.tasks.tasks import PATHS, form_at, forms
from serve.tracing.front import TracedRequests
from store.event import Lane, event_id_of_key, new_event_id
from store.secrets import subject_token
from store.tracing import names
from store.tracing.spans import here

_PREFIX: Final = "X-Understudy-"
_ATTRIBUTES: Final = {"X-Understudy-Event": names.EVENT_ID, "X-Understudy-Version": names.VERSION}  # of a span


@dataclass(frozen=True, slots=True, kw_only=True)
class _Front:
    """What stands between a request and its lane."""

    gateway: Gateway
    directory: Directory
    doors: Doors
    bodies: Bodies
    limits: RequestLimits
    once: dict[Lane, Once]


def build_app(services: Services, settings: GatewaySettings) -> Starlette:
    """The application; its lifespan starts and stops the gateway, which is at `app.state.gateway`.

    Raises:
        SettingsError: two lanes cannot be told apart by key and use case.
    """
    gateway = Gateway(services, settings)
    front = _front(gateway)
    told = told_routes(document(front.limits), gateway.services.now())

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
        *(Route(path, _served(front, path), methods=["POST"]) for path in PATHS),
        *(Route(path, _telling(front, tell), methods=["GET"]) for path, tell in told.items()),
    ]
    traced = Middleware(TracedRequests, tracer=services.tracer, paths=PATHS)
    app = Starlette(routes=routes, lifespan=lifespan, middleware=[traced], exception_handlers=FALLBACKS)
    app.state.gateway = gateway
    app.state.directory = front.directory
    return app


def _served(front: _Front, path: str) -> Callable[[Request], Awaitable[Response]]:
    """What answers at a path: a lane of any task that is asked there."""

    async def serve(request: Request) -> Response:
        try:
            return await _serve(request, front, path)
        except ApiError as error:
            return error.response(PATHS[path])
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it

    return serve


def _front(gateway: Gateway) -> _Front:
    settings, services = gateway.settings, gateway.services
    return _Front(
        gateway=gateway,
        directory=Directory(gateway.lanes),
        doors=Doors(hosts=settings.allowed_hosts, origins=settings.allowed_origins),
        bodies=Bodies(BodyLimits(each_bytes=settings.max_body_bytes, total_bytes=settings.max_buffered_bytes)),
        limits=RequestLimits(
            max_inputs=settings.max_inputs,
            max_documents=settings.max_documents,
            max_text_chars=settings.max_text_chars,
            max_message_chars=settings.max_message_chars,
        ),
        once={
            lane.parts.settings.lane: Once(
                lane.parts.answers,
                lane.parts.lane_key,
                answer_type=lane.face.answer_type,
                new_id=lambda: new_event_id(services.now(), services.rng),
                monotonic=monotonic,
            )
            for lane in gateway.lanes
        },
    )


async def _serve(request: Request, front: _Front, path: str) -> Response:
    caller, key = _caller(request, front)
    admit(request.headers, caller, front.doors, front.gateway.settings.max_body_bytes)
    body = await front.bodies.read(request)
    lane = front.directory.find(decode_body(body, Addressed).model, key, local=caller.local)
    settings = lane.parts.settings
    here().note({names.LANE: str(settings.lane), names.TASK: settings.task})
    form = form_at(settings.task, path)
    if form is None:
        message = f"this model is served at {' and '.join(one.paths[-1] for one in forms(settings.task))}"
        raise ApiError(404, "unknown_model", message, "model")
    asked = form.decode(body, settings)
    form.check(asked, front.limits)
    if asked.streaming is None:
        return _respond(await while_connected(_given(request, asked, lane, front), request.receive), asked, form)
    relay = Relay(with_usage=asked.streaming.with_usage)
    work = asyncio.ensure_future(_given(request, asked, lane, front, relay))
    work.add_done_callback(_heard)  # also where nobody reads any more
    begun = asyncio.ensure_future(relay.begun.wait())
    try:
        await while_connected(asyncio.wait({work, begun}, return_when=asyncio.FIRST_COMPLETED), request.receive)
    except BaseException:
        work.cancel()  # what the teacher was paid for goes on
        raise
    finally:
        begun.cancel()
    if not relay.begun.is_set() and _refused(given := await work):
        return _respond(given, asked, form)
    return StreamingResponse(
        streamed(work, relay, asked, asked.streaming.chunks),
        headers={**_begun_headers(work, relay), "Cache-Control": "no-cache"},
        media_type="text/event-stream",
    )


def _begun_headers(work: asyncio.Future[Given], relay: Relay) -> dict[str, str]:
    """What is known of a stream that begins: all, where its answer is whole."""
    if not relay.begun.is_set():
        return _headers(work.result().found)
    speaker = relay.voice.speaker if relay.voice is not None and relay.told else None
    return {"X-Understudy-Served-By": "teacher"} if speaker is None else _headers([speaker])


def _heard(work: asyncio.Future[Given]) -> None:
    if not work.cancelled():
        work.exception()


def _caller(request: Request, front: _Front) -> tuple[Caller, str | None]:
    """Who sends a request, by its head, and the key that it shows."""
    peer = request.client.host if request.client is not None else None
    local, key = is_local(peer, request.headers), api_key(request.headers)
    return Caller(keyed=front.directory.opens(key), local=local, open_here=front.directory.open_here), key


async def _given(request: Request, asked: Asked, lane: OpenLane, front: _Front, relay: Relay | None = None) -> Given:
    """The answers, once under one Idempotency-Key."""
    once_key = _idempotency_key(request)
    if once_key is None:
        return _noted(await _answer(request, asked, lane, front, (), relay))
    given = await front.once[lane.parts.settings.lane].answer(
        once_key,
        [*asked.identity, _forced(request)],
        lambda so_far: _answer(request, asked, lane, front, so_far, relay),
    )
    if given.replayed:
        where = lane.parts.settings.lane
        front.gateway.services.metrics.replayed.labels(where.tenant, where.use_case).inc()
        lane.service.counts.replayed(len(given.found))
    return _noted(given)


def _noted(given: Given) -> Given:
    """What is answered, told to the request's span as its client hears it."""
    one = here()
    if one.recording:
        said = {} if _refused(given) else _headers(given.found)
        one.note({_ATTRIBUTES.get(name, f"understudy.{_plain(name)}"): value for name, value in said.items()})
        codes = sorted({found.code for found in given.found if isinstance(found, Refusal)})
        one.note({"understudy.answers": len(given.found), "understudy.refused": codes or None})
        one.note({"understudy.replayed": given.replayed})
    return given


def _plain(header: str) -> str:
    return header.removeprefix(_PREFIX).lower().replace("-", "_")


def _telling(front: _Front, tell: Tell) -> Callable[[Request], Awaitable[Response]]:
    """What answers a request without a body, where its sender may speak to us."""

    async def telling(request: Request) -> Response:
        caller, key = _caller(request, front)
        try:
            admit_caller(request.headers, caller, front.doors)
            return tell(request, front.directory.opened_by(key, local=caller.local))
        except ApiError as error:
            return error.response()

    return telling


async def _answer(
    request: Request,
    asked: Asked,
    lane: OpenLane,
    front: _Front,
    so_far: Sequence[Answer | None],
    relay: Relay | None,
) -> Given:
    """Answer every question that was not answered before.

    Raises:
        ApiError: the request is wrong, or there are too many.
    """
    gateway, forced = front.gateway, _forced(request)
    count = sum(one is None for one in so_far) if so_far else min(len(asked.values), front.limits.max_inputs)
    try:
        with gateway.admit(lane, count, count, forced=forced):
            pass  # a busy gateway says so now; a place is held only once the texts are ready to be read
        questions = await _questions(request, asked, lane, front)
        open_ones = [index for index in range(len(questions)) if not so_far or so_far[index] is None]
        tokens = sum(questions[index].tokens for index in open_ones)
        with gateway.admit(lane, count, tokens, forced=forced) as ticket:
            timing = lane.face.timing(asked, lane.parts.settings)
            hear = None if relay is None else relay.hear
            ready = [replace(questions[n], ticket=ticket, hear=hear, moment=timing.moment) for n in open_ones]
            voice = asked.streaming.voice if asked.streaming is not None and timing.live else None
            if relay is not None and voice is not None:
                (one,) = ready  # a stream is of one answer
                relay.voice = voice(asked, one, relay.put)
                ready = [replace(one, voice=relay.voice)]
            found = await asyncio.gather(*map(lane.service.answer, ready))
    except OverloadedError as busy:
        raise ApiError(429, "overloaded", str(busy), retry_after_s=busy.retry_after_s) from busy
    answered = dict(zip(open_ones, found, strict=True)) | {n: one for n, one in enumerate(so_far) if one is not None}
    return Given(
        first_id=questions[0].event_id,
        at_s=questions[0].at_s,
        found=[answered[index] for index in range(len(questions))],
    )


async def _questions(request: Request, asked: Asked, lane: OpenLane, front: _Front) -> list[Question]:
    """The request's questions: redacted, and named.

    Raises:
        ApiError: 422, naming the field; 429 where too much waits to be redacted.
    """
    services, parts = front.gateway.services, lane.parts
    if asked.user is not None and not 1 <= len(asked.user) <= MAX_HEADER_CHARS:
        raise invalid(field="user", message=f"1 to {MAX_HEADER_CHARS} characters allowed")
    forced = _forced(request)
    key = _idempotency_key(request)
    now_s = services.now()
    named = await _named(asked, lane, front.gateway)
    subject = None if asked.user is None else subject_token(parts.subject_key, asked.user)
    questions = []
    for index, (value, one) in enumerate(zip(asked.values, named, strict=True)):
        if key is None:
            event_id = new_event_id(now_s, services.rng)
        else:
            place = f"{key}\x1f{index}" if asked.listed else key
            event_id = event_id_of_key(parts.settings.lane, place, one.item_id)
        questions.append(
            Question(
                value=value,
                redacted=one.redacted,
                item_id=one.item_id,
                event_id=event_id,
                at_s=now_s,
                subject=subject,
                forced=forced,
                unsupported=asked.unsupported,
                tokens=one.tokens,
                noted=one.noted,
            )
        )
    return questions


async def _named(asked: Asked, lane: OpenLane, gateway: Gateway) -> list[Named]:
    """The questions redacted, away from the event loop; errors as of `_questions`."""
    try:
        named = await gateway.intake.read(asked.values, lane.naming)
    except IntakeBusyError as error:
        message = "too much text waits to be redacted: send less at once"
        raise ApiError(429, "overloaded", message, retry_after_s=1) from error
    if isinstance(named, Laborious):
        raise invalid(field=asked.fields[named.place], message=named.why)
    return named


def _forced(request: Request) -> bool:
    value = request.headers.get("x-understudy-force")
    if value not in {None, "teacher"}:
        raise invalid(field="X-Understudy-Force", message="only `teacher` can be forced")
    return value is not None


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise invalid(field="Idempotency-Key", message="more than one")
    key = keys[0] if keys else None
    if key is not None and not 1 <= len(key) <= MAX_HEADER_CHARS:
        raise invalid(field="Idempotency-Key", message=f"1 to {MAX_HEADER_CHARS} characters allowed")
    return key


def _respond(given: Given, asked: Asked, form: Form) -> Response:
    """The form's shape with our headers. Where nobody could answer anything: an HTTP error.

    Where several causes kept a whole list from being answered, it is told the one that lasts longest: who comes back
    sooner would be refused again.
    """
    found = given.found
    if _refused(given):
        refusal = max((one for one in found if isinstance(one, Refusal)), key=lambda one: one.retry_after_s or 0)
        return ApiError(refusal.status, refusal.code, refusal.message, retry_after_s=refusal.retry_after_s).response()
    once = {"Idempotency-Replayed": "true"} if given.replayed else {}
    if not given.shared:
        once["X-Understudy-Idempotency"] = "this-replica"  # Redis did not take the answer: other replicas may pay again
    return json_response(form.body(asked, given), 200, _headers(found) | once)


def _refused(given: Given) -> bool:
    return not any(isinstance(one, Answer) for one in given.found)


def _headers(found: Sequence[Answer | Refusal]) -> dict[str, str]:
    """What all questions of the request share; `mixed` where they differ, nothing where it does not apply."""
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
