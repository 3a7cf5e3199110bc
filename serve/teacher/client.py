"""The teacher: any OpenAI-compatible endpoint, with a prompt, a parser, a circuit breaker and a concurrency cap."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from string import Template
from typing import Any, Final

import openai

from serve.settings import TeacherSettings
from serve.teacher.completion import Completion, read_completion, said
from serve.teacher.faults import Fault, Reason, fault_of
from serve.teacher.parameters import APART, body_of, most_output_tokens
from serve.teacher.wire import FLIGHT, Flight, http_client, time_outs
from store.answers.prompt import prompt_version
from store.errors import AnswerFault, InvalidAnswerError
from store.event import LabelAnswer, Usage
from store.labels import parse_label
from store.log.lazy import logger

_log: Final = logger(__name__)
_ASSUMED_COMPLETION_TOKENS: Final = 1_024  # where the parameters set no limit
_ENVELOPE_TOKENS: Final = 32  # roles and separators around the prompt
_MTOK: Final = 1_000_000
_FIRST_WAIT_S: Final = 0.2  # before a call is sent again, where the endpoint does not say; doubles, up to
_LONGEST_WAIT_S: Final = 2.0
_LONGEST_OPEN_S: Final = 300.0  # between two tries of an endpoint that refuses our settings
_SAY_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A label of the lane's list."""

    answer: LabelAnswer


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


class Breaker:
    """Leaves a failing teacher alone: opens after failures in a row, then lets one call try again."""

    def __init__(self, *, failures: int, open_s: float) -> None:
        """Start closed."""
        self._limit = failures
        self._open_s = open_s
        self._failures = 0
        self._refusals = 0
        self._trying = False  # in an open circuit, one call is out
        self._retry_at_s: float | None = None  # None: closed

    def is_open(self, now_s: float) -> bool:
        """Whether calls are refused (monotonic seconds)."""
        return self._retry_at_s is not None and now_s < self._retry_at_s

    def admit(self, now_s: float) -> bool:
        """May this call go out? In an open circuit one may, once `open_s` have passed, and the next waits as long."""
        if self.is_open(now_s):
            return False
        if self._retry_at_s is not None:
            self._retry_at_s = now_s + self._open_s
            self._trying = True
        return True

    def succeeded(self) -> None:
        """The teacher answered, usefully or not: close."""
        self._failures = self._refusals = 0
        self._trying = False
        self._retry_at_s = None

    def failed(self, now_s: float) -> None:
        """It did not: open after enough failures in a row."""
        self._trying = False
        self._failures += 1
        if self._failures >= self._limit:
            self._retry_at_s = now_s + self._open_s

    def passed_over(self, now_s: float) -> None:
        """A call told nothing of the teacher: of an open circuit's tries, the next may go out at once."""
        if self._trying:
            self._trying = False
            self._retry_at_s = now_s

    def refused(self, now_s: float) -> None:
        """It does not take our settings: open at once, and twice as long each time that it still does not."""
        if self._retry_at_s is None or self._trying:  # calls that were out together count once
            self._trying = False
            wait_s = self._open_s * 2.0 ** min(self._refusals, 16)
            self._refusals += 1
            self._retry_at_s = now_s + min(wait_s, max(self._open_s, _LONGEST_OPEN_S))


