"""The teacher: any OpenAI-compatible endpoint, with a circuit breaker, a concurrency cap, and bounded retries.

What is sent and how it is read is the task's own (`serve.teacher.ask`); here is when, how often, and at what cost.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import httpx2
import openai

from serve.settings import TeacherSettings
from serve.teacher.ask.asking import Asking, Call, Signal, Tab, Talk
from serve.teacher.breaker import Breaker
from serve.teacher.faults import CallFault, FaultReason, fault_of
from serve.teacher.wire import FLIGHT, Flight, http_client, time_outs
from serve.tracing.calls import TeacherSpans, answer_said, error_type
from store.errors import AnswerFault, InvalidAnswerError
from store.event import TaskInput, TeacherAnswer, Usage
from store.log.lazy import logger
from store.tracing import names
from store.tracing.spans import Span, here

_log: Final = logger(__name__)
_FIRST_WAIT_S: Final = 0.2  # before a call is sent again, where the endpoint does not say; doubles, up to
_LONGEST_WAIT_S: Final = 2.0
_SAY_AGAIN_S: Final = 60.0
_STREAMED: Final = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer that the lane takes."""

    answer: TeacherAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalid:
    """Paid for, and of no use."""

    detail: str  # for a log; does not quote the answer
    kind: AnswerFault = "off_list"
    said: str = field(default="", repr=False)  # the answer as it came: not redacted
    cost_usd: float
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """No answer."""

    detail: str
    billed: bool  # the call may have been billed all the same: once, because such a call is never sent again


Reply = Answered | Invalid | Unavailable