class Teacher:
    """Asks one lane's teacher for a label."""

    def __init__(
        self,
        settings: TeacherSettings,
        labels: Sequence[str],
        *,
        monotonic: Callable[[], float],
        client: openai.AsyncOpenAI | None = None,
        chance: Callable[[], float] | None = None,
    ) -> None:
        """Prepare the client; nothing is sent.

        Args:
            settings: the endpoint.
            labels: the lane's list.
            monotonic: seconds, for latency and the breaker.
            client: instead of one made from the settings; our own retries replace the client's.
            chance: in [0, 1), so that those who wait do not come back together; None: a generator of its own.
        """
        self._settings = settings
        self._labels = tuple(labels)
        self._monotonic = monotonic
        self._chance = chance or Random().random  # noqa: S311 - jitter
        self._template = Template(settings.prompt)
        self._traced = client is None  # else nobody says when a request leaves: then it always has
        self._client = client or openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key,
            timeout=time_outs(settings.timeout_s),
            max_retries=0,
            http_client=http_client(
                timeout_s=settings.timeout_s, connections=settings.concurrency, proxy=settings.proxy
            ),
        )
        self._apart: dict[str, Any] = {
            **{name: dict(settings.parameters.get(name, {})) for name in APART},
            "extra_body": body_of(settings.parameters),
        }
        self._refused: Reason | None = None
        self._say_again_s = 0.0
        self._turns = asyncio.Semaphore(settings.concurrency)
        self._stopping = False
        self._breaker = Breaker(failures=settings.breaker_failures, open_s=settings.breaker_open_s)
        self.prompt_version = prompt_version(
            model=settings.model,
            prompt=settings.prompt,
            parameters=settings.parameters,
            answer_format=settings.answer_format,
        )

    def stop_asking(self) -> None:
        """Send nothing any more: what waits for its turn gets no answer, and costs nothing. What was sent goes on."""
        self._stopping = True

    @property
    def available(self) -> bool:
        """Whether a call would be sent now."""
        return not self._breaker.is_open(self._monotonic())

    @property
    def refused(self) -> Reason | None:
        """What of our settings the endpoint does not take, until it answers again; None: nothing that is known."""
        return self._refused

    def cost_bound_usd(self, text: str) -> float:
        """What a call can cost at most: a byte is at least a token, and the answer is as long as it may be."""
        output = most_output_tokens(self._settings.parameters) or _ASSUMED_COMPLETION_TOKENS
        return self._price(len(self._prompt(text).encode("utf-8", "replace")) + _ENVELOPE_TOKENS, output)

    async def ask(self, text: str, wanted: Callable[[], bool] = lambda: True) -> Reply:
        """The teacher's reply to one text. Raises nothing: each kind of failure is a reply.

        What nobody waits for any more when its turn comes (`wanted`) is not sent.

        The text is sent as the client sent it, not redacted: the teacher is the processor that the user configured.
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
        flight = Flight()
        started = self._monotonic()
        try:
            try:
                async with asyncio.timeout(self._settings.timeout_s):  # the client bounds each read, not the whole
                    completion = await self._complete(self._prompt(text), flight)
            finally:
                self._turns.release()
            self._breaker.succeeded()
            self._refused = None
            return self._read(completion, text, latency_ms=(self._monotonic() - started) * 1000)
        except Exception as error:  # noqa: BLE001 - whatever an endpoint does, a question has an answer or a reason
            return self._failed(fault_of(error, sent=flight.sent))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _prompt(self, text: str) -> str:
        return self._template.substitute(text=text, labels="\n".join(self._labels))

    async def _complete(self, prompt: str, flight: Flight) -> Completion:
        """Send one call, and send it again where that is surely free and within the time-out.

        Raises:
            openai.OpenAIError, ValueError: there is no completion; `fault_of` says why.
        """
        deadline_s = self._monotonic() + self._settings.timeout_s
        token = FLIGHT.set(flight)
        try:
            attempt = 1
            while True:
                flight.sent = not self._traced
                try:
                    return read_completion(await self._send(prompt))
                except openai.OpenAIError as error:
                    fault = fault_of(error, sent=flight.sent)
                    wait_s = self._wait_s(attempt) if fault.wait_s is None else fault.wait_s
                    last = attempt >= self._settings.attempts or self._monotonic() + wait_s >= deadline_s
                    if last or not fault.again:
                        raise
                flight.sent = False  # what was sent was free
                await asyncio.sleep(wait_s)
                attempt += 1
        finally:
            FLIGHT.reset(token)

    async def _send(self, prompt: str) -> bytes:
        messages: Any = [{"role": "user", "content": prompt}]
        answer: Any = await self._client.chat.completions.with_raw_response.create(
            model=self._settings.model, messages=messages, **self._apart
        )
        body: bytes = answer.content
        return body

    def _wait_s(self, attempt: int) -> float:
        longest_s: float = min(_FIRST_WAIT_S * 2.0 ** (attempt - 1), _LONGEST_WAIT_S)
        return longest_s * (0.5 + self._chance() / 2)

    def _failed(self, fault: Fault) -> Unavailable:
        """Say what went wrong, and let the breaker know whose fault it was."""
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
        return Unavailable(detail=fault.detail, billed=fault.billed)

    def _read(self, completion: Completion, text: str, *, latency_ms: float) -> Reply:
        usage = completion.usage or Usage()
        cost_usd = self.cost_bound_usd(text)  # an endpoint that does not say what it used
        if completion.usage is not None:
            cost_usd = self._price(usage.prompt_tokens, usage.completion_tokens)
        text_said = ""
        try:
            text_said = said(completion)
            label = parse_label(text_said, self._labels, answer_format=self._settings.answer_format)
        except InvalidAnswerError as error:
            return Invalid(detail=str(error), kind=error.kind, said=text_said, cost_usd=cost_usd, usage=usage)
        return Answered(
            answer=LabelAnswer(
                model=self._settings.model,
                prompt_version=self.prompt_version,
                usage=usage,
                cost_usd=cost_usd,
                latency_ms=latency_ms,
                label=label,
            )
        )

    def _price(self, input_tokens: int, output_tokens: int) -> float:
        settings = self._settings
        return (input_tokens * settings.input_usd_per_mtok + output_tokens * settings.output_usd_per_mtok) / _MTOK