class Teacher:
    """Asks one lane's teacher."""

    def __init__(
        self,
        settings: TeacherSettings,
        asking: Asking,
        *,
        monotonic: Callable[[], float],
        client: openai.AsyncOpenAI | None = None,
        chance: Callable[[], float] | None = None,
    ) -> None:
        """Prepare the client; nothing is sent.

        Args:
            settings: the endpoint.
            asking: what is sent to it, and how its answers are read.
            monotonic: seconds, for latency and the breaker.
            client: instead of one made from the settings; our own retries replace the client's.
            chance: in [0, 1), so that those who wait do not come back together; None: a generator of its own.
        """
        self._settings = settings
        self._asking = asking
        self._monotonic = monotonic
        self._chance = chance or Random().random  # noqa: S311 - jitter
        self._traced = client is None  # else nobody says when a request leaves: then it always has
        self._client = client or openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key,
            timeout=time_outs(settings.timeout_s),
            max_retries=0,
            http_client=http_client(
                timeout_s=settings.timeout_s,
                connections=settings.concurrency,
                proxy=settings.proxy,
                most_bytes=asking.most_bytes,
            ),
        )
        self._options = _options(settings.parameters)
        self._spans = TeacherSpans(settings)
        self._refused: FaultReason | None = None
        self._say_again_s = 0.0
        self._turns = asyncio.Semaphore(settings.concurrency)
        self._stopping = False
        self._breaker = Breaker(failures=settings.breaker_failures, open_s=settings.breaker_open_s)
        self.prompt_version = asking.prompt_version

    def stop_asking(self) -> None:
        """Send nothing any more: what waits for its turn gets no answer, and costs nothing. What was sent goes on."""
        self._stopping = True

    @property
    def available(self) -> bool:
        """Whether a call would be sent now."""
        return not self._breaker.is_open(self._monotonic())

    @property
    def refused(self) -> FaultReason | None:
        """What of our settings the endpoint does not take, until it answers again; None: nothing that is known."""
        return self._refused

    def cost_bound_usd(self, value: TaskInput) -> float:
        """What asking can cost at most, all that it takes."""
        return self._asking.bound_usd(value)

    async def ask(
        self,
        value: TaskInput,
        wanted: Callable[[], bool] = lambda: True,
        hear: Callable[[bytes], None] | None = None,
    ) -> Reply:
        """The teacher's reply to one question. Raises nothing: each kind of failure is a reply.

        What nobody waits for any more when its turn comes (`wanted`) is not sent. With `hear` the answer comes as a
        stream where the task has such, and each piece is heard as it comes; the reply is the whole all the same.

        The question is sent as the client sent it, not redacted: the teacher is the processor that the user configured.
        """
        if not self._breaker.admit(self._monotonic()):
            return Unavailable(detail="the circuit is open", billed=False)
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._turns.acquire()
        except TimeoutError:
            return Unavailable(detail="no turn within the time-out: raise teacher.concurrency", billed=False)
        if self._stopping or not wanted():
            self._turns.release()
            return Unavailable(
                detail="the gateway is stopping" if self._stopping else "nobody waits for it any more", billed=False
            )
        tab, flight = Tab(), Flight()
        started = self._monotonic()
        try:
            try:
                signal = await self._converse(value, tab, flight, hear)
            finally:
                self._turns.release()
        except InvalidAnswerError as error:
            self._well()
            return Invalid(detail=str(error), kind=error.kind, said=tab.said, cost_usd=tab.usd, usage=tab.usage)
        except Exception as error:  # noqa: BLE001 - whatever an endpoint does, a question has an answer or a reason
            return self._failed(fault_of(error, sent=flight.sent), paid=tab.calls > 0)
        self._well()
        return Answered(answer=self._answer(signal, tab, latency_ms=(self._monotonic() - started) * 1000))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _converse(
        self, value: TaskInput, tab: Tab, flight: Flight, hear: Callable[[bytes], None] | None
    ) -> Signal:
        """All the calls that a question takes, one after the other; each has the whole time-out.

        What may come as a stream is heard so; nobody wants to hear what a client does not get as it came.

        Raises:
            InvalidAnswerError: an answer is of no use.
            openai.OpenAIError, ValueError: there is no answer; `fault_of` says why.
        """
        talk = self._asking.talk(value, tab)
        said: Call | Signal = next(talk)
        while isinstance(said, Call):
            flight.hear = hear if said.may_stream else None
            with self._spans.call(said) as one:
                try:
                    said = await self._turn(talk, said, tab, flight, one)
                except Exception as error:
                    one.fail(error_type(error))
                    raise
        return said

    async def _turn(self, talk: Talk, call: Call, tab: Tab, flight: Flight, one: Span) -> Call | Signal:
        """One call of a conversation: the next one, or what was said in all; errors as of `_converse`."""
        async with asyncio.timeout(self._settings.timeout_s):  # the client bounds each read, not the whole
            body = await self._complete(call, flight)
        before = tab.usage, tab.usd
        try:
            return talk.send(body)
        except StopIteration as end:
            signal: Signal = end.value
            return signal
        finally:
            if one.recording:
                one.note(answer_said(body, before, tab))

    async def _complete(self, call: Call, flight: Flight) -> bytes:
        """Send one call, and send it again where that is surely free and within the time-out.

        Raises:
            openai.OpenAIError: there is no answer; `fault_of` says why.
        """
        deadline_s = self._monotonic() + self._settings.timeout_s
        token = FLIGHT.set(flight)
        try:
            attempt = 1
            while True:
                flight.sent = not self._traced
                try:
                    return await self._send(call)
                except openai.OpenAIError as error:
                    fault = fault_of(error, sent=flight.sent)
                    wait_s = self._wait_s(attempt) if fault.wait_s is None else fault.wait_s
                    last = attempt >= self._settings.attempts or self._monotonic() + wait_s >= deadline_s
                    if last or not fault.again:
                        raise
                flight.sent = False  # what was sent was free
                await asyncio.sleep(wait_s)
                here().note({names.HTTP_RESEND_COUNT: attempt})
                attempt += 1
        finally:
            FLIGHT.reset(token)

    async def _send(self, call: Call) -> bytes:
        flight = FLIGHT.get()
        body = dict(call.body)
        if flight is not None and flight.hear is not None:
            body |= _STREAMED
        options = self._options
        if (context := here().context) is not None:
            options = {**options, "headers": {**options.get("headers", {}), **context.headers}}
        answer = await self._client.post(call.path, cast_to=httpx2.Response, body=body, options=options)
        return answer.content

    def _wait_s(self, attempt: int) -> float:
        longest_s: float = min(_FIRST_WAIT_S * 2.0 ** (attempt - 1), _LONGEST_WAIT_S)
        return longest_s * (0.5 + self._chance() / 2)

    def _well(self) -> None:
        """It answered, usefully or not."""
        self._breaker.succeeded()
        self._refused = None

    def _failed(self, fault: CallFault, *, paid: bool) -> Unavailable:
        """Say what went wrong, and let the breaker know whose fault it was; `paid`: calls before it were answered."""
        now_s = self._monotonic()
        match fault.whose:
            case "request":  # no client's text may close the teacher to everybody else
                self._breaker.passed_over(now_s)
                _log.warning("the teacher refused a request", error=fault.detail)
            case "teacher":
                self._breaker.failed(now_s)
                _log.warning("the teacher did not answer", error=fault.detail)
            case "settings":
                self._breaker.refused(now_s)
                if self._refused != fault.reason or now_s >= self._say_again_s:
                    self._say_again_s = now_s + _SAY_AGAIN_S
                    _log.error("the teacher refuses us", model=self._settings.model, error=fault.detail)
                self._refused = fault.reason
        return Unavailable(detail=fault.detail, billed=fault.billed or paid)

    def _answer(self, signal: Signal, tab: Tab, *, latency_ms: float) -> TeacherAnswer:
        make: Any = self._asking.answer_type  # whose own fields are the signal's
        answer: TeacherAnswer = make(
            model=self._settings.model,
            prompt_version=self.prompt_version,
            usage=tab.usage,
            cost_usd=tab.usd,
            latency_ms=latency_ms,
            **signal,
        )
        return answer


def _options(parameters: Mapping[str, Any]) -> Any:
    """What the settings say beside the body, as the client takes it."""
    options: dict[str, Any] = {}
    if headers := parameters.get("extra_headers"):
        options["headers"] = dict(headers)
    if query := parameters.get("extra_query"):
        options["params"] = dict(query)
    return options
